//! Owns a worker: its accept loop, what its connections share, and their orderly end. Must not know what they carry.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::buffer::BUFFER_BYTES;
use super::conn;
use super::handler::Handler;
use super::limits::Limits;
use super::pool::Pool;

/// Between two looks at the idle upstream connections.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// After an accept that failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ends listeners in an orderly way: no new connections, idle ones closed, the others closed after their answer.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    begun: AtomicBool,
    waiters: Notify,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.waiters.notify_waiters();
    }

    pub fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    pub async fn wait(&self) {
        let mut notified = std::pin::pin!(self.0.waiters.notified());
        notified.as_mut().enable();
        if !self.has_begun() {
            notified.await;
        }
    }
}

/// What the connections of one worker share.
pub(super) struct Worker {
    pub limits: Limits,
    pub pool: Pool,
    draining: Cell<bool>,
    seats: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Worker {
    fn new(mut limits: Limits) -> Self {
        limits.head_bytes = limits.head_bytes.min(BUFFER_BYTES);
        let pool = Pool::new(&limits);
        Self { limits, pool, draining: Cell::new(false), seats: RefCell::default(), free: RefCell::default() }
    }

    /// Whether connections are to end after what they are at.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Lists a connection's task, to be woken when the worker drains.
    pub fn seat(self: &Rc<Self>, waker: Waker) -> Seat {
        let number = self.free.borrow_mut().pop();
        let mut seats = self.seats.borrow_mut();
        let number = number.unwrap_or_else(|| {
            seats.push(None);
            seats.len() - 1
        });
        seats[number] = Some(waker);
        Seat { worker: Rc::clone(self), number }
    }

    fn drain(&self) {
        self.draining.set(true);
        self.seats.borrow().iter().flatten().for_each(Waker::wake_by_ref);
    }
}

/// A connection's place in the worker's list, given back by drop.
pub(super) struct Seat {
    worker: Rc<Worker>,
    number: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.seats.borrow_mut()[self.number] = None;
        self.worker.free.borrow_mut().push(self.number);
    }
}

/// Serves one worker's listener until shutdown has begun and its last connection has ended; without an idle timeout, idle
/// ones are closed after twice `reuse_idle`. A caller that cannot wait so long drops the future, and with the runtime
/// the connections. Must run inside a `LocalSet` or an actix arbiter.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Rc<H>,
    limits: Limits,
    shutdown: Shutdown,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let most = u32::try_from(limits.connections).unwrap_or(u32::MAX).max(1);
    let room = Arc::new(Semaphore::new(most as usize));
    let worker = Rc::new(Worker::new(limits));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            _ = sweep.tick() => worker.pool.sweep(),
            accepted = accept(&listener, &room) => match accepted {
                Ok((stream, peer, permit)) => {
                    let connection = conn::run(stream, peer, Rc::clone(&handler), Rc::clone(&worker));
                    tokio::task::spawn_local(async move {
                        let _permit = permit;
                        connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    worker.drain();
    // All permits back: all connections ended. The semaphore is never closed.
    let _ = room.acquire_many(most).await;
    Ok(())
}

async fn accept(
    listener: &tokio::net::TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, std::net::SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}
