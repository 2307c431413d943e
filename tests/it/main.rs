//! The integration tests: real processes, real sockets, one crate.

mod app_server;
mod cli;
mod e2e;
mod programs;
mod router;
mod scenarios;
mod support;
mod tidy;
mod tls;
mod traffic;
mod vectors;
