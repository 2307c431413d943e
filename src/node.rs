//! Owns one node: its store, its identity, its roles; how they start and stop. The only place that knows all roles.
//! Must not know what a role does.

mod binary;
mod here;
mod relay;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{self, SignalKind};

use crate::config::values::LogFormat;
use crate::config::{Config, Loaded};
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::link::secret::Secret;
use crate::programs::open_files;
use crate::programs::relay::{self as programs_relay, Inherited};
use crate::programs::successor;
use crate::router::{Here, Https, Router, RouterConfig, RouterLimits, RunningRouter};
use crate::store::{Store, StoreError};
use crate::wire::binary::Binary;
use crate::wire::role::Role;
use crate::{app_server, components, management, proxy, telemetry};

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
    // Before the old process, where there is one, stops anything.
    let own = binary::own()?;
    let old = relay::take_over()?;
    actix_rt::System::new().block_on(serve(config, secret, old, own))
}

async fn serve(config: Config, secret: Option<Secret>, old: Option<Inherited>, own: Binary) -> Result<(), NodeError> {
    let told = |error: io::Error| {
        let dir = config.node.data_dir.display();
        NodeError::Start(format!("[node] data_dir {dir} cannot be made: {error}; name a directory that can be written"))
    };
    fs::create_dir_all(&config.node.data_dir).map_err(told)?;
    // Found before anybody puts another file in its place.
    let binary = std::env::current_exe().map_err(|error| NodeError::Failed(error.to_string()))?;
    let taker = binary::open(&config, secret.clone(), own, &binary)?;
    let identity = Identity::begin(config.node.name.clone());
    let store = relay::open_store(&config, old.is_some()).await?;
    let client = Client::new(config.client(), secret.clone());
    let roles = config.node.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
    tracing::info!(node = %identity.name, run = %identity.run, roles, "starts");
    take_files(&config);
    // Before anybody can know of this process, who could have it hand over.
    let mut signals = Signals::new().map_err(|error| NodeError::Failed(error.to_string()))?;
    let mut running = Running::start(&config, &identity, &store, &client, (secret.clone(), &binary)).await?;
    match old {
        Some(old) => relay::tell_up(&old)?,
        None => programs_relay::tell_ready(),
    }
    let mut store = Some(store);
    loop {
        match signals.next().await {
            Signal::Stop(signal) => {
                tracing::info!(signal, "stops");
                running.stop().await;
                return Ok(());
            }
            Signal::HandOver => match relay::hand_over(running, store.take(), &binary, &mut signals).await {
                relay::End::Done => return Ok(()),
                relay::End::NotBegun { running: same, store: kept, why } => {
                    (running, store) = (*same, kept);
                    taker.take_back(&why);
                }
                relay::End::GoesOn { why } => {
                    // Before anybody can ask.
                    taker.take_back(&why);
                    let identity = Identity::begin(config.node.name.clone());
                    let opened = relay::open_store(&config, true).await?;
                    running = Running::start(&config, &identity, &opened, &client, (secret.clone(), &binary)).await?;
                    store = Some(opened);
                    tracing::warn!("this process goes on");
                }
            },
        }
    }
}

/// Takes as many open files as the system allows, and tells where that is too few for the connections configured: clients
/// would be kept out before the bound on them is met.
fn take_files(config: &Config) {
    // Each has another side: a server, or an instance.
    let of = |role, connections: usize| if config.has(role) { 2 * connections as u64 } else { 0 };
    let router = of(Role::Router, config.router.limits.connections);
    let needed = router + of(Role::AppServer, config.app_server.limits.connections);
    if let Some(files) = open_files::take_all().filter(|files| *files < needed) {
        tracing::warn!(
            files,
            needed,
            "fewer files may be open than limits.connections needs: raise the bound (ulimit -n, or LimitNOFILE of systemd)"
        );
    }
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
    router: Option<RunningRouter>,
    app_server: Option<app_server::Running>,
    management: Option<management::Running>,
}

impl Running {
    async fn start(
        config: &Config,
        identity: &Identity,
        store: &Store,
        client: &Client,
        (secret, binary): (Option<Secret>, &Path),
    ) -> Result<Self, NodeError> {
        successor::runs_as(&identity.run);
        let mut running = Self { router: None, app_server: None, management: None };
        if config.has(Role::Management) {
            let settings = management_settings(config, binary)?;
            let listen = settings.listen;
            let started = management::start(identity.clone(), settings, store.clone(), client.clone(), secret.clone());
            running.management = Some(started.await.map_err(|error| at(listen, &error))?);
        }
        if config.has(Role::AppServer) {
            let settings = app_server_settings(config, binary)?;
            let started = app_server::start(identity.clone(), store.clone(), secret.clone(), settings).await;
            running.app_server = Some(started.map_err(|error| not_started(&error))?);
        }
        if config.has(Role::Router) {
            let direct = running.app_server.as_ref().map(|server| server.direct.clone());
            let here = direct.filter(|_| config.router.direct).map(|direct| Arc::new(direct) as Arc<dyn Here>);
            let started =
                Router::start(RouterConfig { here, ..router_config(config, identity, client, secret)? }).await;
            running.router = Some(started.map_err(|error| in_use_or(&error, error.kind()))?);
        }
        Ok(running)
    }

    async fn stop(self) {
        if let Some(router) = self.router {
            router.stop().await;
        }
        if let Some(app_server) = self.app_server {
            app_server.stop().await;
        }
        if let Some(management) = self.management {
            management.stop().await;
        }
    }
}

fn at(listen: std::net::SocketAddr, error: &io::Error) -> NodeError {
    let said = match error.to_string() {
        named if named.contains("cannot listen") => format!("[management] listen: {named}"),
        other => format!("[management] listen: cannot listen on {listen}: {other}"),
    };
    in_use_or(&said, error.kind())
}

fn not_started(error: &app_server::StartError) -> NodeError {
    match error {
        app_server::StartError::Listen { source, .. } => in_use_or(error, source.kind()),
        other => NodeError::Start(other.to_string()),
    }
}

/// What was said, with the cure where an address is taken.
fn in_use_or(said: &dyn fmt::Display, kind: io::ErrorKind) -> NodeError {
    let cure = "\n  stop what listens there, or give this node another address (neap config show --origin)";
    NodeError::Start(format!("{said}{}", if kind == io::ErrorKind::AddrInUse { cure } else { "" }))
}

fn management_settings(config: &Config, binary: &Path) -> Result<management::Settings, NodeError> {
    let limits = &config.management.limits;
    let told = |what| move |error: io::Error| NodeError::Start(format!("{what}: {error}"));
    Ok(management::Settings {
        listen: config.management.listen,
        hosts: config.management.hosts.clone(),
        binary: binary.to_owned(),
        data_dir: config.node.data_dir.canonicalize().map_err(told("[node] data_dir"))?,
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
            components_size: limits.components_size as usize,
            sessions: limits.sessions,
        },
    })
}

fn https(config: &Config) -> Result<Option<Https>, NodeError> {
    let router = &config.router;
    let Some(listen) = router.https else { return Ok(None) };
    Ok(Some(Https {
        listen,
        sources: config.certificates().map_err(|why| NodeError::Start(format!("[router] tls {why}")))?,
        redirect: router.redirect_http,
        redirect_port: Some(router.redirect_port).filter(|port| *port != 0),
        check_every: router.limits.tls_check,
    }))
}

fn router_config(
    config: &Config,
    identity: &Identity,
    client: &Client,
    secret: Option<Secret>,
) -> Result<RouterConfig, NodeError> {
    let (router, limits) = (&config.router, &config.router.limits);
    let networks = router.trusted_proxies.clone();
    Ok(RouterConfig {
        identity: identity.clone(),
        http: router.http,
        https: https(config)?,
        control: router.control,
        workers: config.node.workers,
        data_dir: config.node.data_dir.clone(),
        labels: config.node.labels.clone(),
        management: config.cluster.management.clone(),
        secret,
        client: client.clone(),
        heartbeat: config.cluster.heartbeat,
        trusted: Arc::new(move |address| networks.iter().any(|network| network.contains(address))),
        expose_version: router.expose_version,
        here: None,
        limits: RouterLimits {
            proxy: proxy::Limits {
                handshake_timeout: limits.tls_timeout,
                head_bytes: limits.head_size as usize,
                head_timeout: limits.head_timeout,
                body_idle: limits.body_timeout,
                idle_timeout: Some(limits.client_idle),
                write_idle: limits.write_timeout,
                connect_timeout: limits.connect_timeout,
                connections: limits.connections.div_ceil(config.node.workers),
                replay_bytes: limits.replay_size,
                replay_budget: Arc::new(proxy::ReplayBudget::new(limits.replay_total as usize)),
                reuse_idle: limits.reuse_idle,
                pool_idle: limits.pool_idle,
                pool_per_key: limits.pool_per_server,
                ..proxy::Limits::default()
            },
            held_requests: limits.held_requests,
            unreachable_wait: limits.unreachable_wait,
            probe_interval: limits.probe_interval,
            server_list_size: limits.server_list_size as usize,
            stop_timeout: limits.stop_timeout,
            mailbox: limits.mailbox,
        },
    })
}

fn app_server_settings(config: &Config, binary: &Path) -> Result<app_server::Settings, NodeError> {
    let (server, limits) = (&config.app_server, &config.app_server.limits);
    let told = |what| move |error: io::Error| NodeError::Start(format!("{what}: {error}"));
    Ok(app_server::Settings {
        data: server.data,
        control: server.control,
        ports: server.ports.first..=server.ports.last,
        data_dir: config.node.data_dir.canonicalize().map_err(told("[node] data_dir"))?,
        binary: binary.to_owned(),
        labels: config.node.labels.clone(),
        cores: server.cores,
        workers: config.node.workers,
        management: config.cluster.management.clone(),
        heartbeat: config.cluster.heartbeat,
        lease: config.cluster.lease,
        boot_wait: config.cluster.boot_wait,
        bounds: app_server::Bounds {
            active_requests: limits.active_requests,
            ledger_rows: limits.ledger_rows,
            programs: limits.programs,
            sessions: limits.sessions,
            mailbox: limits.mailbox,
            message_size: config.cluster.limits.message_size as usize,
            fetch_timeout: limits.fetch_timeout,
            release_size: limits.release_size,
            stop_timeout: limits.stop_timeout,
            components: components::Limits {
                components: limits.components,
                files: limits.component_files,
                depth: limits.component_depth,
                file_size: limits.component_file_size,
                time: limits.component_time,
            },
            component_scan: limits.component_scan,
        },
        proxy: proxy::Limits {
            head_bytes: limits.head_size as usize,
            head_timeout: limits.head_timeout,
            body_idle: limits.body_timeout,
            write_idle: limits.write_timeout,
            connect_timeout: limits.connect_timeout,
            connections: limits.connections.div_ceil(config.node.workers),
            reuse_idle: limits.reuse_idle,
            pool_per_key: limits.pool_per_instance,
            ..proxy::Limits::of_data_port()
        },
        client: config.client(),
        outbox: config.outbox(limits.mailbox),
    })
}

/// What a node is told by signals.
struct Signals {
    term: unix::Signal,
    int: unix::Signal,
    usr2: unix::Signal,
}

enum Signal {
    /// TERM or INT.
    Stop(&'static str),
    /// USR2: to the binary that is at this one's path by now.
    HandOver,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (term, int) = (unix::signal(SignalKind::terminate())?, unix::signal(SignalKind::interrupt())?);
        Ok(Self { term, int, usr2: unix::signal(SignalKind::user_defined2())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Stop("TERM"),
            _ = self.int.recv() => Signal::Stop("INT"),
            _ = self.usr2.recv() => Signal::HandOver,
        }
    }
}
