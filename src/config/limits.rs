//! Owns the shape of every bound that can be configured, by section. Must not know what is bounded.

use std::time::Duration;

use serde::Deserialize;

use super::values::{duration, size};

/// `[router.limits]`; `conf/default.toml` says what each bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterLimits {
    pub connections: usize,
    #[serde(deserialize_with = "duration")]
    pub tls_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub tls_check: Duration,
    #[serde(deserialize_with = "size")]
    pub head_size: u64,
    #[serde(deserialize_with = "duration")]
    pub head_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub client_idle: Duration,
    #[serde(deserialize_with = "duration")]
    pub write_timeout: Duration,
    #[serde(deserialize_with = "size")]
    pub replay_size: u64,
    #[serde(deserialize_with = "size")]
    pub replay_total: u64,
    pub held_requests: usize,
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    pub pool_per_server: usize,
    #[serde(deserialize_with = "duration")]
    pub pool_idle: Duration,
    #[serde(deserialize_with = "duration")]
    pub reuse_idle: Duration,
    #[serde(deserialize_with = "duration")]
    pub unreachable_wait: Duration,
    #[serde(deserialize_with = "duration")]
    pub probe_interval: Duration,
    #[serde(deserialize_with = "size")]
    pub server_list_size: u64,
    #[serde(deserialize_with = "duration")]
    pub stop_timeout: Duration,
    pub mailbox: usize,
}

/// `[app_server.limits]`; `conf/default.toml` says what each bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppServerLimits {
    pub connections: usize,
    pub active_requests: usize,
    #[serde(deserialize_with = "size")]
    pub head_size: u64,
    #[serde(deserialize_with = "duration")]
    pub head_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub write_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    pub pool_per_instance: usize,
    #[serde(deserialize_with = "duration")]
    pub reuse_idle: Duration,
    pub programs: usize,
    pub sessions: usize,
    pub ledger_rows: usize,
    #[serde(deserialize_with = "duration")]
    pub fetch_timeout: Duration,
    #[serde(deserialize_with = "size")]
    pub release_size: u64,
    #[serde(deserialize_with = "duration")]
    pub stop_timeout: Duration,
    pub mailbox: usize,
    #[serde(deserialize_with = "duration")]
    pub component_scan: Duration,
    pub components: usize,
    pub component_files: usize,
    pub component_depth: usize,
    #[serde(deserialize_with = "size")]
    pub component_file_size: u64,
    #[serde(deserialize_with = "duration")]
    pub component_time: Duration,
}

/// `[management.limits]`; `conf/default.toml` says what each bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagementLimits {
    pub connections: usize,
    #[serde(deserialize_with = "size")]
    pub body_size: u64,
    #[serde(deserialize_with = "size")]
    pub release_size: u64,
    pub releases_kept: usize,
    pub nodes: usize,
    pub programs: usize,
    pub events_kept: usize,
    pub ripples_kept: usize,
    pub failures_named: usize,
    pub page_size: usize,
    #[serde(deserialize_with = "duration")]
    pub router_wait: Duration,
    pub mailbox: usize,
    #[serde(deserialize_with = "size")]
    pub components_size: u64,
    pub sessions: usize,
}

/// `[cluster.limits]`; `conf/default.toml` says what each bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterLimits {
    pub outbox: usize,
    pub messages_seen: usize,
    #[serde(deserialize_with = "size")]
    pub answers_size: u64,
    #[serde(deserialize_with = "size")]
    pub message_size: u64,
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub answer_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub reuse_idle: Duration,
    pub idle_peers: usize,
    #[serde(deserialize_with = "duration")]
    pub backoff_first: Duration,
    #[serde(deserialize_with = "duration")]
    pub backoff_most: Duration,
}

/// `[store.limits]`; `conf/default.toml` says what each bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreLimits {
    #[serde(deserialize_with = "size")]
    pub cache_size: u64,
    pub kept_aside: usize,
}
