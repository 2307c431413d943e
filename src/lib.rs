//! neap upgrades one program on a cluster while everything else, and everyone, goes on.

pub mod domain;
pub mod proxy;
