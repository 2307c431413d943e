//! Owns the way of a response from its upstream to the client. Must not know what the request was.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, ready};

use tokio::net::tcp::ReadHalf;

use super::body::{Decoder, write_chunk};
use super::buffer::{BUFFER_BYTES, Input, Output};
use super::head::has_end;
use super::inbound::{Outbound, poll_fill};
use super::splice::{LEAST_BYTES, Passed, Pipe};

/// A piece of body up to this size is copied behind the head, which is cheaper than telling the kernel of two pieces.
const COPIED_BYTES: usize = 4 * 1024;

/// A body beyond this is not to fill the kernel's buffers where its client is slow.
const LARGE_BYTES: u64 = 48 * 1024;

/// Why no head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHead {
    Died,
    TooLarge,
}

/// Waits until a whole head is in `input`, or may be: at the first look at it, when parsing it is as cheap as looking
/// for its end.
pub(super) async fn head(reader: &mut ReadHalf<'_>, input: &mut Input, first_look: bool) -> Result<(), NoHead> {
    let mut searched = 0;
    poll_fn(|cx| {
        loop {
            if (first_look && !input.is_empty()) || has_end(input.filled(), &mut searched) {
                return Poll::Ready(Ok(()));
            }
            if input.len() == BUFFER_BYTES {
                return Poll::Ready(Err(NoHead::TooLarge));
            }
            match ready!(poll_fill(reader, input, cx)) {
                Ok(1..) => {}
                _ => return Poll::Ready(Err(NoHead::Died)),
            }
        }
    })
    .await
}

/// How a response's body went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relayed {
    Whole,
    /// The upstream broke off.
    Truncated,
    ClientLeft,
}

/// Passes a body on: what `out` holds (the head) first, in one write with the first piece of body. Every read is
/// written before the next, so that nothing waits for more.
pub(super) async fn body(
    reader: &mut ReadHalf<'_>,
    input: &mut Input,
    decoder: &mut Decoder,
    outbound: &mut Outbound<'_>,
    out: &mut Output,
    chunked: bool,
    sent: &Cell<u64>,
) -> Relayed {
    loop {
        while !input.is_empty() && !decoder.is_done() {
            let Ok(piece) = decoder.next(input.filled()) else {
                return broken_off(outbound, out).await;
            };
            let data = &input.filled()[piece.used - piece.data..piece.used];
            sent.set(sent.get() + data.len() as u64);
            if chunked {
                write_chunk(data, out.ready());
            } else if !out.is_empty() && data.len() <= COPIED_BYTES {
                out.extend_from_slice(data);
            } else {
                if outbound.write_both(out, data).await.is_err() {
                    return Relayed::ClientLeft;
                }
                out.clear();
            }
            input.consume(piece.used);
        }
        if decoder.is_done() && chunked {
            decoder.write_end(out.ready());
        }
        if outbound.write_all(out).await.is_err() {
            return Relayed::ClientLeft;
        }
        out.release();
        if decoder.is_done() {
            return Relayed::Whole;
        }
        if sent.get() > LARGE_BYTES {
            outbound.keep_little_unsent();
        }
        if let Some(pipe) = pipe_for(decoder, outbound, chunked) {
            outbound.keep_little_unsent();
            let left = decoder.left().unwrap_or(0);
            let count = |bytes| {
                decoder.skip(bytes);
                sent.set(sent.get() + bytes);
            };
            // In a box of its own: few requests need its room, and all would pay for it.
            match Box::pin(pipe.pass(reader.as_ref(), outbound, left, count)).await {
                Passed::All => return Relayed::Whole,
                Passed::Short => return Relayed::Truncated,
                Passed::Refused => return Relayed::ClientLeft,
            }
        }
        match poll_fn(|cx| poll_fill(reader, input, cx)).await {
            Ok(1..) => {}
            Ok(0) if decoder.end() => {}
            _ => return Relayed::Truncated,
        }
    }
}

/// A pipe, where the rest of a body can go through one and is worth it. What was read of it is written.
fn pipe_for(decoder: &Decoder, outbound: &Outbound<'_>, chunked: bool) -> Option<Pipe> {
    let large = decoder.left().is_some_and(|left| left >= LEAST_BYTES);
    if large && !chunked && outbound.writer.is_plain() { Pipe::new() } else { None }
}

/// Gives the client what was good before the break.
async fn broken_off(outbound: &mut Outbound<'_>, out: &[u8]) -> Relayed {
    let _ = outbound.write_all(out).await;
    Relayed::Truncated
}
