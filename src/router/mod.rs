//! Floor 3, the router: receives clients' requests and sends each to a server.
//! Must not know another role: it hears the Server List and tells its ledger through `wire`, over HTTP.
//!
//! ```text
//! client ─▶ proxy ─▶ requests ─▶ domain::routing ─▶ server      no actor on the way: an immutable snapshot, atomics
//!                       │  ▲
//!               ledger ◀┘  └ shared (snapshot) ◀─ actor ◀─ admin ◀─ management
//! ```

mod actor;
mod admin;
mod explain;
mod heads;
mod hello;
mod https;
mod ledger;
mod list;
mod metrics;
mod requests;
mod shared;
mod snapshot;
mod start;

#[cfg(test)]
mod samples;

pub use admin::READY_PATH;
pub use https::Https;
pub use shared::Trusted;
pub use start::{Router, RouterConfig, RouterLimits, RunningRouter};
