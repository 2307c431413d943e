//! Owns who makes room when as many clients are connected as may be: what each connection waits for, which of them give
//! way, and what is told of it. Must not know how connections begin, or what they carry.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The share of all connections that give way at once.
const FREED_SHARE: usize = 16;
/// Between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What a connection waits for, of what could end without harm to any program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waits {
    /// It does not: something of a request has been sent on, or an answer is given.
    #[default]
    Not,
    /// For a request.
    Request(Instant),
    /// For the rest of a head, or of a small body that is read before it is sent on.
    Rest(Instant),
}

impl Waits {
    pub fn since(self) -> Option<Instant> {
        match self {
            Self::Not => None,
            Self::Request(since) | Self::Rest(since) => Some(since),
        }
    }
}

/// What all workers of a listener count of their connections.
#[derive(Debug, Default)]
pub struct Crowd {
    pub(super) seated: AtomicU64,
    pub(super) parked: AtomicU64,
    gave_way: AtomicU64,
    full: AtomicU64,
}

impl Crowd {
    /// Connections that are open now, parked ones included.
    pub fn open(&self) -> u64 {
        self.seated.load(Ordering::Relaxed) + self.parked()
    }

    /// Connections that are parked now.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Connections that were closed to make room for others.
    pub fn gave_way(&self) -> u64 {
        self.gave_way.load(Ordering::Relaxed)
    }

    /// How often all places were taken and none could be made free.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }
}

/// How many give way at once, of so many.
pub(super) fn share(connections: usize) -> usize {
    (connections / FREED_SHARE).max(1)
}

/// Tells of one worker's connections that gave way, and not too often.
#[derive(Debug, Default)]
pub(super) struct Told {
    warned: Cell<Option<Instant>>,
    gave_way: Cell<u64>,
}

impl Told {
    pub fn gave_way(&self, ended: usize, connections: usize, crowd: &Crowd) {
        self.gave_way.set(self.gave_way.get() + ended as u64);
        crowd.gave_way.fetch_add(ended as u64, Ordering::Relaxed);
        if ended == 0 {
            crowd.full.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        if self.warned.get().is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            return;
        }
        self.warned.set(Some(now));
        let gave_way = self.gave_way.replace(0);
        tracing::warn!(
            connections,
            gave_way,
            "as many clients are connected as limits.connections allows: those that waited longest give way to new ones"
        );
    }
}
