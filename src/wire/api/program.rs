//! Owns how programs, their placements, requests, logs and releases appear in the API.
//! Must not know ripples.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::component::{ProgramComponent, UnreadPart};
use super::words;
use crate::domain::names::{OperationId, ProgramName, RippleId, ServerName, Sha256, Version};

words! {
    /// A placement's state, as its server last told it (protocol, "State of one placement").
    PlacementState {
        Absent = "absent",
        Closed = "closed",
        Open = "open",
        Quiescing = "quiescing",
        Upgrading = "upgrading",
        /// It takes requests; a new instance starts beside, or the old one drains and stops.
        Overlapping = "overlapping",
        Failed = "failed",
    }
}

/// A program with all its placements.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgramView {
    pub name: ProgramName,
    /// What new servers get; none until a first ripple has ended well.
    pub desired_version: Option<Version>,
    /// Of the releases kept, newest first.
    pub versions: Vec<Version>,
    /// `process` or `static`.
    pub kind: String,
    /// As the desired version's manifest writes them.
    pub routes: Vec<String>,
    /// By server name.
    pub placements: Vec<PlacementView>,
    /// The ripple under way.
    pub ripple: Option<RippleId>,
    /// What it uses, on any server, or could load.
    #[serde(default)]
    pub components: Vec<ProgramComponent>,
    /// What could not be looked at for that.
    #[serde(default)]
    pub unread: Vec<UnreadPart>,
}

/// A program in a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgramSummary {
    pub name: ProgramName,
    pub desired_version: Option<Version>,
}

/// One cell of the Server List.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlacementView {
    pub program: ProgramName,
    pub server: ServerName,
    pub state: PlacementState,
    pub generation: u64,
    /// What the server runs.
    pub version: Option<Version>,
    /// What management wants it to run.
    pub desired_version: Option<Version>,
    pub healthy: bool,
    pub active_requests: u64,
    pub oldest_request: Option<OldestRequest>,
    /// The gate is closed, with no active request and no orphan.
    pub drained: bool,
    /// Why it is `failed`.
    pub failure: Option<String>,
    /// The operation under way.
    pub operation: Option<OperationId>,
}

/// The active request that is there longest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OldestRequest {
    pub age_ms: u64,
    pub method: String,
    pub path: String,
}

/// The active requests of a program, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ActiveRequests {
    pub items: Vec<ActiveRequest>,
    pub next: Option<String>,
    /// Servers of the program that did not answer, whose requests are missing here.
    #[serde(default)]
    pub unanswered: Vec<ServerName>,
}

/// A request that a server has admitted and that has not ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActiveRequest {
    pub id: String,
    pub method: String,
    pub path: String,
    pub server: ServerName,
    pub age_ms: u64,
}

/// The last lines that a program's instances wrote, oldest first on each server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Logs {
    pub items: Vec<LogLine>,
    /// Where these lines end; asked with it as `cursor`, only later lines are answered. Null: following is not possible.
    pub next: Option<String>,
    /// Servers of the program that did not answer, whose lines are missing here.
    #[serde(default)]
    pub unanswered: Vec<ServerName>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    pub server: ServerName,
    pub version: Option<Version>,
    pub line: String,
}

/// A release that management keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleaseView {
    pub program: ProgramName,
    pub version: Version,
    pub sha256: Sha256,
    pub size_bytes: u64,
    pub pushed_at: Timestamp,
    /// Servers that run it.
    #[serde(default)]
    pub servers: Vec<ServerName>,
}
