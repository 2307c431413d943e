//! Owns what nodes say of the neap binary itself: which one a node runs, the order to take another, and how far that is.
//! Must not know how a binary travels, or how a node replaces itself.

use serde::{Deserialize, Serialize};

use crate::domain::names::{OperationId, RunId, Sha256};

/// The release of the messages between nodes. It rises when a release says something that the one before does not
/// understand; nodes that are one apart work together.
pub const PROTOCOL: u32 = 1;

/// The neap binary that a process runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Binary {
    pub sha256: Sha256,
    pub version: String,
    pub protocol: u32,
}

impl Binary {
    /// As people see it: "0.1.0+ab12cd34".
    pub fn shown(&self) -> String {
        format!("{}+{}", self.version, &self.sha256.to_string()[..8])
    }
}

/// "Run this binary." Obeyed once; who repeats it is told how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TakeBinary {
    pub operation: OperationId,
    /// The run that it is for: a later one only tells what became of it.
    pub run: RunId,
    pub sha256: Sha256,
    pub bytes: u64,
}

/// What a node runs now, and how far the operation is that was asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BinaryTold {
    pub run: RunId,
    pub sha256: Sha256,
    /// `None`: this process knows nothing of that operation.
    pub stage: Option<BinaryStage>,
}

/// How far a node is with taking another binary.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BinaryStage {
    /// From management, by its SHA-256.
    Fetching,
    /// Whether it runs here at all.
    Checking,
    /// The new process starts; the old one goes on until that is up.
    HandingOver,
    /// The old one goes on.
    Failed { reason: String },
}

/// The largest binary that is taken.
pub const BYTES_MAX: u64 = 1 << 30;
