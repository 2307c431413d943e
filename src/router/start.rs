//! Owns a router's life in this process: its workers and control listener begin together, and end in order.
//! Must not know what they do in between, nor other roles.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter};
use actix_web::dev::ServerHandle;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::actor::{self, ListActor};
use super::admin;
use super::hello::Hello;
use super::here::Here;
use super::https::{Https, Open};
use super::list::ListFile;
use super::requests::Requests;
use super::shared::{Rules, Shared, Trusted};
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::link::secret::Secret;
use crate::link::tag_keys::TagKeys;
use crate::programs::successor;
use crate::proxy::{Door, Limits, Shutdown, listen, serve};
use crate::tls::Watch;
use crate::wire::messages::{NodeRole, Registration};

/// Between two words about connections that are left.
const RETIRING_TOLD: Duration = Duration::from_secs(10);

/// What a router needs to know; `node.rs` makes it of the configuration.
#[derive(Clone)]
pub struct RouterConfig {
    pub identity: Identity,
    /// Where clients come in.
    pub http: SocketAddr,
    /// Where they come in with TLS.
    pub https: Option<Https>,
    pub control: SocketAddr,
    pub workers: usize,
    /// Where the Server List is kept across restarts.
    pub data_dir: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Base URLs of management, in the order to try.
    pub management: Vec<String>,
    pub secret: Option<Secret>,
    /// For what goes to management.
    pub client: Client,
    pub heartbeat: Duration,
    pub trusted: Trusted,
    pub expose_version: bool,
    /// The server in this process that requests go straight to, where there is one.
    pub here: Option<Arc<dyn Here>>,
    pub limits: RouterLimits,
}

/// The bounds; `conf/default.toml`, `[router.limits]`, says what each is.
#[derive(Clone, Debug)]
pub struct RouterLimits {
    pub proxy: Limits,
    pub held_requests: usize,
    pub unreachable_wait: Duration,
    pub probe_interval: Duration,
    pub server_list_size: usize,
    pub stop_timeout: Duration,
    pub mailbox: usize,
}

impl Default for RouterLimits {
    fn default() -> Self {
        Self {
            proxy: Limits::default(),
            held_requests: 10_000,
            unreachable_wait: Duration::from_secs(1),
            probe_interval: Duration::from_secs(1),
            server_list_size: 16 << 20,
            stop_timeout: Duration::from_secs(30),
            mailbox: 1_024,
        }
    }
}

/// The role.
pub struct Router;

/// A router that serves. Dropping it leaves it serving; [`RunningRouter::stop`] ends it.
pub struct RunningRouter {
    http: SocketAddr,
    https: Option<SocketAddr>,
    control: SocketAddr,
    shared: Arc<Shared>,
    shutdown: Shutdown,
    workers: Vec<Worker>,
    desk: ServerHandle,
    stop_timeout: Duration,
    actor: Addr<ListActor>,
    _watch: Option<Watch>,
}

struct Worker {
    arbiter: Arbiter,
    ended: oneshot::Receiver<()>,
}

impl Router {
    /// Listens on both addresses and serves. Must be called on a thread of an actix system, which also carries the actor
    /// and the control listener. An address in use is an error that names it.
    pub async fn start(config: RouterConfig) -> io::Result<RunningRouter> {
        let listeners = listen(config.http, config.workers.max(1))?;
        // One for each socket, also where the process before this one had another number of them.
        let workers = listeners.len();
        let https = config.https.as_ref().map(|https| https.open(workers)).transpose()?;
        let desk_listener = bind(config.control)?;
        let (http, control) = (address(&listeners)?, desk_listener.local_addr()?);
        let shared = Shared::new(rules(&config, https.as_ref()), workers, config.here.clone());
        let actor = begin_actor(&config, &shared, (http, control));
        let limits = &config.limits;
        let desk = admin::serve(desk_listener, control, Arc::clone(&shared), actor.clone(), limits.server_list_size)?;
        let handle = desk.handle();
        actix::spawn(async move {
            if let Err(error) = desk.await {
                error!(%error, "the router's control listener ended");
            }
        });
        let shutdown = Shutdown::new();
        let (doors, https, watch) = doors(listeners, https);
        let begin = |(number, doors)| Worker::begin(number, doors, &shared, limits.proxy.clone(), &shutdown);
        let workers = doors.into_iter().enumerate().map(begin).collect();
        info!(%http, https = https.map(tracing::field::display), %control, "the router serves");
        let stop_timeout = limits.stop_timeout;
        Ok(RunningRouter {
            http,
            https,
            control,
            shared,
            shutdown,
            workers,
            desk: handle,
            stop_timeout,
            actor,
            _watch: watch,
        })
    }
}

impl RunningRouter {
    /// Where clients come in.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where they come in with TLS.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Takes no more connections, lets requests under way end for `stop_timeout`, and cuts what is left then.
    pub async fn stop(self) {
        self.shared.stop();
        self.shutdown.begin();
        let (mut arbiters, mut all) = (Vec::new(), Vec::new());
        for Worker { arbiter, ended } in self.workers {
            arbiters.push(arbiter);
            all.push(ended);
        }
        if tokio::time::timeout(self.stop_timeout, futures_util::future::join_all(all)).await.is_err() {
            warn!("requests that were still under way at the end of stop_timeout are cut");
        }
        for arbiter in arbiters {
            arbiter.stop();
        }
        self.desk.stop(true).await;
        // An actor that has ended has nothing to write.
        let _ = self.actor.send(actor::Keep).await;
    }
}

impl RunningRouter {
    /// Has all that it knows on disk from now on: who takes its place begins with that.
    pub async fn keep(&self) {
        // An actor that has ended has nothing to write.
        let _ = self.actor.send(actor::Keep).await;
    }

    /// Leaves its place to another process, which has its sockets: it takes no more connections, and each that it has
    /// stays until its next answer, or until it has been idle for `client_idle`: none is closed for the sake of this, for a
    /// request might be on its way. Management hears no more of it.
    pub async fn retire(self) {
        // It keeps what it knows on disk; the other process tells management from now on.
        let _ = self.actor.send(actor::Retire).await;
        self.shared.stop();
        self.shutdown.retire();
        self.desk.stop(true).await;
        let (arbiters, all): (Vec<_>, Vec<_>) =
            self.workers.into_iter().map(|Worker { arbiter, ended }| (arbiter, ended)).unzip();
        let mut all = std::pin::pin!(futures_util::future::join_all(all));
        while tokio::time::timeout(RETIRING_TOLD, &mut all).await.is_err() {
            let (open, idle) = (self.shared.rules.crowd.open(), self.shared.rules.crowd.parked());
            info!(open, idle, "has handed over, and waits for the last answers of its connections, or their end");
        }
        arbiters.iter().for_each(|arbiter| {
            arbiter.stop();
        });
    }
}

impl Worker {
    /// Starts a thread with its own listeners. What it serves shares nothing with other workers but what is in `shared`.
    fn begin(number: usize, doors: Vec<Door>, shared: &Arc<Shared>, limits: Limits, shutdown: &Shutdown) -> Self {
        let arbiter = Arbiter::new();
        let (tell, ended) = oneshot::channel();
        let (shared, shutdown) = (Arc::clone(shared), shutdown.clone());
        let spawned = arbiter.spawn_fn(move || {
            actix::spawn(async move {
                let requests = Rc::new(Requests::new(shared, number));
                if let Err(error) = serve(doors, requests, limits, shutdown).await {
                    error!(%error, number, "a worker of the router ended");
                }
                // Nobody may be waiting.
                let _ = tell.send(());
            });
        });
        if !spawned {
            error!(number, "a worker of the router did not start");
        }
        Self { arbiter, ended }
    }
}

/// What each worker listens on; where TLS is spoken; and the watch over its certificates.
fn doors(plain: Vec<TcpListener>, https: Option<Open>) -> (Vec<Vec<Door>>, Option<SocketAddr>, Option<Watch>) {
    let mut doors: Vec<Vec<Door>> = plain.into_iter().map(|listener| vec![Door::plain(listener)]).collect();
    let Some(Open { address, listeners, config, watch, .. }) = https else { return (doors, None, None) };
    for (doors, listener) in doors.iter_mut().zip(listeners) {
        doors.push(Door::tls(listener, Arc::clone(&config)));
    }
    (doors, Some(address), Some(watch))
}

fn rules(config: &RouterConfig, https: Option<&Open>) -> Rules {
    Rules {
        identity: config.identity.clone(),
        secret: config.secret.clone(),
        tag_keys: TagKeys::open(&config.data_dir, config.secret.clone()),
        trusted: Arc::clone(&config.trusted),
        expose_version: config.expose_version,
        held_requests: config.limits.held_requests,
        unreachable_wait: config.limits.unreachable_wait,
        crowd: Arc::clone(&config.limits.proxy.crowd),
        certificates: https.map(|open| Arc::clone(&open.certificates)),
        redirect: https.and_then(|open| open.redirect.clone()),
    }
}

fn begin_actor(
    config: &RouterConfig,
    shared: &Arc<Shared>,
    (http, control): (SocketAddr, SocketAddr),
) -> Addr<ListActor> {
    let registration = Registration {
        role: NodeRole::Router,
        control,
        data: http,
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary: successor::binary(),
        cores: config.workers,
    };
    let hello = Hello {
        client: config.client.clone(),
        identity: config.identity.clone(),
        registration: Arc::new(registration),
        tag_keys: shared.rules.tag_keys.clone(),
        management: config.management.clone(),
        at: 0,
        registered: false,
        refused: false,
    };
    let settings = actor::Settings {
        mailbox: config.limits.mailbox,
        heartbeat: config.heartbeat,
        probe_interval: config.limits.probe_interval,
        connect_timeout: config.limits.proxy.connect_timeout,
    };
    ListActor::begin(Arc::clone(shared), ListFile::in_dir(&config.data_dir), settings, Some(hello))
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    listen(addr, 1)?.into_iter().next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn address(listeners: &[TcpListener]) -> io::Result<SocketAddr> {
    let first = listeners.first().ok_or_else(|| io::Error::other("no worker has a listener"))?;
    first.local_addr()
}
