//! Tests of neap's parts with real processes, sockets and files.

mod programs;
