//! Owns the end-to-end tests: what a cluster of real processes shows its clients while it is upgraded, broken, misused.
//! Must not know how any of it is built.

mod asks;
mod bad_input;
mod bad_versions;
mod capacity;
mod clients;
mod component_upgrades;
mod components;
mod drains;
mod external;
mod hooks;
mod idle_close;
mod judged;
mod long_lived;
mod management;
mod node_ripples;
mod others;
mod overlap;
mod partition;
mod policies;
mod relays;
mod servers;
mod session_data;
mod sessions;
mod soak;
mod together;
mod upgrades;
