//! Owns which ports of a server's range its instances have.
//! Must not know what listens there.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// The ports of one server.
#[derive(Clone, Debug)]
pub struct Ports {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    range: RangeInclusive<u16>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leased: BTreeSet<u16>,
    /// Offset where the next search begins: a port is used again as late as possible.
    next: usize,
}

/// A port that is one instance's; free again when dropped.
#[derive(Debug)]
pub struct PortLease {
    inner: Arc<Inner>,
    port: u16,
}

/// No port of the range is free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "port range used up: of {first}-{last}, {leased} are instances' own and others listen on the rest; \
     widen [app_server] ports"
)]
pub struct PortsUsedUp {
    pub first: u16,
    pub last: u16,
    pub leased: usize,
}

impl Ports {
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { inner: Arc::new(Inner { range, state: Mutex::default() }) }
    }

    /// A port that no instance has and nobody listens on.
    pub fn lease(&self) -> Result<PortLease, PortsUsedUp> {
        let (first, last) = (*self.inner.range.start(), *self.inner.range.end());
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.inner.range.len();
        for step in 0..count {
            let offset = (state.next + step) % count;
            let port = first + offset as u16;
            if !state.leased.contains(&port) && is_free(port) {
                state.next = offset + 1;
                state.leased.insert(port);
                return Ok(PortLease { inner: self.inner.clone(), port });
            }
        }
        Err(PortsUsedUp { first, last, leased: state.leased.len() })
    }

    /// The port of an instance that is adopted: it has it already, in the range or not.
    pub fn adopt(&self, port: u16) -> PortLease {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.leased.insert(port);
        PortLease { inner: self.inner.clone(), port }
    }
}

impl PortLease {
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.leased.remove(&self.port);
    }
}

/// Whether nobody listens there: a listener of our own is put there, and taken away again.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range of `count` ports that were free a moment ago.
    fn free_range(count: u16) -> RangeInclusive<u16> {
        // Tests are processes of their own: each begins elsewhere.
        let begin = 21_000 + (std::process::id() % 500) as u16 * 8;
        for first in (begin..29_000).step_by(count as usize) {
            if (first..first + count).all(is_free) {
                return first..=first + count - 1;
            }
        }
        panic!("no free range");
    }

    #[test]
    fn a_used_up_range_is_an_error_that_names_it_until_a_port_is_freed() {
        let ports = Ports::new(free_range(2));
        let (first, second) = (ports.lease().unwrap(), ports.lease().unwrap());
        assert_ne!(first.port(), second.port());
        let error = ports.lease().unwrap_err();
        assert!(error.to_string().contains("port range used up"), "{error}");
        assert_eq!(error.leased, 2);
        drop(first);
        assert!(ports.lease().is_ok());
    }

    #[test]
    fn a_port_that_someone_listens_on_is_passed_over() {
        let range = free_range(2);
        let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, *range.start())).unwrap();
        assert_eq!(Ports::new(range.clone()).lease().unwrap().port(), *range.end());
    }

    #[test]
    fn a_freed_port_is_the_last_to_be_used_again() {
        let ports = Ports::new(free_range(3));
        let first = ports.lease().unwrap().port();
        assert_ne!(ports.lease().unwrap().port(), first);
    }
}
