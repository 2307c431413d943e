//! Owns the end-to-end tests: what a cluster of real processes shows its clients while it is upgraded, broken, misused.
//! Must not know how any of it is built.

mod asks;
mod bad_input;
mod bad_versions;
mod clients;
mod components;
mod hooks;
mod idle_close;
mod judged;
mod long_lived;
mod management;
mod others;
mod partition;
mod policies;
mod servers;
mod sessions;
mod soak;
mod together;
mod upgrades;
