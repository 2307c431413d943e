//! Owns what happens to a placement beside commands: instances that stop and start, leases, boots that end.
//! Must not know how an instance is stopped, started or probed.

use super::{Here, Millis, Outcome, Phase, Placement, State};
use crate::domain::names::{Generation, OperationId, Release, Term};

/// Something that happened on the server.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// No process of any instance of this placement is left; of an overlap: of the one that was to go.
    Stopped,
    /// The instance that was to start takes requests and is healthy.
    Started,
    /// The work of its set has ended; or why it failed (protocol P15).
    Worked(Result<(), String>),
    /// It does not and will not; it may still be a process.
    StartFailed(String),
    /// Of an overlap: the instance that was switched away from has no request left.
    OldDrained,
    /// Management's word that it still wants the quiesce (protocol P8).
    Renewed { term: Term, operation: OperationId, generation: Generation },
    /// Management's word that a booted placement stays closed for now (protocol P13).
    KeptClosed { until: Millis },
    /// Time has passed.
    Tick,
}

/// What the server has to do, after it has saved the placement.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    CloseGate(Generation),
    OpenGate(Generation),
    /// Open to known sessions only.
    KnowGate(Generation),
    /// The sessions that are left go on elsewhere (protocol P16); the gate is closed to them by then.
    MigrateSessions,
    /// Mark every instance of the placement stopping, on disk; then stop it.
    Stop,
    /// Start an instance of this release beside the one that serves, then probe it.
    StartBeside(Release),
    /// Open the new instance's gate, point to it, close the old one's, in that order.
    Switch(Generation),
    /// Stop the instance that was started beside; it is marked taken back.
    StopBeside,
    /// Stop the instance that was switched away from; it is marked stopping.
    StopOld,
    /// Adopt the living instance of this release that is not marked stopping, or start one; then probe it.
    Start(Release),
    /// Tell the set that this member has stopped, and wait for its work to end (protocol P15).
    Await(OperationId),
    /// Tell management.
    Report,
}

impl Placement {
    /// What an event turns the placement into. An event that has no meaning in this state changes nothing.
    pub fn event(&mut self, event: &Event, here: &Here<'_>) -> Vec<Effect> {
        match event {
            Event::Stopped => self.stopped(),
            Event::Started => self.started(),
            Event::OldDrained => self.old_is_drained(),
            Event::Worked(result) => self.worked(result),
            Event::StartFailed(reason) => self.start_failed(reason),
            Event::Renewed { term, operation, generation } => self.renewed(term, operation, *generation, here),
            Event::KeptClosed { until } => {
                if self.state == State::Closed && !self.boot.allowed {
                    self.boot.closed_until = Some(*until);
                }
                Vec::new()
            }
            Event::Tick => self.tick(here),
        }
    }

    fn phase(&self) -> Option<Phase> {
        let operation = self.operation.as_ref().filter(|_| self.state == State::Upgrading)?;
        Some(operation.phase)
    }

    fn stopped(&mut self) -> Vec<Effect> {
        if let Some(phase) = self.overlap_phase() {
            return self.overlap_stopped(phase);
        }
        if let (Some(Phase::Stopping), Some(set)) = (self.phase(), self.set()) {
            self.set_phase(Phase::Working);
            return vec![Effect::Await(set)];
        }
        let next = match (self.phase(), &self.operation) {
            (Some(Phase::Stopping), Some(operation)) => (Phase::Starting, operation.to.clone()),
            (Some(Phase::StoppingNew), Some(operation)) => (Phase::TakingBack, operation.from.clone()),
            _ => return Vec::new(),
        };
        match next {
            (phase, Some(release)) => {
                self.set_phase(phase);
                vec![Effect::Start(release)]
            }
            (Phase::Starting, None) => self.finish(State::Absent, None, Outcome::Upgraded),
            (_, None) => {
                let reason = self.reason();
                self.finish(State::Failed, None, Outcome::Failed(reason))
            }
        }
    }

    fn set(&self) -> Option<OperationId> {
        self.operation.as_ref()?.set.clone()
    }

    /// Work that failed may have been done in part: the version starts again with whatever is there.
    fn worked(&mut self, result: &Result<(), String>) -> Vec<Effect> {
        if self.phase() != Some(Phase::Working) {
            return Vec::new();
        }
        let Some(operation) = &mut self.operation else { return Vec::new() };
        let (phase, release) = match result {
            Ok(()) => (Phase::Starting, operation.to.clone()),
            Err(_) => (Phase::TakingBack, operation.from.clone()),
        };
        operation.reason = result.as_ref().err().cloned().or(operation.reason.take());
        self.set_phase(phase);
        match release {
            Some(release) => vec![Effect::Start(release)],
            None => {
                let reason = self.reason();
                self.finish(State::Failed, None, Outcome::Failed(reason))
            }
        }
    }

    fn started(&mut self) -> Vec<Effect> {
        match self.overlap_phase() {
            Some(Phase::Beside) => return self.switch(),
            // Found again after the server's death, or started again after its own.
            Some(Phase::Switched) => return vec![Effect::OpenGate(self.generation)],
            Some(_) => return Vec::new(),
            None => {}
        }
        match (self.phase(), &self.operation) {
            (Some(Phase::Starting), Some(operation)) => {
                let to = operation.to.clone();
                self.finish(State::Open, to, Outcome::Upgraded)
            }
            (Some(Phase::TakingBack), Some(operation)) => {
                let from = operation.from.clone();
                if let Some(desired) = &mut self.desired {
                    desired.release = from.clone();
                }
                let reason = self.reason();
                self.finish(State::Open, from, Outcome::TakenBack(reason))
            }
            _ => {
                // Also while a quiesce found it booting: a reopen leads back there, and nothing starts it again.
                self.boot.ready |= matches!(self.state, State::Closed | State::Quiescing);
                self.open_if_may()
            }
        }
    }

    fn start_failed(&mut self, reason: &str) -> Vec<Effect> {
        if self.overlap_phase() == Some(Phase::Beside) {
            return self.take_away(Outcome::TakenBack(reason.to_owned()));
        }
        match self.phase() {
            Some(Phase::Starting) => {
                self.set_phase(Phase::StoppingNew);
                if let Some(operation) = &mut self.operation {
                    operation.reason = Some(reason.to_owned());
                }
                vec![Effect::Stop]
            }
            Some(Phase::TakingBack) => {
                let reason = format!("{}; and the old version did not start again: {reason}", self.reason());
                let from = self.operation.as_ref().and_then(|operation| operation.from.clone());
                let mut effects = self.finish(State::Failed, from, Outcome::Failed(reason));
                effects.push(Effect::Stop);
                effects
            }
            _ if self.state == State::Closed => {
                self.become_state(State::Failed);
                self.failure = Some(reason.to_owned());
                vec![Effect::Stop, Effect::Report]
            }
            _ => self.start_failed_while_quiescing(reason),
        }
    }

    /// The quiesce found it booting: a reopen now leads back to `Failed`.
    fn start_failed_while_quiescing(&mut self, reason: &str) -> Vec<Effect> {
        match &mut self.operation {
            Some(held) if self.state == State::Quiescing && held.was == State::Closed => {
                (held.was, held.reason) = (State::Failed, Some(reason.to_owned()));
                vec![Effect::Stop]
            }
            _ => Vec::new(),
        }
    }

    /// Ends an upgrade. The end is a transition, failed or not.
    pub(super) fn finish(&mut self, state: State, release: Option<Release>, outcome: Outcome) -> Vec<Effect> {
        let failure = match &outcome {
            Outcome::Failed(reason) => Some(reason.clone()),
            _ => None,
        };
        self.end(outcome);
        self.release = release;
        self.become_state(state);
        self.failure = failure;
        match state {
            State::Open => vec![Effect::OpenGate(self.generation), Effect::Report],
            _ => vec![Effect::Report],
        }
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(operation) = &mut self.operation {
            operation.phase = phase;
        }
    }

    fn reason(&self) -> String {
        self.operation.as_ref().and_then(|operation| operation.reason.clone()).unwrap_or_default()
    }

    fn renewed(&mut self, term: &Term, id: &OperationId, generation: Generation, here: &Here<'_>) -> Vec<Effect> {
        let matches = matches!(self.state, State::Quiescing | State::Overlapping)
            && self.generation == generation
            && self.operation.as_ref().is_some_and(|held| held.id == *id && held.term <= *term);
        if matches && self.lease_until.is_some() {
            self.lease_until = Some(here.now + here.lease.as_millis() as u64);
        }
        Vec::new()
    }

    /// The gate closes to known sessions too: none is left, or they have been waited for long enough. A transition.
    pub(super) fn close_known(&mut self) -> Vec<Effect> {
        let lease_until = self.lease_until;
        self.become_state(State::Quiescing);
        self.lease_until = lease_until;
        vec![Effect::CloseGate(self.generation), Effect::MigrateSessions]
    }

    fn tick(&mut self, here: &Here<'_>) -> Vec<Effect> {
        let now = here.now;
        let none_left = here.sticky.is_none_or(|sticky| sticky.over);
        match self.state {
            State::Overlapping if self.lease_until.is_some_and(|until| until <= now) => {
                self.take_away(Outcome::LeaseExpired)
            }
            State::Quiescing if self.lease_until.is_some_and(|until| until <= now) => self.back(Outcome::LeaseExpired),
            State::Quiescing if self.known_until.is_some_and(|until| none_left || until <= now) => self.close_known(),
            State::Closed if self.boot.closed_until.is_some_and(|until| until <= now) => self.may_open(),
            // Allowed before a quiesce that was taken back since.
            _ => self.open_if_may(),
        }
    }
}
