//! Owns one attempt: a connection to one target, the request sent on it, the response passed on or the attempt given up
//! (protocol P1, P2). Must not know which targets there are.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::answer::Answer;
use super::body::Framing;
use super::buffer::Input;
use super::converse::{self, Left};
use super::exchange::{Exchange, Fate};
use super::handler::{AttemptFailure, Attempts, Failure, Outcome, Target};
use super::inbound::{keep_little_unsent, watch_peer};
use super::pool::Use;
use super::tunnel;
use super::upload::{End, UNSENT_BYTES};
use super::writer::HeadWriter;

/// The window for what comes from a target within this machine and its client does not take yet; what the kernel begins with.
/// Without a bound it lets windows grow to megabytes (`tcp_rmem`), for each client that reads slowly, until the connections of
/// others find no memory.
const NEAR_BYTES: u32 = 64 * 1024;
/// The same, from another machine: a gigabit a second on one connection at a round trip of one millisecond.
const FAR_BYTES: u32 = 128 * 1024;

/// What came of an attempt.
pub(super) enum Attempted {
    /// Nothing reached the program; the role was told, and is asked for another target.
    Again,
    Ended(Outcome, Fate),
    /// The client's doing, before any response byte.
    Early(End),
    /// The upstream's doing, before any response byte.
    Failed(Failure, Answer),
    /// Cut before any response byte, and the client is told.
    Cut(Answer),
}

/// What came of one connection.
pub(super) enum Driven {
    Attempted(Attempted),
    /// The connection died before the first response byte; `unsent`: before it took a byte.
    Died {
        unsent: bool,
    },
    Refused(String),
    Tunnel(Input),
}

/// Tries `target`, on an idle connection where one may be used, and where that one died, once more on a fresh one (P2c).
pub(super) async fn run<R: Attempts>(x: &mut Exchange<'_, '_, R>, target: &Target) -> Attempted {
    x.body.limit = x.body.limit.min(target.body_limit);
    let repeatable = x.meta.idempotent && x.body.is_repeatable();
    let limits = &x.worker.limits;
    let max_idle = if repeatable { limits.pool_idle } else { limits.reuse_idle };
    let wanted = match (repeatable, target.authenticated) {
        (true, _) => Use::Repeatable,
        (false, true) => Use::OnceToServer,
        (false, false) => Use::Once,
    };
    if let Some(stream) = x.worker.pool.take(target.key, max_idle, wanted, x.worker.seats.at()) {
        match drive(x, target, stream).await {
            Driven::Died { unsent } if unsent || repeatable => {
                tracing::debug!(unsent, "a connection was closed from the other side as it was reused");
            }
            driven => return settle(x, driven),
        }
    }
    match connect(x, target).await {
        Ok(stream) => match drive(x, target, stream).await {
            Driven::Died { unsent: true } => not_connected(x, io::ErrorKind::ConnectionReset.into()),
            driven => settle(x, driven),
        },
        Err(error) => not_connected(x, error),
    }
}

fn not_connected<R: Attempts>(x: &mut Exchange<'_, '_, R>, error: io::Error) -> Attempted {
    x.live.role().failed(AttemptFailure::Connect(error));
    Attempted::Again
}

fn settle<R: Attempts>(x: &mut Exchange<'_, '_, R>, driven: Driven) -> Attempted {
    match driven {
        Driven::Attempted(attempted) => attempted,
        Driven::Refused(refused) => {
            x.live.role().failed(AttemptFailure::Refused(&refused));
            Attempted::Again
        }
        Driven::Died { .. } => no_response(x, "its connection ended before it answered"),
        Driven::Tunnel(_) => Attempted::Ended(Outcome::Failed(Failure::NoResponse), Fate::Abort),
    }
}

fn no_response<R: Attempts>(x: &mut Exchange<'_, '_, R>, why: &str) -> Attempted {
    x.live.role().failed(AttemptFailure::DiedBeforeResponse);
    let answer = Answer::new(502, "no_response", format!("the program gave no answer: {why}"))
        .hint("whether the request was carried out is not known; it was not repeated");
    Attempted::Failed(Failure::NoResponse, answer)
}

async fn connect<R: Attempts>(x: &Exchange<'_, '_, R>, target: &Target) -> io::Result<TcpStream> {
    let socket = if target.addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let _ = socket.set_recv_buffer_size(if target.addr.ip().is_loopback() { NEAR_BYTES } else { FAR_BYTES });
    let stream = tokio::time::timeout(x.worker.limits.connect_timeout, socket.connect(target.addr)).await??;
    stream.set_nodelay(true)?;
    watch_peer(&stream);
    Ok(stream)
}

/// Writes the lines of this attempt behind the forwarded head.
fn finish_head<R: Attempts>(x: &mut Exchange<'_, '_, R>, awaits: bool) {
    x.head.truncate(x.head_bytes);
    let mut head = HeadWriter::new(x.head);
    x.live.role().write_target_headers(&mut head);
    match x.meta.body {
        Framing::Length(length) => head.add_number("Content-Length", length),
        Framing::Chunked => head.add("Transfer-Encoding", "chunked"),
        Framing::Empty | Framing::UntilClose => {}
    }
    if awaits {
        head.add("Expect", "100-continue");
    }
    if x.meta.websocket {
        head.add("Connection", "Upgrade");
        head.add("Upgrade", "websocket");
    }
    x.head.extend_from_slice(b"\r\n");
}

async fn drive<R: Attempts>(x: &mut Exchange<'_, '_, R>, target: &Target, mut stream: TcpStream) -> Driven {
    let streamed = !x.body.is_repeatable();
    let awaits = streamed && target.authenticated;
    finish_head(x, awaits);
    let head_first = streamed && !awaits && x.waits_for_continue();
    if head_first && let Err(driven) = admit(x, &mut stream).await {
        return driven;
    }
    x.client.outbound.stalled = None;
    let (driven, left) = converse::run(x, target, &mut stream, awaits, head_first).await;
    match driven {
        Driven::Tunnel(surplus) => Driven::Attempted(carry_tunnel(x, stream, surplus).await),
        driven => {
            match left {
                // The other side may have been done since the client first had to be waited for.
                Left::Reusable { keeps_for } => {
                    let since = x.client.outbound.stalled.unwrap_or_else(|| x.worker.seats.at());
                    x.worker.pool.put(target.key, stream, since, keeps_for);
                }
                Left::Unfinished => abandon(&stream),
                Left::Spent => {}
            }
            driven
        }
    }
}

/// Has the connection end at once when it is dropped: behind what its other side does not take, an orderly end would wait
/// with it, and nobody there would learn that the request is over.
fn abandon(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// Sends the head and then tells the client to send its body: from then on the request cannot go elsewhere, so the
/// target must have taken the connection and the head by then (P2f).
async fn admit<R: Attempts>(x: &mut Exchange<'_, '_, R>, stream: &mut TcpStream) -> Result<(), Driven> {
    match stream.write(x.head).await {
        Ok(written @ 1..) => {
            stream.write_all(&x.head[written..]).await.map_err(|_| Driven::Died { unsent: false })?;
        }
        _ => return Err(Driven::Died { unsent: true }),
    }
    x.send_continue().await.map_err(|end| Driven::Attempted(Attempted::Early(end)))
}

async fn carry_tunnel<R: Attempts>(
    x: &mut Exchange<'_, '_, R>,
    mut stream: TcpStream,
    mut surplus: Input,
) -> Attempted {
    let passed = tunnel::Passed::default();
    watch_peer(x.client.inbound.reader.tcp());
    x.client.outbound.keep_little_unsent();
    keep_little_unsent(&stream, UNSENT_BYTES);
    let Exchange { client, live, worker, .. } = x;
    let cut = |cx: &mut std::task::Context<'_>| live.role().poll_cut(cx);
    let times = (worker.limits.half_closed, worker.limits.write_idle);
    let ended = tunnel::run(client, &mut stream, &mut surplus, &passed, times, cut).await;
    if ended != tunnel::Ended::Both {
        abandon(&stream);
    }
    live.received.set(passed.up.get());
    live.sent.set(passed.down.get());
    let (outcome, fate) = match ended {
        tunnel::Ended::Both => (Outcome::Completed { status: 101 }, Fate::Close),
        tunnel::Ended::ClientLost => (Outcome::ClientLeft, Fate::Abort),
        tunnel::Ended::UpstreamLost => (Outcome::Failed(Failure::Truncated), Fate::Abort),
        tunnel::Ended::Cut => (Outcome::Cut, Fate::Abort),
    };
    Attempted::Ended(outcome, fate)
}
