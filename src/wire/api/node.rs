//! Owns how nodes, the cluster as a whole and its events appear in the API.
//! Must not know how a node is watched.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::program::{PlacementState, PlacementView, ProgramSummary};
use super::ripple::{RippleView, WaitingFor};
use super::words;
use crate::domain::names::{NodeName, ProgramName, RippleId, RunId, Sha256, Term};
use crate::wire::role::Role;

words! {
    /// Whether a node is heard of: down after `[cluster] down_after` without a heartbeat.
    NodeState {
        Up = "up",
        Down = "down",
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    pub name: NodeName,
    pub roles: Vec<Role>,
    /// Its control address, `host:port`.
    pub address: String,
    pub state: NodeState,
    /// When it came into that state.
    pub since: Timestamp,
    pub run: Option<RunId>,
    /// Of neap.
    #[serde(default)]
    pub version: String,
    /// The SHA-256 of the file that it runs; none where its release does not say.
    #[serde(default)]
    pub binary: Option<Sha256>,
    /// The release of the messages between nodes that it speaks.
    #[serde(default)]
    pub protocol: u32,
    /// Whether it obeys the present term (protocol P6); false for a node that is not a server.
    pub sealed: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub load: Option<LoadView>,
    /// What a server holds placements of, by name.
    #[serde(default)]
    pub programs: Vec<ProgramName>,
    /// The revision of the Server List that a router holds.
    pub revision: Option<u64>,
    /// Of a server that a person has taken out of service, or that is on its way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
}

/// Asks for a server to leave service until it is resumed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Also where too few other servers would serve.
    #[serde(default)]
    pub force: bool,
}

/// How far a server's drain is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrainView {
    /// No gate is open, and no request is left.
    pub drained: bool,
    /// Its gates open again.
    pub resumed: bool,
    pub asked_by: Option<String>,
    pub programs: Vec<DrainingProgram>,
    /// Why gates that are to close are open still.
    pub waiting_for: Option<WaitingFor>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrainingProgram {
    pub program: ProgramName,
    pub state: PlacementState,
    pub active_requests: u64,
    pub drained: bool,
}

/// What a node's last heartbeat said of its load.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LoadView {
    /// Cores in use, of `cores`.
    pub cores_used: f64,
    pub cores: u32,
    pub memory_bytes: u64,
    pub active_requests: u64,
}

/// Servers × programs, and every ripple under way.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusView {
    pub at: Timestamp,
    pub term: Term,
    pub revision: u64,
    /// By name.
    pub nodes: Vec<NodeView>,
    /// By name.
    pub programs: Vec<ProgramSummary>,
    /// By server, then by program; a cell that is missing is a program that this server does not host.
    pub placements: Vec<PlacementView>,
    /// Under way, newest first.
    pub ripples: Vec<RippleView>,
}

/// Something that happened and that a person may want to know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Rises with time.
    pub id: String,
    pub at: Timestamp,
    /// A stable word, such as `node_down` or `ripple_ended`.
    pub kind: String,
    pub message: String,
    pub node: Option<NodeName>,
    pub program: Option<ProgramName>,
    pub ripple: Option<RippleId>,
}
