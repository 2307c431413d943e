//! Floor 3, the router: receives clients' requests and sends each to a server.
//! Must not know another role: it hears the Server List and tells its ledger through `wire`, over HTTP.
//!
//! ```text
//! client ─▶ proxy ─▶ requests ─▶ domain::routing ─▶ server      no actor on the way: an immutable snapshot, counters
//!                       │  ▲
//!               ledger ◀┘  └ worker ◀ shared (snapshot) ◀─ actor ◀─ admin ◀─ management
//! ```
//!
//! A request for a server that is in the same process goes straight to the instance, once it is admitted (`here.rs`).

mod actor;
mod admin;
mod affinity;
mod explain;
mod heads;
mod hello;
mod here;
mod https;
mod ids;
mod lasting;
mod ledger;
mod line;
mod list;
mod metrics;
mod overhead;
mod request;
mod requests;
mod shared;
mod snapshot;
mod start;
mod worker;

#[cfg(test)]
mod samples;

pub use admin::READY_PATH;
pub use here::{Desk, Here, Visit};
pub use https::Https;
pub use shared::Trusted;
pub use start::{Router, RouterConfig, RouterLimits, RunningRouter};
