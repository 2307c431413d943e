//! The integration tests: real processes, real sockets, one crate.

mod cli;
mod programs;
mod router;
mod traffic;
