//! Owns a step by overlap (protocol P14): ordering it, following it to its switch and its end, giving it up before.
//! Must not know how the server does it.

use super::{Move, Moved};
use crate::domain::names::{Generation, OperationId};
use crate::domain::placement::{Millis, Order, Phase, State};
use crate::domain::program::{OnDrainTimeout, Strategy};
use crate::domain::ripple::wait::{Reason, Wait};
use crate::domain::ripple::{Asked, StepPhase};
use crate::domain::server_list::{Report, Unanswered};

impl Move<'_> {
    /// Whether this step takes nothing out of service: there is something that serves, and something to start beside it.
    pub(super) fn overlaps(&self, report: &Report) -> bool {
        let wanted = self.ripple.plan.policy.strategy == Strategy::Overlap && self.target().is_some();
        wanted && report.state == State::Open
    }

    pub(super) fn order_overlap(&mut self, report: &Report) -> Moved {
        let server = self.server();
        let Some(run) = self.list.servers.get(&server).and_then(|server| server.sealed.clone()) else {
            return self.wait(Reason::Sealing);
        };
        let Some(operation) = self.mint.operation() else { return self.wait(Reason::Sealing) };
        let expected = report.generation;
        let sent = Unanswered { operation: operation.clone(), expected, run, closes: false };
        self.list.cell_mut(&self.ripple.plan.program, &server).unanswered = Some(sent);
        self.set(StepPhase::Overlapping { operation: operation.clone(), expected, switched_at: None });
        self.send_overlap(operation, expected)
    }

    fn send_overlap(&mut self, operation: OperationId, expected: Generation) -> Moved {
        let desired = self.want_target();
        match self.target().cloned() {
            Some(to) => self.send(operation, expected, Order::Overlap { to, desired }),
            None => self.start_over(),
        }
    }

    pub(super) fn overlapping(
        &mut self,
        report: &Report,
        operation: OperationId,
        expected: Generation,
        switched_at: Option<Millis>,
    ) -> Moved {
        let ours = report.operation.as_ref().filter(|held| held.id == operation).map(|held| held.phase);
        let gives_up = self.ripple.asked == Asked::Abort;
        match (report.state, ours) {
            (State::Overlapping, Some(Phase::Beside)) if gives_up => self.reopen(operation, expected),
            (State::Overlapping, Some(Phase::Switched)) => {
                let at = switched_at.unwrap_or(self.now);
                self.set(StepPhase::Overlapping { operation: operation.clone(), expected, switched_at: Some(at) });
                self.old_drains(report, operation, at)
            }
            (State::Overlapping, Some(phase)) => self.wait(Reason::Upgrading { phase }),
            _ if report.generation == expected && gives_up => self.reopen(operation, expected),
            _ if report.generation == expected => match self.send_overlap(operation, expected) {
                Moved::Sends(sends) => {
                    let wait = Wait { server: Some(self.server()), reason: Reason::AnswerToOverlap, until: None };
                    Moved::Waits(wait, sends)
                }
                other => other,
            },
            _ if self.ended(report, &operation) => self.outcome(report),
            _ => self.start_over(),
        }
    }

    /// The new version serves. The old one's requests end in their own time, which takes nothing out of service: only by
    /// force are they cut.
    fn old_drains(&mut self, report: &Report, operation: OperationId, since: Millis) -> Moved {
        let policy = &self.ripple.plan.policy;
        let until = since + policy.drain_timeout.as_millis() as Millis;
        let forces = policy.on_drain_timeout == OnDrainTimeout::Force;
        let (active, orphans) = (report.retiring, report.orphans);
        let reason = Reason::OldDraining { active, orphans, oldest: report.oldest.clone() };
        let wait = Wait { server: Some(self.server()), reason, until: Some(until).filter(|_| forces) };
        let sends = match forces && self.now >= until {
            true => match self.order_upgrade(operation, report.generation, true) {
                Moved::Sends(sends) => sends,
                Moved::Waits(_, sends) => sends,
                Moved::Over => Vec::new(),
            },
            false => Vec::new(),
        };
        Moved::Waits(wait, sends)
    }
}
