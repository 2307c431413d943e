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
/// What a connection is taken to stand while idle, until longer or shorter was seen: nobody is known to close sooner
/// without saying so.
const STANDS_AT_FIRST: Duration = Duration::from_secs(1);
/// Left of that time, at the least, when a request is sent that cannot be repeated: either side may be slow to look.
const MARGIN: Duration = Duration::from_millis(500);

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
    by_key: HashMap<u64, Kept, BuildHasherDefault<Spread>>,
    count: usize,
}

/// The idle connections of one identity.
struct Kept {
    idle: Vec<Idle>,
    /// The longest that one was seen to stand while idle; the shortest, once one was found closed sooner.
    stood: Duration,
    /// What the other side said of that.
    keeps_for: Duration,
}

impl Default for Kept {
    fn default() -> Self {
        Self { idle: Vec::new(), stood: STANDS_AT_FIRST, keeps_for: Duration::MAX }
    }
}

impl Kept {
    /// Whether what cannot be repeated may go on one that has been idle for so long.
    fn surely_stands(&self, age: Duration) -> bool {
        let stands = self.stood.min(self.keeps_for);
        age <= stands / 2 && stands - age >= MARGIN
    }

    /// Learns from a connection looked at: who closes idle connections does so after a time of its own, which nobody
    /// tells.
    fn learn(&mut self, age: Duration, stands: bool) {
        self.stood = if stands { self.stood.max(age) } else { self.stood.min(age) };
    }
}

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A request that can be sent again.
    Repeatable,
    /// One that cannot, to who never closes an idle connection.
    OnceToServer,
    /// One that cannot, to who may close an idle connection after a time of its own choice: only on one that was idle for
    /// at most half of what connections were seen, or are said, to stand.
    Once,
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
    pub fn take(&self, key: u64, max_idle: Duration, wanted: Use, about_now: Instant) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        let Connections { by_key, count } = &mut *idle;
        let kept = by_key.get_mut(&key)?;
        let now = if wanted == Use::Repeatable { about_now } else { Instant::now() };
        while let Some(last) = kept.idle.last() {
            // Between two looks at the coarse clock nothing ages.
            let age = if now == last.since { Duration::ZERO } else { now.saturating_duration_since(last.since) };
            if age > max_idle || (wanted == Use::Once && !kept.surely_stands(age)) {
                return None;
            }
            let stream = kept.idle.pop()?.stream;
            *count -= 1;
            let ask_kernel = wanted != Use::Repeatable || age > SURELY_ALIVE;
            let stands = is_quiet(&stream, ask_kernel);
            if ask_kernel {
                kept.learn(age, stands);
            }
            if stands {
                return Some(stream);
            }
            tracing::debug!(?age, "an idle connection had been closed from the other side");
        }
        None
    }

    /// Keeps a connection that is between two requests, if there is room. `since`: when the other side may have begun
    /// to count it as idle, or somewhat before; `keeps_for`: how long it keeps it then, where it says so.
    pub fn put(&self, key: u64, stream: TcpStream, since: Instant, keeps_for: Option<Duration>) {
        let mut idle = self.idle.borrow_mut();
        if idle.count >= self.total {
            return;
        }
        let kept = idle.by_key.entry(key).or_default();
        if let Some(said) = keeps_for {
            kept.keeps_for = said;
        }
        if kept.idle.len() < self.per_key {
            kept.idle.push(Idle { stream, since });
            idle.count += 1;
        }
    }

    /// Closes what was idle for too long, or was closed from the other side.
    pub fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        let Connections { by_key, count } = &mut *idle;
        let now = Instant::now();
        by_key.retain(|_, kept| {
            let before = kept.idle.len();
            let mut idle = std::mem::take(&mut kept.idle);
            idle.retain(|one| {
                let age = now.saturating_duration_since(one.since);
                let stands = is_quiet(&one.stream, true);
                kept.learn(age, stands);
                stands && age <= self.pool_idle
            });
            *count -= before - idle.len();
            kept.idle = idle;
            !kept.idle.is_empty()
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
            pool.put(7, TcpStream::connect(listener.local_addr().unwrap()).await.unwrap(), Instant::now(), None);
        }
        assert_eq!(pool.idle.borrow().count, 1, "no more than the bound");
        pool.sweep();
        assert!(pool.idle.borrow().by_key.is_empty() && pool.idle.borrow().count == 0);
        assert_eq!(listener.accept().unwrap().0.read(&mut [0]).unwrap(), 0);
    }

    /// A pool with one connection, idle for so long, and its other end.
    async fn with_idle(age: Duration) -> (Pool, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pool = Pool::new(&Limits::default());
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        pool.put(7, stream, Instant::now() - age, None);
        (pool, listener.accept().unwrap().0)
    }

    /// Takes the one connection, whatever its age, and puts it back as one idle for so long.
    fn put_again(pool: &Pool, age_ms: u64) {
        let stream = pool.take(7, LONG, Use::OnceToServer, Instant::now()).unwrap();
        pool.put(7, stream, Instant::now() - Duration::from_millis(age_ms), None);
    }

    /// Whether what cannot be repeated may go on a connection that has been idle for so long.
    fn carries(pool: &Pool, age_ms: u64) -> bool {
        put_again(pool, age_ms);
        let Some(stream) = pool.take(7, LONG, Use::Once, Instant::now()) else { return false };
        pool.put(7, stream, Instant::now(), None);
        true
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_cannot_be_repeated_goes_only_where_twice_the_idle_time_is_known_to_stand() {
        let (pool, _other) = with_idle(Duration::ZERO).await;
        assert!(carries(&pool, 400) && !carries(&pool, 600), "a second, until more is seen");
        put_again(&pool, 4_000);
        assert!(pool.take(7, LONG, Use::Repeatable, Instant::now()).is_some_and(|stream| {
            pool.put(7, stream, Instant::now(), None);
            true
        }));
        assert!(carries(&pool, 900) && carries(&pool, 1_900) && !carries(&pool, 2_300), "four seconds were seen");
    }

    #[tokio::test]
    async fn what_a_program_announces_bounds_what_is_seen() {
        let (pool, _other) = with_idle(Duration::ZERO).await;
        for (said, carried, not) in [(0, None, 0), (5, Some(400), 600)] {
            let stream = pool.take(7, LONG, Use::OnceToServer, Instant::now()).unwrap();
            pool.put(7, stream, Instant::now(), Some(Duration::from_secs(said)));
            assert!(carried.is_none_or(|age| carries(&pool, age)) && !carries(&pool, not), "{said}");
        }
    }

    #[tokio::test]
    async fn a_sweep_sees_how_long_connections_stand() {
        let (pool, _other) = with_idle(Duration::from_secs(2)).await;
        pool.sweep();
        assert!(carries(&pool, 900));
    }

    #[tokio::test]
    async fn a_connection_found_closed_shortens_what_is_believed() {
        let (pool, other) = with_idle(Duration::from_millis(600)).await;
        drop(other);
        assert!(pool.take(7, LONG, Use::Repeatable, Instant::now()).is_none());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        pool.put(7, stream, Instant::now(), None);
        assert!(carries(&pool, 50) && !carries(&pool, 200));
    }
}
