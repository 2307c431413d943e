//! Owns one server's part of a ripple: from what was last heard of the placement to what comes next. It starts over
//! whenever an answer does not fit (protocol P5). Must not know the ripple's other steps.

mod overlapping;
mod soaking;

use super::hooks::{self, Hook, Need};
use super::machine::{Mint, Send};
use super::plan::RippleKind;
use super::safety;
use super::soak::Soak;
use super::wait::{Reason, Wait};
use super::{Asked, Ripple, StepPhase};
use crate::domain::capacity;
use crate::domain::names::{Generation, OperationId, Release, ServerName};
use crate::domain::placement::{Command, Desired, Millis, Order, Outcome, Phase, State};
use crate::domain::program::{LongLived, OnDrainTimeout};
use crate::domain::server_list::{Report, ServerList, Unanswered};

/// What became of a step's move.
pub enum Moved {
    Sends(Vec<Send>),
    Waits(Wait, Vec<Send>),
    Over,
}

impl Moved {
    pub fn wait(&self) -> Option<&Wait> {
        match self {
            Self::Waits(wait, _) => Some(wait),
            Self::Sends(_) | Self::Over => None,
        }
    }

    pub fn sends(self) -> Vec<Send> {
        match self {
            Self::Sends(sends) | Self::Waits(_, sends) => sends,
            Self::Over => Vec::new(),
        }
    }
}

/// What one move of a step sees and changes.
struct Move<'a> {
    ripple: &'a mut Ripple,
    index: usize,
    list: &'a mut ServerList,
    mint: &'a mut Mint,
    now: Millis,
}

/// Moves one step once.
pub fn advance(ripple: &mut Ripple, index: usize, list: &mut ServerList, mint: &mut Mint, now: Millis) -> Moved {
    let mut step = Move { ripple, index, list, mint, now };
    let server = step.server();
    let Some(report) = step.list.observed(&step.ripple.plan.program, &server).cloned().or_else(|| step.absent()) else {
        let up = step.list.servers.get(&server).is_some_and(|server| server.up);
        return step.wait(if up { Reason::Sealing } else { Reason::ServerDown });
    };
    match step.ripple.steps[index].clone() {
        StepPhase::Pending => step.begin(&report),
        StepPhase::Quiescing { operation, expected, closed_at, .. } => {
            step.quiescing(&report, operation, expected, closed_at)
        }
        StepPhase::Upgrading { operation } => step.upgrading(&report, &operation),
        StepPhase::Overlapping { operation, expected, switched_at } => {
            step.overlapping(&report, operation, expected, switched_at)
        }
        StepPhase::Soaking { soak } => step.soaking(&report, soak),
        StepPhase::Done | StepPhase::Skipped { .. } | StepPhase::Failed { .. } => Moved::Over,
    }
}

/// A step that ends without the upgrade: what was desired before is desired again. Catching up that failed says so
/// also where nothing was desired yet, or it would be tried for ever.
pub fn want_again(ripple: &Ripple, index: usize, list: &mut ServerList, mint: &mut Mint) {
    let planned = &ripple.plan.steps[index];
    let cell = list.cell_mut(&ripple.plan.program, &planned.server);
    let gives_up = ripple.plan.kind == RippleKind::CatchUp;
    if cell.desired.as_ref().map_or(gives_up, |desired| desired.release != planned.from) {
        cell.desired = Some(Desired { release: planned.from.clone(), stamp: mint.stamp() });
    }
}

impl Move<'_> {
    fn server(&self) -> ServerName {
        self.ripple.plan.steps[self.index].server.clone()
    }

    /// A sealed server that does not mention the program does not have it.
    fn absent(&self) -> Option<Report> {
        self.list.servers.get(&self.server())?.sealed.as_ref()?;
        let placement = crate::domain::placement::Placement::absent(self.ripple.plan.program.clone());
        Some(Report::of(&placement, false, 0, 0))
    }

    fn wait(&self, reason: Reason) -> Moved {
        Moved::Waits(Wait { server: Some(self.server()), reason, until: None }, Vec::new())
    }

    fn set(&mut self, phase: StepPhase) {
        self.ripple.steps[self.index] = phase;
    }

    fn start_over(&mut self) -> Moved {
        self.set(StepPhase::Pending);
        Moved::Sends(Vec::new())
    }

    fn done(&mut self) -> Moved {
        self.set(StepPhase::Done);
        Moved::Over
    }

    fn fail(&mut self, reason: String) -> Moved {
        self.want_again();
        self.set(StepPhase::Failed { reason });
        Moved::Over
    }

    fn target(&self) -> Option<&Release> {
        self.ripple.plan.target(self.index)
    }

    fn has_target(&self, report: &Report) -> bool {
        match (self.target(), self.ripple.plan.kind) {
            (None, _) => report.state == State::Absent,
            (_, RippleKind::Restart | RippleKind::Aside) => false,
            (to, _) => report.state == State::Open && report.release.as_ref() == to,
        }
    }

    fn begin(&mut self, report: &Report) -> Moved {
        if self.has_target(report) {
            // Else it would be brought back to an older desire as soon as the ripple is over.
            self.want_target();
            return self.done();
        }
        let under_way = matches!(report.state, State::Quiescing | State::Overlapping) && report.operation.is_some();
        if report.state == State::Upgrading || under_way {
            let operation = report.operation.as_ref().map(|operation| operation.id.clone());
            return self.wait(Reason::OtherOperation { operation });
        }
        let server = self.server();
        if report.state == State::Closed
            && report.release.as_ref() == self.target()
            && !matches!(self.ripple.plan.kind, RippleKind::Restart | RippleKind::Aside)
        {
            // Or it would be kept closed, as one that is behind what was wanted of it before.
            self.want_target();
            return self.wait(Reason::Unhealthy);
        }
        if let (Some(release), false) = (self.target().cloned(), self.ripple.prepared.contains(&server)) {
            let program = self.ripple.plan.program.clone();
            let wait = Wait { server: Some(server.clone()), reason: Reason::Preparing, until: None };
            return Moved::Waits(wait, vec![Send::Prepare { server, program, release }]);
        }
        // What has been closed before and comes round again has had it.
        match hooks::need(self.ripple, Hook::BeforeStep, Some(&server)) {
            Need::Nothing => {}
            Need::Wait(wait) => return Moved::Waits(wait, Vec::new()),
            Need::Failed(reason) => return self.fail(reason),
        }
        if self.overlaps(report) {
            return self.order_overlap(report);
        }
        let min_serving = self.ripple.plan.policy.min_serving;
        if let Some(serving) = safety::shortage(self.list, &self.ripple.plan.program, &server, min_serving) {
            return self.wait(Reason::MinServing { serving, min_serving });
        }
        if let Some(moved) = self.short_of_room(report) {
            return moved;
        }
        self.order_first(report)
    }

    /// Why an open gate may not close yet, as to who else is out of service there and what the servers that stay would
    /// carry. One that is not healthy carries nothing, but may be well again by the time that its gate closes.
    fn short_of_room(&mut self, report: &Report) -> Option<Moved> {
        if report.state != State::Open {
            return None;
        }
        let (program, server) = (self.ripple.plan.program.clone(), self.server());
        let max_utilization_milli = self.ripple.plan.policy.max_utilization_milli;
        // The members of a set leave together: the set has looked who else is out.
        let alone = self.ripple.plan.set.is_none();
        let out = capacity::neighbour_out(self.list, &program, &server, max_utilization_milli).filter(|_| alone);
        if let Some(other) = out.cloned() {
            return Some(self.wait(Reason::Neighbour { program: other }));
        }
        if !report.healthy {
            return None;
        }
        let carries = capacity::excess(self.list, &program, &server, max_utilization_milli)?;
        let since = *self.ripple.short_since.get_or_insert(self.now);
        let until = since + self.ripple.plan.policy.capacity_wait.as_millis() as Millis;
        let reason = Reason::Capacity { carries, max_utilization_milli };
        Some(Moved::Waits(Wait { server: Some(server), reason, until: Some(until) }, Vec::new()))
    }

    /// The quiesce; or, where nothing is installed, the upgrade itself: there is no gate to close.
    fn order_first(&mut self, report: &Report) -> Moved {
        let server = self.server();
        let Some(run) = self.list.servers.get(&server).and_then(|server| server.sealed.clone()) else {
            return self.wait(Reason::Sealing);
        };
        let Some(operation) = self.mint.operation() else { return self.wait(Reason::Sealing) };
        let expected = report.generation;
        if report.state == State::Absent {
            self.set(StepPhase::Upgrading { operation: operation.clone() });
            return self.order_upgrade(operation, expected, false);
        }
        let sent = Unanswered { operation: operation.clone(), expected, run: run.clone(), closes: true };
        self.list.cell_mut(&self.ripple.plan.program, &server).unanswered = Some(sent);
        self.set(StepPhase::Quiescing { operation: operation.clone(), expected, run, closed_at: None });
        self.send(operation, expected, Order::Quiesce { leased: true })
    }

    fn quiescing(
        &mut self,
        report: &Report,
        operation: OperationId,
        expected: Generation,
        closed_at: Option<Millis>,
    ) -> Moved {
        let ours = report.operation.as_ref().is_some_and(|held| held.id == operation);
        match report.state {
            State::Quiescing if ours && self.ripple.asked == Asked::Abort => self.reopen(operation, expected),
            State::Quiescing if ours && report.sessions.is_some() => {
                self.waiting_for_sessions(report, operation, expected)
            }
            State::Quiescing if ours => self.draining(report, operation, expected, closed_at.unwrap_or(self.now)),
            State::Upgrading if ours => {
                self.want_target();
                self.set(StepPhase::Upgrading { operation });
                self.wait(Reason::Upgrading { phase: Phase::Stopping })
            }
            _ if report.generation == expected && self.ripple.asked == Asked::Abort => self.reopen(operation, expected),
            _ if report.generation == expected => {
                let Moved::Sends(sends) = self.send(operation, expected, Order::Quiesce { leased: true }) else {
                    return self.wait(Reason::Answer);
                };
                let wait = Wait { server: Some(self.server()), reason: Reason::Answer, until: None };
                Moved::Waits(wait, sends)
            }
            _ if self.ended(report, &operation) => self.outcome(report),
            _ => self.start_over(),
        }
    }

    fn ended(&self, report: &Report, operation: &OperationId) -> bool {
        report.ended.as_ref().is_some_and(|ended| ended.operation == *operation)
    }

    /// The gate is open to known sessions. `drain_timeout` begins when it closes.
    fn waiting_for_sessions(&mut self, report: &Report, operation: OperationId, expected: Generation) -> Moved {
        let (server, Some(left)) = (self.server(), report.sessions.clone()) else { return self.wait(Reason::Answer) };
        let Some(run) = self.list.servers.get(&server).and_then(|server| server.sealed.clone()) else {
            return self.wait(Reason::Sealing);
        };
        self.set(StepPhase::Quiescing { operation: operation.clone(), expected, run, closed_at: None });
        let until = Some(self.now + left.deadline_in_ms);
        let wait = Wait { server: Some(server), reason: Reason::Sessions { left }, until };
        let sends = match self.ripple.migrates.then(|| self.send(operation, report.generation, Order::Migrate)) {
            Some(Moved::Sends(sends)) => sends,
            _ => Vec::new(),
        };
        Moved::Waits(wait, sends)
    }

    fn draining(&mut self, report: &Report, operation: OperationId, expected: Generation, closed_at: Millis) -> Moved {
        let Some(run) = self.list.servers.get(&self.server()).and_then(|server| server.sealed.clone()) else {
            return self.wait(Reason::Sealing);
        };
        let phase = StepPhase::Quiescing { operation: operation.clone(), expected, run, closed_at: Some(closed_at) };
        self.set(phase);
        if report.is_drained() {
            return self.order_upgrade(operation, report.generation, false);
        }
        let until = closed_at + self.ripple.plan.policy.drain_timeout.as_millis() as Millis;
        let reason = Reason::Draining { active: report.active, orphans: report.orphans, oldest: report.oldest.clone() };
        // Long-lived connections that are to be waited for are exempt from the timeout.
        let waits = self.ripple.plan.policy.long_lived == LongLived::Wait;
        let exempt = waits && report.orphans == 0 && report.active == report.long_lived;
        let wait = Wait { server: Some(self.server()), reason, until: Some(until).filter(|_| !exempt) };
        if self.now < until || exempt {
            return Moved::Waits(wait, Vec::new());
        }
        self.drain_timed_out(report, operation, expected, wait)
    }

    /// Orphans alone are bounded by the timeout whatever the policy (protocol P9d); the rest is the policy's.
    fn drain_timed_out(&mut self, report: &Report, id: OperationId, expected: Generation, wait: Wait) -> Moved {
        let force = self.ripple.plan.policy.on_drain_timeout == OnDrainTimeout::Force || report.active == 0;
        let moved = if force {
            self.order_upgrade(id, report.generation, true)
        } else {
            self.ripple.asked = Asked::Abort;
            self.ripple.reason = Some(format!("drain_timeout ran out on {}: {}", self.server(), wait.reason));
            self.reopen(id, expected)
        };
        match moved {
            Moved::Sends(sends) => Moved::Waits(wait, sends),
            other => other,
        }
    }

    fn order_upgrade(&mut self, operation: OperationId, expected: Generation, force: bool) -> Moved {
        let to = self.target().cloned();
        let desired = self.want_target();
        let order = match to {
            Some(to) => Order::Upgrade { to, desired, force },
            None => Order::Remove { desired, force },
        };
        self.send(operation, expected, order)
    }

    /// Desired moves with the placement's own step (protocol P13).
    fn want_target(&mut self) -> Desired {
        let (to, server) = (self.target().cloned(), self.server());
        let cell = self.list.cell_mut(&self.ripple.plan.program, &server);
        match &cell.desired {
            Some(held) if held.release == to && held.stamp.term == self.mint.term => held.clone(),
            _ => {
                let desired = Desired { release: to, stamp: self.mint.stamp() };
                cell.desired = Some(desired.clone());
                desired
            }
        }
    }

    fn reopen(&mut self, operation: OperationId, expected: Generation) -> Moved {
        self.want_again();
        let wait = Wait { server: Some(self.server()), reason: Reason::Reopening, until: None };
        match self.send(operation, expected, Order::Reopen) {
            Moved::Sends(sends) => Moved::Waits(wait, sends),
            other => other,
        }
    }

    fn want_again(&mut self) {
        want_again(self.ripple, self.index, self.list, self.mint);
    }

    fn send(&self, operation: OperationId, expected: Generation, order: Order) -> Moved {
        let server = self.server();
        let Some(run) = self.list.servers.get(&server).and_then(|server| server.sealed.clone()) else {
            return self.wait(Reason::Sealing);
        };
        let command = Command { term: self.mint.term.clone(), operation, run, expected, order };
        Moved::Sends(vec![Send::Command { server, program: self.ripple.plan.program.clone(), command }])
    }

    fn upgrading(&mut self, report: &Report, operation: &OperationId) -> Moved {
        match &report.operation {
            Some(held) if held.id == *operation && report.state == State::Upgrading => {
                self.wait(Reason::Upgrading { phase: held.phase })
            }
            _ if self.ended(report, operation) => self.outcome(report),
            // A first install that was not answered yet.
            None if report.state == State::Absent && self.target().is_some() => {
                self.order_upgrade(operation.clone(), report.generation, false)
            }
            _ => self.start_over(),
        }
    }

    fn outcome(&mut self, report: &Report) -> Moved {
        match report.ended.as_ref().map(|ended| ended.outcome.clone()) {
            Some(Outcome::Upgraded) if self.target().is_none() => self.done(),
            Some(Outcome::Upgraded) => {
                self.want_target();
                self.set(StepPhase::Soaking { soak: Soak::default() });
                Moved::Sends(Vec::new())
            }
            Some(Outcome::TakenBack(reason) | Outcome::Failed(reason)) => self.fail(reason),
            Some(Outcome::Reopened | Outcome::LeaseExpired | Outcome::Lost) | None => self.start_over(),
        }
    }
}
