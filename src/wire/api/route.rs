//! Owns how a route's test appears in the API: which rule, which program, which server, and why.
//! Must not know how a router chooses.

use serde::{Deserialize, Serialize};

use super::program::PlacementState;
use crate::domain::names::{ProgramName, ServerName, Version};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteTest {
    pub url: String,
    /// The rule that matched, as the manifest writes it; none: the router would answer 404.
    pub rule: Option<String>,
    pub program: Option<ProgramName>,
    /// The path that the program would see.
    pub path: Option<String>,
    /// By server name.
    pub candidates: Vec<Candidate>,
}

/// A server that hosts the program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    pub server: ServerName,
    pub version: Option<Version>,
    pub state: PlacementState,
    pub active_requests: u64,
    pub chosen: bool,
    /// "open and healthy, fewest active requests", "gate is closed", …
    pub why: String,
}
