//! Owns what becomes of this server's sessions beyond its memory: they are on its own disk and at management half a second
//! later, and begin again from there; and the data that programs keep in them. Must not know how a session begins, or
//! how a request tells of one.
//!
//! ```text
//! disk     the server's own store of sessions, restored at its start
//! teller   batches of what changed, to disk and to each management; P16's "take"
//! arrivals sessions that come from another server
//! data     a session's data: here, at management, or at the server where the session was
//! away     what management has not got of it yet
//! turns    one after another works on a session's data
//! sources  who is asked for data: management, and the server before
//! port     where programs find it, on loopback; and what other servers ask
//! ```

pub mod arrivals;
mod away;
pub mod data;
pub mod disk;
#[cfg(test)]
mod elsewhere_tests;
pub mod port;
mod sources;
pub mod teller;
#[cfg(test)]
mod tests;
mod turns;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::records;
use super::session_lists::SessionLists;
use super::settings::Settings;
use crate::domain::names::ProgramName;
use crate::domain::session::{Place, SessionId, WallMillis};
use crate::domain::session_list::{Change, End, Session};
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::programs::ports::{PortLease, Ports};
use crate::programs::session_url::SessionUrl;
use crate::store::{Store, StoreError};

use arrivals::{Arrivals, Came};
use data::SessionData;
use disk::Disk;
use teller::{Links, Teller};

/// The server's own lists, as this part of it sees them.
pub trait Lists: Send + Sync {
    /// Programs with sessions, or that may have them.
    fn programs(&self) -> Vec<ProgramName>;
    fn idle(&self, program: &ProgramName) -> WallMillis;
    /// Where sessions of the program that begin now are at home.
    fn place(&self, program: &ProgramName) -> Option<Place>;
    /// What happened since it was last asked, at most so much of it.
    fn take_changes(&self, program: &ProgramName, most: usize) -> Vec<Change>;
    /// Ends those that were idle for long, a part of them at a time.
    fn expire(&self, program: &ProgramName, now: WallMillis);
    /// Every session counts as changed.
    fn change_all(&self, program: &ProgramName);
    fn restore(&self, program: &ProgramName, session: &Session);
    /// Whether it is listed here.
    fn contains(&self, program: &ProgramName, id: SessionId) -> bool;
    /// Whether a program may keep data in it: it is listed, or a request under way may begin it.
    fn knows(&self, program: &ProgramName, id: SessionId) -> bool;
    /// Data is kept in it: one that a request under way may begin has begun.
    fn keep(&self, program: &ProgramName, id: SessionId);
    /// Of how many management has not got the data: it is told so with each heartbeat.
    fn note_only_here(&self, count: usize);
    /// Whether it was here.
    fn end(&self, program: &ProgramName, id: SessionId, how: End) -> bool;
}

/// All of it, opened; and run, from [`Self::run`] on.
pub struct Keeping {
    pub lists: Arc<SessionLists>,
    pub links: Links,
    pub data: SessionData,
    pub urls: SessionUrl,
    disk: Disk,
    is_new: bool,
    listener: TcpListener,
    due: mpsc::Receiver<Came>,
    /// No instance is given the port.
    port: Option<PortLease>,
}

/// What goes on of it until the server stops.
pub struct Kept {
    pub tasks: Vec<JoinHandle<()>>,
    handle: ServerHandle,
    lists: Arc<SessionLists>,
    disk: Disk,
    _port: Option<PortLease>,
}

impl Keeping {
    /// Opens the store, has sessions begin again, and takes the port where programs ask.
    pub fn open(
        identity: &Identity,
        client: &Client,
        settings: &Settings,
        ports: &Ports,
        store: &Store,
    ) -> Result<Self, KeepingError> {
        let lists = Arc::new(SessionLists::new(settings.bounds.sessions));
        let (disk, sessions, is_new) = Disk::open(&settings.data_dir.join("sessions"), lists.as_ref())?;
        let (key, earlier) = records::tokens(store)?;
        // One of the instances' range, so that the system gives it to nobody else between two runs.
        let wanted = match earlier {
            Some(port) => Some(ports.adopt(port)),
            None => ports.lease().ok(),
        };
        let listener = port::listen(wanted.as_ref().map(PortLease::port))?;
        let at = listener.local_addr()?;
        if earlier != Some(at.port()) {
            records::save_session_port(store, at.port())?;
        }
        if sessions > 0 {
            tracing::info!(sessions, "sessions begin again");
        }
        let links =
            Links { identity: identity.clone(), client: client.clone(), management: settings.management.clone() };
        let (arrivals, due) = Arrivals::begin();
        let arrivals = Arc::new(arrivals);
        lists.tell_arrivals_to(arrivals.clone());
        let data = SessionData::begin(links.clone(), lists.clone(), disk.clone(), arrivals);
        let urls = SessionUrl::new(format!("http://{at}"), &key);
        Ok(Self { lists, links, data, urls, disk, is_new, listener, due, port: wanted })
    }

    /// Begins to serve programs, and to tell what changes. On an actix system.
    pub fn run(self) -> io::Result<Kept> {
        let Self { lists, links, data, urls, disk, is_new, listener, due, port } = self;
        let teller = Teller::new(links, lists.clone(), disk.clone(), data.clone(), is_new);
        let desk = port::Desk { urls, lists: lists.clone(), data: data.clone() };
        let handle = port::serve(listener, desk)?;
        let tasks = vec![tokio::task::spawn_local(teller.run()), tokio::task::spawn_local(data.take_all(due))];
        Ok(Kept { tasks, handle, lists, disk, _port: port })
    }
}

impl Kept {
    /// Ends, with all that is known on disk. Its tasks have ended before.
    pub async fn stop(self) {
        self.handle.stop(true).await;
        self.disk.stop(self.lists.as_ref());
    }
}

/// Why it did not open.
#[derive(Debug, thiserror::Error)]
pub enum KeepingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("where programs ask for their sessions' data: {0}")]
    Listen(#[from] io::Error),
}

/// The wall clock: sessions outlive runs.
pub fn now() -> WallMillis {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
