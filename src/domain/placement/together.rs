//! Owns what is one for all placements of a set on a server (protocol P15): the work that is done while none of them
//! runs, and how it ended. Must not know a gate, a process or a disk.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Millis;

/// Lines of a command's output that are kept.
pub const LINES_KEPT: usize = 50;

/// What is done on a server once all members of a set are stopped, and before any of them starts again.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Work {
    /// A command's words, never a shell's line.
    pub run: Vec<String>,
    /// How long it may take; then it is killed, and has failed.
    #[serde(with = "crate::domain::duration::millis")]
    pub within: Duration,
}

/// How the work on a server ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Worked {
    /// Why it failed; `None`: it went well.
    pub failure: Option<String>,
    /// The last lines that it wrote, at most `LINES_KEPT`.
    pub lines: Vec<String>,
    pub took_ms: Millis,
}
