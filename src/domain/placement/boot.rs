//! Owns what becomes of a placement when its server starts: closed until it is reconciled, its upgrade finished or
//! taken back (protocol P9). Must not know how an instance is found again.

use super::{Boot, Effect, Millis, Outcome, Phase, Placement, State};

impl Placement {
    /// The first transition of a new run. The gate opens on management's word, or by itself at `closed_until`.
    pub fn boot(&mut self, closed_until: Millis) -> Vec<Effect> {
        self.boot = Boot { closed_until: Some(closed_until), ..Boot::default() };
        if self.state == State::Upgrading {
            self.become_state(State::Upgrading);
            return self.resume_upgrade();
        }
        if self.state == State::Overlapping {
            return self.boot_overlap();
        }
        if self.state == State::Quiescing && self.operation.as_ref().is_some_and(|held| !held.leased) {
            return self.stay_drained();
        }
        let failure = self.failure.take();
        self.end(Outcome::Lost);
        match self.release.clone() {
            Some(release) => {
                self.become_state(State::Closed);
                vec![Effect::CloseGate(self.generation), Effect::Start(release)]
            }
            None => {
                let state = if failure.is_some() { State::Failed } else { State::Absent };
                self.become_state(state);
                self.failure = failure;
                Vec::new()
            }
        }
    }

    /// A drain that a person ordered outlives its server: the program starts, and its gate stays closed until it is
    /// resumed (protocol P8).
    fn stay_drained(&mut self) -> Vec<Effect> {
        self.boot.allowed = true;
        self.become_state(State::Quiescing);
        let close = Effect::CloseGate(self.generation);
        let Some(operation) = self.operation.as_mut().filter(|held| held.was != State::Failed) else {
            return vec![close];
        };
        match self.release.clone() {
            Some(release) => {
                operation.was = State::Closed;
                vec![close, Effect::Start(release)]
            }
            None => vec![close],
        }
    }

    fn resume_upgrade(&mut self) -> Vec<Effect> {
        let Some(operation) = &self.operation else { return Vec::new() };
        if let (Phase::Working, Some(set)) = (operation.phase, &operation.set) {
            return vec![Effect::Await(set.clone())];
        }
        let release = match operation.phase {
            Phase::Quiescing | Phase::Stopping | Phase::Working | Phase::StoppingNew => None,
            // Of an overlap, which is no upgrade of this kind.
            Phase::Beside | Phase::Switched | Phase::StoppingOld => operation.to.clone(),
            Phase::Starting => operation.to.clone(),
            Phase::TakingBack => operation.from.clone(),
        };
        vec![release.map_or(Effect::Stop, Effect::Start)]
    }

    /// Nothing but the instance stands between the placement and its opening now.
    pub(super) fn may_open(&mut self) -> Vec<Effect> {
        self.boot.allowed = true;
        self.boot.closed_until = None;
        self.open_if_may()
    }

    pub(super) fn open_if_may(&mut self) -> Vec<Effect> {
        if self.state != State::Closed || !(self.boot.ready && self.boot.allowed) {
            return Vec::new();
        }
        self.become_state(State::Open);
        vec![Effect::OpenGate(self.generation), Effect::Report]
    }
}
