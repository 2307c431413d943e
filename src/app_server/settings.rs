//! Owns what a node tells this role when it starts it: addresses, times, bounds. Must not know where they are written.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::components;
use crate::link;
use crate::proxy;

/// All of the role's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where routers send requests.
    pub data: SocketAddr,
    /// Where management asks.
    pub control: SocketAddr,
    /// What instances listen on, on loopback.
    pub ports: RangeInclusive<u16>,
    /// Absolute.
    pub data_dir: PathBuf,
    /// The neap binary, absolute: the launcher of instances and the server of static files.
    pub binary: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// What load is measured against.
    pub cores: usize,
    /// Threads that serve requests.
    pub workers: usize,
    /// Base URLs of every management.
    pub management: Vec<String>,
    pub heartbeat: Duration,
    /// Without management's word for so long, a quiesced gate opens again (P8).
    pub lease: Duration,
    /// A booted placement waits so long for management's word (P9).
    pub boot_wait: Duration,
    pub bounds: Bounds,
    pub proxy: proxy::Limits,
    pub client: link::client::Settings,
    pub outbox: link::outbox::Settings,
}

/// Every bound of the role; see `[app_server.limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Requests admitted at once; more are refused.
    pub active_requests: usize,
    /// Versions of programs counted apart.
    pub ledger_rows: usize,
    /// Programs hosted.
    pub programs: usize,
    /// Sessions of one program.
    pub sessions: usize,
    /// Messages that an actor has not looked at.
    pub mailbox: usize,
    /// Bytes of a control message.
    pub message_size: usize,
    pub fetch_timeout: Duration,
    /// Bytes of a release, packed.
    pub release_size: u64,
    /// Requests under way when the node is told to stop.
    pub stop_timeout: Duration,
    /// One look at what a program uses.
    pub components: components::Limits,
    /// Between two looks.
    pub component_scan: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            active_requests: 10_000,
            ledger_rows: 1_024,
            programs: 256,
            sessions: 1_000_000,
            mailbox: 1_024,
            message_size: 4 << 20,
            fetch_timeout: Duration::from_secs(600),
            release_size: 2 << 30,
            stop_timeout: Duration::from_secs(30),
            components: components::Limits::default(),
            component_scan: Duration::from_secs(30),
        }
    }
}
