//! Owns what the proxy shows on real sockets: a raw client on one side, a scripted upstream on the other.

mod bodies;
mod clients;
mod connections;
mod cuts;
mod idle;
mod large;
mod parking;
mod refusals;
mod stalls;
mod stress;
mod support;
mod tls;
mod tunnels;
