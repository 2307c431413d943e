//! Owns how a listener comes to be: one socket per worker on one address, and never shared with another process.
//! Must not know what is served.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use super::handed;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that wait to be accepted, per worker.
const BACKLOG: i32 = 4096;

/// Listens on `addr` with one `SO_REUSEPORT` socket per worker; port 0 becomes one free port for all of them. An address
/// in use is an error: it is first bound without `SO_REUSEPORT`, which would share it in silence. Where the process before
/// this one has handed its sockets of the address over, it is these, however many they are.
pub fn listen(addr: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let name = |error: rustix::io::Errno| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
    };
    let kept = handed::take(addr)?;
    if !kept.is_empty() {
        return Ok(kept);
    }
    let probe = bound(addr, false).map_err(name)?;
    let addr = if addr.port() == 0 { TcpListener::from(probe).local_addr()? } else { addr };
    let listeners: Vec<TcpListener> = (0..workers.max(1))
        .map(|_| {
            let socket = bound(addr, true)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(TcpListener::from(socket))
        })
        .collect::<rustix::io::Result<_>>()
        .map_err(name)?;
    handed::keep(addr, &listeners)?;
    Ok(listeners)
}

fn bound(addr: SocketAddr, shared: bool) -> rustix::io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &addr)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_its_own_socket_on_one_port() {
        let listeners = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]));
    }

    #[test]
    fn an_address_in_use_is_refused_by_name() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let addr = first[0].local_addr().unwrap();
        let error = listen(addr, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}
