//! Owns one placement as its server keeps it: state, generation, the operation under way, and what each command and
//! each event turns them into (protocol P3, P4, P8, P9). Must not know how a gate, a process or a disk works: what
//! has to be done comes out as effects, to be carried out after the changed placement is saved.

mod boot;
mod command;
mod event;
mod overlap;
#[cfg(test)]
mod tests;
mod together;

pub use command::{Command, Order, Refusal};
pub use event::{Effect, Event};
pub use together::{LINES_KEPT, Work, Worked};

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::names::{Generation, OperationId, ProgramName, Release, Revision, RunId, Term};

/// A time on one node's own monotonic clock, in milliseconds. Never compared between nodes.
pub type Millis = u64;

/// Where a placement stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing installed.
    Absent,
    /// Booted, not reconciled yet.
    Closed,
    Open,
    Quiescing,
    Upgrading,
    /// Two instances: one takes requests, and the other comes or goes (protocol P14).
    Overlapping,
    /// Neither the new version nor the old one would run.
    Failed,
}

impl State {
    /// Whether the gate is open.
    pub fn takes_requests(self) -> bool {
        matches!(self, Self::Open | Self::Overlapping)
    }
}

/// What management wants here, with the stamp that orders it (protocol P13).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Desired {
    pub release: Option<Release>,
    pub stamp: Stamp,
}

/// Orders desires: the highest wins.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Stamp {
    pub term: Term,
    pub revision: Revision,
}

/// How far an upgrade has come. Each is on disk before it is acted upon (protocol P9b).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Quiescing,
    /// The old instance is marked stopping: it is never adopted again, only stopped.
    Stopping,
    /// The old instance is gone; nothing starts before the set's work is done (protocol P15).
    Working,
    /// The old instance is gone, the new one starts.
    Starting,
    /// The new instance failed and is marked taken back: it is only stopped.
    StoppingNew,
    /// The old version starts again.
    TakingBack,
    /// Of an overlap: the new instance starts beside the old one, which serves.
    Beside,
    /// The new instance serves; the old one drains.
    Switched,
    /// The old instance is marked stopping.
    StoppingOld,
}

/// What is being done to a placement.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    /// The generation that the quiesce named; `reopen` names it too.
    pub expected: Generation,
    pub term: Term,
    /// Reopens when management is silent; a person's drain does not (protocol P8).
    pub leased: bool,
    /// Where a reopen leads back to.
    pub was: State,
    pub phase: Phase,
    pub from: Option<Release>,
    pub to: Option<Release>,
    /// Why the new version was taken back.
    pub reason: Option<String>,
    /// Of an overlap before its switch: what is to be wanted after it.
    #[serde(default)]
    pub desired: Option<Desired>,
    /// Of an overlap that is taken away: how it ends.
    #[serde(default)]
    pub back: Option<Outcome>,
    /// The set that it is a member of (protocol P15).
    #[serde(default)]
    pub set: Option<OperationId>,
}

/// How the last operation here ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ended {
    pub operation: OperationId,
    pub outcome: Outcome,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Upgraded,
    /// The old version runs again; why the new one does not.
    TakenBack(String),
    /// Nothing runs.
    Failed(String),
    Reopened,
    /// The lease ran out with no word from management.
    LeaseExpired,
    /// The server died meanwhile.
    Lost,
}

/// One placement, as it is kept on its server's disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Placement {
    pub program: ProgramName,
    pub state: State,
    pub generation: Generation,
    /// What runs here, or would.
    pub release: Option<Release>,
    pub desired: Option<Desired>,
    pub operation: Option<Operation>,
    pub ended: Option<Ended>,
    /// Why the placement is `Failed`.
    pub failure: Option<String>,
    /// Quiescing, with the gate open to known sessions: when it closes at the latest; a clock of this run.
    #[serde(skip)]
    pub known_until: Option<Millis>,
    /// When the lease of the quiesce runs out; a clock of this run.
    #[serde(skip)]
    pub lease_until: Option<Millis>,
    /// After a boot: is an instance up, may the gate open, and until when does it wait for management's word?
    #[serde(skip)]
    pub boot: Boot,
}

/// What stands between a booted placement and its opening (protocol P9).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Boot {
    pub ready: bool,
    pub allowed: bool,
    pub closed_until: Option<Millis>,
}

/// What a server knows for sure when it judges a command, beside the placement itself.
#[derive(Clone, Debug)]
pub struct Here<'a> {
    pub run: &'a RunId,
    pub now: Millis,
    pub lease: Duration,
    /// Open connections of a dead process that an adopted instance may still be serving (protocol P9d).
    pub orphans: u64,
    /// `None`: no session keeps a drain waiting.
    pub sticky: Option<Sticky>,
}

/// What a server knows of the sessions that have to stay with an instance (protocol P16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sticky {
    /// How long a drain waits for them.
    pub deadline: Duration,
    /// For sure none is left, nor a request under way that may begin one.
    pub over: bool,
}

impl Placement {
    /// A program that this server has never held.
    pub fn absent(program: ProgramName) -> Self {
        Self {
            program,
            state: State::Absent,
            generation: Generation(0),
            release: None,
            desired: None,
            operation: None,
            ended: None,
            failure: None,
            known_until: None,
            lease_until: None,
            boot: Boot::default(),
        }
    }

    /// Every transition passes here, so that the generation rises at each (protocol P3).
    fn become_state(&mut self, state: State) {
        self.state = state;
        self.generation = self.generation.next();
        (self.lease_until, self.known_until) = (None, None);
        if state != State::Failed {
            self.failure = None;
        }
    }

    /// Quiescing, and open to known sessions still.
    pub fn is_known(&self) -> bool {
        self.known_until.is_some()
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(operation) = self.operation.take() {
            self.ended = Some(Ended { operation: operation.id, outcome });
        }
    }

    /// Takes over a desire unless a later one is known.
    fn want(&mut self, desired: Desired) {
        if self.desired.as_ref().is_none_or(|held| held.stamp <= desired.stamp) {
            self.desired = Some(desired);
        }
    }
}
