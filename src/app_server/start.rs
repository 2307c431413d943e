//! Owns how the role comes up and goes down: listeners first, then what was kept, the actors, the ports. Must not know
//! other roles, or signals: the node tells it to stop.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::claims::Claims;
use super::components::Components;
use super::control::{self, Desk as ControlDesk};
use super::direct::Direct;
use super::keeping::{self, Keeping, KeepingError};
use super::ledger::{self, Ledger};
use super::machine::Machine;
use super::managements::Herald;
use super::records::{self, Kept};
use super::requests::{DataPort, Port};
use super::server::{Preparer, Server, Stop};
use super::session_lists::SessionLists;
use super::sets::Sets;
use super::settings::Settings;
use super::shared::{Clock, Shared};
use super::visit::Desk;
use crate::domain::names::RunId;
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::link::outbox::{Outbox, Outcome, Post};
use crate::link::secret::Secret;
use crate::link::tag_keys::TagKeys;
use crate::programs::disk::DiskError;
use crate::programs::ports::Ports;
use crate::programs::session_url::SessionUrl;
use crate::programs::shelf::{Rooms, Shelf};
use crate::programs::successor;
use crate::programs::surroundings::Surroundings;
use crate::proxy::{self, Door, Shutdown};
use crate::store::{Store, StoreError};
use crate::wire::messages::{NodeRole, Registration};

/// Why the role did not come up. Nothing runs of it then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{what}: {source}")]
    Listen { what: &'static str, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Sessions(#[from] KeepingError),
    #[error("cannot start a worker: {0}")]
    Worker(String),
}

/// The role, up.
pub struct Running {
    /// The way of a router in this process.
    pub direct: Direct,
    /// Where it takes requests; the port that it got, where 0 was asked for.
    pub data: SocketAddr,
    pub control: SocketAddr,
    server: Addr<Server>,
    handle: ServerHandle,
    shutdown: Shutdown,
    workers: Vec<Arbiter>,
    ended: mpsc::Receiver<()>,
    /// What goes on beside: heartbeats, logs, looking at components.
    tasks: Vec<tokio::task::JoinHandle<()>>,
    sessions: keeping::Kept,
    stop_timeout: Duration,
}

/// Starts the role on this actix system: its actors on this thread, a thread for each worker of the data port.
pub async fn start(
    identity: Identity,
    store: Store,
    secret: Option<Secret>,
    mut settings: Settings,
) -> Result<Running, StartError> {
    let listen = |what| move |source| StartError::Listen { what, source };
    let data = proxy::listen(settings.data, settings.workers).map_err(listen("[app_server] data"))?;
    let control = proxy::listen(settings.control, 1).map_err(listen("[app_server] control"))?;
    settings.data = address(&data).map_err(listen("[app_server] data"))?;
    settings.control = address(&control).map_err(listen("[app_server] control"))?;

    let kept = Kept::load(&store)?;
    let ledger = open_ledger(&identity, &store, &settings)?;
    let client = Client::new(settings.client, secret.clone());
    let ports = Ports::new(settings.ports.clone());
    let keeping = Keeping::open(&identity, &client, &settings, &ports, &store)?;
    let machine = machine(&identity, &store, &settings, ports, keeping.urls.clone())?;
    // Before any program begins: what no record knows could listen on its port, or answer for it.
    machine.clear_strays(kept.instances.iter().map(|record| record.name.clone()).collect()).await;

    let claims = Arc::new(Claims::telling(ledger.nudge().clone()));
    let server = start_actors(
        &identity,
        &store,
        client,
        &settings,
        &claims,
        &ledger,
        &machine,
        kept,
        keeping.lists.clone(),
        &secret,
    )?;
    let (server, mut tasks) = server;
    tasks.push(tokio::task::spawn_local(machine.clone().measure()));
    tasks.push(tokio::task::spawn_local(machine.keep_house()));
    let desk = ControlDesk {
        server: server.clone(),
        claims: claims.clone(),
        ledger: ledger.clone(),
        name: identity.name.clone(),
        sessions: keeping.lists.clone(),
        session_data: keeping.data.clone(),
    };
    let sessions = keeping.run().map_err(listen("where programs ask for session data"))?;
    let (one, at) = (control.into_iter().next(), settings.control);
    let one = one.ok_or_else(|| listen("[app_server] control")(io::ErrorKind::AddrNotAvailable.into()))?;
    let handle = control::serve(one, at, secret.clone(), settings.bounds.message_size, desk);
    let handle = handle.map_err(listen("[app_server] control"))?;

    let shutdown = Shutdown::new();
    let (tell, ended) = mpsc::channel(settings.workers.max(1));
    let direct = Direct::new(identity.clone(), settings.data, claims.clone(), ledger.clone());
    let port = Worker { claims, ledger, run: identity.run.clone(), secret, limits: settings.proxy.clone() };
    let workers: Vec<Arbiter> =
        data.into_iter().map(|listener| port.begin(listener, shutdown.clone(), tell.clone())).collect();
    tracing::info!(data = %settings.data, control = %settings.control, run = %identity.run, "app-server is up");
    Ok(Running {
        direct,
        data: settings.data,
        control: settings.control,
        server,
        handle,
        shutdown,
        workers,
        ended,
        tasks,
        sessions,
        stop_timeout: settings.bounds.stop_timeout,
    })
}

fn address(listeners: &[TcpListener]) -> io::Result<SocketAddr> {
    listeners.first().ok_or(io::Error::from(io::ErrorKind::AddrNotAvailable))?.local_addr()
}

/// The requests that died with the process before this one are named, on disk, before they are counted.
fn open_ledger(identity: &Identity, store: &Store, settings: &Settings) -> Result<Arc<Ledger>, StoreError> {
    let dir = settings.data_dir.join("ledger");
    let (rows, seats) = (settings.bounds.ledger_rows, settings.bounds.active_requests);
    let opened = Ledger::open(&dir, identity.name.clone(), rows, seats, identity.run.as_str())?;
    if !opened.died.is_empty() {
        tracing::warn!(requests = opened.died.len(), "requests were under way when this server died");
    }
    let failures = records::save_failures(store, &opened.died, ledger::FAILURES_MAX)?;
    opened.ledger.remember(failures);
    opened.ledger.bury();
    Ok(Arc::new(opened.ledger))
}

fn machine(
    identity: &Identity,
    store: &Store,
    settings: &Settings,
    ports: Ports,
    sessions: SessionUrl,
) -> Result<Machine, StartError> {
    let around = Surroundings {
        binary: settings.binary.clone(),
        node: identity.name.clone(),
        data_dir: settings.data_dir.clone(),
        sessions: Some(sessions),
    };
    let rooms = Rooms::open(settings.data_dir.join("programs"))?;
    Ok(Machine::new(around, ports, rooms, store.clone()))
}

type Started = (Addr<Server>, Vec<tokio::task::JoinHandle<()>>);

#[allow(clippy::too_many_arguments, reason = "everything that was opened comes together here, once")]
fn start_actors(
    identity: &Identity,
    store: &Store,
    client: Client,
    settings: &Settings,
    claims: &Arc<Claims>,
    ledger: &Arc<Ledger>,
    machine: &Machine,
    kept: Kept,
    sessions: Arc<SessionLists>,
    secret: &Option<Secret>,
) -> Result<Started, StartError> {
    let preparer = Preparer {
        machine: machine.clone(),
        client: client.clone(),
        management: settings.management.clone(),
        shelf: Arc::new(Shelf::open(settings.data_dir.join("fetched"))?),
        store: store.clone(),
        fetch_timeout: settings.bounds.fetch_timeout,
        release_size: settings.bounds.release_size,
    };
    let tag_keys = TagKeys::open(&settings.data_dir, secret.clone());
    let heralds_keys = tag_keys.clone();
    let (nudge, nudged) = watch::channel(());
    let components = Components::new(machine.clone(), store.clone(), &settings.binary, &settings.bounds, nudge.clone());
    let looking = tokio::task::spawn_local(components.clone().run());
    let sets = Sets::load(store.clone(), settings.data_dir.clone())?;
    sets.resume();
    let (identity, settings) = (identity.clone(), settings.clone());
    let (claims, ledger, hands) = (claims.clone(), ledger.clone(), Rc::new(machine.clone()));
    let (heralds_identity, heralds_settings) = (identity.clone(), settings.clone());
    let (store, heralds_client) = (store.clone(), client.clone());
    let server = Server::create(move |ctx| {
        ctx.set_mailbox_capacity(settings.bounds.mailbox);
        let owner: Recipient<Outcome> = ctx.address().recipient();
        let outbox: Recipient<Post> = Outbox::begin(client, settings.outbox, rand::random(), owner).recipient();
        let seal = RefCell::new(kept.seal.clone());
        let (clock, outbox) = (Clock::begin(), Some(outbox));
        let shared = Shared {
            identity,
            store,
            settings,
            claims,
            ledger,
            hands,
            sets,
            seal,
            clock,
            outbox,
            nudge,
            sessions,
            tag_keys,
        };
        Server::boot(Rc::new(shared), kept, preparer, components)
    });
    let mut tasks = heralds(&heralds_identity, &heralds_settings, &heralds_client, &nudged, &server, &heralds_keys);
    tasks.push(looking);
    Ok((server, tasks))
}

fn heralds(
    identity: &Identity,
    settings: &Settings,
    client: &Client,
    nudge: &watch::Receiver<()>,
    server: &Addr<Server>,
    tag_keys: &TagKeys,
) -> Vec<tokio::task::JoinHandle<()>> {
    let registration = Registration {
        role: NodeRole::AppServer,
        control: settings.control,
        data: settings.data,
        labels: settings.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary: successor::binary(),
        cores: settings.cores,
    };
    let herald = |url: &String| Herald {
        url: url.clone(),
        identity: identity.clone(),
        client: client.clone(),
        registration: registration.clone(),
        heartbeat: settings.heartbeat,
        nudge: nudge.clone(),
        server: server.clone(),
        tag_keys: tag_keys.clone(),
    };
    settings.management.iter().map(|url| tokio::task::spawn_local(herald(url).run())).collect()
}

/// What each worker of the data port gets.
struct Worker {
    claims: Arc<Claims>,
    ledger: Arc<Ledger>,
    run: RunId,
    secret: Option<Secret>,
    limits: proxy::Limits,
}

impl Worker {
    fn begin(&self, listener: TcpListener, shutdown: Shutdown, tell: mpsc::Sender<()>) -> Arbiter {
        let (claims, ledger) = (self.claims.clone(), self.ledger.clone());
        let (run, secret, limits) = (self.run.clone(), self.secret.clone(), self.limits.clone());
        let arbiter = Arbiter::new();
        let serving = move || {
            let nudge = ledger.nudge().clone();
            let desk = Rc::new(Desk::new(claims, ledger));
            let port = Rc::new(Port(Rc::new(DataPort { desk, nudge, run, secret })));
            actix_rt::spawn(async move {
                if let Err(error) = proxy::serve(vec![Door::plain(listener)], port, limits, shutdown).await {
                    tracing::error!(%error, "a worker of the data port ended");
                }
                drop(tell);
            });
        };
        if !arbiter.spawn_fn(serving) {
            tracing::error!("a worker of the data port did not start");
        }
        arbiter
    }
}

impl Running {
    /// Stops in order: no new requests, those under way to their end (within `stop_timeout`), then the actors. The
    /// instances live on, to be adopted by the next run.
    pub async fn stop(mut self) {
        self.shutdown.begin();
        // Every worker drops its sender when its last connection has ended.
        let all_ended = async { while self.ended.recv().await.is_some() {} };
        if timeout(self.stop_timeout, all_ended).await.is_err() {
            tracing::warn!("requests were still under way when the time to stop ran out");
        }
        self.tasks.iter().chain(&self.sessions.tasks).for_each(|task| task.abort());
        self.handle.stop(true).await;
        if self.server.send(Stop).await.is_err() {
            tracing::debug!("the server's actor had ended before");
        }
        for worker in self.workers {
            worker.stop();
            if worker.join().is_err() {
                tracing::warn!("a worker of the data port panicked");
            }
        }
        // The last that changed them has ended.
        self.sessions.stop().await;
    }
}
