//! Owns the orphans of an adopted instance (protocol P9d): connections of the dead node process that the instance
//! still has open, and so may still be executing a request of.
//! Must not know gates; the caller counts them against `drained`, and bounds the wait.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use super::sockets::{self, State};

/// The connections that an instance had when its node booted. One that has gone never comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphans {
    port: u16,
    remotes: BTreeSet<SocketAddr>,
}

impl Orphans {
    /// Looks at boot, *before* the first request or probe of this run goes to the instance on `port`.
    pub fn at_boot(port: u16) -> io::Result<Self> {
        Ok(Self { port, remotes: open_remotes(port)? })
    }

    /// How many of them are left now.
    pub fn remaining(&mut self) -> io::Result<usize> {
        if !self.remotes.is_empty() {
            let open = open_remotes(self.port)?;
            self.remotes.retain(|remote| open.contains(remote));
        }
        Ok(self.remotes.len())
    }

    /// The remote ports of those left at the last look.
    pub fn remote_ports(&self) -> Vec<u16> {
        self.remotes.iter().map(SocketAddr::port).collect()
    }
}

/// The peers of the instance's side of open connections: the peer's end may be closed, the instance's is not.
fn open_remotes(port: u16) -> io::Result<BTreeSet<SocketAddr>> {
    let open = |state| matches!(state, State::Established | State::CloseWait);
    let found = sockets::all(|socket| socket.local.port() == port && open(socket.state))?;
    Ok(found.into_iter().map(|socket| socket.remote).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_whose_peer_died_stays_an_orphan_until_the_instance_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dead = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (served, _) = listener.accept().unwrap();
        let mut orphans = Orphans::at_boot(port).unwrap();
        assert_eq!(orphans.remote_ports(), [dead.local_addr().unwrap().port()]);
        drop(dead);
        let _new = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(orphans.remaining().unwrap(), 1, "closed by its peer, not by the instance");
        drop(served);
        assert_eq!(orphans.remaining().unwrap(), 0, "a new connection is no orphan");
    }
}
