//! Owns the command line: one file a command. Must not know how anything is done.

pub mod traffic;
