//! Owns what each command of management does to a placement, and why it is refused.
//! Must not know who sent it: terms are judged by the server as a whole (`seal.rs`).

use serde::{Deserialize, Serialize};

use super::{Desired, Effect, Here, Operation, Outcome, Phase, Placement, State};
use crate::domain::gate::NotDrained;
use crate::domain::names::{Generation, OperationId, Release, RunId, Term};

/// A command of management to one placement (protocol P3).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Command {
    pub term: Term,
    pub operation: OperationId,
    /// The server's run that management believes in.
    pub run: RunId,
    /// The generation that management believes in; for `Reopen`, the one that the quiesce named.
    pub expected: Generation,
    pub order: Order,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Close the gate.
    Quiesce { leased: bool },
    /// Wait no longer for sessions to end: those left go on elsewhere.
    Migrate,
    /// Undo a quiesce, also one that was lost on the way.
    Reopen,
    /// Reconciled: serve what you hold (from `Closed`).
    Open,
    /// Replace the drained version. `force`: cut what is left, first.
    Upgrade { to: Release, desired: Desired, force: bool },
    /// The same, of one member of a set, whose work comes between the stop and the start. Obeyed by all members in one
    /// step, or by none (protocol P15).
    Together { to: Release, desired: Desired, force: bool, set: OperationId },
    /// Start the version beside the one that serves, switch to it when it is well, then drain and stop the old one.
    Overlap { to: Release, desired: Desired },
    /// Take the drained program away.
    Remove { desired: Desired, force: bool },
}

/// Why a command was not obeyed. The placement is as it was.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Refusal {
    #[error("generation {present} is not the {expected} that the command expects")]
    StaleGeneration { expected: Generation, present: Generation },
    #[error("this is run {present}, not {expected}")]
    StaleRun { expected: RunId, present: RunId },
    #[error("term {highest} was promised")]
    StaleTerm { highest: Term },
    #[error("{state:?} does not allow it")]
    WrongState { state: State },
    #[error("operation {under_way} is under way")]
    Busy { under_way: OperationId },
    #[error("{active} active requests and {orphans} orphans are left")]
    NotDrained { active: u64, orphans: u64 },
}

impl Order {
    /// Whether what is left of a drain is cut.
    pub fn is_forced(&self) -> bool {
        matches!(self, Self::Upgrade { force: true, .. } | Self::Remove { force: true, .. })
            || matches!(self, Self::Together { force: true, .. })
    }

    /// What is to run after it.
    pub fn to(&self) -> Option<&Release> {
        match self {
            Self::Upgrade { to, .. } | Self::Overlap { to, .. } | Self::Together { to, .. } => Some(to),
            Self::Quiesce { .. } | Self::Migrate | Self::Reopen | Self::Open | Self::Remove { .. } => None,
        }
    }
}

impl Placement {
    /// Judges a command and carries out its part that is decision. `freeze` is the gate's compare-and-set from closed
    /// with none active to stopping (protocol P4); it is called at most once, and only if all else allows the command.
    /// `Ok` with no effects and an unchanged placement is a repeat: answer with the present state.
    pub fn command(
        &mut self,
        command: &Command,
        here: &Here<'_>,
        freeze: impl FnOnce(Generation) -> Result<(), NotDrained>,
    ) -> Result<Vec<Effect>, Refusal> {
        if command.run != *here.run {
            return Err(Refusal::StaleRun { expected: command.run.clone(), present: here.run.clone() });
        }
        if let Order::Reopen = command.order {
            return Ok(self.reopen(command));
        }
        if self.is_repeat(command) {
            return Ok(Vec::new());
        }
        if command.expected != self.generation {
            return Err(Refusal::StaleGeneration { expected: command.expected, present: self.generation });
        }
        match &command.order {
            Order::Quiesce { leased } => self.quiesce(command, *leased, here),
            Order::Open => self.reconcile(),
            Order::Migrate => self.migrate(command),
            Order::Upgrade { to, desired, force } => self.upgrade(command, Some(to), desired, *force, here, freeze),
            Order::Overlap { to, desired } => self.overlap(command, to, desired, here),
            Order::Remove { desired, force } => self.upgrade(command, None, desired, *force, here, freeze),
            // A set closes its members' gates first: there are no first installs in it.
            Order::Together { .. } if self.state == State::Absent => Err(Refusal::WrongState { state: self.state }),
            Order::Together { to, desired, force, set } => {
                let effects = self.upgrade(command, Some(to), desired, *force, here, freeze)?;
                if let Some(operation) = &mut self.operation {
                    operation.set = Some(set.clone());
                }
                Ok(effects)
            }
            Order::Reopen => Ok(Vec::new()),
        }
    }

    /// Known by (operation id, command, expected generation).
    fn is_repeat(&self, command: &Command) -> bool {
        if let Order::Together { .. } = command.order {
            // The set's record knows a repeat. A member that has gone on since is none: it cannot be frozen with the others.
            return false;
        }
        if self.ended.as_ref().is_some_and(|ended| ended.operation == command.operation) {
            return self.generation != command.expected;
        }
        let Some(operation) = self.operation.as_ref().filter(|held| held.id == command.operation) else { return false };
        match command.order {
            Order::Quiesce { .. } | Order::Overlap { .. } => command.expected == operation.expected,
            Order::Upgrade { .. } if self.state == State::Overlapping => operation.phase == Phase::StoppingOld,
            Order::Upgrade { .. } | Order::Remove { .. } => {
                // A first install is ordered at the generation itself, all else at the one that its quiesce made.
                // With sessions to wait for, the gate has closed a generation later.
                let quiesced = operation.expected.next();
                let at = [operation.expected, quiesced, quiesced.next()];
                operation.phase != Phase::Quiescing && at.contains(&command.expected)
            }
            Order::Migrate => !self.is_known() && self.generation == command.expected.next(),
            Order::Open | Order::Reopen | Order::Together { .. } => false,
        }
    }

    fn quiesce(&mut self, command: &Command, leased: bool, here: &Here<'_>) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Absent | State::Closed | State::Open | State::Failed => {}
            State::Quiescing | State::Upgrading | State::Overlapping => return Err(self.busy()),
        }
        let operation = Operation::quiesce(command, leased, self);
        let sticky = here.sticky.filter(|_| self.state == State::Open);
        self.become_state(State::Quiescing);
        self.operation = Some(operation);
        self.lease_until = leased.then(|| here.now + here.lease.as_millis() as u64);
        Ok(match sticky {
            Some(sticky) if !sticky.over && !sticky.deadline.is_zero() => {
                self.known_until = Some(here.now + sticky.deadline.as_millis() as u64);
                vec![Effect::KnowGate(self.generation)]
            }
            Some(_) => vec![Effect::CloseGate(self.generation), Effect::MigrateSessions],
            None => vec![Effect::CloseGate(self.generation)],
        })
    }

    /// As if the deadline had come.
    fn migrate(&mut self, command: &Command) -> Result<Vec<Effect>, Refusal> {
        match (self.state, &self.operation) {
            (State::Quiescing, Some(held)) if held.id != command.operation => Err(self.busy()),
            (State::Quiescing, Some(_)) if self.is_known() => Ok(self.close_known()),
            (State::Quiescing, Some(_)) => Ok(Vec::new()),
            (state, _) => Err(Refusal::WrongState { state }),
        }
    }

    /// Open at g → g + 1, so that a quiesce still on its way comes too late; Quiescing at g + 1 → back at g + 2;
    /// else only answered.
    fn reopen(&mut self, command: &Command) -> Vec<Effect> {
        let ours = |operation: &Operation| operation.expected == command.expected;
        match self.state {
            State::Quiescing if self.operation.as_ref().is_some_and(ours) => self.back(Outcome::Reopened),
            State::Overlapping if self.operation.as_ref().is_some_and(ours) => match self.overlap_phase() {
                Some(Phase::Beside) => self.take_away(Outcome::Reopened),
                // After the switch the server finishes by itself.
                _ => Vec::new(),
            },
            State::Open if self.generation == command.expected => {
                self.become_state(State::Open);
                vec![Effect::OpenGate(self.generation)]
            }
            State::Absent | State::Closed | State::Failed if self.generation == command.expected => {
                let failure = self.failure.take();
                self.become_state(self.state);
                self.failure = failure;
                vec![Effect::CloseGate(self.generation)]
            }
            _ => Vec::new(),
        }
    }

    /// From Quiescing to where the quiesce found the placement.
    pub(super) fn back(&mut self, outcome: Outcome) -> Vec<Effect> {
        let was = self.operation.as_ref().map_or(State::Open, |operation| operation.was);
        let reason = self.operation.as_ref().and_then(|operation| operation.reason.clone());
        self.end(outcome);
        self.become_state(was);
        self.failure = reason.filter(|_| was == State::Failed);
        match was {
            State::Open => vec![Effect::OpenGate(self.generation), Effect::Report],
            _ => vec![Effect::CloseGate(self.generation), Effect::Report],
        }
    }

    fn reconcile(&mut self) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Closed => Ok(self.may_open()),
            state => Err(Refusal::WrongState { state }),
        }
    }

    fn upgrade(
        &mut self,
        command: &Command,
        to: Option<&Release>,
        desired: &Desired,
        force: bool,
        here: &Here<'_>,
        freeze: impl FnOnce(Generation) -> Result<(), NotDrained>,
    ) -> Result<Vec<Effect>, Refusal> {
        let mut operation = match (self.state, &self.operation) {
            // A first install: there is no gate to close.
            (State::Absent, _) => Operation::quiesce(command, false, self),
            (State::Quiescing, Some(held)) if held.id == command.operation => held.clone(),
            (State::Overlapping, Some(held)) if held.id == command.operation && force => return self.force_old(freeze),
            (State::Quiescing | State::Upgrading | State::Overlapping, Some(_)) => return Err(self.busy()),
            (state, _) => return Err(Refusal::WrongState { state }),
        };
        // By force also while sessions are left, which then go on elsewhere.
        let knows = self.is_known();
        if (here.orphans > 0 || knows) && !force {
            return Err(Refusal::NotDrained { active: 0, orphans: here.orphans });
        }
        freeze(self.generation.next())
            .map_err(|left| Refusal::NotDrained { active: left.active, orphans: here.orphans })?;
        operation.phase = Phase::Stopping;
        operation.to = to.cloned();
        self.want(desired.clone());
        self.become_state(State::Upgrading);
        self.operation = Some(operation);
        Ok(if knows { vec![Effect::MigrateSessions, Effect::Stop] } else { vec![Effect::Stop] })
    }

    pub(super) fn busy(&self) -> Refusal {
        match &self.operation {
            Some(operation) => Refusal::Busy { under_way: operation.id.clone() },
            None => Refusal::WrongState { state: self.state },
        }
    }
}

impl Operation {
    pub(super) fn quiesce(command: &Command, leased: bool, placement: &Placement) -> Self {
        Self {
            id: command.operation.clone(),
            expected: command.expected,
            term: command.term.clone(),
            leased,
            was: placement.state,
            phase: Phase::Quiescing,
            from: placement.release.clone(),
            to: None,
            reason: placement.failure.clone(),
            desired: None,
            back: None,
            set: None,
        }
    }
}
