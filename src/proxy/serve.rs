//! Owns a worker: its accept loop, what its connections share, and their orderly end. Must not know what they carry.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::buffer::{self, BUFFER_BYTES};
use super::conn;
use super::crowd::{self, Told};
use super::handler::{Handler, Peer};
use super::limits::Limits;
use super::lot::Lot;
use super::pool::Pool;
use super::seats::{self, Seats};
use super::stream::Stream;
use super::tls::TlsStream;

/// Between two looks at the parked connections.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The idle upstream connections, each of which costs a system call, are looked at every so many times.
const POOL_TURNS: u32 = 5;
/// Between two tries to make room for those who wait to be connected.
const ROOM_EVERY: Duration = Duration::from_millis(50);
/// After an accept that failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks whether anybody is left of a worker that retires.
const RETIRED_LOOK: Duration = Duration::from_millis(100);

/// Ends listeners in an orderly way: no new connections, idle ones closed, the others closed after their answer.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    end: AtomicU8,
    waiters: Notify,
}

/// How a worker's connections end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum End {
    /// As their clients want.
    #[default]
    NotYet,
    /// After one more request each. To close an idle one would lose the request that may be on its way.
    Retires,
    /// Idle ones at once, the others after what they are at.
    Closes,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn begin(&self) {
        self.tell(End::Closes);
    }

    /// No new connections either; but those there are stay until their next request, which is answered with
    /// `Connection: close`, or until they have been idle for as long as they may be at any time. `begin` may follow.
    pub fn retire(&self) {
        self.tell(End::Retires);
    }

    fn tell(&self, end: End) {
        self.0.end.fetch_max(end as u8, Ordering::AcqRel);
        self.0.waiters.notify_waiters();
    }

    fn has(&self, end: End) -> bool {
        self.0.end.load(Ordering::Acquire) >= end as u8
    }

    /// Waits until idle connections are to be closed, too.
    pub async fn wait(&self) {
        self.told(End::Closes).await;
    }

    async fn told(&self, end: End) {
        loop {
            let mut notified = std::pin::pin!(self.0.waiters.notified());
            notified.as_mut().enable();
            if self.has(end) {
                return;
            }
            notified.await;
        }
    }
}

/// What the connections of one worker share.
pub(super) struct Worker {
    pub limits: Limits,
    pub pool: Pool,
    pub seats: Rc<Seats>,
    pub lot: Lot,
    end: Cell<End>,
    told: Told,
}

impl Worker {
    fn open(mut limits: Limits) -> io::Result<Rc<Self>> {
        limits.head_bytes = limits.head_bytes.min(BUFFER_BYTES);
        let pool = Pool::new(&limits);
        let crowd = &limits.crowd;
        let (seats, lot) = (Seats::new(Arc::clone(crowd)), Lot::open(Arc::clone(crowd))?);
        Ok(Rc::new(Self { limits, pool, seats, lot, end: Cell::default(), told: Told::default() }))
    }

    /// Whether connections are to end after what they are at.
    pub fn is_draining(&self) -> bool {
        self.end.get() >= End::Retires
    }

    /// Whether those that are at nothing are to end, too.
    pub fn closes_idle(&self) -> bool {
        self.end.get() == End::Closes
    }

    /// Waits until no connection is left, parked ones included.
    async fn empty(&self) {
        while self.connections() > 0 {
            tokio::time::sleep(RETIRED_LOOK).await;
        }
    }

    /// Whether idle connections are parked before they are closed.
    pub fn parks(&self) -> bool {
        self.limits.idle_timeout.is_none_or(|idle| idle > self.limits.park_after)
    }

    fn connections(&self) -> usize {
        self.seats.count() + self.lot.count()
    }

    fn is_full(&self) -> bool {
        self.connections() >= self.limits.connections.max(1)
    }

    /// Waits until there is room for one more.
    async fn room(&self) {
        poll_fn(|cx| {
            self.seats.wake_on_room(cx);
            if self.is_full() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// All places are taken, and others wait. Where only the other side may close idle connections, they go on waiting.
    fn make_room(&self) {
        let patience = if self.limits.idle_timeout.is_some() { self.limits.reuse_idle } else { Duration::MAX };
        let most = crowd::share(self.connections());
        let parked = self.lot.make_room(most, patience, Instant::now());
        let gone = parked + self.seats.make_room(most - parked, patience);
        self.told.gave_way(gone, self.connections(), &self.limits.crowd);
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
    let worker = Worker::open(limits)?;
    let mut nudges = handler.nudges();
    tokio::task::spawn_local(seats::tick(Rc::downgrade(&worker.seats)));
    let begin = |stream, peer| {
        let (handler, seat) = (Rc::clone(&handler), worker.seats.take());
        tokio::task::spawn_local(conn::run(stream, peer, handler, Rc::clone(&worker), seat));
    };
    // One that has no peer any more was reset.
    let resume = |tcp: std::net::TcpStream| match tcp.peer_addr().and_then(|addr| Ok((addr, TcpStream::from_std(tcp)?)))
    {
        Ok((addr, tcp)) => begin(Stream::Plain(tcp), Peer { addr, secure: false }),
        Err(_) => worker.seats.tell_room(),
    };
    let serving = async {
        tokio::select! {
            () = shutdown.told(End::Retires) => Ok(()),
            never = sweep(&worker) => never,
            error = worker.lot.leaving(resume) => Err(error),
            never = pass_nudges(&mut nudges, &*handler, &worker) => never,
            never = doors.accept(&worker, begin) => never,
        }
    };
    serving.await?;
    drop(doors);
    worker.end.set(End::Retires);
    let retiring = async {
        tokio::select! {
            () = shutdown.wait() => Ok(()),
            () = worker.empty() => Ok(()),
            never = sweep(&worker) => never,
            error = worker.lot.leaving(resume) => Err(error),
            never = pass_nudges(&mut nudges, &*handler, &worker) => never,
        }
    };
    retiring.await?;
    worker.end.set(End::Closes);
    // Each ends as it would have without having been parked.
    worker.lot.clear(resume);
    worker.seats.wake_all();
    tokio::select! {
        () = worker.seats.empty() => Ok(()),
        never = pass_nudges(&mut nudges, &*handler, &worker) => never,
    }
}

/// Has all of the worker's requests polled whenever some are to be cut; waits for ever where nobody says so.
async fn pass_nudges<H: Handler>(
    nudges: &mut Option<watch::Receiver<()>>,
    handler: &H,
    worker: &Worker,
) -> io::Result<()> {
    if let Some(nudges) = nudges {
        while nudges.changed().await.is_ok() {
            handler.nudged();
            worker.seats.wake_all();
        }
    }
    std::future::pending().await
}

/// Closes what is idle for too long, on both sides, and gives back memory that is not needed.
async fn sweep(worker: &Worker) -> io::Result<()> {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        for _ in 0..POOL_TURNS {
            every.tick().await;
            if let Some(most) = worker.limits.idle_timeout {
                worker.lot.sweep(most, Instant::now());
                worker.seats.tell_room();
            }
        }
        worker.pool.sweep();
        buffer::sweep();
    }
}

struct OpenDoor {
    listener: tokio::net::TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl OpenDoor {
    fn new(Door { listener, tls }: Door) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Handed down to every connection that it takes.
        sockopt::set_tcp_nodelay(&listener, true)?;
        Ok(Self { listener: tokio::net::TcpListener::from_std(listener)?, tls })
    }
}

struct Doors {
    open: Vec<OpenDoor>,
    /// Which is looked at first, so that a busy one does not keep the others shut.
    turn: Cell<usize>,
}

impl Doors {
    /// Takes connections, as many as are there at a time, while there is room.
    async fn accept(&self, worker: &Worker, begin: impl Fn(Stream, Peer)) -> io::Result<()> {
        loop {
            while worker.is_full() {
                tokio::select! {
                    () = worker.room() => {}
                    () = tokio::time::sleep(ROOM_EVERY) => worker.make_room(),
                }
            }
            if let Err(error) = poll_fn(|cx| self.poll_accept_all(cx, worker, &begin)).await {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Ready when there is no more room.
    fn poll_accept_all(
        &self,
        cx: &mut Context<'_>,
        worker: &Worker,
        begin: impl Fn(Stream, Peer),
    ) -> Poll<io::Result<()>> {
        while !worker.is_full() {
            let (stream, peer) = ready!(self.poll_accept(cx))?;
            begin(stream, peer);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let first = self.turn.replace(self.turn.get().wrapping_add(1));
        for offset in 0..self.open.len() {
            let OpenDoor { listener, tls } = &self.open[first.wrapping_add(offset) % self.open.len()];
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                let (tcp, addr) = accepted?;
                let stream = match tls {
                    Some(config) => Stream::Tls(Box::new(TlsStream::new(tcp, config)?)),
                    None => Stream::Plain(tcp),
                };
                return Poll::Ready(Ok((stream, Peer { addr, secure: tls.is_some() })));
            }
        }
        Poll::Pending
    }
}
