//! Owns every bound of the request path, by name. Must not know where the figures are configured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::buffer::BUFFER_BYTES;
use super::crowd::Crowd;

/// Fields of one head, of a client's request or a program's answer.
pub(super) const FIELDS: usize = 100;
/// Fields of one head from node to node: with those that a node adds.
pub(super) const FIELDS_BETWEEN_NODES: usize = 120;
/// Bytes likewise.
const HEAD_BYTES: usize = 30 * 1024;
const HEAD_BYTES_BETWEEN_NODES: usize = BUFFER_BYTES;

/// What a head of an answer may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadBounds {
    pub fields: usize,
    pub bytes: usize,
}

/// A program's: a server adds to it, and its router still takes it.
pub(super) const OF_PROGRAM: HeadBounds = HeadBounds { fields: FIELDS, bytes: HEAD_BYTES };
pub(super) const OF_SERVER: HeadBounds = HeadBounds { fields: FIELDS_BETWEEN_NODES, bytes: HEAD_BYTES_BETWEEN_NODES };

/// The bounds of one listener. Per worker where it says so.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's head, at most `BUFFER_BYTES`; more is 431.
    pub head_bytes: usize,
    /// Fields of a request's head, at most `HEADERS`; more is 431.
    pub fields: usize,
    /// Bytes of a request's target; more is 414.
    pub target_bytes: usize,
    /// From a connection's begin to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// From a head's first byte to its last; then 408.
    pub head_timeout: Duration,
    /// A connection without a request is closed after this. `None` on a server's data port: only routers close
    /// (P2c), save at the node's end.
    pub idle_timeout: Option<Duration>,
    /// A connection idle for so long is parked: it then costs some bytes instead of kilobytes, and some microseconds when
    /// it is used again. Longer than the pauses of one that is busy.
    pub park_after: Duration,
    /// Between two pieces of a request's body; then 408.
    pub body_idle: Duration,
    /// A client that takes next to nothing of its answer for this long has left.
    pub write_idle: Duration,
    /// A tunnel closed on one side, and silent on the other for this long, ends.
    pub half_closed: Duration,
    pub connect_timeout: Duration,
    /// Client connections per worker. Beyond them, those that waited longest for a request give way, where they may be
    /// closed at all; others wait in the kernel's queue.
    pub connections: usize,
    /// The count of them, over all workers.
    pub crowd: Arc<Crowd>,
    /// Bytes of a body that is kept to be sent again (P2f).
    pub replay_bytes: u64,
    /// All replay buffers of a node.
    pub replay_budget: Arc<ReplayBudget>,
    /// A request that is not safe to repeat never travels on a connection idle for longer (P2c).
    pub reuse_idle: Duration,
    /// Idle upstream connections are closed after this.
    pub pool_idle: Duration,
    /// Idle upstream connections of one instance or server, per worker.
    pub pool_per_key: usize,
    /// Idle upstream connections altogether, per worker.
    pub pool_total: usize,
    /// How long, and for how many bytes, a closing connection reads on so that its client gets the answer.
    pub linger: Duration,
    pub linger_bytes: u64,
    /// Whether a `100 Continue` says that the request was admitted (P2f): true on a server's data port. Then it is never
    /// sent before a target took the connection; else it is sent when neap wants the body.
    pub continue_is_admission: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: HEAD_BYTES,
            fields: FIELDS,
            target_bytes: 8 * 1024,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_secs(75)),
            park_after: Duration::from_millis(250),
            body_idle: Duration::from_secs(30),
            write_idle: Duration::from_secs(60),
            half_closed: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            connections: 16 * 1024,
            crowd: Arc::default(),
            replay_bytes: 64 * 1024,
            replay_budget: Arc::new(ReplayBudget::new(64 * 1024 * 1024)),
            reuse_idle: Duration::from_secs(1),
            pool_idle: Duration::from_secs(60),
            pool_per_key: 1024,
            pool_total: 4096,
            linger: Duration::from_secs(2),
            linger_bytes: 16 * 1024 * 1024,
            continue_is_admission: false,
        }
    }
}

impl Limits {
    /// The bounds of a server's data port: no idle timeout, `100 Continue` is admission, room for what a router adds to the
    /// largest head that it takes; and slow clients are left to routers, which pass on in bursts what their clients take
    /// or give steadily.
    pub fn of_data_port() -> Self {
        let long = Duration::from_secs(600);
        Self {
            head_bytes: HEAD_BYTES_BETWEEN_NODES,
            fields: FIELDS_BETWEEN_NODES,
            idle_timeout: None,
            body_idle: long,
            write_idle: long,
            continue_is_admission: true,
            ..Self::default()
        }
    }
}

/// Bytes that all workers together may keep to send again.
#[derive(Debug)]
pub struct ReplayBudget {
    left: AtomicUsize,
}

impl ReplayBudget {
    pub fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes) }
    }

    /// Bytes not reserved now.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `bytes` of the budget until the reservation is dropped; `None` when too little is left.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.ok().map(|_| Reservation { budget: Arc::clone(self), bytes })
    }
}

/// A part of the replay budget, given back by drop.
pub(super) struct Reservation {
    budget: Arc<ReplayBudget>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_given_back_by_drop() {
        let budget = Arc::new(ReplayBudget::new(10));
        let held = budget.reserve(8);
        assert!(held.is_some() && budget.reserve(3).is_none());
        drop(held);
        assert_eq!(budget.left(), 10);
    }
}
