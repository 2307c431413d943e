//! The integration tests: real processes, real sockets, one crate.

mod app_server;
mod cli;
mod e2e;
mod programs;
mod support;
mod tidy;
mod traffic;
