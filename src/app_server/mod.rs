//! Floor 3, the application server: gates, claims, the ledger and the programs' instances of one node.
//! Must not know the other roles: management and routers are met over the wire only.
//!
//! Two paths, which meet in [`claims`] and [`ledger`] alone:
//!
//! ```text
//! requests   data port ─▶ requests ─┬▶ visit ─▶ claims (one atomic step) ─▶ instance       no actor, no lock
//!            router in this process ─▶ direct ─┘
//! control    control ─▶ server (actor) ─▶ program (one actor each) ─▶ hands      decode, step, save, perform
//! ```

mod ahead;
pub mod claims;
mod components;
mod control;
mod direct;
mod external;
mod hands;
mod house;
mod keeping;
pub mod ledger;
mod living;
mod machine;
mod managements;
mod metrics;
mod nudge;
mod program;
mod records;
mod requests;
mod server;
mod session_lists;
mod sets;
mod settings;
mod shared;
mod start;
mod stay;
mod visit;

pub use direct::{Direct, DirectDesk, DirectVisit};
pub use settings::{Bounds, Settings};
pub use start::{Running, StartError, start};
