//! Owns what one leadership of management decides: sealing servers (protocol P6), adopting what it finds, letting
//! booted placements serve (P9, P13), catching up, and driving ripples. Must not know how a message travels or where
//! anything is kept: every change is saved by its caller before any message that it answers leaves.

mod catching_up;
mod drains;
mod sets;

pub use drains::Drain;

use std::collections::{BTreeMap, BTreeSet};

use super::names::{OperationId, ProgramName, Release, Revision, RippleId, RunId, ServerName, Term};
use super::placement::{Command, Desired, Millis, Order, Phase, Refusal, State};
use super::ripple::hooks::{Hook, HookEnd};
use super::ripple::machine::{self, Mint, Send};
use super::ripple::plan::{Plan, RippleKind};
use super::ripple::set::Set;
use super::ripple::undo::{self, NoUndo};
use super::ripple::wait::{Reason, Wait};
use super::ripple::{Asked, Ripple, RippleState, StepPhase};
use super::server_list::{Measured, Report, Server, ServerList, Wanted};

/// The state of one leadership.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Leader {
    pub mint: Mint,
    pub list: ServerList,
    pub ripples: BTreeMap<RippleId, Ripple>,
    /// What holds some of the ripples together.
    pub sets: BTreeMap<RippleId, Set>,
    /// Servers that a person has taken out of service.
    pub drains: BTreeMap<ServerName, Drain>,
    /// A higher term was promised by a server that this leadership commanded: it commands no more.
    pub stepped_down: Option<Term>,
    /// When it first decided anything; who was not heard of before is not down yet.
    pub since: Option<Millis>,
}

/// What a refused seal or command means to the leadership.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Heard {
    Nothing,
    /// The Server List or a ripple may have moved.
    Changed,
    /// A higher term is to be taken, saved, and asked with (protocol P6).
    LearnAgain(Term),
}

impl Leader {
    /// A leadership at a term that is saved already. Nothing is sealed.
    pub fn new(term: Term, revision: Revision, mut list: ServerList, ripples: BTreeMap<RippleId, Ripple>) -> Self {
        for server in list.servers.values_mut() {
            *server = Server::default();
        }
        for cell in list.cells.values_mut().flat_map(BTreeMap::values_mut) {
            (cell.observed, cell.measured, cell.cpu_milli) = (None, None, None);
        }
        let mut ripples = ripples;
        ripples.values_mut().for_each(Ripple::forget_hooks);
        let (sets, drains) = Default::default();
        Self { mint: Mint { term, next: 0, revision }, list, ripples, sets, drains, stepped_down: None, since: None }
    }

    pub fn term(&self) -> &Term {
        &self.mint.term
    }

    /// Takes a higher term: all seals are asked for again. The caller saves it before anything is sent.
    pub fn take_term(&mut self, number: u64) {
        self.mint.term.number = number;
        self.mint.next = 0;
        for server in self.list.servers.values_mut() {
            server.sealed = None;
            server.asked += 1;
        }
    }

    /// A server registered, or its heartbeat came: it is up, and if its run is new it has to be sealed.
    pub fn up(&mut self, server: &ServerName, run: &RunId, now: Millis) -> bool {
        let entry = self.list.servers.entry(server.clone()).or_default();
        let was = (entry.up, entry.sealed.clone());
        (entry.up, entry.heard_at) = (true, now);
        if entry.sealed.as_ref().is_some_and(|sealed| sealed != run) {
            entry.sealed = None;
            entry.asked += 1;
        }
        was != (entry.up, entry.sealed.clone())
    }

    /// A server has not been heard of for `down_after`.
    pub fn down(&mut self, server: &ServerName) -> bool {
        match self.list.servers.get_mut(server) {
            Some(entry) => std::mem::replace(&mut entry.up, false),
            None => false,
        }
    }

    /// The answer to a seal question.
    pub fn sealed(&mut self, server: &ServerName, asked: u64, run: &RunId, reports: Vec<Report>) -> bool {
        self.list.seal(server, asked, run, reports)
    }

    /// What a server says of a placement: unasked, or in answer to a command, obeyed or not.
    pub fn heard(&mut self, server: &ServerName, run: &RunId, report: Report) -> bool {
        self.list.hear(server, run, report)
    }

    /// A server has the release unpacked and prepared, or cannot.
    pub fn prepared(
        &mut self,
        server: &ServerName,
        program: &ProgramName,
        release: &Release,
        result: Result<(), String>,
    ) {
        let waits = |ripple: &&mut Ripple| {
            !ripple.state.is_over() && ripple.plan.program == *program && ripple.plan.brings(server, release)
        };
        for ripple in self.ripples.values_mut().filter(|ripple| waits(ripple)) {
            match &result {
                Ok(()) if !ripple.prepared.contains(server) => ripple.prepared.push(server.clone()),
                Ok(()) => {}
                Err(reason) => ripple.fail_step(server, reason),
            }
        }
    }

    /// What a server's programs use of its cores. One of which nothing is told uses nothing.
    pub fn uses(&mut self, server: &ServerName, cores: u32, cpu_milli: &BTreeMap<ProgramName, u32>) {
        if let Some(entry) = self.list.servers.get_mut(server) {
            entry.cores = cores;
        }
        let told = !cpu_milli.is_empty();
        for (program, cells) in &mut self.list.cells {
            if let Some(cell) = cells.get_mut(server) {
                cell.cpu_milli = told.then(|| cpu_milli.get(program).copied().unwrap_or(0));
            }
        }
    }

    /// What a server has counted of a program's answers.
    pub fn measured(&mut self, server: &ServerName, program: &ProgramName, measured: Measured) {
        self.list.cell_mut(program, server).measured = Some(measured);
    }

    /// A hook has ended; answers whether a ripple waited for it.
    pub fn hooked(&mut self, id: &RippleId, hook: Hook, server: Option<&ServerName>, end: HookEnd) -> bool {
        self.ripples.get_mut(id).is_some_and(|ripple| ripple.hooked(hook, server, end))
    }

    /// A refusal in answer to a seal or a command.
    pub fn refused(&mut self, refusal: &Refusal, of_a_seal: bool) -> Heard {
        match refusal {
            Refusal::StaleTerm { highest } if *highest > self.mint.term => {
                if of_a_seal {
                    return Heard::LearnAgain(highest.clone());
                }
                self.stepped_down = Some(highest.clone());
                Heard::Changed
            }
            _ => Heard::Nothing,
        }
    }

    /// The ripple of a program that is not over.
    pub fn under_way(&self, program: &ProgramName) -> Option<&Ripple> {
        self.ripples.values().find(|ripple| !ripple.state.is_over() && ripple.plan.program == *program)
    }

    /// Starts a planned ripple.
    pub fn start(&mut self, plan: Plan) {
        self.ripples.insert(plan.id.clone(), Ripple::new(plan));
    }

    /// Asks a running ripple to stop, pause or go on; answers whether it is one.
    pub fn ask(&mut self, id: &RippleId, asked: Asked) -> bool {
        match self.ripples.get_mut(id).filter(|ripple| !ripple.state.is_over()) {
            Some(ripple) if ripple.asked != Asked::Abort => {
                (ripple.asked, ripple.paused_by) = (asked, None);
                true
            }
            Some(_) => asked == Asked::Abort,
            None => false,
        }
    }

    /// A person lets a ripple go on after its canaries; answers whether it has any, and is not over.
    pub fn promote(&mut self, id: &RippleId) -> bool {
        self.ripples.get_mut(id).filter(|ripple| !ripple.state.is_over()).is_some_and(Ripple::promote)
    }

    /// Starts the way back from a ripple. One that runs is stopped first, and what it does is opened or finished.
    pub fn undo(&mut self, id: RippleId, undone: &Ripple) -> Result<Plan, NoUndo> {
        let (program, of) = (&undone.plan.program, &undone.plan.id);
        let is_other =
            |other: &&Ripple| !other.state.is_over() && other.plan.program == *program && other.plan.id != *of;
        if let Some(other) = self.ripples.values().find(is_other) {
            return Err(NoUndo::Busy { under_way: other.plan.id.clone() });
        }
        let plan = undo::plan(id, undone, &self.list);
        let running = self.ripples.get_mut(of).filter(|ripple| !ripple.state.is_over());
        match (running, &plan) {
            (Some(running), Ok(plan)) => {
                running.asked = Asked::Abort;
                running.reason.get_or_insert_with(|| format!("undone by ripple {}", plan.id));
            }
            // It has changed nothing yet, and shall not.
            (Some(running), Err(NoUndo::Nothing)) => running.asked = Asked::Abort,
            _ => {}
        }
        let plan = plan?;
        let servers = plan.steps.iter().map(|step| step.server.clone()).collect();
        self.list.programs.entry(program.clone()).or_insert(Wanted { release: None, servers });
        self.start(plan.clone());
        Ok(plan)
    }

    /// Everything that should be on its way to servers now. Sent again until it is answered.
    pub fn decide(&mut self, now: Millis) -> Vec<Send> {
        if self.stepped_down.is_some() {
            return Vec::new();
        }
        self.begin(now);
        let mut sends = self.seals();
        sends.extend(self.advance_drains());
        self.catch_up();
        let mut ripples = std::mem::take(&mut self.ripples);
        let running: BTreeSet<RippleId> =
            ripples.iter().filter(|(_, ripple)| !ripple.state.is_over()).map(|(id, _)| id.clone()).collect();
        for ripple in ripples.values_mut().filter(|ripple| !ripple.state.is_over() && ripple.plan.set.is_none()) {
            if let Some(undone) = ripple.plan.undoes.clone().filter(|undone| running.contains(undone)) {
                ripple.wait = Some(Wait { server: None, reason: Reason::Stopping { ripple: undone }, until: None });
                continue;
            }
            sends.extend(machine::advance(ripple, &mut self.list, &mut self.mint, now));
            self.conclude(ripple);
        }
        self.ripples = ripples;
        sends.extend(self.advance_sets(now));
        self.undo_what_was_no_good();
        sends.extend(self.reconcile());
        sends
    }

    /// A ripple that found its new version to be no good is followed by the way back.
    fn undo_what_was_no_good(&mut self) {
        let undone: BTreeSet<&RippleId> =
            self.ripples.values().filter_map(|ripple| ripple.plan.undoes.as_ref()).collect();
        let alone = |ripple: &Ripple| ripple.undoes_itself && ripple.plan.set.is_none();
        let no_good = |ripple: &&Ripple| alone(ripple) && ripple.state.is_over() && !undone.contains(&ripple.plan.id);
        let no_good: Vec<Ripple> = self.ripples.values().filter(no_good).cloned().collect();
        for ripple in no_good {
            let Some(operation) = self.mint.operation() else { continue };
            if let Ok(id) = RippleId::new(format!("undo-{operation}")) {
                // Nothing to undo, or something else under way: then nothing is left of it.
                let _ = self.undo(id, &ripple);
            }
        }
    }

    /// A leadership that has just begun has heard of nobody: patience with each server begins with it.
    fn begin(&mut self, now: Millis) {
        if self.since.replace(self.since.unwrap_or(now)).is_none() {
            for server in self.list.servers.values_mut().filter(|server| !server.up) {
                server.heard_at = now;
            }
        }
    }

    fn seals(&self) -> Vec<Send> {
        let unsealed = self.list.servers.iter().filter(|(_, server)| server.up && server.sealed.is_none());
        unsealed.map(|(name, server)| Send::Seal { server: name.clone(), asked: server.asked }).collect()
    }

    /// A ripple that ended well moves the program's desired version (protocol P13).
    fn conclude(&mut self, ripple: &Ripple) {
        let well = matches!(ripple.state, RippleState::Upgraded | RippleState::Undone) || ripple.has_brought_all();
        if !well || ripple.plan.kind == RippleKind::CatchUp {
            return;
        }
        let skipped = |index: &usize| matches!(ripple.steps[*index], StepPhase::Skipped { .. });
        for index in (0..ripple.steps.len()).filter(skipped) {
            // It was down: catching up does the rest when it is back.
            let stamp = self.mint.stamp();
            let desired = Desired { release: ripple.plan.target(index).cloned(), stamp };
            let server = &ripple.plan.steps[index].server;
            self.list.cell_mut(&ripple.plan.program, server).desired = Some(desired);
        }
        if ripple.plan.to.is_none() {
            self.list.programs.remove(&ripple.plan.program);
        } else if let Some(wanted) = self.list.programs.get_mut(&ripple.plan.program) {
            wanted.release = ripple.plan.to.clone();
        }
    }

    /// Lets booted placements serve, and gives back what no ripple of this leadership holds.
    fn reconcile(&self) -> Vec<Send> {
        let cells =
            self.list.cells.iter().flat_map(|(program, cells)| cells.keys().map(move |server| (program, server)));
        cells.filter_map(|(program, server)| self.order_outside_ripples(program, server)).collect()
    }

    fn order_outside_ripples(&self, program: &ProgramName, server: &ServerName) -> Option<Send> {
        let seen = self.list.observed(program, server)?;
        let owned = |operation| self.ripples.values().any(|ripple| ripple.owns(operation));
        let (operation, expected, order) = match (seen.state, &seen.operation) {
            (State::Closed, _) if !self.stays_closed(program, server) && !self.is_drained(server) => {
                (OperationId::new("reconcile").ok()?, seen.generation, Order::Open)
            }
            // A quiesce, or an overlap before its switch, of a ripple that nobody remembers.
            (State::Quiescing | State::Overlapping, Some(held))
                if held.leased && !owned(&held.id) && matches!(held.phase, Phase::Quiescing | Phase::Beside) =>
            {
                (held.id.clone(), held.expected, Order::Reopen)
            }
            // A quiesce that was sent and may still arrive, of a ripple that is over.
            _ => {
                let cell = self.list.cell(program, server)?;
                let drains = |operation: &OperationId| self.drains.values().any(|drain| drain.operation == *operation);
                let sent =
                    cell.unanswered.as_ref().filter(|sent| !owned(&sent.operation) && !drains(&sent.operation))?;
                (sent.operation.clone(), sent.expected, Order::Reopen)
            }
        };
        let run = self.list.servers.get(server)?.sealed.clone()?;
        let command = Command { term: self.mint.term.clone(), operation, run, expected, order };
        Some(Send::Command { server: server.clone(), program: program.clone(), command })
    }

    /// A booted placement that is behind what is desired of it stays closed while enough others serve (protocol P13).
    pub fn stays_closed(&self, program: &ProgramName, server: &ServerName) -> bool {
        if self.is_drained(server) {
            return true;
        }
        let Some(seen) = self.list.observed(program, server) else { return false };
        let Some(desired) = self.list.cell(program, server).and_then(|cell| cell.desired.as_ref()) else {
            return false;
        };
        let behind = desired.release.is_some() && desired.release != seen.release;
        let needed = self.under_way(program).map_or(1, |ripple| ripple.plan.policy.min_serving.max(1));
        behind && self.list.serving(program).count() >= needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{Generation, NodeName, Sha256, Version};
    use crate::domain::placement::{Placement, Stamp};
    use crate::domain::server_list::Wanted;

    fn shop() -> ProgramName {
        ProgramName::new("shop").unwrap()
    }

    fn app() -> ServerName {
        ServerName::new("app-1").unwrap()
    }

    fn release() -> Release {
        Release { version: Version::new("1").unwrap(), sha256: Sha256([1; 32]) }
    }

    /// A server that is back with version 1 open, of which nothing is desired here by now.
    fn back_with_what_is_not_wanted(programs: BTreeMap<ProgramName, Wanted>) -> Leader {
        let term = |number| Term { number, management: NodeName::new("m").unwrap() };
        let desired = |number, release| Desired { release, stamp: Stamp { term: term(number), revision: Revision(1) } };
        let mut list = ServerList { programs, ..ServerList::default() };
        list.servers.insert(app(), Server::default());
        list.cell_mut(&shop(), &app()).desired = Some(desired(2, None));
        let mut leader = Leader::new(term(3), Revision(0), list, BTreeMap::new());
        let run = RunId::new("r").unwrap();
        leader.up(&app(), &run, 0);
        let mut placement = Placement::absent(shop());
        (placement.state, placement.generation) = (State::Open, Generation(5));
        (placement.release, placement.desired) = (Some(release()), Some(desired(1, Some(release()))));
        let asked = leader.list.servers[&app()].asked;
        assert!(leader.sealed(&app(), asked, &run, vec![Report::of(&placement, true, 0, 0)]));
        leader
    }

    #[test]
    fn a_server_that_was_down_when_its_program_was_removed_has_it_removed_when_it_is_back() {
        let mut leader = back_with_what_is_not_wanted(BTreeMap::new());
        let sends = leader.decide(0);
        let [Send::Command { server, command, .. }] = sends.as_slice() else { panic!("{sends:?}") };
        assert_eq!((server, &command.order), (&app(), &Order::Quiesce { leased: true }));
        let under_way = leader.under_way(&shop()).unwrap();
        assert_eq!((under_way.plan.kind, &under_way.plan.to), (RippleKind::CatchUp, &None));
        assert!(!leader.list.programs.contains_key(&shop()));
    }

    #[test]
    fn a_program_that_is_there_is_not_removed_where_an_install_failed() {
        let wanted = Wanted { release: Some(release()), servers: vec![app()] };
        let mut leader = back_with_what_is_not_wanted([(shop(), wanted)].into());
        assert_eq!(leader.decide(0), []);
    }
}
