//! Owns a worker's connections as the worker sees them: how many there are, whom to wake and when, by a coarse clock.
//! Must not know what they carry.
//!
//! A timer of the runtime for each wait would be set several times a request. Here a wait is a figure at the connection's
//! seat, and one ticker looks at all of them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::crowd::{Crowd, Waits};

/// Between two looks at the clock while anyone is seated. What is due is late by at most two of these, and never early.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// A tick of the coarse clock, since the worker began.
pub(super) type Tick = u64;

/// Seats of the connections that are tasks.
pub(super) struct Seats {
    began: Instant,
    tick: Cell<Tick>,
    at: Cell<Instant>,
    taken: RefCell<Vec<Option<Taken>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<usize>,
    /// Waits for someone to sit down.
    ticker: RefCell<Option<Waker>>,
    /// Waits for room.
    usher: RefCell<Option<Waker>>,
    crowd: Arc<Crowd>,
}

struct Taken {
    /// `None` until the task was first polled.
    waker: Option<Waker>,
    /// To be woken then at the latest.
    due: Cell<Tick>,
    waits: Cell<Waits>,
    /// It is to end, to make room, if it still waits.
    gives_way: Cell<bool>,
}

impl Seats {
    pub fn new(crowd: Arc<Crowd>) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            began: now,
            tick: Cell::new(0),
            at: Cell::new(now),
            taken: RefCell::default(),
            free: RefCell::default(),
            count: Cell::new(0),
            ticker: RefCell::default(),
            usher: RefCell::default(),
            crowd,
        })
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// The time of the last tick: at most a tick behind while anyone is seated, unless the worker was held up.
    pub fn at(&self) -> Instant {
        self.at.get()
    }

    /// Takes a seat, counted from now on, for a task that is about to begin.
    pub fn take(self: &Rc<Self>) -> Seat {
        if self.count.replace(self.count.get() + 1) == 0 {
            // Nobody looked at the clock meanwhile.
            self.look();
            self.ticker.take().into_iter().for_each(Waker::wake);
        }
        self.crowd.seated.fetch_add(1, Ordering::Relaxed);
        let (due, waits, gives_way) = (Cell::new(Tick::MAX), Cell::default(), Cell::new(false));
        let taken = Some(Taken { waker: None, due, waits, gives_way });
        let free = self.free.borrow_mut().pop();
        let mut seats = self.taken.borrow_mut();
        let number = free.unwrap_or(seats.len());
        match seats.get_mut(number) {
            Some(seat) => *seat = taken,
            None => seats.push(taken),
        }
        Seat { seats: Rc::clone(self), number }
    }

    pub fn wake_all(&self) {
        self.taken.borrow().iter().flatten().for_each(Taken::wake);
    }

    /// Has at most so many connections end that have waited longest, and for longer than `patience`: those without a
    /// request first, then those that are slow to tell theirs. A request that is under way is never ended.
    pub fn make_room(&self, most: usize, patience: Duration) -> usize {
        let now = Instant::now();
        let taken = self.taken.borrow();
        let waited = |taken: &&Taken| {
            let since = taken.waits.get().since();
            !taken.gives_way.get() && since.is_some_and(|since| now.saturating_duration_since(since) > patience)
        };
        let mut waiting: Vec<_> = taken.iter().flatten().filter(waited).collect();
        waiting.sort_unstable_by_key(|taken| taken.waits.get());
        waiting.truncate(most);
        for taken in &waiting {
            taken.gives_way.set(true);
            taken.wake();
        }
        waiting.len()
    }

    /// Has the task woken when there may be room again.
    pub fn wake_on_room(&self, cx: &Context<'_>) {
        self.usher.replace(Some(cx.waker().clone()));
    }

    pub fn tell_room(&self) {
        self.usher.take().into_iter().for_each(Waker::wake);
    }

    /// Waits until nobody is seated.
    pub async fn empty(&self) {
        poll_fn(|cx| {
            self.wake_on_room(cx);
            if self.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn look(&self) {
        let now = Instant::now();
        let ticks = now.saturating_duration_since(self.began).as_millis() / TICK.as_millis();
        self.at.set(now);
        self.tick.set(Tick::try_from(ticks).unwrap_or(Tick::MAX));
    }

    /// Wakes all that are due.
    fn tick(&self) {
        self.look();
        let now = self.tick.get();
        for taken in self.taken.borrow().iter().flatten() {
            if taken.due.get() <= now {
                taken.due.set(Tick::MAX);
                taken.wake();
            }
        }
    }
}

impl Taken {
    fn wake(&self) {
        self.waker.iter().for_each(Waker::wake_by_ref);
    }
}

/// Ticks while anyone is seated; ends with the worker.
pub(super) async fn tick(seats: Weak<Seats>) {
    loop {
        let somebody = poll_fn(|cx| {
            let Some(seats) = seats.upgrade() else { return Poll::Ready(false) };
            if seats.count() > 0 {
                return Poll::Ready(true);
            }
            seats.ticker.replace(Some(cx.waker().clone()));
            Poll::Pending
        });
        if !somebody.await {
            return;
        }
        tokio::time::sleep(TICK).await;
        if let Some(seats) = seats.upgrade() {
            seats.tick();
        }
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        // So that the ticker sees that there is nothing left to tick for.
        self.ticker.take().into_iter().for_each(Waker::wake);
    }
}

/// A connection's place among the worker's, given back by drop.
pub(super) struct Seat {
    seats: Rc<Seats>,
    number: usize,
}

impl Seat {
    /// Says whom to wake when the worker drains or the time has come: this task, for as long as it has the seat.
    pub async fn sit(&self) {
        poll_fn(|cx| {
            if let Some(Some(taken)) = self.seats.taken.borrow_mut().get_mut(self.number) {
                taken.waker = Some(cx.waker().clone());
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether this connection is to end, to make room.
    pub fn gives_way(&self) -> bool {
        self.look(|taken| taken.gives_way.get() && taken.waits.get() != Waits::Not).unwrap_or(false)
    }

    pub fn waits_for_request(&self) {
        self.look(|taken| taken.waits.set(Waits::Request(self.seats.at())));
    }

    /// Has begun something that is not to be ended.
    pub fn is_busy(&self) {
        self.look(|taken| {
            taken.waits.set(Waits::Not);
            taken.gives_way.set(false);
        });
    }

    /// Begins to wait for the rest of something, unless it does already.
    pub fn waits_for_rest(&self) {
        self.look(|taken| {
            if !matches!(taken.waits.get(), Waits::Rest(_)) {
                taken.waits.set(Waits::Rest(self.seats.at()));
            }
        });
    }

    #[inline]
    fn look<T>(&self, at: impl FnOnce(&Taken) -> T) -> Option<T> {
        self.seats.taken.borrow().get(self.number).and_then(Option::as_ref).map(at)
    }

    /// The tick at which as much time has surely passed.
    #[inline]
    fn after(&self, wait: Duration) -> Tick {
        let ticks = wait.as_millis().div_ceil(TICK.as_millis()) + 1;
        self.seats.tick.get().saturating_add(Tick::try_from(ticks).unwrap_or(Tick::MAX))
    }

    #[inline]
    fn is_due(&self, due: Tick) -> bool {
        due <= self.seats.tick.get()
    }

    /// Has the task woken at `due` at the latest; what was asked for before holds too.
    #[inline]
    fn wake_at(&self, due: Tick) {
        self.look(|taken| taken.due.set(taken.due.get().min(due)));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.borrow_mut()[self.number] = None;
        self.seats.free.borrow_mut().push(self.number);
        self.seats.count.set(self.seats.count.get() - 1);
        self.seats.crowd.seated.fetch_sub(1, Ordering::Relaxed);
        self.seats.tell_room();
    }
}

/// One time that a seated task waits for at most; setting it costs next to nothing.
pub(super) struct Timer<'s> {
    seat: &'s Seat,
    due: Tick,
}

impl<'s> Timer<'s> {
    pub fn new(seat: &'s Seat) -> Self {
        Self { seat, due: Tick::MAX }
    }

    #[inline]
    pub fn arm(&mut self, after: Duration) {
        self.due = self.seat.after(after);
    }

    /// A timer that is armed.
    pub fn set(seat: &'s Seat, after: Duration) -> Self {
        let mut timer = Self::new(seat);
        timer.arm(after);
        timer
    }

    pub fn disarm(&mut self) {
        self.due = Tick::MAX;
    }

    /// Ready once the time is up; pending for ever when disarmed. Wakes the task whose seat it is.
    #[inline]
    pub fn poll(&self) -> Poll<()> {
        if self.due == Tick::MAX {
            return Poll::Pending;
        }
        if self.seat.is_due(self.due) {
            return Poll::Ready(());
        }
        self.seat.wake_at(self.due);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
