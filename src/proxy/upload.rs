//! Owns the way of a request to its upstream, and the watch over its client afterwards. Must not know the response.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;

use super::answer::Answer;
use super::body::{Decoder, Framing, write_chunk};
use super::buffer::Output;
use super::head::malformed;
use super::inbound::{Inbound, NoBytes, keep_little_unsent};
use super::limits::{Limits, Reservation};
use super::seats::Timer;
use super::stream::send_now;

/// Between two looks at a client whose upstream takes nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A body beyond this is not to fill the kernel's buffers where its upstream is slow.
const LARGE_BYTES: u64 = 128 * 1024;
/// Bytes of a body that the kernel keeps beyond those that are on their way. More than of an answer, since few send so much at
/// once, and on a busy machine each piece waits for its turn at every hop.
pub(super) const UNSENT_BYTES: u32 = 256 * 1024;

/// A request's body, over all attempts.
pub(super) struct Body {
    pub framing: Framing,
    pub decoder: Decoder,
    pub limit: u64,
    pub received: u64,
    /// All of it, where it may be sent again.
    kept: Option<(Vec<u8>, Reservation)>,
}

impl Body {
    pub fn new(framing: Framing, limit: u64) -> Self {
        Self { framing, decoder: Decoder::new(framing), limit, received: 0, kept: None }
    }

    /// Whether all of it can be sent again.
    pub fn is_repeatable(&self) -> bool {
        self.kept.is_some() || matches!(self.framing, Framing::Empty | Framing::Length(0))
    }

    /// Reads a body of known length whole, to send it as often as needed.
    pub async fn keep(
        &mut self,
        inbound: &mut Inbound<'_>,
        length: u64,
        reservation: Reservation,
        limits: &Limits,
    ) -> Result<(), End> {
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        while !self.decoder.is_done() {
            if inbound.input.is_empty() {
                inbound.seat.waits_for_rest();
                read_more(inbound, limits).await?;
            }
            let piece = self.decoder.next(inbound.input.filled()).map_err(End::malformed)?;
            bytes.extend_from_slice(&inbound.input.filled()[piece.used - piece.data..piece.used]);
            inbound.input.consume(piece.used);
        }
        inbound.seat.is_busy();
        inbound.input.release();
        self.received = bytes.len() as u64;
        self.kept = Some((bytes, reservation));
        Ok(())
    }
}

/// How a request's way ended before its answer's.
pub(super) enum End {
    ClientLeft,
    /// The client's fault, with the answer to it.
    Fault(Answer),
}

impl End {
    fn malformed(why: &'static str) -> Self {
        Self::Fault(malformed(why))
    }
}

/// What the wait for the response needs to know of the request's way.
#[derive(Default)]
pub(super) struct Progress {
    /// The upstream admitted the body.
    pub go: Cell<bool>,
    /// The upstream's connection took a byte.
    pub started: Cell<bool>,
    /// The whole request was taken by the upstream's connection.
    pub done: Cell<bool>,
    /// The upstream's connection takes no more.
    pub failed: Cell<bool>,
    /// The next move is the client's.
    pub waits_for_client: Cell<bool>,
    /// Rises with every move.
    pub moves: Cell<u32>,
}

impl Progress {
    /// Whether the request's side has nothing left to do but to watch the client.
    pub fn only_watches(&self) -> bool {
        self.done.get() || self.failed.get()
    }

    fn moved(&self) {
        self.moves.set(self.moves.get().wrapping_add(1));
    }
}

/// Sends what the upstream takes without being waited for: mostly a whole request that has no body. Answers what is left
/// of the head.
pub(super) fn send_at_once<'h>(writer: &WriteHalf<'_>, head: &'h [u8], body: &Body, progress: &Progress) -> &'h [u8] {
    if head.is_empty() || body.kept.is_some() {
        return head;
    }
    // An error comes again.
    let Ok(written @ 1..) = send_now(writer.as_ref(), head) else { return head };
    progress.started.set(true);
    progress.moved();
    progress.done.set(written == head.len() && body.is_repeatable());
    &head[written..]
}

/// Sends head and body, as far as that is not done yet, then watches the client. Ends only when the client left or did wrong: an upstream that takes no
/// more may still have answered, and the response's side finds out.
pub(super) async fn run(
    writer: &mut WriteHalf<'_>,
    inbound: &mut Inbound<'_>,
    head: &[u8],
    body: &mut Body,
    progress: &Progress,
    may_half_close: bool,
    limits: &Limits,
) -> End {
    if !progress.done.get() {
        match send(writer, inbound, head, body, progress, may_half_close, limits).await {
            Ok(()) => progress.done.set(true),
            Err(Halt::Upstream) => progress.failed.set(true),
            Err(Halt::End(end)) => return end,
        }
        progress.waits_for_client.set(false);
        progress.moved();
    }
    poll_fn(|cx| inbound.poll_left(cx, may_half_close)).await;
    End::ClientLeft
}

enum Halt {
    Upstream,
    End(End),
}

impl From<io::Error> for Halt {
    fn from(_: io::Error) -> Self {
        Self::Upstream
    }
}

impl From<End> for Halt {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

async fn send(
    writer: &mut WriteHalf<'_>,
    inbound: &mut Inbound<'_>,
    head: &[u8],
    body: &mut Body,
    progress: &Progress,
    may_half_close: bool,
    limits: &Limits,
) -> Result<(), Halt> {
    let kept = body.kept.as_ref().map_or(&[][..], |(bytes, _)| bytes);
    write_both(writer, head, kept, progress).await?;
    if body.is_repeatable() {
        return Ok(());
    }
    let wait =
        poll_fn(
            |cx| {
                if progress.go.get() { Poll::Ready(Ok(())) } else { inbound.poll_left(cx, may_half_close).map(Err) }
            },
        );
    wait.await.map_err(|()| End::ClientLeft)?;
    stream(writer, inbound, body, progress, may_half_close, limits).await
}

/// Passes a body on as it comes, framed anew.
async fn stream(
    writer: &mut WriteHalf<'_>,
    inbound: &mut Inbound<'_>,
    body: &mut Body,
    progress: &Progress,
    may_half_close: bool,
    limits: &Limits,
) -> Result<(), Halt> {
    let (mut out, mut large) = (Output::unleased(), false);
    loop {
        while !inbound.input.is_empty() && !body.decoder.is_done() {
            let piece = body.decoder.next(inbound.input.filled()).map_err(End::malformed)?;
            let data = &inbound.input.filled()[piece.used - piece.data..piece.used];
            body.received += data.len() as u64;
            if body.received > body.limit {
                return Err(End::Fault(too_large(body.limit)).into());
            }
            match body.framing {
                Framing::Chunked => write_chunk(data, out.ready()),
                _ => write_watching(writer, data, progress, inbound, may_half_close).await?,
            }
            inbound.input.consume(piece.used);
        }
        let done = body.decoder.is_done();
        if done && body.framing == Framing::Chunked {
            body.decoder.write_end(out.ready());
        }
        write_watching(writer, &out, progress, inbound, may_half_close).await?;
        out.release();
        if done {
            inbound.input.release();
            return Ok(());
        }
        if !large && body.received > LARGE_BYTES {
            large = true;
            keep_little_unsent(writer.as_ref(), UNSENT_BYTES);
        }
        progress.waits_for_client.set(true);
        read_more(inbound, limits).await?;
        progress.waits_for_client.set(false);
        progress.moved();
    }
}

async fn read_more(inbound: &mut Inbound<'_>, limits: &Limits) -> Result<(), End> {
    inbound.expect_within(Some(limits.body_idle));
    inbound.fill(|| false).await.map_err(|why| match why {
        NoBytes::Ended => End::ClientLeft,
        NoBytes::Late => {
            End::Fault(Answer::new(408, "body_too_slow", "the rest of the body did not come in time").closing())
        }
    })
}

/// 413, with the bound.
pub fn too_large(limit: u64) -> Answer {
    Answer::new(413, "body_too_large", format!("the program takes bodies of at most {limit} bytes"))
        .hint("raise body_limit in the program's manifest")
        .closing()
}

/// Writes, and looks from time to time whether the client is still there: while the upstream takes nothing, nothing is
/// read from the client, so that its end does not show.
async fn write_watching(
    writer: &mut WriteHalf<'_>,
    bytes: &[u8],
    progress: &Progress,
    inbound: &Inbound<'_>,
    may_half_close: bool,
) -> Result<(), Halt> {
    let mut write = pin!(write_both(writer, bytes, &[], progress));
    let mut timer: Option<Timer<'_>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(written) = write.as_mut().poll(cx) {
            return Poll::Ready(written.map_err(Halt::from));
        }
        let timer = timer.get_or_insert_with(|| Timer::set(inbound.seat, LOOK_EVERY));
        while timer.poll().is_ready() {
            if inbound.is_gone(may_half_close) {
                return Poll::Ready(Err(End::ClientLeft.into()));
            }
            timer.arm(LOOK_EVERY);
        }
        Poll::Pending
    })
    .await
}

/// Writes one after the other, in one system call where the kernel takes both.
async fn write_both(
    writer: &mut WriteHalf<'_>,
    mut first: &[u8],
    mut second: &[u8],
    progress: &Progress,
) -> io::Result<()> {
    while !(first.is_empty() && second.is_empty()) {
        let written = match (first.is_empty(), second.is_empty()) {
            (false, false) => writer.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]).await?,
            (false, true) => writer.write(first).await?,
            _ => writer.write(second).await?,
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        progress.started.set(true);
        progress.moved();
        let of_first = written.min(first.len());
        first = &first[of_first..];
        second = &second[written - of_first..];
    }
    Ok(())
}
