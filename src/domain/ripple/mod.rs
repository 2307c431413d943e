//! Owns ripples: what one will do (`plan`), how far it is and what comes next (`machine`), when a gate may close
//! (`safety`), how long a step is watched (`soak`). Must not know how a command travels.

mod canary;
pub mod hooks;
pub mod judge;
pub mod machine;
pub mod nodes;
#[cfg(test)]
mod one_server_tests;
pub mod plan;
pub mod safety;
#[cfg(test)]
mod session_tests;
pub mod set;
pub mod soak;
mod step;
pub mod undo;
pub mod wait;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::{Generation, OperationId, RunId, ServerName};
use super::placement::Millis;
use plan::Plan;
use soak::Soak;

/// Where a ripple stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RippleState {
    Planned,
    Running,
    Paused,
    Upgraded,
    /// Of an undo: every server that is up is back.
    Undone,
    Failed,
    Aborted,
}

impl RippleState {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Upgraded | Self::Undone | Self::Failed | Self::Aborted)
    }
}

/// How far one server's part is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum StepPhase {
    Pending,
    /// The quiesce was ordered: under this id, at this generation of this run.
    Quiescing {
        operation: OperationId,
        expected: Generation,
        run: RunId,
        /// When the gate was first seen closed, by this run of management.
        #[serde(skip)]
        closed_at: Option<Millis>,
    },
    /// The upgrade was ordered.
    Upgrading {
        operation: OperationId,
    },
    /// An overlap was ordered: under this id, at this generation.
    Overlapping {
        operation: OperationId,
        expected: Generation,
        /// When the new version was first seen to serve, by this run of management.
        #[serde(skip)]
        switched_at: Option<Millis>,
    },
    Soaking {
        #[serde(default)]
        soak: Soak,
    },
    Done,
    Skipped {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

impl StepPhase {
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Skipped { .. } | Self::Failed { .. })
    }

    /// The operation that the step has ordered and not seen the end of.
    pub fn operation(&self) -> Option<&OperationId> {
        match self {
            Self::Quiescing { operation, .. }
            | Self::Upgrading { operation, .. }
            | Self::Overlapping { operation, .. } => Some(operation),
            _ => None,
        }
    }
}

/// What a person asked of a running ripple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    Nothing,
    Pause,
    Abort,
}

/// One run of an upgrade across the cluster: an immutable plan, and how far it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ripple {
    pub plan: Plan,
    pub state: RippleState,
    pub asked: Asked,
    pub steps: Vec<StepPhase>,
    /// Servers that have the release fetched, verified, unpacked and prepared.
    pub prepared: Vec<ServerName>,
    /// The canaries are well: the other steps may begin.
    #[serde(default)]
    pub promoted: bool,
    /// What the new version's answers were found to be like, by server.
    #[serde(default)]
    pub verdicts: BTreeMap<ServerName, judge::Verdict>,
    /// The hooks that were begun, in that order.
    #[serde(default)]
    pub hooks: Vec<hooks::HookRun>,
    /// The new version was no good: what is upgraded goes back, by a ripple of its own.
    #[serde(default)]
    pub undoes_itself: bool,
    /// A person waits no longer for sessions to end: those left go on elsewhere.
    #[serde(default)]
    pub migrates: bool,
    /// Why it failed or was aborted.
    pub reason: Option<String>,
    /// Why it has paused itself.
    #[serde(default)]
    pub paused_by: Option<String>,
    /// Since when no gate may close for want of room; of this run of management.
    #[serde(skip)]
    pub short_since: Option<Millis>,
    /// What it waits for now.
    #[serde(skip)]
    pub wait: Option<wait::Wait>,
}

impl Ripple {
    pub fn new(plan: Plan) -> Self {
        let steps = plan.steps.iter().map(|_| StepPhase::Pending).collect();
        Self {
            plan,
            state: RippleState::Running,
            asked: Asked::Nothing,
            steps,
            prepared: Vec::new(),
            promoted: false,
            verdicts: BTreeMap::new(),
            hooks: Vec::new(),
            undoes_itself: false,
            migrates: false,
            reason: None,
            paused_by: None,
            short_since: None,
            wait: None,
        }
    }

    /// A person has seen enough of the canaries: their soaks are over, and the other steps may begin. Answers whether
    /// there are any.
    pub fn promote(&mut self) -> bool {
        if self.plan.policy.canary == 0 {
            return false;
        }
        for step in &mut self.steps {
            if let StepPhase::Soaking { soak } = step
                && !self.promoted
            {
                soak.enough = true;
            }
        }
        self.promoted = true;
        true
    }

    /// A server's part that has not begun cannot be done.
    pub fn fail_step(&mut self, server: &ServerName, reason: &str) {
        for (step, planned) in self.steps.iter_mut().zip(&self.plan.steps) {
            if planned.server == *server && *step == StepPhase::Pending {
                *step = StepPhase::Failed { reason: reason.to_owned() };
            }
        }
    }

    /// Whether an operation found on a server is this ripple's.
    pub fn owns(&self, operation: &OperationId) -> bool {
        !self.state.is_over() && self.steps.iter().any(|step| step.operation() == Some(operation))
    }
}
