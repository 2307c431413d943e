//! Tests of neap's parts with real processes, sockets and files.

mod programs;
//! The integration tests: real processes, real sockets, one crate.

mod cli;
