//! Owns how sessions appear in the API. Must not know how lists are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::names::{ProgramName, ServerName, Version};
use crate::domain::session::SessionId;

/// One session of the master Session List, which is at most a second behind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionView {
    pub id: SessionId,
    pub program: ProgramName,
    pub server: ServerName,
    pub version: Version,
    pub begun_at: Timestamp,
    /// Its last request came, or ended, then.
    pub seen_at: Timestamp,
    pub active_requests: u32,
    /// Of one that is shown alone, where the program keeps data in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<SessionDataView>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionDataView {
    pub bytes: u64,
    /// As `ETag` says it.
    pub tag: String,
}

/// The keys of sessions' tags, by number: what they are is nobody's business.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionKeysView {
    pub number: u32,
}
