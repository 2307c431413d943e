//! Owns a worker's idle upstream connections, by identity of instance or server (protocol P2c). Must not know what
//! travelled on them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use tokio::net::TcpStream;

use super::limits::Limits;

/// A connection used this recently, by a clock as coarse as that, is checked by what is already known of it, without a
/// system call; where being wrong costs no more than a repeat.
const SURELY_ALIVE: Duration = Duration::from_millis(50);

struct Idle {
    stream: TcpStream,
    since: Instant,
}

/// Idle connections; the last one used is the first reused.
pub(super) struct Pool {
    idle: RefCell<Connections>,
    per_key: usize,
    total: usize,
    pool_idle: Duration,
}

#[derive(Default)]
struct Connections {
    by_key: HashMap<u64, Vec<Idle>, BuildHasherDefault<Spread>>,
    count: usize,
}

/// Spreads keys that a role made up itself, and nobody else can choose.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0.rotate_left(5) ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

impl Pool {
    pub fn new(limits: &Limits) -> Self {
        let (per_key, total, pool_idle) = (limits.pool_per_key, limits.pool_total, limits.pool_idle);
        Self { idle: RefCell::default(), per_key, total, pool_idle }
    }

    /// Takes the last used connection to `key` that has been idle for at most `max_idle` and still stands. `about_now`, of
    /// a coarse clock, does where being wrong costs no more than a repeat.
    pub fn take(&self, key: u64, max_idle: Duration, repeatable: bool, about_now: Instant) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        let Connections { by_key, count } = &mut *idle;
        let connections = by_key.get_mut(&key)?;
        let now = if repeatable { about_now } else { Instant::now() };
        while let Some(last) = connections.last() {
            let age = now.saturating_duration_since(last.since);
            if age > max_idle {
                return None;
            }
            let stream = connections.pop()?.stream;
            *count -= 1;
            if is_quiet(&stream, !repeatable || age > SURELY_ALIVE) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection that is between two requests, if there is room. `since`: not after it became idle.
    pub fn put(&self, key: u64, stream: TcpStream, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.count >= self.total {
            return;
        }
        let connections = idle.by_key.entry(key).or_default();
        if connections.len() < self.per_key {
            connections.push(Idle { stream, since });
            idle.count += 1;
        }
    }

    /// Closes what was idle for too long, or was closed from the other side.
    pub fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        let Connections { by_key, count } = &mut *idle;
        let now = Instant::now();
        by_key.retain(|_, connections| {
            let before = connections.len();
            connections.retain(|one| {
                now.saturating_duration_since(one.since) <= self.pool_idle && is_quiet(&one.stream, true)
            });
            *count -= before - connections.len();
            !connections.is_empty()
        });
    }
}

/// Whether nothing came on an idle connection, not even its end.
fn is_quiet(stream: &TcpStream, ask_kernel: bool) -> bool {
    let mut byte = [0];
    if ask_kernel {
        let peeked = rustix::net::recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        return matches!(peeked, Err(rustix::io::Errno::AGAIN));
    }
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn a_sweep_closes_what_was_idle_for_too_long() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pool = Pool::new(&Limits { pool_idle: Duration::ZERO, pool_total: 1, ..Limits::default() });
        for _ in 0..2 {
            pool.put(7, TcpStream::connect(listener.local_addr().unwrap()).await.unwrap(), Instant::now());
        }
        assert_eq!(pool.idle.borrow().count, 1, "no more than the bound");
        pool.sweep();
        assert!(pool.idle.borrow().by_key.is_empty() && pool.idle.borrow().count == 0);
        assert_eq!(listener.accept().unwrap().0.read(&mut [0]).unwrap(), 0);
    }
}
