//! Owns the account of a run as it is handed out, in Rust and in JSON. Must not know how it is counted.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::client::SessionCounts;

/// What became of all that was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub started_at: jiff::Timestamp,
    pub elapsed_ms: u64,
    /// Something was sent, and nothing failed.
    pub passed: bool,
    /// Over all targets.
    #[serde(flatten)]
    pub all: Counts,
    /// In the order of the plan.
    pub targets: Vec<TargetReport>,
    /// Every POST, in the order in which they ended. Not in the JSON: see `neap traffic --ids`.
    #[serde(skip)]
    pub posts: Vec<Post>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetReport {
    pub url: String,
    pub rate: f64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// sent = ok + failed + outstanding; at the end of a run nothing is outstanding.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    /// Whole answers, checked or not, by status.
    pub by_status: BTreeMap<String, u64>,
    /// Whole answers by the version that gave them; "none" where an answer names none.
    pub by_version: BTreeMap<String, u64>,
    pub by_failure: BTreeMap<FailureKind, u64>,
    pub posts_sent: u64,
    /// POSTs answered as expected.
    pub posts_ok: u64,
    /// Bytes of bodies, both ways.
    pub body_bytes_sent: u64,
    pub body_bytes_received: u64,
    /// WebSocket frames that came back as they were sent.
    pub frames_echoed: u64,
    pub connections_opened: u64,
    /// Idempotent requests repeated because a reused connection died before the first byte of an answer.
    pub repeated: u64,
    /// Requests that found every connection busy, at the bound.
    pub waited_for_connection: u64,
    /// The furthest that a send was behind its time, by this process's own doing.
    pub send_lag_max_ms: f64,
    /// Of clients with cookie jars; zeros without them.
    #[serde(default)]
    pub sessions: SessionCounts,
    /// Of whole answers, from the time the request was due to the answer's last byte; a WebSocket's to its opening.
    pub latency_ms: Latency,
    /// By seconds since the start.
    pub per_second: Vec<Second>,
    /// The first failures.
    pub errors: Vec<Failure>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// `sent`: due in this second. The rest: ended in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    pub second: u64,
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    pub by_version: BTreeMap<String, u64>,
}

/// One request that did not get its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Sent as `X-Request-Id` and `X-Traffic-Id`.
    pub id: String,
    /// When it ended.
    pub at: jiff::Timestamp,
    /// Since the start.
    pub after_ms: u64,
    /// From the time it was due.
    pub took_ms: u64,
    pub method: String,
    pub url: String,
    pub kind: FailureKind,
    pub detail: String,
    pub status: Option<u16>,
    pub version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection could be made.
    Connect,
    /// The connection ended before the answer's head was whole.
    Lost,
    /// No whole answer in time.
    Timeout,
    /// Another status than expected.
    Status,
    /// The connection ended in the body.
    ShortBody,
    /// Another length than expected.
    Length,
    /// Bytes after the end of the answer.
    ExtraBytes,
    /// Not HTTP, or ambiguous.
    Protocol,
    /// The answer to another request.
    Crossed,
    /// No id in an answer that must repeat it.
    NoEcho,
    /// The program received another body than was sent.
    Corrupted,
    /// Another version than expected, or none.
    Version,
    /// A WebSocket that did not open, or whose frames came back otherwise.
    WebSocket,
    /// A WebSocket closed before its time.
    ClosedEarly,
    /// Another session than the client's, none, or things missing from it.
    SessionLost,
    /// Things in a session that its client did not put there.
    SessionMixed,
    /// A version that the session had already left.
    SessionRegressed,
    /// Still under way when the run was cut short.
    Unfinished,
}

impl fmt::Display for FailureKind {
    /// As it is written in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One POST by its unique id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    pub id: String,
    /// The target's place in the plan.
    pub target: usize,
    /// Of a whole answer.
    pub status: Option<u16>,
    /// Answered as expected: the program has executed it, and exactly once.
    pub ok: bool,
}

impl Report {
    /// The ids of POSTs to a target that were answered as expected.
    pub fn acknowledged(&self, target: usize) -> impl Iterator<Item = &str> {
        self.posts.iter().filter(move |post| post.ok && post.target == target).map(|post| post.id.as_str())
    }
}
