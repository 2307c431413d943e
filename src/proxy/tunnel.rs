//! Owns what follows 101: bytes both ways until both sides have ended. Must not know WebSocket.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::buffer::Input;
use super::inbound::{Client, poll_fill, poll_taken};
use super::seats::{Seat, Timer};

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides closed, or one did and the other fell silent.
    Both,
    ClientLost,
    UpstreamLost,
    Cut,
}

/// What passed, each way.
#[derive(Default)]
pub(super) struct Passed {
    pub up: Cell<u64>,
    pub down: Cell<u64>,
}

/// Carries bytes both ways; an end on one side is passed on, and the other side may go on. Ends early when `cut` is ready,
/// or when a side takes nothing for as long as `stall`.
pub(super) async fn run(
    client: &mut Client<'_>,
    upstream: &mut TcpStream,
    from_upstream: &mut Input,
    passed: &Passed,
    (half_closed, stall): (Duration, Duration),
    mut cut: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Ended {
    let (mut upstream_reader, mut upstream_writer) = upstream.split();
    let inbound = &mut client.inbound;
    let mut up =
        pin!(pump(&mut inbound.reader, &mut inbound.input, &mut upstream_writer, &passed.up, client.seat, stall));
    let mut down =
        pin!(pump(&mut upstream_reader, from_upstream, &mut client.outbound.writer, &passed.down, client.seat, stall));
    let (mut up_done, mut down_done) = (false, false);
    let (mut timer, mut seen) = (Timer::new(client.seat), None);
    poll_fn(|cx| {
        if cut(cx).is_ready() {
            return Poll::Ready(Ended::Cut);
        }
        if !up_done && let Poll::Ready(end) = up.as_mut().poll(cx) {
            match end {
                Ok(()) => up_done = true,
                Err(Lost::Reader) => return Poll::Ready(Ended::ClientLost),
                Err(Lost::Writer) => return Poll::Ready(Ended::UpstreamLost),
            }
        }
        if !down_done && let Poll::Ready(end) = down.as_mut().poll(cx) {
            match end {
                Ok(()) => down_done = true,
                Err(Lost::Reader) => return Poll::Ready(Ended::UpstreamLost),
                Err(Lost::Writer) => return Poll::Ready(Ended::ClientLost),
            }
        }
        if up_done && down_done {
            return Poll::Ready(Ended::Both);
        }
        let moves = Some(passed.up.get() + passed.down.get());
        if (up_done || down_done) && seen != moves {
            timer.arm(half_closed);
            seen = moves;
        }
        timer.poll().map(|()| Ended::Both)
    })
    .await
}

enum Lost {
    Reader,
    Writer,
}

async fn pump<R: AsyncRead + Unpin, W: AsyncWrite + AsRef<TcpStream> + Unpin>(
    reader: &mut R,
    input: &mut Input,
    writer: &mut W,
    passed: &Cell<u64>,
    seat: &Seat,
    stall: Duration,
) -> Result<(), Lost> {
    let mut timer = Timer::new(seat);
    loop {
        while !input.is_empty() {
            let mut waits = None;
            let written = poll_fn(|cx| match Pin::new(&mut *writer).poll_write(cx, input.filled()) {
                Poll::Pending => poll_taken(writer.as_ref(), &mut waits, &mut timer, stall).map(|()| Ok(0)),
                written => written,
            });
            let Ok(written @ 1..) = written.await else { return Err(Lost::Writer) };
            passed.set(passed.get() + written as u64);
            input.consume(written);
        }
        if poll_fn(|cx| poll_fill(reader, input, cx)).await.map_err(|_| Lost::Reader)? == 0 {
            input.release();
            // A side that is gone already needs no end.
            let _ = writer.shutdown().await;
            return Ok(());
        }
    }
}
