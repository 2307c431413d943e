//! Owns what scenarios have of sets: a second program on every server, a component that both use, orders to all members of a
//! set, and their command. Must not know how a scenario is written.

use std::collections::BTreeMap;
use std::time::Duration;

use neap::domain::gate::NotDrained;
use neap::domain::names::{ComponentName, OperationId, ProgramName, RippleId, ServerName};
use neap::domain::placement::{Effect, Event, Millis, Work, Worked};
use neap::domain::program::MinServing;
use neap::domain::ripple::machine::Member;
use neap::domain::ripple::plan::{self, Ask, NoPlan, Plan, RippleKind};
use neap::domain::ripple::set::{Set, SetPlan, Subject};
use neap::domain::ripple::undo::NoUndo;
use neap::domain::server_list::Wanted;

use super::driven::{Driven, Srv, here, program, release};

/// The other program.
pub fn mail() -> ProgramName {
    ProgramName::new("mail").unwrap()
}

/// The commands of sets, and what became of them.
#[derive(Default)]
pub struct Commands {
    /// They run until it is said that they have ended.
    pub take_long: bool,
    running: BTreeMap<ServerName, (OperationId, Vec<ProgramName>)>,
    worked: BTreeMap<OperationId, Worked>,
}

fn work(word: &str) -> Work {
    Work { run: vec![word.to_owned()], within: Duration::from_secs(60) }
}

impl Driven {
    /// Every server has a second program from now on.
    pub fn mail_runs(&mut self, version: &str) {
        let servers: Vec<ServerName> = self.servers.keys().cloned().collect();
        self.mail = servers.iter().map(|name| (name.clone(), Srv::of(mail(), Some(version)))).collect();
        let wanted = Wanted { release: Some(release(version)), servers };
        self.leader.list.programs.insert(mail(), wanted);
        self.settle();
    }

    /// Asks for a component to be replaced that both programs use.
    pub fn replace(&mut self, component: &str, shop: Ask) -> Result<SetPlan, NoPlan> {
        let id = shop.id.clone();
        let own = self.leader.list.programs[&program()].release.clone();
        let shop = Ask { kind: RippleKind::Restart, to: own, ..shop };
        let subject = Subject::Component {
            name: ComponentName::new(component).unwrap(),
            work: work(&format!("replace {component}")),
            undo_work: Some(work(&format!("put {component} back"))),
        };
        let other = self.of_mail(&shop, RippleKind::Restart);
        self.start_set(id, subject, vec![shop, other])
    }

    /// Asks for an upgrade that takes all programs of a server out of service.
    pub fn upgrade_server(&mut self, shop: Ask) -> Result<SetPlan, NoPlan> {
        let (id, subject) = (shop.id.clone(), Subject::Server { program: program() });
        let other = self.of_mail(&shop, RippleKind::Aside);
        self.start_set(id, subject, vec![shop, other])
    }

    fn of_mail(&self, shop: &Ask, kind: RippleKind) -> Ask {
        let to = self.leader.list.programs[&mail()].release.clone();
        let (servers, policy) = (shop.servers.clone(), shop.policy.clone());
        let (id, hooks) = (shop.id.clone(), Default::default());
        Ask { id, kind, program: mail(), to, servers, min_serving: MinServing::Auto, holds: shop.holds, hooks, policy }
    }

    fn start_set(&mut self, id: RippleId, subject: Subject, asks: Vec<Ask>) -> Result<SetPlan, NoPlan> {
        let busy = [program(), mail()].iter().find_map(|name| Some(self.leader.under_way(name)?.plan.id.clone()));
        if let Some(under_way) = busy {
            return Err(NoPlan::Busy { under_way });
        }
        let mut parts = Vec::new();
        for (number, ask) in asks.into_iter().enumerate() {
            let part = RippleId::new(format!("{id}-{}", number + 1)).unwrap();
            parts.push(Plan { set: Some(id.clone()), ..plan::plan(Ask { id: part, ..ask }, &self.leader.list)? });
        }
        let policy = &parts[0].policy;
        let set = SetPlan {
            id,
            subject,
            servers: parts[0].steps.iter().map(|step| step.server.clone()).collect(),
            parts: parts.iter().map(|part| part.id.clone()).collect(),
            batch: policy.batch,
            canary: policy.canary,
            promote: policy.promote,
            undoes: None,
        };
        self.ripples += 1;
        self.leader.start_set(set.clone());
        parts.into_iter().for_each(|part| self.leader.start(part));
        Ok(set)
    }

    /// Asks for a set to be undone; answers with the way back of the first of its programs.
    pub(super) fn undo_set(&mut self, set: &Set) -> Result<Plan, NoUndo> {
        let parts: Vec<_> = set.plan.parts.iter().filter_map(|part| self.leader.ripples.get(part)).cloned().collect();
        let plans = self.leader.undo_set(self.next_id(), set, &parts.iter().collect::<Vec<_>>())?;
        self.ripples += 1;
        Ok(plans.into_iter().next().expect("a set has programs"))
    }

    /// An order to all members: all of them are frozen and stop, or none is.
    pub(super) fn together(&mut self, on: &ServerName, operation: &OperationId, members: &[Member]) {
        if self.commands.worked.contains_key(operation) || self.commands.running.contains_key(on) {
            return;
        }
        let run = self.servers[on].run(on);
        let mut next = Vec::new();
        for Member { program, command, .. } in members {
            let cell = self.cell(on, program);
            let (mut placement, active) = (cell.placement.clone(), cell.active);
            let freeze = |_| if active == 0 { Ok(()) } else { Err(NotDrained { open: false, active }) };
            if placement.command(command, &here(&run, 0), freeze).is_err() {
                return;
            }
            next.push((program.clone(), placement));
        }
        for (program, mut placement) in next {
            let effects = placement.event(&Event::Stopped, &here(&run, 0));
            assert_eq!(effects, [Effect::Await(operation.clone())]);
            let cell = self.cell_mut(on, &program);
            (cell.placement, cell.healthy) = (placement, false);
        }
        let programs = members.iter().map(|member| member.program.clone()).collect();
        self.commands.running.insert(on.clone(), (operation.clone(), programs));
        if !self.commands.take_long {
            self.command_ends(on, None);
        }
    }

    /// The command of a set ends on a server; its members start again.
    pub fn command_ends(&mut self, on: &ServerName, failure: Option<String>) {
        let (operation, programs) = self.commands.running.remove(on).expect("a command runs there");
        let worked = Worked { failure: failure.clone(), lines: Vec::new(), took_ms: 1 };
        self.commands.worked.insert(operation, worked);
        let run = self.servers[on].run(on);
        for program in programs {
            let cell = self.cell_mut(on, &program);
            let effects = cell.placement.event(&Event::Worked(failure.clone().map_or(Ok(()), Err)), &here(&run, 0));
            cell.perform(&run, effects);
        }
    }

    pub(super) fn tell_worked(&mut self, on: &ServerName, set: &RippleId, operation: &OperationId) {
        if let Some(worked) = self.commands.worked.get(operation).cloned() {
            self.leader.worked(set, on, worked);
        }
    }

    /// A member's lease runs out before the others'.
    pub fn lease_runs_out(&mut self, on: &ServerName, program: &ProgramName) {
        let run = self.servers[on].run(on);
        let cell = self.cell_mut(on, program);
        let effects = cell.placement.event(&Event::Tick, &here(&run, Millis::MAX / 2));
        cell.perform(&run, effects);
    }

    /// The sets as management finds them again on its disk.
    pub(super) fn saved_sets(&self) -> BTreeMap<RippleId, Set> {
        let saved = |set: &Set| -> Set { serde_json::from_str(&serde_json::to_string(set).unwrap()).unwrap() };
        self.leader.sets.iter().map(|(id, set)| (id.clone(), saved(set))).collect()
    }

    fn cell(&self, on: &ServerName, program: &ProgramName) -> &Srv {
        if *program == mail() { &self.mail[on] } else { &self.servers[on] }
    }

    pub(super) fn cell_mut(&mut self, on: &ServerName, program: &ProgramName) -> &mut Srv {
        let cells = if *program == mail() { &mut self.mail } else { &mut self.servers };
        cells.get_mut(on).unwrap_or_else(|| panic!("{program} is not on {on}"))
    }
}
