//! Floor 3, the management role: owns the Server List, drives ripples, keeps releases, and answers the public API.
//! Must not know how a server quiesces or a router chooses: it speaks to them in messages only.

mod api;
mod asks;
mod component_views;
mod components;
mod control;
mod draft;
mod drain_asks;
mod flights;
mod glob;
mod hooks;
mod list_actor;
mod list_messages;
mod node_asks;
mod node_ripples;
mod node_views;
mod nodes;
mod observer;
mod overlaps;
mod receipt;
mod records;
mod ripple_actor;
mod ripple_view;
mod routers;
mod saving;
mod session_asks;
mod sessions;
mod set_asks;
mod set_views;
mod tag_keys;
mod views;

mod metrics;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actix::{Actor, Arbiter};
use actix_web::dev::ServerHandle;
use actix_web::middleware::DefaultHeaders;
use actix_web::web::Data;
use actix_web::{App, HttpServer, web};
use tokio::task::JoinHandle;

pub use control::Bounds;

use crate::link::answer::{json_config, not_found, payload_config};
use crate::link::client::Client;
use crate::link::guard::Guard;
use crate::link::identity::Identity;
use crate::link::secret::Secret;
use crate::programs::binaries::Binaries;
use crate::programs::shelf::Shelf;
use crate::programs::successor;
use crate::proxy;
use crate::store::Store;
use crate::wire::messages::{NodeRole, Registration};

/// What management is started with.
pub struct Settings {
    pub listen: SocketAddr,
    /// Names that it answers to, beside its address.
    pub hosts: Vec<String>,
    /// The neap binary, absolute.
    pub binary: PathBuf,
    /// Absolute; releases are kept below it.
    pub data_dir: PathBuf,
    pub down_after: Duration,
    /// Bytes of a JSON body, and of a release's archive.
    pub body_limit: usize,
    pub release_limit: u64,
    pub connections: usize,
    pub bounds: Bounds,
}

/// A management that runs.
pub struct Running {
    pub listen: SocketAddr,
    server: ServerHandle,
    arbiter: Arbiter,
    sessions: sessions::Sessions,
    telling: JoinHandle<()>,
}

impl Running {
    /// Finishes the API's requests and stops. Ripples go on when it is started again.
    pub async fn stop(self) {
        self.server.stop(true).await;
        // It has hold of the list's store, which this process may open again if its heir does not come up.
        self.telling.abort();
        let _ = self.telling.await;
        self.arbiter.stop();
        self.sessions.stop();
    }
}

/// Management is a node of its own list.
fn own_registration(listen: SocketAddr) -> Registration {
    Registration {
        role: NodeRole::Management,
        control: listen,
        data: listen,
        labels: Default::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        binary: successor::binary(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// How often the master Session List hears which servers there are.
const SERVERS_EVERY: Duration = Duration::from_secs(10);

/// Goes on until the list's actor has ended.
async fn tell_servers(desk: api::Desk) {
    let servers = |control: &control::Control| {
        let nodes = control.nodes.values().filter(|node| node.record.registration.role == NodeRole::AppServer);
        nodes.map(|node| node.record.name.clone()).collect()
    };
    while let Ok(servers) = desk.look(servers).await {
        desk.sessions.servers_are(servers);
        actix_rt::time::sleep(SERVERS_EVERY).await;
    }
}

/// Threads that answer the API.
const API_WORKERS: usize = 1;

/// Loads the state, takes a new term, and answers.
pub async fn start(
    identity: Identity,
    settings: Settings,
    store: Store,
    client: Client,
    secret: Option<Secret>,
) -> io::Result<Running> {
    let listener = proxy::listen(settings.listen, 1)?.into_iter().next();
    let listener = listener.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let listen = listener.local_addr()?;
    let shelf = Shelf::open(settings.data_dir.join("releases")).map_err(io::Error::other)?;
    let binaries = Binaries::open(settings.data_dir.join("binaries")).map_err(io::Error::other)?;
    let sessions = sessions::Sessions::open(&settings.data_dir.join("session-list"), settings.bounds.sessions);
    let sessions = sessions.map_err(io::Error::other)?;
    let disk = records::Disk::new(store);
    let mut control = control::Control::begin(&identity.name, disk, settings.bounds).map_err(io::Error::other)?;
    control.has_secret = secret.is_some();
    control.register(&identity.name, &identity.run, own_registration(listen));
    let arbiter = Arbiter::new();
    let (name, data_dir) = (identity.name.clone(), settings.data_dir.clone());
    let hooks = hooks::Hooks::open(settings.binary, name, data_dir, shelf.clone()).map_err(io::Error::other)?;
    hooks.clear().await;
    let actor = list_actor::ListActor::new(control, identity.clone(), client.clone(), settings.down_after, hooks);
    let list = list_actor::ListActor::start_in_arbiter(&arbiter.handle(), move |_| actor);
    let desk = api::Desk {
        list,
        shelf,
        binaries,
        client,
        identity,
        release_limit: settings.release_limit,
        page_limit: settings.bounds.page,
        sessions: sessions.clone(),
    };
    let telling = actix_rt::spawn(tell_servers(desk.clone()));
    let guard = Guard::new(listen, secret).open("/healthz").open("/readyz");
    let guard = settings.hosts.iter().fold(guard, |guard, host| guard.host(host));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(desk.clone()))
            .app_data(json_config(settings.body_limit))
            .app_data(payload_config(settings.body_limit))
            .wrap(DefaultHeaders::new().add(("Cache-Control", "no-store")))
            .wrap(guard.clone())
            .configure(api::routes)
            .default_service(web::to(not_found))
    })
    .workers(API_WORKERS)
    .max_connections(settings.connections)
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(Running { listen, server: handle, arbiter, sessions, telling })
}
