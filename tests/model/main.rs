//! A model of the cluster that drives the domain's own code: servers, managements, routers and a network that loses,
//! repeats and reorders, with crashes between saving and speaking. Checks I1 to I5 and L; and that each rule of the
//! protocol that may not be left out is missed when it is.
//!
//! `cargo test --release --test model`: all of it; without `--release` it takes many times as long.

mod configurations;
mod explore;
mod giving_up;
mod interlock;
mod management;
mod overlap;
mod random;
mod rules_left_out;
mod server;
mod sessions;
mod sets;
mod world;
