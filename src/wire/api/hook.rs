//! Owns how what goes with a ripple appears in the API: its commands, and the load that its plan was made by.
//! Must not know how either comes about.

use serde::{Deserialize, Serialize};

use super::words;
use crate::domain::names::ServerName;
pub use crate::domain::ripple::hooks::Hook;

/// A command that goes with a ripple, once it was begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookView {
    pub hook: Hook,
    /// None: at management.
    pub server: Option<ServerName>,
    pub state: HookState,
    /// "exit status 1"; absent while it runs.
    pub how: Option<String>,
    pub took_ms: Option<u64>,
    /// The last lines that it wrote.
    #[serde(default)]
    pub log: Vec<String>,
}

words! {
    /// Whether a hook has ended, and how.
    HookState {
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
    }
}

/// What a server uses of its cores, and would use, in thousandths of a core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Carries {
    pub server: ServerName,
    pub now_milli: u32,
    pub would_milli: u32,
    /// What `max_utilization` allows; the step waits while it would be more. 0: nobody looks.
    pub most_milli: u32,
    pub cores: u32,
}
