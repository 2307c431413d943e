//! Floor 3, the application server: gates, claims, the ledger and the programs' instances of one node.
//! Must not know the other roles: management and routers are met over the wire only.
//!
//! Two paths, which meet in [`claims`] and [`ledger`] alone:
//!
//! ```text
//! requests   data port ─▶ requests ─▶ claims (one atomic step) ─▶ instance       no actor, no lock
//! control    control ─▶ server (actor) ─▶ program (one actor each) ─▶ hands      decode, step, save, perform
//! ```

pub mod claims;
mod control;
mod hands;
pub mod ledger;
mod machine;
mod managements;
mod metrics;
mod program;
mod records;
mod requests;
mod server;
mod settings;
mod shared;
mod start;

pub use settings::{Bounds, Settings};
pub use start::{Running, StartError, start};
