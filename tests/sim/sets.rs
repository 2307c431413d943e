//! Owns sets in the simulated cluster (protocol P15): who asks for them, how a server judges one order to all members and
//! runs the command when the last of them has stopped, and what is checked of it. Must not know single ripples.

use std::collections::BTreeSet;
use std::time::Duration;

use neap::domain::names::{ComponentName, OperationId, ProgramName, RippleId, ServerName, Term};
use neap::domain::placement::{Event, Here, Refusal, Work, Worked};
use neap::domain::program::{LongLived, MinServing, OnDrainTimeout, Promote, RollbackOn};
use neap::domain::ripple::machine::Member;
use neap::domain::ripple::plan::{Ask, Plan, Policy, RippleKind, plan};
use neap::domain::ripple::set::{Set, SetPlan, Subject};
use neap::domain::ripple::{Asked, Ripple, RippleState};

use super::people::release;
use super::server::{LEASE, Srv};
use super::world::{Happens, Sim};

/// Programs of one set at the most, so that a large cluster is not all one set.
const SET_MAX: usize = 4;

/// A set's record on a server's disk; who has stopped is in memory.
pub struct Record {
    pub operation: OperationId,
    members: Vec<ProgramName>,
    stopped: BTreeSet<ProgramName>,
    stand: Stand,
}

#[derive(Clone, PartialEq, Eq)]
enum Stand {
    Waiting,
    Running,
    Ended(Option<String>),
}

impl Srv {
    /// Who had stopped is told again after a boot; of a command that ran nobody knows how it ended.
    pub fn sets_boot(&mut self) {
        for record in &mut self.sets {
            record.stopped.clear();
            if record.stand == Stand::Running {
                record.stand = Stand::Ended(Some("not known".to_owned()));
            }
        }
    }

    /// Nothing of a set starts while its command runs.
    pub fn may_start(&self, program: &ProgramName) -> Result<(), String> {
        let runs = |record: &&Record| record.stand == Stand::Running && record.members.contains(program);
        match self.sets.iter().find(runs) {
            Some(record) => Err(format!("P15: {program} starts while the command of {} runs", record.operation)),
            None => Ok(()),
        }
    }
}

impl Sim {
    /// Somebody has a component replaced, or a program upgraded with its whole server.
    pub fn somebody_asks_for_a_set(&mut self) {
        let Some(leader) = &self.leader else { return };
        let free = |program: &&ProgramName| leader.under_way(program).is_none();
        let free: Vec<ProgramName> = self.programs.iter().filter(free).cloned().collect();
        if free.len() < 2 {
            return self.somebody_meddles();
        }
        self.made += 1;
        let id = RippleId::new(format!("set-{}", self.made)).expect("an id");
        let main = (self.chance(3) == 0).then(|| free[self.rng.below(free.len() as u64) as usize].clone());
        let mut several: Vec<ProgramName> = free.iter().filter(|_| self.rng.below(3) > 0).cloned().collect();
        if several.len() > SET_MAX {
            let first = self.rng.below((several.len() - SET_MAX) as u64) as usize;
            several = several.split_off(first);
            several.truncate(SET_MAX);
        }
        let planned = match main {
            Some(main) if free.len() == self.programs.len() => self.whole_servers(&id, &main),
            _ => self.users_of_a_component(&id, several),
        };
        let told = planned.as_ref().map(|(set, _)| format!("{:?}", set.subject)).map_err(Clone::clone);
        self.log(|| format!("somebody asks for {id}: {told:?}"));
        if let (Ok((set, parts)), Some(leader)) = (planned, &mut self.leader) {
            leader.start_set(set);
            parts.into_iter().for_each(|part| leader.start(part));
            self.asked_sets.push(id);
        }
    }

    fn policy(&mut self) -> Policy {
        let half = |sim: &mut Self| sim.chance(2) == 0;
        Policy {
            strategy: Default::default(),
            batch: 1,
            canary: 0,
            promote: Promote::Auto,
            rollback_on: half(self).then(RollbackOn::default),
            hooks: Vec::new(),
            max_utilization_milli: 800,
            capacity_wait: Duration::from_secs(600),
            min_serving: 0,
            drain_timeout: Duration::from_millis(500 + self.chance(4_000)),
            on_drain_timeout: if half(self) { OnDrainTimeout::Abort } else { OnDrainTimeout::Force },
            long_lived: LongLived::Wait,
            soak: Duration::from_millis(self.chance(3) * 500),
            unhealthy_limit: Duration::from_secs(20),
        }
    }

    fn part(
        &mut self,
        id: &RippleId,
        number: usize,
        program: &ProgramName,
        kind: RippleKind,
        servers: Vec<ServerName>,
    ) -> Result<Plan, String> {
        let (policy, holds) = (self.policy(), self.chance(2) == 0);
        let at = self.programs.iter().position(|other| other == program).expect("a program");
        if kind == RippleKind::Upgrade {
            self.versions[at] += 1;
        }
        let Some(leader) = &self.leader else { return Err("management is down".to_owned()) };
        let present = leader.list.programs.get(program).and_then(|wanted| wanted.release.clone());
        let to = if kind == RippleKind::Upgrade { Some(release(self.versions[at])) } else { present };
        let min_serving = MinServing::AtLeast(u32::from(!holds));
        let part = RippleId::new(format!("{id}-{}", number + 1)).expect("an id");
        let (program, hooks) = (program.clone(), Default::default());
        let ask = Ask { id: part, kind, program, to, servers, min_serving, holds, policy, hooks };
        let plan = plan(ask, &leader.list).map_err(|refusal| refusal.to_string())?;
        Ok(Plan { set: Some(id.clone()), ..plan })
    }

    fn placed_on(&self, program: &ProgramName) -> Vec<ServerName> {
        let at = self.programs.iter().position(|other| other == program).expect("a program");
        self.placed[at].iter().map(|&server| self.servers[server].name.clone()).collect()
    }

    fn users_of_a_component(
        &mut self,
        id: &RippleId,
        programs: Vec<ProgramName>,
    ) -> Result<(SetPlan, Vec<Plan>), String> {
        let mut parts = Vec::new();
        for (number, program) in programs.iter().enumerate() {
            let servers = self.placed_on(program);
            parts.push(self.part(id, number, program, RippleKind::Restart, servers)?);
        }
        let mut servers: Vec<ServerName> =
            parts.iter().flat_map(|part| part.steps.iter().map(|step| step.server.clone())).collect();
        servers.sort();
        servers.dedup();
        if servers.is_empty() {
            return Err("nobody uses it".to_owned());
        }
        let work = |word: &str| Work { run: vec![word.to_owned()], within: LEASE };
        let undo_work = (self.chance(2) == 0).then(|| work("old"));
        let canary = if self.chance(4) == 0 && servers.len() > 1 { 1 } else { 0 };
        let promote = if self.chance(2) == 0 { Promote::Auto } else { Promote::Manual };
        let name = ComponentName::new("lib").expect("a name");
        let set = SetPlan {
            id: id.clone(),
            subject: Subject::Component { name, work: work("new"), undo_work },
            batch: 1 + self.chance(2) as usize,
            canary,
            promote,
            servers,
            parts: parts.iter().map(|part| part.id.clone()).collect(),
            undoes: None,
        };
        Ok((set, parts))
    }

    fn whole_servers(&mut self, id: &RippleId, main: &ProgramName) -> Result<(SetPlan, Vec<Plan>), String> {
        let servers = self.placed_on(main);
        let mut parts = vec![self.part(id, 0, main, RippleKind::Upgrade, servers)?];
        let servers: Vec<ServerName> = parts[0].steps.iter().map(|step| step.server.clone()).collect();
        for program in self.programs.clone().iter().filter(|program| *program != main) {
            let here =
                self.placed_on(program).into_iter().filter(|server| servers.contains(server)).collect::<Vec<_>>();
            if !here.is_empty() {
                parts.push(self.part(id, parts.len(), program, RippleKind::Aside, here)?);
            }
        }
        let set = SetPlan {
            id: id.clone(),
            subject: Subject::Server { program: main.clone() },
            servers,
            batch: 1,
            canary: 0,
            promote: Promote::Auto,
            parts: parts.iter().map(|part| part.id.clone()).collect(),
            undoes: None,
        };
        Ok((set, parts))
    }

    /// Somebody changes his mind about a set.
    fn somebody_meddles(&mut self) {
        if self.asked_sets.is_empty() {
            return;
        }
        let id = self.asked_sets[self.rng.below(self.asked_sets.len() as u64) as usize].clone();
        let dice = self.chance(100);
        self.made += 1;
        let made = RippleId::new(format!("undo-set-{}", self.made)).expect("an id");
        let Some(leader) = &mut self.leader else { return };
        let told = match dice {
            0..15 => leader.ask_set(&id, Asked::Abort),
            15..30 => leader.ask_set(&id, Asked::Pause),
            30..50 => leader.ask_set(&id, Asked::Nothing),
            50..70 => leader.promote_set(&id),
            70..85 => {
                let Some(set) = leader.sets.get(&id).cloned() else { return };
                let parts: Vec<Ripple> =
                    set.plan.parts.iter().filter_map(|part| leader.ripples.get(part)).cloned().collect();
                leader.undo_set(made.clone(), &set, &parts.iter().collect::<Vec<_>>()).is_ok()
            }
            _ => return,
        };
        if told && (70..85).contains(&dice) {
            self.asked_sets.push(made);
        }
        self.log(|| format!("somebody meddles with {id} ({dice}): {told}"));
    }

    /// When all is to come to rest: whoever waits for a person has one.
    pub fn somebody_clears_up_sets(&mut self) {
        let Some(leader) = &mut self.leader else { return };
        let live: Vec<Set> = leader.sets.values().filter(|set| !set.state.is_over()).cloned().collect();
        for set in live {
            match set.wait.as_ref().map(|wait| wait.reason.itself().code()) {
                Some("promotion") => {
                    leader.promote_set(&set.plan.id);
                }
                _ if set.state == RippleState::Paused => {
                    leader.ask_set(&set.plan.id, Asked::Nothing);
                }
                _ => {}
            }
        }
    }

    /// All members are judged before any of them is changed.
    pub fn together(
        &mut self,
        server: usize,
        operation: OperationId,
        members: &[Member],
        term: &Term,
    ) -> Result<(), String> {
        let held = &mut self.servers[server];
        let mut refused: Option<Refusal> = held.seal.admit(term).err();
        let known = held.sets.iter().any(|record| record.operation == operation);
        let mut judged = Vec::new();
        if refused.is_none() && !known {
            let run = held.run_id();
            let here = Here { run: &run, now: self.now, lease: LEASE, orphans: 0, sticky: None };
            for member in members {
                let Some(cell) = held.cells.get(&member.program) else { continue };
                match cell.judge(&member.command, &here) {
                    Ok(found) => judged.push((member, found)),
                    Err(refusal) => refused = Some(refusal),
                }
            }
        }
        if refused.is_none() && !known {
            let programs = members.iter().map(|member| member.program.clone()).collect();
            let record = Record {
                operation: operation.clone(),
                members: programs,
                stopped: BTreeSet::new(),
                stand: Stand::Waiting,
            };
            self.servers[server].sets.push(record);
            self.log(|| format!("the members of {operation} are stopped"));
            for (member, found) in judged {
                let cell = self.servers[server].cells.get_mut(&member.program).expect("a cell");
                let later = cell.commit(found, &member.command, &mut |bound| self.rng.below(bound));
                let later = later.map_err(|why| format!("{} on s{server}, {operation}: {why}", member.program))?;
                self.schedule(server, &member.program, later);
            }
        }
        for member in members {
            if self.servers[server].cells.contains_key(&member.program) {
                self.tell(server, &member.program, refused.clone());
            }
        }
        Ok(())
    }

    /// A member has stopped, and waits for the set's work.
    pub fn awaits(&mut self, server: usize, program: &ProgramName, operation: &OperationId) -> Result<(), String> {
        let held = &mut self.servers[server];
        let Some(record) = held.sets.iter_mut().find(|record| record.operation == *operation) else {
            return self.event(server, program, &Event::Worked(Err("lost".to_owned())));
        };
        if let Stand::Ended(failure) = record.stand.clone() {
            return self.event(server, program, &Event::Worked(failure.map_or(Ok(()), Err)));
        }
        record.stopped.insert(program.clone());
        if record.stopped.len() < record.members.len() || record.stand != Stand::Waiting {
            return Ok(());
        }
        record.stand = Stand::Running;
        let members = record.members.clone();
        for member in &members {
            let cell = &held.cells[member];
            if cell.open || cell.active > 0 || cell.healthy {
                return Err(format!("P15: the command of {operation} runs while {member} does"));
            }
        }
        self.counts.works += 1;
        let (after, run) = (20 + self.chance(3_000), self.servers[server].run);
        self.at(after, Happens::WorkEnds(server, run, operation.clone()));
        Ok(())
    }

    pub fn work_ends(&mut self, server: usize, run: u64, operation: &OperationId) -> Result<(), String> {
        let well = self.calm || self.chance(8) > 0;
        let held = &mut self.servers[server];
        let Some(record) = held.sets.iter_mut().find(|record| record.operation == *operation) else { return Ok(()) };
        if held.run != run || !held.up || record.stand != Stand::Running {
            return Ok(());
        }
        let failure = (!well).then(|| "exit status 1".to_owned());
        record.stand = Stand::Ended(failure.clone());
        for member in std::mem::take(&mut record.stopped) {
            self.event(server, &member, &Event::Worked(failure.clone().map_or(Ok(()), Err)))?;
        }
        Ok(())
    }

    /// "How has the work ended?"
    pub fn tell_work(&mut self, server: usize, set: RippleId, operation: &OperationId) {
        let record = self.servers[server].sets.iter().find(|record| record.operation == *operation);
        if let Some(Stand::Ended(failure)) = record.map(|record| record.stand.clone()) {
            let worked = Worked { failure, lines: Vec::new(), took_ms: 0 };
            self.post(None, Happens::Worked(server, set, worked));
        }
    }

    /// Programs that are out of service on a server together, and may be: members of one set.
    pub fn are_one_set(&self, server: usize) -> bool {
        let Some(leader) = &self.leader else { return true };
        let out = self.servers[server].cells.values().filter(|cell| cell.is_out());
        let set = |operation: &OperationId| {
            let ripple = leader.ripples.values().find(|ripple| ripple.owns(operation))?;
            ripple.plan.set.clone()
        };
        let sets: BTreeSet<Option<RippleId>> =
            out.map(|cell| cell.placement.operation.as_ref().and_then(|operation| set(&operation.id))).collect();
        sets.len() == 1 && !sets.contains(&None)
    }

    /// Every set over, or short of what the cluster does not have.
    pub fn sets_are_at_rest(&self) -> Result<(), String> {
        let Some(leader) = &self.leader else { return Ok(()) };
        for set in leader.sets.values().filter(|set| !set.state.is_over()) {
            if set.wait.as_ref().map(|wait| wait.reason.itself().code()) != Some("min_serving") {
                return Err(format!("{} {:?} {:?}", set.plan.id, set.state, set.wait));
            }
        }
        Ok(())
    }

    pub fn is_short_set(&self, part: &Ripple) -> bool {
        let set = part.plan.set.as_ref();
        set.is_some_and(|set| self.leader.as_ref().is_some_and(|leader| leader.sets.contains_key(set)))
    }
}
