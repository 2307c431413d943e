//! Floor 0, the domain: every decision that neap makes, as pure functions and state machines.
//! Must not know IO, clocks, threads, actors or logs: time and everything seen come in as arguments.

pub mod capacity;
pub mod components;
pub mod duration;
pub mod figures;
pub mod gate;
#[cfg(test)]
mod gate_tests;
pub mod leader;
pub mod ledger;
pub mod manifest;
pub mod names;
pub mod placement;
pub mod program;
pub mod ripple;
pub mod routing;
pub mod seal;
pub mod server_list;
pub mod session;
pub mod session_list;
mod sync;
