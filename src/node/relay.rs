//! Owns how a node's place is taken by another process of it, with another binary: who stops what when, and what happens
//! if the other does not come up. Must not know how sockets travel (`programs::relay`), nor what a role does.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{NodeError, Running, Signal, Signals};
use crate::config::Config;
use crate::programs::relay::{self, Heir, Inherited, Word};
use crate::proxy::handed;
use crate::store::Store;

/// For the other to run, and to read its configuration.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// For the other to open the store and have all its roles up.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// For the last user of the store in the other process to let it go.
const STORE_WITHIN: Duration = Duration::from_secs(20);
const STORE_LOOK: Duration = Duration::from_millis(20);
/// Tries to start a file that is busy.
const BUSY_TRIES: u32 = 50;

/// How handing over ended.
pub enum End {
    /// Another process has this one's place.
    Done,
    /// The other did not come so far that anything was stopped.
    NotBegun { running: Box<Running>, store: Option<Store>, why: String },
    /// The other did not come up: all is to be started again.
    GoesOn { why: String },
}

/// Takes the place of the process that started this one, if one did: its sockets first, then, when it has let it go, the
/// store.
pub fn take_over() -> Result<Option<Inherited>, NodeError> {
    let failed = |error: std::io::Error| NodeError::Failed(format!("the old process does not hand over: {error}"));
    let Some(mut old) = relay::inherited().map_err(failed)? else {
        handed::begin(Vec::new());
        return Ok(None);
    };
    handed::begin(std::mem::take(&mut old.sockets));
    old.tell(Word::Ready).map_err(failed)?;
    old.expect(Word::Go).map_err(failed)?;
    Ok(Some(old))
}

/// All roles are up: the old process may go.
pub fn tell_up(old: &Inherited) -> Result<(), NodeError> {
    old.tell(Word::Up).map_err(|error| NodeError::Failed(format!("the old process has gone: {error}")))
}

/// Opens the store; `patiently`: the process that had it may not have let it go yet.
pub async fn open_store(config: &Config, patiently: bool) -> Result<Store, NodeError> {
    let until = Instant::now() + STORE_WITHIN;
    loop {
        match super::open_store(config) {
            Err(NodeError::Start(_)) if patiently && Instant::now() < until => tokio::time::sleep(STORE_LOOK).await,
            other => return other,
        }
    }
}

/// Hands over to the binary that is at this one's path now. Clients' connections stay with this process until they end;
/// new ones are the other's. TERM cuts those that are left.
pub async fn hand_over(running: Running, store: Option<Store>, binary: &Path, signals: &mut Signals) -> End {
    let heir = match ready(binary).await {
        Ok(heir) => heir,
        Err(error) => {
            tracing::error!(binary = %binary.display(), error, "cannot hand over: nothing was stopped");
            return End::NotBegun { running: Box::new(running), store, why: format!("the new process {error}") };
        }
    };
    tracing::info!(pid = heir.pid(), "hands over");
    let Running { router, app_server, management } = running;
    // One that goes straight to a server of this process has nobody to go to.
    let (router, early) = if app_server.is_some() { (None, router) } else { (router, None) };
    let rest = Running { router: early, app_server, management };
    rest.stop().await;
    drop(store);
    if let Some(router) = &router {
        router.keep().await;
    }
    let up = match heir.tell(Word::Go) {
        Ok(()) => heir.expect(Word::Up, UP_WITHIN).await,
        Err(error) => Err(error),
    };
    if let Err(error) = up {
        tracing::error!(%error, "the process that was to take this one's place did not come up");
        heir.end().await;
        if let Some(router) = router {
            router.stop().await;
        }
        return End::GoesOn { why: format!("the new process did not come up: {error}") };
    }
    if let Some(pid) = heir.pid() {
        relay::tell_main_pid(pid);
    }
    handed::let_go();
    tracing::info!(pid = heir.pid(), "another process has this one's place");
    if let Some(router) = router {
        tokio::select! {
            () = router.retire() => {}
            signal = told_to_stop(signals) => tracing::warn!(signal, "what is left of its connections is cut"),
        }
    }
    tracing::info!("has handed over, and ends");
    End::Done
}

async fn told_to_stop(signals: &mut Signals) -> &'static str {
    loop {
        if let Signal::Stop(signal) = signals.next().await {
            return signal;
        }
    }
}

/// Starts it; a file that was just put there may be open for writing still, in a process that was forked meanwhile.
async fn spawn(binary: &Path) -> std::io::Result<Heir> {
    for _ in 0..BUSY_TRIES {
        match relay::spawn(binary, handed::all()?) {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => tokio::time::sleep(STORE_LOOK).await,
            other => return other,
        }
    }
    Err(ErrorKind::ExecutableFileBusy.into())
}

async fn ready(binary: &Path) -> Result<Heir, String> {
    let told = |error: std::io::Error| error.to_string();
    let heir = spawn(binary).await.map_err(told)?;
    match heir.expect(Word::Ready, READY_WITHIN).await {
        Ok(()) => Ok(heir),
        Err(error) => {
            heir.end().await;
            Err(format!("is not ready: {error}"))
        }
    }
}
