//! Owns this process's listening sockets a second time, by address: what is handed to the process that takes its place,
//! and what came from the one before. A socket that is closed and bound anew would reset the connections in its queue.
//! Must not know how sockets travel, nor who listens.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `None`: nothing is kept, for this process hands nothing over.
static KEPT: Mutex<Option<BTreeMap<SocketAddr, Vec<OwnedFd>>>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<BTreeMap<SocketAddr, Vec<OwnedFd>>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps listeners from now on, beginning with those that came from the process before.
pub fn begin(inherited: Vec<(SocketAddr, OwnedFd)>) {
    let mut all = BTreeMap::<SocketAddr, Vec<OwnedFd>>::new();
    for (addr, socket) in inherited {
        all.entry(addr).or_default().push(socket);
    }
    *kept() = Some(all);
}

/// The sockets of an address, all of them, whatever the number of workers: one that nobody listened on would hold what
/// is in its queue for ever. None: there are none yet.
pub fn take(addr: SocketAddr) -> io::Result<Vec<TcpListener>> {
    let kept = kept();
    let sockets = kept.as_ref().and_then(|all| all.get(&addr)).map(Vec::as_slice).unwrap_or_default();
    sockets.iter().map(|socket| Ok(TcpListener::from(socket.as_fd().try_clone_to_owned()?))).collect()
}

/// Keeps the sockets of an address, too.
pub fn keep(addr: SocketAddr, listeners: &[TcpListener]) -> io::Result<()> {
    if let Some(all) = kept().as_mut() {
        let sockets = listeners.iter().map(|listener| listener.as_fd().try_clone_to_owned());
        all.insert(addr, sockets.collect::<io::Result<_>>()?);
    }
    Ok(())
}

/// All of them, to be handed over.
pub fn all() -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
    let kept = kept();
    let sockets = kept.iter().flatten().flat_map(|(addr, sockets)| sockets.iter().map(move |socket| (addr, socket)));
    sockets.map(|(addr, socket)| Ok((*addr, socket.as_fd().try_clone_to_owned()?))).collect()
}

/// Keeps them no longer: another process has them.
pub fn let_go() {
    *kept() = None;
}
