//! The integration tests: real processes, real sockets, one crate.

mod app_server;
mod cli;
mod programs;
mod traffic;
