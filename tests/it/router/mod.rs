//! A real router in this process, scripted servers and a scripted management on loopback, raw clients.

mod direct;
mod heads;
mod lists;
mod refusals;
pub mod support;
mod tls;
