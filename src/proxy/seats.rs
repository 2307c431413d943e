//! Owns a worker's list of connections: what each waits for, and which make room for others when there are too many.
//! Must not know how connections begin, or what they carry.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The share of all seats that are made free at once.
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
    fn since(self) -> Option<Instant> {
        match self {
            Self::Not => None,
            Self::Request(since) | Self::Rest(since) => Some(since),
        }
    }
}

/// A connection's place in the list.
pub(super) struct Seat {
    pub waits: Cell<Waits>,
    gives_way: Cell<bool>,
    waker: Waker,
}

impl Seat {
    /// Whether this connection is to end, to make room.
    pub fn gives_way(&self) -> bool {
        self.gives_way.get() && self.waits.get() != Waits::Not
    }

    pub fn waits_for_request(&self) {
        self.waits.set(Waits::Request(Instant::now()));
    }

    /// Has begun something that is not to be ended.
    pub fn is_busy(&self) {
        self.waits.set(Waits::Not);
        self.gives_way.set(false);
    }

    /// Begins to wait for the rest of something, unless it does already.
    pub fn waits_for_rest(&self) {
        if !matches!(self.waits.get(), Waits::Rest(_)) {
            self.waits.set(Waits::Rest(Instant::now()));
        }
    }
}

/// What all workers of a listener count of their connections.
#[derive(Debug, Default)]
pub struct Crowd {
    open: AtomicU64,
    gave_way: AtomicU64,
    full: AtomicU64,
}

impl Crowd {
    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were closed to make room for others.
    pub fn gave_way(&self) -> u64 {
        self.gave_way.load(Ordering::Relaxed)
    }

    /// How often all seats were taken and none could be made free.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }
}

/// All connections of one worker.
#[derive(Default)]
pub(super) struct Seats {
    taken: RefCell<Vec<Option<Rc<Seat>>>>,
    free: RefCell<Vec<usize>>,
    warned: Cell<Option<Instant>>,
    gave_way: Cell<u64>,
}

impl Seats {
    /// Lists a connection's task until the ticket is dropped.
    pub fn take(self: &Rc<Self>, waker: Waker, crowd: &std::sync::Arc<Crowd>) -> Ticket {
        let seat = Rc::new(Seat { waits: Cell::default(), gives_way: Cell::new(false), waker });
        let number = self.free.borrow_mut().pop();
        let mut taken = self.taken.borrow_mut();
        let number = number.unwrap_or_else(|| {
            taken.push(None);
            taken.len() - 1
        });
        taken[number] = Some(Rc::clone(&seat));
        crowd.open.fetch_add(1, Ordering::Relaxed);
        Ticket { seats: Rc::clone(self), crowd: std::sync::Arc::clone(crowd), seat, number }
    }

    pub fn wake_all(&self) {
        self.taken.borrow().iter().flatten().for_each(|seat| seat.waker.wake_by_ref());
    }

    /// Has connections end that have waited longest, and for longer than `patience`: those without a request first, then
    /// those that are slow to tell theirs. A request that is under way is never ended.
    pub fn make_room(&self, patience: Duration, crowd: &Crowd) {
        let now = Instant::now();
        let taken = self.taken.borrow();
        let mut waiting: Vec<_> = taken
            .iter()
            .flatten()
            .filter(|seat| seat.waits.get().since().is_some_and(|since| now.duration_since(since) > patience))
            .filter(|seat| !seat.gives_way.get())
            .collect();
        waiting.sort_unstable_by_key(|seat| seat.waits.get());
        waiting.truncate((taken.len() / FREED_SHARE).max(1));
        for seat in &waiting {
            seat.gives_way.set(true);
            seat.waker.wake_by_ref();
        }
        self.told(now, waiting.len() as u64, taken.len(), crowd);
    }

    fn told(&self, now: Instant, ended: u64, seats: usize, crowd: &Crowd) {
        self.gave_way.set(self.gave_way.get() + ended);
        crowd.gave_way.fetch_add(ended, Ordering::Relaxed);
        if ended == 0 {
            crowd.full.fetch_add(1, Ordering::Relaxed);
        }
        if self.warned.get().is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            return;
        }
        self.warned.set(Some(now));
        let gave_way = self.gave_way.replace(0);
        tracing::warn!(
            connections = seats,
            gave_way,
            "as many clients are connected as limits.connections allows: those that waited longest give way to new ones"
        );
    }
}

/// A seat that is taken; given back by drop.
pub(super) struct Ticket {
    seats: Rc<Seats>,
    crowd: std::sync::Arc<Crowd>,
    pub seat: Rc<Seat>,
    number: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.crowd.open.fetch_sub(1, Ordering::Relaxed);
        self.seats.taken.borrow_mut()[self.number] = None;
        self.seats.free.borrow_mut().push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn those_without_a_request_give_way_first_and_then_those_slow_to_tell_theirs() {
        let (seats, crowd) = (Rc::new(Seats::default()), Arc::new(Crowd::default()));
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        let kinds =
            [Waits::Not, Waits::Rest(ago(9)), Waits::Request(ago(5)), Waits::Request(ago(7)), Waits::Request(ago(1))];
        let tickets: Vec<_> = kinds
            .into_iter()
            .map(|waits| {
                let ticket = seats.take(Waker::noop().clone(), &crowd);
                ticket.seat.waits.set(waits);
                ticket
            })
            .collect();
        let ended = || tickets.iter().map(|ticket| ticket.seat.gives_way()).collect::<Vec<_>>();
        for due in [[0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0]] {
            seats.make_room(Duration::from_secs(2), &crowd);
            assert_eq!(ended(), due.map(|one| one == 1));
        }
        assert_eq!((crowd.open(), crowd.gave_way(), crowd.full()), (5, 3, 1));
        drop(tickets);
        assert_eq!(crowd.open(), 0);
    }
}
