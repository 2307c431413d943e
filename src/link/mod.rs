//! Floor 2, the link: how nodes talk on the control path. The only sender of control messages: who this node is, the
//! cluster's secret, the HTTP client, the outbox with its retries, and the guard of what nodes answer.
//! Must not know what the messages mean, nor any role.

pub mod answer;
pub mod client;
pub mod guard;
pub mod identity;
pub mod outbox;
mod peer;
pub mod queue;
pub mod secret;
pub mod seen;
pub mod tag_keys;
