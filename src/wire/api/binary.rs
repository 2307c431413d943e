//! Owns how neap's own binaries, and the upgrade of the nodes to one, appear in the API. Must not know how a node takes one.

use serde::{Deserialize, Serialize};

use crate::domain::names::{NodeName, ProgramName, Sha256, Version};
use crate::wire::role::Role;

/// A neap binary that management keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BinaryView {
    pub sha256: Sha256,
    /// As people see it: "0.1.0+ab12cd34".
    pub version: Version,
    /// The release of the messages between nodes that it speaks.
    pub protocol: u32,
    pub size_bytes: u64,
}

/// Asks for all nodes to run a binary.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinaryUpgradeRequest {
    /// Closes a server's gates also where too few others would serve.
    #[serde(default)]
    pub force: bool,
    /// The plan that was shown: refused with `precondition_failed` if the cluster has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// What a ripple of the nodes will do, computed before it starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BinaryPlanView {
    pub id: String,
    pub to: Version,
    pub sha256: Sha256,
    /// In the order of the ripple.
    pub steps: Vec<PlannedNode>,
    pub force: bool,
}

/// One node's part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedNode {
    pub node: NodeName,
    pub roles: Vec<Role>,
    /// None: it does not say what it runs.
    pub from: Option<Version>,
    pub to: Version,
    /// Of a server: the programs that are quiesced together there, and stay as they are.
    pub programs: Vec<ProgramName>,
    /// What their drain would wait for, were it to begin now.
    pub active_requests: u64,
    /// Why it is left out.
    pub skipped: Option<String>,
    /// It runs the binary already.
    pub nothing_to_do: bool,
}
