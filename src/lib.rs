//! neap upgrades one program on a cluster while everything else, and everyone, goes on.

pub mod cli;
pub mod domain;
pub mod traffic;
pub mod wire;
