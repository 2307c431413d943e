//! Owns one round of a set: which servers' steps begin, go on, are given back, and when all of it is over.
//! Must not know where it is kept.

use std::collections::{BTreeMap, BTreeSet};

use super::{Set, Stage, Subject, is_upgrade_order, joined, phases, stage};
use crate::domain::capacity;
use crate::domain::names::{OperationId, ProgramName, RippleId, ServerName};
use crate::domain::placement::{Command, Millis};
use crate::domain::program::Promote;
use crate::domain::ripple::machine::{self, Member, Mint, Send};
use crate::domain::ripple::step::{self, Moved};
use crate::domain::ripple::wait::{Reason, Wait};
use crate::domain::ripple::{Asked, Ripple, RippleState, StepPhase};
use crate::domain::server_list::ServerList;

/// Moves a set as far as it goes with what is known now. `taken`: servers on which another set is under way, and which
/// this one takes in turn.
pub fn advance(
    set: &mut Set,
    ripples: &mut BTreeMap<RippleId, Ripple>,
    list: &mut ServerList,
    mint: &mut Mint,
    taken: &mut BTreeSet<ServerName>,
    now: Millis,
) -> Vec<Send> {
    set.wait = None;
    if set.state.is_over() {
        return Vec::new();
    }
    if set.plan.parts.iter().any(|part| !ripples.contains_key(part)) {
        // Their ledgers are still being read.
        set.wait = Some(Wait { server: None, reason: Reason::Parts, until: None });
        return Vec::new();
    }
    let parts = set.plan.parts.iter().filter_map(|part| ripples.remove(part)).collect();
    let mut round = Round { set, parts, list, mint, now, sends: Vec::new() };
    round.run(taken);
    let Round { parts, sends, .. } = round;
    ripples.extend(parts.into_iter().map(|part| (part.plan.id.clone(), part)));
    sends
}

struct Round<'a> {
    set: &'a mut Set,
    parts: Vec<Ripple>,
    list: &'a mut ServerList,
    mint: &'a mut Mint,
    now: Millis,
    sends: Vec<Send>,
}

/// A part's step on one server.
type At = (usize, usize);

impl Round<'_> {
    fn run(&mut self, taken: &mut BTreeSet<ServerName>) {
        self.pass_on();
        let servers = self.set.plan.servers.clone();
        let under_way = |server: &&ServerName| self.stage(server) == Stage::UnderWay && self.is_up(server);
        let mut places = self.set.plan.batch.saturating_sub(servers.iter().filter(under_way).count());
        for server in &servers {
            match self.stage(server) {
                Stage::Over => {}
                Stage::UnderWay => {
                    taken.insert(server.clone());
                    self.go_on(server);
                }
                Stage::Waits => {
                    self.prepare(server);
                    if places > 0 && self.may_begin(server, taken) && self.begin(server) {
                        places -= 1;
                    }
                    if self.stage(server) == Stage::UnderWay {
                        taken.insert(server.clone());
                    }
                }
            }
        }
        self.conclude();
    }

    /// What was asked of the set is asked of its parts; a part that can go on no more stops the set.
    fn pass_on(&mut self) {
        let failed = |part: &Ripple| {
            let reason = part.steps.iter().find_map(|step| match step {
                StepPhase::Failed { reason } => Some(reason.clone()),
                _ => None,
            });
            reason.map(|reason| format!("{}: {reason}", part.plan.program))
        };
        let stopped = |part: &Ripple| {
            let reason = part.reason.clone().filter(|_| part.asked == Asked::Abort)?;
            Some(format!("{}: {reason}", part.plan.program))
        };
        if let Some(reason) = self.parts.iter().find_map(failed).or_else(|| self.parts.iter().find_map(stopped)) {
            self.set.asked = Asked::Abort;
            self.set.reason.get_or_insert(reason);
        }
        for part in &mut self.parts {
            part.asked = self.set.asked;
            part.promoted |= self.set.promoted;
        }
    }

    fn members(&self, server: &ServerName) -> Vec<At> {
        let step = |part: &Ripple| part.plan.steps.iter().position(|step| step.server == *server);
        self.parts.iter().enumerate().filter_map(|(part, ripple)| Some((part, step(ripple)?))).collect()
    }

    fn phase(&self, (part, step): At) -> &StepPhase {
        &self.parts[part].steps[step]
    }

    fn stage(&self, server: &ServerName) -> Stage {
        stage(phases(self.parts.iter(), server))
    }

    fn is_up(&self, server: &ServerName) -> bool {
        self.list.servers.get(server).is_some_and(|server| server.up)
    }

    /// The first wait that is found is the one that is told.
    fn say(&mut self, server: Option<&ServerName>, reason: Reason) {
        self.set.wait.get_or_insert(Wait { server: server.cloned(), reason, until: None });
    }

    fn prepare(&mut self, server: &ServerName) {
        for (part, step) in self.members(server) {
            self.sends.extend(machine::prepare_ahead(&self.parts[part], self.list, step));
        }
    }

    fn may_begin(&mut self, server: &ServerName, taken: &BTreeSet<ServerName>) -> bool {
        let drained = self.list.servers.get(server).is_some_and(|server| server.drained);
        if self.set.asked != Asked::Nothing || !self.is_up(server) || drained || self.canaries_hold().is_some() {
            return false;
        }
        if taken.contains(server) {
            self.say(Some(server), Reason::OtherSet);
            return false;
        }
        true
    }

    /// What the servers after the canaries wait for; `Some(None)`: the canaries are under way.
    fn canaries_hold(&mut self) -> Option<Option<Reason>> {
        let canaries = self.set.plan.canary;
        if canaries == 0 || self.set.promoted {
            return None;
        }
        let stages: Vec<Stage> = self.set.plan.servers.iter().map(|server| self.stage(server)).collect();
        let begun = stages.iter().filter(|stage| **stage != Stage::Waits).count();
        if begun < canaries {
            return None;
        }
        if stages.contains(&Stage::UnderWay) {
            return Some(None);
        }
        match self.set.plan.promote {
            Promote::Auto => {
                self.set.promoted = true;
                None
            }
            Promote::Manual => Some(Some(Reason::Promotion { canaries: begun })),
        }
    }

    /// Begins a server's step: every member may close its gate in this one decision, or none does. Answers whether it
    /// takes a place.
    fn begin(&mut self, server: &ServerName) -> bool {
        let members = self.members(server);
        if let Some((program, other)) = self.neighbour_out(server, &members) {
            self.say(Some(server), Reason::Neighbour { program: other }.of(&program));
            return false;
        }
        let cell = |&(part, _): &At| self.list.cell(&self.parts[part].plan.program, server).cloned();
        let before: Vec<_> = members.iter().map(|at| (*at, self.phase(*at).clone(), cell(at))).collect();
        let (mint, mut sends) = (self.mint.clone(), Vec::new());
        for &(part, step) in &members {
            if self.phase((part, step)).is_over() {
                continue;
            }
            let (wait, more) = match step::advance(&mut self.parts[part], step, self.list, self.mint, self.now) {
                Moved::Waits(wait, more) => (wait, more),
                moved => {
                    sends.extend(moved.sends());
                    continue;
                }
            };
            // Nothing was sent: what the others took is given back at once.
            let program = self.parts[part].plan.program.clone();
            for ((part, step), phase, cell) in before {
                self.parts[part].steps[step] = phase;
                *self.list.cell_mut(&self.parts[part].plan.program, server) = cell.unwrap_or_default();
            }
            *self.mint = mint;
            let keeps_its_turn = wait.reason == Reason::Preparing;
            self.sends.extend(more.into_iter().filter(|send| matches!(send, Send::Prepare { .. })));
            self.set.wait.get_or_insert(Wait { reason: wait.reason.of(&program), ..wait });
            return keeps_its_turn;
        }
        self.sends.extend(sends);
        true
    }

    /// Another program that is out of service there, for whose sake one of the members has to wait.
    fn neighbour_out(&self, server: &ServerName, members: &[At]) -> Option<(ProgramName, ProgramName)> {
        members.iter().filter(|at| !self.phase(**at).is_over()).find_map(|&(part, _)| {
            let plan = &self.parts[part].plan;
            let most = plan.policy.max_utilization_milli;
            let other = capacity::neighbour_out(self.list, &plan.program, server, most)?;
            Some((plan.program.clone(), other.clone()))
        })
    }

    /// Drives a step that has begun.
    fn go_on(&mut self, server: &ServerName) {
        let members = self.members(server);
        let lost = self.is_lost(&members);
        let main_is_past = self.main_is_past(&members);
        let mut ready: Vec<(At, Command)> = Vec::new();
        for &at in &members {
            let was = self.phase(at).clone();
            let aside = self.set.is_aside(&self.parts[at.0]);
            if was == StepPhase::Pending && aside && main_is_past {
                // It has opened by itself.
                self.parts[at.0].steps[at.1] = StepPhase::Done;
            }
            // One that is lost waits for the others to be given back, or to be done.
            if was.is_over() || was == StepPhase::Pending {
                continue;
            }
            let quiesces = matches!(was, StepPhase::Quiescing { .. });
            if quiesces && (lost || (aside && main_is_past)) {
                self.give_back(at, aside && main_is_past);
                continue;
            }
            let moved = step::advance(&mut self.parts[at.0], at.1, self.list, self.mint, self.now);
            let wait = moved.wait().cloned();
            for send in moved.sends() {
                match send {
                    Send::Command { command, .. } if quiesces && is_upgrade_order(&command) => {
                        ready.push((at, command))
                    }
                    send => self.sends.push(send),
                }
            }
            if let Some(wait) = wait {
                let program = &self.parts[at.0].plan.program;
                self.set.wait.get_or_insert(Wait { reason: wait.reason.of(program), ..wait });
            }
        }
        self.together(server, &members, ready);
    }

    /// A member whose quiesce is lost, while others still hold theirs: they are given back, and all of it begins anew.
    fn is_lost(&self, members: &[At]) -> bool {
        let any = |fits: fn(&StepPhase) -> bool| members.iter().any(|&at| fits(self.phase(at)));
        any(|phase| *phase == StepPhase::Pending) && any(|phase| matches!(phase, StepPhase::Quiescing { .. }))
    }

    /// Of a whole server's set: the program that is upgraded is, or will not be any more.
    fn main_is_past(&self, members: &[At]) -> bool {
        let main = members.iter().find(|&&(part, _)| !self.set.is_aside(&self.parts[part]));
        main.is_some_and(|&at| {
            !matches!(self.phase(at), StepPhase::Pending | StepPhase::Quiescing { .. } | StepPhase::Upgrading { .. })
        })
    }

    /// Opens one member's gate again. `done`: its part is over with that.
    fn give_back(&mut self, (part, step): At, done: bool) {
        let asked = std::mem::replace(&mut self.parts[part].asked, Asked::Abort);
        let moved = step::advance(&mut self.parts[part], step, self.list, self.mint, self.now);
        self.parts[part].asked = asked;
        if done && self.parts[part].steps[step] == StepPhase::Pending {
            self.parts[part].steps[step] = StepPhase::Done;
        }
        if let Some(wait) = moved.wait() {
            self.set.wait.get_or_insert(wait.clone());
        }
        self.sends.extend(moved.sends());
    }

    /// Orders what is to be done once every member is drained: one order for all of them.
    fn together(&mut self, server: &ServerName, members: &[At], ready: Vec<(At, Command)>) {
        let quiescing = |at: &At| matches!(self.phase(*at), StepPhase::Quiescing { .. });
        let open = members.iter().filter(|at| !self.phase(**at).is_over()).collect::<Vec<_>>();
        let all = open.iter().all(|at| quiescing(at)) && ready.len() == open.len();
        if ready.is_empty() || self.set.asked == Asked::Abort {
            return;
        }
        if !all {
            let done: Vec<ProgramName> =
                ready.iter().map(|((part, _), _)| self.parts[*part].plan.program.clone()).collect();
            return self.say(Some(server), Reason::Members { drained: done.len(), of: open.len() });
        }
        match &self.set.plan.subject {
            Subject::Server { .. } => {
                let main = ready.into_iter().filter(|((part, _), _)| !self.set.is_aside(&self.parts[*part]));
                for ((part, _), command) in main.collect::<Vec<_>>() {
                    let (server, program) = (server.clone(), self.parts[part].plan.program.clone());
                    self.sends.push(Send::Command { server, program, command });
                }
            }
            Subject::Component { work, .. } => {
                let work = work.clone();
                let Some(id) = set_operation(&ready) else { return };
                let (set, parts) = (self.set.plan.id.clone(), &self.parts);
                let member = |((part, _), command): (At, Command)| Member {
                    program: parts[part].plan.program.clone(),
                    command: joined(command, &id),
                };
                let members = ready.into_iter().map(member).collect();
                if self.set.ordered.insert(server.clone(), id.clone()).as_ref() != Some(&id) {
                    self.set.worked.remove(server);
                }
                self.sends.push(Send::Together { server: server.clone(), set, operation: id.clone(), members, work });
            }
        }
    }

    /// Ends the set, all its parts at once, when nothing is left to do; or says what it waits for.
    fn conclude(&mut self) {
        self.pass_on();
        let stops = self.set.asked == Asked::Abort;
        if self.set.asked == Asked::Pause {
            self.set.state = RippleState::Paused;
            self.parts.iter_mut().for_each(|part| part.state = RippleState::Paused);
            return self.say(None, Reason::Paused);
        }
        self.set.state = RippleState::Running;
        self.parts.iter_mut().for_each(|part| part.state = RippleState::Running);
        if let (false, Some(Some(reason))) = (stops, self.canaries_hold()) {
            return self.say(None, reason);
        }
        let open = self.ask_for_work();
        if let Some(wait) = self.parts.iter().find_map(|part| machine::left(part, self.list, self.now)) {
            self.set.wait.get_or_insert(wait);
            return;
        }
        if let Some(server) = open {
            return self.say(Some(&server), Reason::Work);
        }
        let worked = !self.set.worked.is_empty();
        for part in &mut self.parts {
            machine::finish(part, self.list, self.mint);
        }
        self.set.wait = None;
        self.end(worked);
    }

    /// Asks how the work has ended where it was obeyed; answers where that is not known yet.
    fn ask_for_work(&mut self) -> Option<ServerName> {
        let mut open = None;
        for (server, operation) in self.set.ordered.clone() {
            let obeyed = phases(self.parts.iter(), &server)
                .any(|phase| !matches!(phase, StepPhase::Pending | StepPhase::Quiescing { .. }));
            if obeyed && self.is_up(&server) && !self.set.worked.contains_key(&server) {
                let set = self.set.plan.id.clone();
                self.sends.push(Send::Worked { server: server.clone(), set, operation });
                open.get_or_insert(server);
            }
        }
        open
    }

    fn end(&mut self, worked: bool) {
        let has_failed = |step: &StepPhase| matches!(step, StepPhase::Failed { .. });
        let no_good = self.parts.iter().any(|part| part.undoes_itself || part.steps.iter().any(has_failed));
        let did_any = self.parts.iter().any(|part| part.steps.contains(&StepPhase::Done));
        let undoes = self.set.plan.undoes.is_some();
        self.set.state = match (no_good, self.set.asked) {
            (true, _) => RippleState::Failed,
            (false, Asked::Abort) => RippleState::Aborted,
            (false, _) if !did_any => RippleState::Failed,
            (false, _) if undoes => RippleState::Undone,
            (false, _) => RippleState::Upgraded,
        };
        if self.set.state == RippleState::Aborted {
            self.set.reason.get_or_insert_with(|| "aborted as asked".to_owned());
        }
        if self.set.state == RippleState::Failed {
            let reason = self.parts.iter().find_map(|part| part.reason.clone());
            self.set.reason = self.set.reason.take().or(reason);
        }
        // What a command has done is not taken back by starting the old version again.
        let way_back = match &self.set.plan.subject {
            Subject::Component { undo_work, .. } => undo_work.is_some(),
            Subject::Server { .. } => false,
        };
        self.set.undoes_itself = no_good && worked && way_back && !undoes;
    }
}

/// The set's operation on one server: the same for as long as its members hold theirs, so that a repeat is known.
fn set_operation(ready: &[(At, Command)]) -> Option<OperationId> {
    let first = ready.first()?.1.operation.clone();
    OperationId::new(format!("set-{first}")).ok()
}
