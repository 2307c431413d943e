//! Owns ripples of the nodes themselves: one node after the other takes another neap binary, servers with all their gates
//! closed, then routers, management last. Must not know how a binary travels, nor how a node hands over to it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Asked, RippleState};
use crate::domain::names::{NodeName, OperationId, RippleId, RunId, Sha256};

/// One node's part.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NodeStep {
    pub node: NodeName,
    pub kind: NodeKind,
    /// What it ran when the ripple was planned.
    pub from: Option<Sha256>,
    pub to: Sha256,
    pub phase: NodePhase,
}

/// What a node is to the ripple; in this order they take part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Its gates are closed meanwhile.
    Server,
    /// It hands its listening sockets over, and finishes what it has.
    Router,
    /// It drives the ripple.
    Management,
    /// It drives the ripple, and has gates.
    ServerAndManagement,
}

impl NodeKind {
    pub fn has_gates(self) -> bool {
        matches!(self, Self::Server | Self::ServerAndManagement)
    }

    pub fn drives(self) -> bool {
        matches!(self, Self::Management | Self::ServerAndManagement)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum NodePhase {
    Pending,
    /// Its gates close, and what is under way ends.
    Draining {
        operation: OperationId,
    },
    /// It was told to take the binary: under this id, in this run.
    Taking {
        operation: OperationId,
        run: RunId,
        /// The gates are closed for this, and open again behind it.
        ours: bool,
    },
    /// Its gates open again, whether it has the new binary or has failed to take it.
    Returning {
        failed: Option<String>,
    },
    Done,
    Skipped {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

impl NodePhase {
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Skipped { .. } | Self::Failed { .. })
    }

    /// The operation by which the node's binary was ordered.
    pub fn taking(&self) -> Option<&OperationId> {
        match self {
            Self::Taking { operation, .. } => Some(operation),
            _ => None,
        }
    }
}

/// One run of an upgrade of the nodes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NodeRipple {
    pub id: RippleId,
    pub steps: Vec<NodeStep>,
    pub state: RippleState,
    pub asked: Asked,
    /// Why it failed or was aborted.
    pub reason: Option<String>,
    /// The ripple that it takes back.
    pub undoes: Option<RippleId>,
    /// What it waits for now.
    #[serde(skip)]
    pub wait: Option<(NodeName, NodeReason)>,
}

/// What a node says of the operation by which it takes a binary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    Fetching,
    Checking,
    HandingOver,
}

/// What is heard of that operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Told {
    UnderWay(Stage),
    Failed(String),
    /// The process that answers knows nothing of it.
    Unknown,
    /// The node refuses to be told so at all.
    Refused(String),
}

/// A node, as management sees it now.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Seen {
    pub up: bool,
    pub run: Option<RunId>,
    /// What it runs; of one with several roles, what all of them say.
    pub runs: Option<Sha256>,
    pub told: Option<Told>,
    /// All gates are closed, and nothing is under way.
    pub drained: bool,
    /// A person has taken it out of service, not the ripple.
    pub out_of_service: bool,
    /// No drain holds it, and what can be open there is.
    pub serves: bool,
}

/// Why the ripple waits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NodeReason {
    Paused,
    Down,
    /// Its gates close; how far that is, the node's own view tells.
    Draining,
    Answer,
    Taking(Stage),
    /// Its process has been silent since it hands over, or was told to.
    Silent,
    /// Of management itself: it has just begun.
    Settling,
    Returning,
}

impl NodeReason {
    /// The reason's stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Down => "node_down",
            Self::Draining => "draining",
            Self::Answer => "answer",
            Self::Taking(_) => "taking",
            Self::Silent => "node_silent",
            Self::Settling => "settling",
            Self::Returning => "reopening",
        }
    }
}

impl fmt::Display for NodeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "somebody to resume it: it was paused",
            Self::Down => "the node, which is down",
            Self::Draining => "its gates to close, and its last requests to end",
            Self::Answer => "its answer",
            Self::Taking(Stage::Fetching) => "the binary to be fetched",
            Self::Taking(Stage::Checking) => "the binary to be tried",
            Self::Taking(Stage::HandingOver) => "the new process to come up",
            Self::Silent => "the node, which has not been heard of since it was told to take the binary",
            Self::Settling => "the other nodes to be heard of, by the process that has just begun",
            Self::Returning => "its gates to open again",
        })
    }
}

/// What is to be done now; said again until it shows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Do {
    Drain { node: NodeName, operation: OperationId },
    Take { node: NodeName, operation: OperationId, run: RunId, sha256: Sha256 },
    Resume { node: NodeName },
}

impl NodeRipple {
    pub fn new(id: RippleId, steps: Vec<NodeStep>, undoes: Option<RippleId>) -> Self {
        Self { id, steps, state: RippleState::Running, asked: Asked::Nothing, reason: None, undoes, wait: None }
    }

    /// The step that has begun and is not over.
    pub fn current(&self) -> Option<&NodeStep> {
        self.steps.iter().find(|step| !step.phase.is_over() && step.phase != NodePhase::Pending)
    }

    /// Whether a person's word was taken.
    pub fn ask(&mut self, asked: Asked) -> bool {
        if self.state.is_over() || (self.asked == Asked::Abort && asked != Asked::Abort) {
            return false;
        }
        self.asked = asked;
        true
    }

    /// One look: what to do now, and what it waits for. What it changes is saved before anything is done.
    pub fn advance(
        &mut self,
        seen: impl Fn(&NodeName) -> Seen,
        mut mint: impl FnMut() -> Option<OperationId>,
    ) -> Vec<Do> {
        self.wait = None;
        if self.state.is_over() {
            return Vec::new();
        }
        self.state = RippleState::Running;
        // Steps that come to their end at once make way for the next.
        for index in 0..self.steps.len() {
            if self.steps[index].phase.is_over() {
                continue;
            }
            if self.steps[index].phase == NodePhase::Pending && self.holds(index) {
                return Vec::new();
            }
            let node = self.steps[index].node.clone();
            let (acts, wait) = self.steps[index].advance(&seen(&node), self.asked == Asked::Abort, &mut mint);
            if let Some(reason) = wait {
                self.wait = Some((node, reason));
                return acts;
            }
            if let NodePhase::Failed { reason } = &self.steps[index].phase {
                self.reason = Some(format!("{node}: {reason}"));
                self.state = RippleState::Failed;
                return acts;
            }
            if !self.steps[index].phase.is_over() {
                return acts;
            }
        }
        let left_out = self.steps.iter().any(|step| matches!(step.phase, NodePhase::Skipped { .. }));
        self.state = match &self.undoes {
            _ if self.asked == Asked::Abort && left_out => RippleState::Aborted,
            Some(_) => RippleState::Undone,
            None => RippleState::Upgraded,
        };
        Vec::new()
    }

    /// Whether a step may not begin, because a person said so.
    fn holds(&mut self, index: usize) -> bool {
        match self.asked {
            Asked::Nothing => false,
            Asked::Pause => {
                self.state = RippleState::Paused;
                self.wait = Some((self.steps[index].node.clone(), NodeReason::Paused));
                true
            }
            Asked::Abort => {
                self.state = RippleState::Aborted;
                self.reason.get_or_insert_with(|| "aborted as asked".to_owned());
                true
            }
        }
    }

    /// The way back: every node that took the binary, the last one first, to what it ran before.
    pub fn undo(&self, id: RippleId) -> Option<Self> {
        let touched = |step: &&NodeStep| matches!(step.phase, NodePhase::Done) && step.from != Some(step.to);
        let mut back: Vec<NodeStep> = self
            .steps
            .iter()
            .filter(touched)
            .filter_map(|step| {
                Some(NodeStep { from: Some(step.to), to: step.from?, phase: NodePhase::Pending, ..step.clone() })
            })
            .collect();
        back.reverse();
        // Who drives it comes last all the same.
        back.sort_by_key(|step| step.kind.drives());
        (!back.is_empty()).then(|| Self::new(id, back, Some(self.id.clone())))
    }
}

impl NodeStep {
    fn advance(
        &mut self,
        seen: &Seen,
        aborts: bool,
        mint: &mut impl FnMut() -> Option<OperationId>,
    ) -> (Vec<Do>, Option<NodeReason>) {
        let node = self.node.clone();
        match self.phase.clone() {
            NodePhase::Pending if seen.up && seen.runs == Some(self.to) => self.now(NodePhase::Done),
            NodePhase::Pending if !seen.up => (Vec::new(), Some(NodeReason::Down)),
            NodePhase::Pending if self.kind.has_gates() && !seen.out_of_service => match mint() {
                Some(operation) => self.now(NodePhase::Draining { operation }),
                None => (Vec::new(), Some(NodeReason::Answer)),
            },
            NodePhase::Pending => self.take(seen, false, mint),
            NodePhase::Draining { .. } if aborts => self.now(NodePhase::Returning { failed: Some(ABORTED.to_owned()) }),
            NodePhase::Draining { .. } if !seen.up => (Vec::new(), Some(NodeReason::Down)),
            NodePhase::Draining { .. } if seen.drained => self.take(seen, true, mint),
            NodePhase::Draining { operation } => (vec![Do::Drain { node, operation }], Some(NodeReason::Draining)),
            NodePhase::Taking { operation, run, ours } => self.goes_on(seen, operation, run, ours),
            NodePhase::Returning { failed } if seen.serves => match failed {
                Some(reason) if reason == ABORTED => self.now(NodePhase::Skipped { reason }),
                Some(reason) => self.now(NodePhase::Failed { reason }),
                None => self.now(NodePhase::Done),
            },
            NodePhase::Returning { .. } => (vec![Do::Resume { node }], Some(NodeReason::Returning)),
            NodePhase::Done | NodePhase::Skipped { .. } | NodePhase::Failed { .. } => (Vec::new(), None),
        }
    }

    fn now(&mut self, phase: NodePhase) -> (Vec<Do>, Option<NodeReason>) {
        self.phase = phase;
        (Vec::new(), None)
    }

    fn take(
        &mut self,
        seen: &Seen,
        ours: bool,
        mint: &mut impl FnMut() -> Option<OperationId>,
    ) -> (Vec<Do>, Option<NodeReason>) {
        match (seen.run.clone(), mint()) {
            (Some(run), Some(operation)) => self.now(NodePhase::Taking { operation, run, ours }),
            _ => (Vec::new(), Some(NodeReason::Answer)),
        }
    }

    fn goes_on(
        &mut self,
        seen: &Seen,
        operation: OperationId,
        run: RunId,
        ours: bool,
    ) -> (Vec<Do>, Option<NodeReason>) {
        let same_run = seen.run.as_ref() == Some(&run);
        let failed = match &seen.told {
            _ if seen.up && seen.runs == Some(self.to) => None,
            Some(Told::Failed(reason)) if seen.up => Some(reason.clone()),
            Some(Told::Refused(reason)) if seen.up => Some(reason.clone()),
            Some(Told::Unknown) if seen.up && !same_run => {
                Some("it was started again on the way, and runs what it ran before".to_owned())
            }
            told => {
                let act = Do::Take { node: self.node.clone(), operation, run, sha256: self.to };
                let wait = match told {
                    _ if !seen.up && self.kind.drives() => NodeReason::Settling,
                    _ if !seen.up => NodeReason::Silent,
                    Some(Told::UnderWay(stage)) => NodeReason::Taking(*stage),
                    _ => NodeReason::Answer,
                };
                return (vec![act], Some(wait));
            }
        };
        match (ours, failed) {
            (true, failed) => self.now(NodePhase::Returning { failed }),
            (false, Some(reason)) => self.now(NodePhase::Failed { reason }),
            (false, None) => self.now(NodePhase::Done),
        }
    }
}

const ABORTED: &str = "aborted before it took the binary";

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
