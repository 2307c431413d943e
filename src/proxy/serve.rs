//! Owns a worker: its accept loop, what its connections share, and their orderly end. Must not know what they carry.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use super::buffer::BUFFER_BYTES;
use super::conn;
use super::handler::{Handler, Peer};
use super::limits::Limits;
use super::pool::Pool;
use super::seats::{Seats, Ticket};
use super::stream::Stream;
use super::tls::TlsStream;

/// Between two looks at the idle upstream connections.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Between two tries to make room for those who wait to be connected.
const ROOM_EVERY: Duration = Duration::from_millis(50);
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
    seats: Rc<Seats>,
}

impl Worker {
    fn new(mut limits: Limits) -> Self {
        limits.head_bytes = limits.head_bytes.min(BUFFER_BYTES);
        let pool = Pool::new(&limits);
        Self { limits, pool, draining: Cell::new(false), seats: Rc::default() }
    }

    /// Whether connections are to end after what they are at.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Lists a connection's task, to be woken when the worker drains or needs room.
    pub fn seat(&self, waker: Waker) -> Ticket {
        self.seats.take(waker, &self.limits.crowd)
    }

    fn drain(&self) {
        self.draining.set(true);
        self.seats.wake_all();
    }

    /// All seats are taken, and others wait. Where only the other side may close idle connections, they go on waiting.
    fn make_room(&self) {
        let patience = if self.limits.idle_timeout.is_some() { self.limits.reuse_idle } else { Duration::MAX };
        self.seats.make_room(patience, &self.limits.crowd);
    }
}

/// Where clients come in: one worker's socket on one address.
pub struct Door {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl Door {
    pub fn plain(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }

    /// With TLS as `config` has it; its certificates may change meanwhile.
    pub fn tls(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { listener, tls: Some(config) }
    }
}

/// Serves one worker's doors until shutdown has begun and its last connection has ended; without an idle timeout, idle
/// ones are closed after twice `reuse_idle`. A caller that cannot wait so long drops the future, and with the runtime
/// the connections. Must run inside a `LocalSet` or an actix arbiter.
pub async fn serve<H: Handler>(doors: Vec<Door>, handler: Rc<H>, limits: Limits, shutdown: Shutdown) -> io::Result<()> {
    let doors = Doors { open: doors.into_iter().map(OpenDoor::new).collect::<io::Result<_>>()?, turn: Cell::new(0) };
    let most = u32::try_from(limits.connections).unwrap_or(u32::MAX).max(1);
    let room = Arc::new(Semaphore::new(most as usize));
    let worker = Rc::new(Worker::new(limits));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tokio::select! {
                () = shutdown.wait() => break,
                _ = sweep.tick() => worker.pool.sweep(),
                // Given back at once, for the loop to take.
                _ = room.acquire() => {}
                () = tokio::time::sleep(ROOM_EVERY) => worker.make_room(),
            }
            continue;
        };
        tokio::select! {
            () = shutdown.wait() => break,
            _ = sweep.tick() => worker.pool.sweep(),
            accepted = doors.accept() => match accepted {
                Ok((stream, peer)) => {
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
    drop(doors);
    worker.drain();
    // All permits back: all connections ended. The semaphore is never closed.
    let _ = room.acquire_many(most).await;
    Ok(())
}

struct OpenDoor {
    listener: tokio::net::TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl OpenDoor {
    fn new(Door { listener, tls }: Door) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: tokio::net::TcpListener::from_std(listener)?, tls })
    }
}

struct Doors {
    open: Vec<OpenDoor>,
    /// Which is looked at first, so that a busy one does not keep the others shut.
    turn: Cell<usize>,
}

impl Doors {
    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        let (tls, (tcp, addr)) = poll_fn(|cx| self.poll_accept(cx)).await?;
        tcp.set_nodelay(true)?;
        let stream = match tls {
            Some(config) => Stream::Tls(Box::new(TlsStream::new(tcp, config)?)),
            None => Stream::Plain(tcp),
        };
        Ok((stream, Peer { addr, secure: tls.is_some() }))
    }

    #[expect(clippy::type_complexity, reason = "named by its parts, used once")]
    fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Option<&Arc<ServerConfig>>, (TcpStream, SocketAddr))>> {
        let first = self.turn.replace(self.turn.get().wrapping_add(1));
        for offset in 0..self.open.len() {
            let door = &self.open[first.wrapping_add(offset) % self.open.len()];
            if let Poll::Ready(accepted) = door.listener.poll_accept(cx) {
                return Poll::Ready(accepted.map(|accepted| (door.tls.as_ref(), accepted)));
            }
        }
        Poll::Pending
    }
}
