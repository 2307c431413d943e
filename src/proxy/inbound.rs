//! Owns the two sides of a client's connection: bytes read and not yet used, bytes written within their time.
//! Must not know HTTP.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::ioctl;
use rustix::net::sockopt;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::buffer::Input;
use super::seats::{Seat, Timer};
use super::splice;
use super::stream::{Reader, Stream, Writer};

/// A peer that takes less in all the time it has has stopped reading, or wants to hold what it has.
const LEAST_TAKEN: u64 = 1024;
/// Bytes of an answer that the kernel keeps beyond those that are on their way. Of many clients each may read slowly.
const UNSENT_BYTES: u32 = 32 * 1024;
/// Asks for the bytes that wait in a connection's send buffer.
const SIOCOUTQ: ioctl::Opcode = 0x5411;

/// A client's connection.
pub(super) struct Client<'c> {
    pub inbound: Inbound<'c>,
    pub outbound: Outbound<'c>,
    /// Of the upstream's answer; kept here because it is set for every request.
    pub upstream_timer: Timer<'c>,
    /// The connection's, for further timers.
    pub seat: &'c Seat,
}

impl<'c> Client<'c> {
    pub fn new(stream: &'c mut Stream, seat: &'c Seat, stall: Duration) -> Self {
        let (reader, writer) = stream.split();
        let (inbound, outbound) = (Inbound::new(reader, seat), Outbound::new(writer, seat, stall));
        Self { inbound, outbound, upstream_timer: Timer::new(seat), seat }
    }
}

/// Lets the kernel find out, within a minute, that the machine at the other end is gone. For connections on which this
/// side may wait for ever: a failure costs this knowledge only.
pub(super) fn watch_peer(stream: &TcpStream) {
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_socket_keepalive(stream, true);
}

/// Keeps no more in the kernel than a peer is about to take, where much is sent: a peer that takes nothing would else cost
/// megabytes, and that it takes little would not show for minutes. A failure costs only that.
pub(super) fn keep_little_unsent(stream: &TcpStream, bytes: u32) {
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
}

/// What a client sends.
pub(super) struct Inbound<'c> {
    pub reader: Reader<'c>,
    pub input: Input,
    /// The client sends no more: it closed its side, or the connection broke.
    pub ended: bool,
    pub seat: &'c Seat,
    timer: Timer<'c>,
}

/// Why no more bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoBytes {
    Ended,
    Late,
}

/// Reads once into the room of `input`; 0 is the end. An empty input holds no memory while it waits.
pub(super) fn poll_fill<R: AsyncRead + Unpin>(
    reader: &mut R,
    input: &mut Input,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(input.room());
    debug_assert!(room.remaining() > 0);
    let Poll::Ready(read) = Pin::new(reader).poll_read(cx, &mut room) else {
        input.release();
        return Poll::Pending;
    };
    let bytes = room.filled().len();
    input.fill(bytes);
    Poll::Ready(read.map(|()| bytes))
}

impl<'c> Inbound<'c> {
    fn new(reader: Reader<'c>, seat: &'c Seat) -> Self {
        Self { reader, input: Input::default(), ended: false, seat, timer: Timer::new(seat) }
    }

    /// Reads once; 0 is the end, whichever way it came.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.ended {
            return Poll::Ready(0);
        }
        let read = ready!(poll_fill(&mut self.reader, &mut self.input, cx)).unwrap_or(0);
        self.ended = read == 0;
        Poll::Ready(read)
    }

    /// Sets the time that [`Inbound::fill`] has, over several calls.
    pub fn expect_within(&mut self, limit: Option<Duration>) {
        match limit {
            Some(limit) => self.timer.arm(limit),
            None => self.timer.disarm(),
        }
    }

    /// Waits for bytes, until the client ends, the time is up, it is to give way to others, or `stop` says so (all of which
    /// count as late).
    pub async fn fill(&mut self, stop: impl Fn() -> bool) -> Result<(), NoBytes> {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.poll_fill(cx) {
                return Poll::Ready(if read > 0 { Ok(()) } else { Err(NoBytes::Ended) });
            }
            if stop() || self.seat.gives_way() {
                Poll::Ready(Err(NoBytes::Late))
            } else {
                self.timer.poll().map(|()| Err(NoBytes::Late))
            }
        })
        .await
    }

    /// Whether nothing was sent ahead, as far as is known without a system call.
    pub async fn is_quiet(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.input.is_empty() && (self.ended || self.poll_fill(cx).is_pending()))).await
    }

    /// Ready when the client has left. A client that closes its side while it waits for an answer counts as having left,
    /// since closing the whole connection looks the same from here; but not when `may_half_close`: who announced
    /// `Connection: close` may well send its end early, and its leaving shows when it is written to. One that sent a
    /// whole buffer ahead is not watched.
    pub fn poll_left(&mut self, cx: &mut Context<'_>, may_half_close: bool) -> Poll<()> {
        while !self.ended {
            if self.input.is_full() {
                return Poll::Pending;
            }
            ready!(self.poll_fill(cx));
        }
        if may_half_close { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether the client has left, as far as that shows before what it sent ahead is read. Its side's end alone is no
    /// leaving where it `may_half_close`, and its last bytes may still be wanted then.
    pub fn is_gone(&self, may_half_close: bool) -> bool {
        let ready = self.reader.tcp().ready(Interest::READABLE | Interest::WRITABLE).now_or_never();
        let Some(Ok(ready)) = ready else { return false };
        if may_half_close { ready.is_write_closed() } else { ready.is_read_closed() }
    }

    /// Reads and drops what comes, up to `bytes`, until the end or the time set.
    pub async fn discard(&mut self, mut bytes: u64) {
        while bytes > 0 {
            bytes = bytes.saturating_sub(self.input.len() as u64);
            self.input.consume(self.input.len());
            if self.fill(|| false).await.is_err() {
                return;
            }
        }
    }
}

/// What a client gets.
pub(super) struct Outbound<'c> {
    pub writer: Writer<'c>,
    /// When the client first had to be waited for; whoever wants to know clears it before.
    pub stalled: Option<Instant>,
    keeps_little: bool,
    timer: Timer<'c>,
    /// A client that takes nothing for this long has left.
    stall: Duration,
}

impl<'c> Outbound<'c> {
    fn new(writer: Writer<'c>, seat: &'c Seat, stall: Duration) -> Self {
        Self { writer, stalled: None, keeps_little: false, timer: Timer::new(seat), stall }
    }

    /// Much is sent on this connection.
    pub fn keep_little_unsent(&mut self) {
        if !std::mem::replace(&mut self.keeps_little, true) {
            keep_little_unsent(self.writer.tcp(), UNSENT_BYTES);
        }
    }

    /// Tells the client that nothing more comes, in order.
    pub async fn end(&mut self) -> io::Result<()> {
        let mut armed = false;
        poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut self.writer).poll_shutdown(cx) {
                return Poll::Ready(ended);
            }
            // TLS has a last word, which a client that takes nothing does not take either.
            if !std::mem::replace(&mut armed, true) {
                self.timer.arm(self.stall);
            }
            self.timer.poll().map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_both(bytes, &[]).await
    }

    /// Writes one after the other, in one system call where the kernel takes both.
    pub async fn write_both(&mut self, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
        // Mostly the kernel takes all of it without being waited for.
        if second.is_empty() && !first.is_empty() {
            match self.writer.try_write(first) {
                Ok(written) if written == first.len() => return Ok(()),
                Ok(written) => first = &first[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut waits = None;
        poll_fn(|cx| {
            while !(first.is_empty() && second.is_empty()) {
                let writer = Pin::new(&mut self.writer);
                let polled = match (first.is_empty(), second.is_empty()) {
                    (false, false) => writer.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)]),
                    (false, true) => writer.poll_write(cx, first),
                    _ => writer.poll_write(cx, second),
                };
                match polled {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => {
                        let of_first = written.min(first.len());
                        (first, second) = (&first[of_first..], &second[written - of_first..]);
                        waits = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.stalled.get_or_insert_with(Instant::now);
                        return poll_taken(self.writer.tcp(), &mut waits, &mut self.timer, self.stall)
                            .map(|()| Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Writes so many bytes that are in a pipe; for a plain socket.
    pub async fn write_from(&mut self, pipe: &OwnedFd, mut bytes: usize) -> io::Result<()> {
        let mut waits = None;
        poll_fn(|cx| {
            let tcp = self.writer.tcp();
            while bytes > 0 {
                match tcp.try_io(Interest::WRITABLE, || splice::moved(pipe, tcp, bytes)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(written) => {
                        bytes -= written;
                        waits = None;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
                match tcp.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.stalled.get_or_insert_with(Instant::now);
                        return poll_taken(tcp, &mut waits, &mut self.timer, self.stall)
                            .map(|()| Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// Ready when a peer that has to be written to took next to nothing for as long as `stall`. A connection that takes no
/// more at once is no sign of that: the kernel asks for more only when a good part of a large buffer is free.
/// `waits`: the bytes that waited in the kernel when the time began; `None` before the first look.
pub(super) fn poll_taken(
    stream: &TcpStream,
    waits: &mut Option<u64>,
    timer: &mut Timer<'_>,
    stall: Duration,
) -> Poll<()> {
    if waits.is_none() {
        timer.arm(stall);
        *waits = Some(unsent(stream));
    }
    while timer.poll().is_ready() {
        let (before, now) = (waits.unwrap_or(0), unsent(stream));
        if before.saturating_sub(now) < LEAST_TAKEN {
            return Poll::Ready(());
        }
        timer.arm(stall);
        *waits = Some(now);
    }
    Poll::Pending
}

/// Bytes written that the peer has not acknowledged.
fn unsent(stream: &TcpStream) -> u64 {
    // Safety: SIOCOUTQ, as tcp(7) has it, writes one int.
    let asked = unsafe { ioctl::ioctl(stream, ioctl::Getter::<SIOCOUTQ, core::ffi::c_int>::new()) };
    asked.ok().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}
