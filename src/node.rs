//! Owns one node: its store, its identity, its roles; how they start and stop. The only place that knows all roles.
//! Must not know what a role does.

use std::fs;
use std::io;

use crate::config::values::LogFormat;
use crate::config::{Config, Loaded};
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::link::secret::Secret;
use crate::store::{Store, StoreError};
use crate::wire::role::Role;
use crate::{management, telemetry};

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It could not start as it is configured; says the cure.
    #[error("{0}")]
    Start(String),
    #[error("{0}")]
    Failed(String),
}

/// Runs a node until it is told to stop (TERM or INT).
pub fn run(loaded: Loaded, verbose: u8) -> Result<(), NodeError> {
    let Loaded { config, secret, .. } = loaded;
    let log = match verbose {
        0 => config.observe.log.clone(),
        1 => "debug".to_owned(),
        _ => "trace".to_owned(),
    };
    telemetry::start(&log, config.observe.log_format == LogFormat::Json).map_err(NodeError::Start)?;
    actix_rt::System::new().block_on(serve(config, secret))
}

async fn serve(config: Config, secret: Option<Secret>) -> Result<(), NodeError> {
    let told = |error: io::Error| NodeError::Start(format!("{}: {error}", config.node.data_dir.display()));
    fs::create_dir_all(&config.node.data_dir).map_err(told)?;
    let identity = Identity::begin(config.node.name.clone());
    let store = open_store(&config)?;
    let client = Client::new(config.client(), secret.clone());
    let roles = config.node.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
    tracing::info!(node = %identity.name, run = %identity.run, roles, "starts");
    let running = Running::start(&config, &identity, &store, &client, secret).await?;
    let signal = stop_signal().await.map_err(|error| NodeError::Failed(error.to_string()))?;
    tracing::info!(signal, "stops");
    running.stop().await;
    Ok(())
}

fn open_store(config: &Config) -> Result<Store, NodeError> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    let opened = Store::open(config.store_path(), &stamp, config.store()).map_err(|error| match error {
        StoreError::InUse(_) => NodeError::Start(error.to_string()),
        other => NodeError::Failed(other.to_string()),
    })?;
    if let Some(recovered) = &opened.recovered {
        tracing::error!("{recovered}");
    }
    Ok(opened.store)
}

/// The roles that run. They stop from the outside in: requests first, decisions last.
struct Running {
    management: Option<management::Running>,
}

impl Running {
    async fn start(
        config: &Config,
        identity: &Identity,
        store: &Store,
        client: &Client,
        secret: Option<Secret>,
    ) -> Result<Self, NodeError> {
        let mut running = Self { management: None };
        if config.has(Role::Management) {
            let settings = management_settings(config);
            let listen = settings.listen;
            let started = management::start(identity.clone(), settings, store.clone(), client.clone(), secret.clone());
            running.management = Some(started.await.map_err(|error| at(listen, &error))?);
        }
        Ok(running)
    }

    async fn stop(self) {
        if let Some(management) = self.management {
            management.stop().await;
        }
    }
}

fn at(listen: std::net::SocketAddr, error: &io::Error) -> NodeError {
    match error.kind() {
        io::ErrorKind::AddrInUse => NodeError::Start(format!(
            "{listen} is in use: stop what listens there, or give this node another address (neap config show --origin)"
        )),
        _ => NodeError::Start(format!("{listen}: {error}")),
    }
}

fn management_settings(config: &Config) -> management::Settings {
    let limits = &config.management.limits;
    management::Settings {
        listen: config.management.listen,
        hosts: config.management.hosts.clone(),
        data_dir: config.node.data_dir.clone(),
        down_after: config.cluster.down_after,
        body_limit: limits.body_size as usize,
        release_limit: limits.release_size,
        connections: limits.connections,
        bounds: management::Bounds {
            nodes: limits.nodes,
            programs: limits.programs,
            releases_kept: limits.releases_kept,
            events: limits.events_kept,
            ripples: limits.ripples_kept,
            failures: limits.failures_named,
            page: limits.page_size,
            mailbox: limits.mailbox,
            router_wait: limits.router_wait,
        },
    }
}

/// Waits for TERM or INT.
async fn stop_signal() -> io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = term.recv() => "TERM",
        _ = int.recv() => "INT",
    })
}
