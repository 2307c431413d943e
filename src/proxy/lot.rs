//! Owns the client connections that are idle between two requests: parked outside the runtime, a few bytes each, until
//! bytes come or their end does. Must not know what they carried.
//!
//! A task, its socket's place in the runtime and its buffers cost kilobytes; a parked connection is a descriptor in one
//! epoll set, which is itself one descriptor of the runtime. A connection in use never comes here.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::crowd::Crowd;

/// Connections that leave the lot in one go.
const EVENTS: usize = 256;

/// Parked connections.
pub(super) struct Lot {
    epoll: AsyncFd<OwnedFd>,
    places: RefCell<Vec<Option<Parked>>>,
    free: RefCell<Vec<u32>>,
    count: Cell<usize>,
    /// Counts those of all workers.
    crowd: Arc<Crowd>,
    began: Instant,
}

struct Parked {
    stream: TcpStream,
    /// In seconds since the lot was opened: idle since then, and what it was idle before.
    since: u32,
}

impl Lot {
    /// Must be called in the worker's runtime.
    pub fn open(crowd: Arc<Crowd>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` always gives the same descriptor, and keeps it open until the `AsyncFd` drops it.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE)? };
        let (places, free) = (RefCell::default(), RefCell::default());
        Ok(Self { epoll, places, free, count: Cell::new(0), crowd, began: Instant::now() })
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Parks a connection; gives it back where the kernel takes no more.
    pub fn park(&self, stream: TcpStream, idle_since: Instant) -> Result<(), TcpStream> {
        let mut places = self.places.borrow_mut();
        let mut free = self.free.borrow_mut();
        let number = free.last().map_or(places.len(), |number| *number as usize);
        let flags = EventFlags::IN | EventFlags::RDHUP;
        if epoll::add(&self.epoll, &stream, EventData::new_u64(number as u64), flags).is_err() {
            return Err(stream);
        }
        let since = idle_since.saturating_duration_since(self.began).as_secs();
        let parked = Some(Parked { stream, since: u32::try_from(since).unwrap_or(u32::MAX) });
        match places.get_mut(number) {
            Some(place) => {
                free.pop();
                *place = parked;
            }
            None => places.push(parked),
        }
        self.count.set(self.count.get() + 1);
        self.crowd.parked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for connections that have something to read, or have ended, and hands them out. Ends only in an error.
    pub async fn leaving(&self, mut each: impl FnMut(TcpStream)) -> io::Error {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let mut ready = match self.epoll.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            events.clear();
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => {
                    events.iter().filter_map(|event: &Event| self.leave(event.data.u64() as usize)).for_each(&mut each)
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// Hands out all at once.
    pub fn clear(&self, each: impl FnMut(TcpStream)) {
        let all = 0..self.places.borrow().len();
        all.filter_map(|number| self.leave(number)).for_each(each);
    }

    /// Closes what was idle for longer than `most`.
    pub fn sweep(&self, most: Duration, now: Instant) {
        let now = now.saturating_duration_since(self.began);
        let late = |place: &Option<Parked>| {
            // Rounded against the wait: never early.
            place.as_ref().is_some_and(|parked| now > most + Duration::from_secs(u64::from(parked.since) + 1))
        };
        let late: Vec<_> = {
            let places = self.places.borrow();
            places.iter().enumerate().filter(|(_, place)| late(place)).map(|(number, _)| number).collect()
        };
        late.into_iter().for_each(|number| drop(self.leave(number)));
    }

    /// Closes at most so many, of those that were idle for longer than `patience` the longest; how many.
    pub fn make_room(&self, most: usize, patience: Duration, now: Instant) -> usize {
        let now = now.saturating_duration_since(self.began);
        let mut idle: Vec<_> = {
            let places = self.places.borrow();
            let since = |(number, place): (usize, &Option<Parked>)| Some((place.as_ref()?.since, number));
            let long =
                |(since, _): &(u32, usize)| now.saturating_sub(patience) > Duration::from_secs(u64::from(*since) + 1);
            places.iter().enumerate().filter_map(since).filter(long).collect()
        };
        idle.sort_unstable();
        idle.truncate(most);
        idle.iter().filter(|(_, number)| self.leave(*number).is_some()).count()
    }

    fn leave(&self, number: usize) -> Option<TcpStream> {
        let parked = self.places.borrow_mut().get_mut(number)?.take()?;
        // One that cannot be taken out of the set leaves it when it is closed, and its events then mean nobody.
        let _ = epoll::delete(&self.epoll, &parked.stream);
        self.free.borrow_mut().push(u32::try_from(number).ok()?);
        self.count.set(self.count.get() - 1);
        self.crowd.parked.fetch_sub(1, Ordering::Relaxed);
        self.shrink();
        Some(parked.stream)
    }

    /// Gives the memory back once all have left.
    fn shrink(&self) {
        if self.count.get() == 0 {
            self.places.take();
            self.free.take();
        }
    }
}

impl Drop for Lot {
    fn drop(&mut self) {
        self.crowd.parked.fetch_sub(self.count.get() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), test).await.unwrap() });
    }

    /// The next one that leaves.
    async fn leaves(lot: &Lot) -> TcpStream {
        let mut left = None;
        {
            let mut leaving = std::pin::pin!(lot.leaving(|stream| left = Some(stream)));
            std::future::poll_fn(|cx| {
                assert!(leaving.as_mut().poll(cx).is_pending());
                if lot.count() < 2 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
        left.unwrap()
    }

    #[test]
    fn a_parked_connection_leaves_when_bytes_or_its_end_come_and_no_other_does() {
        run(async {
            let crowd = Arc::<Crowd>::default();
            let lot = Lot::open(Arc::clone(&crowd)).unwrap();
            let (mut far, near) = pair();
            let (_silent_far, silent) = pair();
            let (number, silent_number) = (near.peer_addr().unwrap(), silent.peer_addr().unwrap());
            lot.park(near, Instant::now()).unwrap();
            lot.park(silent, Instant::now()).unwrap();
            far.write_all(b"x").unwrap();
            let near = leaves(&lot).await;
            assert_eq!((near.peer_addr().unwrap(), crowd.parked()), (number, 1));
            lot.park(near, Instant::now()).unwrap();
            leaves(&lot).await;
            drop(far);
            let (far, near) = pair();
            lot.park(near, Instant::now()).unwrap();
            drop(far);
            assert_ne!(leaves(&lot).await.peer_addr().unwrap(), silent_number);
            drop(lot);
            assert_eq!(crowd.parked(), 0);
        });
    }

    #[test]
    fn a_sweep_closes_only_what_was_idle_for_too_long() {
        run(async {
            let lot = Lot::open(Arc::default()).unwrap();
            let (_old_far, old) = pair();
            let (_new_far, new) = pair();
            lot.park(old, lot.began).unwrap();
            lot.park(new, lot.began + Duration::from_secs(100)).unwrap();
            for (seconds, left) in [(50, 2), (74, 2), (77, 1), (174, 1), (177, 0)] {
                lot.sweep(Duration::from_secs(75), lot.began + Duration::from_secs(seconds));
                assert_eq!(lot.count(), left, "{seconds}");
            }
            assert!(lot.places.borrow().is_empty(), "the memory was given back");
        });
    }

    #[test]
    fn those_idle_longest_make_room_and_those_just_parked_do_not() {
        run(async {
            let lot = Lot::open(Arc::default()).unwrap();
            let ends: Vec<_> = (0..4).map(|_| pair()).collect();
            let mut far = Vec::new();
            for ((end, near), since) in ends.into_iter().zip([30, 10, 20, 99]) {
                lot.park(near, lot.began + Duration::from_secs(since)).unwrap();
                far.push(end);
            }
            let now = lot.began + Duration::from_secs(100);
            for (closed, left) in [(2, 2), (1, 1), (0, 1)] {
                assert_eq!(lot.make_room(2, Duration::from_secs(5), now), closed);
                assert_eq!(lot.count(), left);
            }
            let mut byte = [0];
            assert_eq!(std::io::Read::read(&mut far[1], &mut byte).unwrap(), 0, "closed");
        });
    }
}
