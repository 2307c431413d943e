//! Owns overlap (protocol P14): a new instance starts beside the old one, takes over in one step, and the old one drains
//! and stops. Before that step an abort, a lease or a death of the server takes the new one away, and nothing has
//! happened; after it the server finishes by itself. Must not know how a pointer moves or an instance is stopped.

use super::{Command, Desired, Effect, Here, Operation, Outcome, Phase, Placement, Refusal, State};
use crate::domain::gate::NotDrained;
use crate::domain::names::{Generation, Release};

impl Placement {
    /// Starts a new instance beside the one that serves. The gate stays open all through.
    pub(super) fn overlap(
        &mut self,
        command: &Command,
        to: &Release,
        desired: &Desired,
        here: &Here<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        if self.state != State::Open {
            return Err(self.busy());
        }
        let mut operation = Operation::quiesce(command, true, self);
        (operation.phase, operation.to) = (Phase::Beside, Some(to.clone()));
        // What is wanted here moves with the switch: before it, nothing has happened.
        operation.desired = Some(desired.clone());
        self.become_state(State::Overlapping);
        self.operation = Some(operation);
        self.lease_until = Some(here.now + here.lease.as_millis() as u64);
        Ok(vec![Effect::OpenGate(self.generation), Effect::StartBeside(to.clone())])
    }

    /// Whether the new instance of an overlap has not taken over yet.
    pub fn overlap_begins(&self) -> bool {
        self.overlap_phase() == Some(Phase::Beside)
    }

    pub(super) fn overlap_phase(&self) -> Option<Phase> {
        let operation = self.operation.as_ref().filter(|_| self.state == State::Overlapping)?;
        Some(operation.phase)
    }

    /// The new instance is well: from here on it is the one.
    pub(super) fn switch(&mut self) -> Vec<Effect> {
        let Some(operation) = &mut self.operation else { return Vec::new() };
        operation.phase = Phase::Switched;
        let (to, desired) = (operation.to.clone(), operation.desired.take());
        self.release = to;
        if let Some(desired) = desired {
            self.want(desired);
        }
        self.become_state(State::Overlapping);
        vec![Effect::Switch(self.generation)]
    }

    /// Takes the new instance away again; the old one has served all along, and goes on.
    pub(super) fn take_away(&mut self, outcome: Outcome) -> Vec<Effect> {
        let Some(operation) = &mut self.operation else { return Vec::new() };
        (operation.phase, operation.back) = (Phase::StoppingNew, Some(outcome));
        self.lease_until = None;
        vec![Effect::StopBeside]
    }

    /// The old instance has no request left, and can get none: its gate is closed for good (protocol P4).
    pub(super) fn old_is_drained(&mut self) -> Vec<Effect> {
        if self.overlap_phase() != Some(Phase::Switched) {
            return Vec::new();
        }
        self.set_phase(Phase::StoppingOld);
        vec![Effect::StopOld]
    }

    /// By force: what the old instance was still asked is cut by now.
    pub(super) fn force_old(
        &mut self,
        freeze: impl FnOnce(Generation) -> Result<(), NotDrained>,
    ) -> Result<Vec<Effect>, Refusal> {
        freeze(self.generation).map_err(|left| Refusal::NotDrained { active: left.active, orphans: 0 })?;
        Ok(self.old_is_drained())
    }

    /// The instance that was to go is gone: the operation is over.
    pub(super) fn overlap_stopped(&mut self, phase: Phase) -> Vec<Effect> {
        let operation = self.operation.clone();
        match (phase, operation) {
            (Phase::StoppingOld, Some(operation)) => self.finish(State::Open, operation.to, Outcome::Upgraded),
            (Phase::StoppingNew, Some(operation)) => {
                let outcome = operation.back.unwrap_or(Outcome::Lost);
                self.finish(State::Open, operation.from, outcome)
            }
            _ => Vec::new(),
        }
    }

    /// The server died. Before the switch: what was begun beside the old instance is gone with it, and the placement is
    /// as any that booted. After it: the new one is found again, and the old one still has to go.
    pub(super) fn boot_overlap(&mut self) -> Vec<Effect> {
        let Some(operation) = self.operation.clone() else { return Vec::new() };
        match operation.phase {
            Phase::Switched | Phase::StoppingOld => {
                self.set_phase(Phase::Switched);
                self.become_state(State::Overlapping);
                operation.to.map(|to| vec![Effect::CloseGate(self.generation), Effect::Start(to)]).unwrap_or_default()
            }
            _ => {
                self.end(operation.back.unwrap_or(Outcome::Lost));
                self.become_state(State::Closed);
                operation
                    .from
                    .map(|from| vec![Effect::CloseGate(self.generation), Effect::Start(from)])
                    .unwrap_or_default()
            }
        }
    }
}
