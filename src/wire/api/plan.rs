//! Owns what a plan says, as it is shown before a ripple starts. Must not know how it is made.

use serde::{Deserialize, Serialize};

use super::hook::Carries;
use super::ripple::RippleKind;
use crate::domain::names::{ProgramName, ServerName, Version};
use crate::domain::program::{Promote, Strategy};

/// What a ripple will do, computed before it starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanView {
    pub id: String,
    pub program: ProgramName,
    pub kind: RippleKind,
    /// What most servers have; none for a first install.
    pub from: Option<Version>,
    pub to: Version,
    /// Of the Server List that the plan was made from.
    pub revision: u64,
    /// In the order of the ripple; none: there is nothing to do.
    pub steps: Vec<PlannedStep>,
    /// Servers of the program that the ripple will leave out, and why.
    #[serde(default)]
    pub skipped: Vec<SkippedStep>,
    #[serde(default)]
    pub strategy: Strategy,
    /// Servers at a time.
    #[serde(default = "one")]
    pub batch: u32,
    /// Of the steps, so many first; then it waits to be promoted.
    #[serde(default)]
    pub canary: u32,
    #[serde(default)]
    pub promote: Promote,
    pub min_serving: u32,
    pub hold_ms: u64,
    pub drain_timeout_ms: u64,
    pub soak_ms: u64,
    pub force: bool,
    /// With the scope of a server: the other programs that leave service with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aside: Vec<ProgramName>,
}

/// Of a management that does not tell.
fn one() -> u32 {
    1
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedStep {
    pub server: ServerName,
    pub from: Option<Version>,
    pub to: Version,
    /// What its drain would wait for, were it to begin now.
    #[serde(default)]
    pub active_requests: u64,
    /// Sticky sessions at home there, which its drain lets end, up to their deadline.
    #[serde(default)]
    pub sessions: u64,
    /// What 99 of 100 requests have taken there until their answers began, or as long as its sessions may take to end, if
    /// that is longer; none where nothing is known.
    #[serde(default)]
    pub expected_drain_ms: Option<u64>,
    /// Of the servers that stay, the one that would have the least left; none where nothing is known or moved.
    #[serde(default)]
    pub carries: Option<Carries>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SkippedStep {
    pub server: ServerName,
    pub reason: String,
}
