//! neap upgrades one program on a cluster while everything else, and everyone, goes on.

pub mod app_server;
pub mod cli;
pub mod config;
pub mod domain;
pub mod link;
pub mod management;
pub mod node;
pub mod programs;
pub mod proxy;
pub mod router;
pub mod store;
pub mod telemetry;
pub mod traffic;
pub mod wire;
