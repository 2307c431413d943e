//! Owns one attempt: a connection to one target, the request sent on it, the response passed on or the attempt given up
//! (protocol P1, P2). Must not know which targets there are.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::net::TcpStream;

use super::answer::Answer;
use super::body::{Decoder, Framing};
use super::buffer::{Input, Output};
use super::download::{self, NoHead, Relayed};
use super::exchange::{Exchange, Fate, Live, Meta};
use super::handler::{AttemptFailure, Attempts, Failure, LongLived, Outcome, Target};
use super::inbound::watch_peer;
use super::response::{self, ResponseHead};
use super::tunnel;
use super::upload::{self, End, Progress};
use super::writer::HeadWriter;

/// What came of an attempt.
pub(super) enum Attempted {
    /// Nothing reached the program; the role was told, and is asked for another target.
    Again,
    Ended(Outcome, Fate),
    /// The client's doing, before any response byte.
    Early(End),
    /// The upstream's doing, before any response byte.
    Failed(Failure, Answer),
}

/// What came of one connection.
enum Driven {
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
    let repeatable = x.meta.idempotent && x.body.is_repeatable();
    let limits = &x.worker.limits;
    let max_idle = if repeatable { limits.pool_idle } else { limits.reuse_idle };
    if let Some(stream) = x.worker.pool.take(target.key, max_idle, repeatable) {
        match drive(x, target, stream).await {
            Driven::Died { unsent } if unsent || repeatable => {}
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
    let stream = tokio::time::timeout(x.worker.limits.connect_timeout, TcpStream::connect(target.addr)).await??;
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
        Framing::Length(length) => head.add_display("Content-Length", length),
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
    // The target has taken the connection: for a server, the moment of admission (P2f).
    if streamed
        && !awaits
        && let Err(end) = x.send_continue().await
    {
        return Driven::Attempted(Attempted::Early(end));
    }
    let (driven, reusable) = converse(x, target, &mut stream, awaits).await;
    match driven {
        Driven::Tunnel(surplus) => Driven::Attempted(carry_tunnel(x, stream, surplus).await),
        driven => {
            if reusable {
                x.worker.pool.put(target.key, stream);
            }
            driven
        }
    }
}

/// What a response's head asks for.
enum Verdict {
    Interim,
    Continue,
    Refused { header: String, rest: u64 },
    Tunnel,
    Bad,
    Final(Relay),
}

/// How a final response is passed on.
struct Relay {
    status: u16,
    framing: Framing,
    chunked: bool,
    keep_alive: bool,
    fate: Fate,
    /// The client's fate when the body breaks off.
    broken: Fate,
}

/// Sends the request and reads responses until the final one has been passed on; and whether the connection can be used
/// again.
async fn converse<R: Attempts>(
    x: &mut Exchange<'_, '_, R>,
    target: &Target,
    stream: &mut TcpStream,
    awaits: bool,
) -> (Driven, bool) {
    let Exchange { client, worker, meta, head, body, live, continued, .. } = x;
    let limits = &worker.limits;
    let (mut reader, mut writer) = stream.split();
    let (progress, mut input, timer) = (Progress::default(), Input::default(), &mut client.upstream_timer);
    progress.go.set(!awaits);
    let (inbound, outbound) = (&mut client.inbound, &mut client.outbound);
    let mut upload = pin!(upload::run(&mut writer, inbound, head, body, &progress, !meta.keep_alive, limits));
    let mut out = Output::lease();
    let early = |attempted| (Driven::Attempted(attempted), false);
    let mut heard = false;
    let relay = loop {
        let raced = {
            let head = download::head(&mut reader, &mut input, &progress, timer, target.request_timeout);
            race(pin!(head), upload.as_mut(), live).await
        };
        match raced {
            Raced::Done(Ok(())) => {}
            Raced::Done(Err(why)) => return (no_head(live, why, !heard && input.is_empty(), &progress), false),
            Raced::Upload(end) => return early(Attempted::Early(end)),
            Raced::Cut => return early(Attempted::Ended(Outcome::Cut, Fate::Abort)),
        }
        // Once a body was admitted and is on its way, it cannot be sent elsewhere.
        let refusable = target.authenticated && !(awaits && progress.go.get());
        let closing = !meta.keep_alive || worker.is_draining() || !progress.done.get();
        let parsed = response::parse(input.filled(), meta.is_head, |head, length| {
            (judge(head, meta, refusable, closing, live, &mut out), length)
        });
        let Ok(Some((verdict, length))) = parsed else {
            return (Driven::Attempted(bad_response(live)), false);
        };
        input.consume(length);
        heard = true;
        match verdict {
            Verdict::Final(relay) => break relay,
            Verdict::Bad => return (Driven::Attempted(bad_response(live)), false),
            Verdict::Tunnel => {
                if outbound.write_all(&out).await.is_err() {
                    return early(Attempted::Early(End::ClientLeft));
                }
                return (Driven::Tunnel(input), false);
            }
            Verdict::Refused { header, rest } => {
                let clean = progress.done.get() && input.len() as u64 == rest;
                return (Driven::Refused(header), clean);
            }
            Verdict::Interim => {}
            Verdict::Continue => {
                progress.go.set(true);
                if meta.expects_continue && !*continued {
                    *continued = true;
                    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
            }
        }
        if outbound.write_all(&out).await.is_err() {
            return early(Attempted::Early(End::ClientLeft));
        }
        out.clear();
    };
    let mut decoder = Decoder::new(relay.framing);
    let sent = std::mem::take(&mut live.sent);
    let passing = download::body(&mut reader, &mut input, &mut decoder, outbound, &mut out, relay.chunked, &sent);
    let raced = race(pin!(passing), upload.as_mut(), live).await;
    live.sent = sent;
    let (outcome, fate) = match raced {
        Raced::Done(Relayed::Whole) => (Outcome::Completed { status: relay.status }, relay.fate),
        Raced::Done(Relayed::Truncated) => (Outcome::Failed(Failure::Truncated), relay.broken),
        Raced::Done(Relayed::ClientLeft) | Raced::Upload(End::ClientLeft) => (Outcome::ClientLeft, Fate::Abort),
        Raced::Upload(End::Fault(answer)) => (Outcome::Answered { status: answer.status }, relay.broken),
        Raced::Cut => (Outcome::Cut, relay.broken),
    };
    let whole = matches!(outcome, Outcome::Completed { .. });
    let reusable = whole && relay.keep_alive && progress.done.get() && input.is_empty();
    (Driven::Attempted(Attempted::Ended(outcome, fate)), reusable)
}

fn no_head<R: Attempts>(live: &mut Live<R>, why: NoHead, nothing_came: bool, progress: &Progress) -> Driven {
    match why {
        NoHead::Died if nothing_came => Driven::Died { unsent: !progress.started.get() },
        NoHead::Died | NoHead::TooLarge => Driven::Attempted(bad_response(live)),
        NoHead::Timeout => {
            live.role().failed(AttemptFailure::Timeout);
            let answer = Answer::new(504, "upstream_timeout", "the program did not answer within its request_timeout");
            Driven::Attempted(Attempted::Failed(Failure::Timeout, answer))
        }
    }
}

fn bad_response<R: Attempts>(live: &mut Live<R>) -> Attempted {
    live.role().failed(AttemptFailure::DiedBeforeResponse);
    let answer = Answer::new(502, "bad_response", "the program's answer is not HTTP that has one meaning");
    Attempted::Failed(Failure::NoResponse, answer)
}

/// Decides what a response's head means, and writes what the client gets of it.
fn judge<R: Attempts>(
    head: &ResponseHead<'_>,
    meta: &Meta,
    refusable: bool,
    closing: bool,
    live: &mut Live<R>,
    out: &mut Vec<u8>,
) -> Verdict {
    if head.status == 100 {
        return Verdict::Continue;
    }
    if head.is_interim() {
        if !meta.http10 {
            head.write(out);
            out.extend_from_slice(b"\r\n");
        }
        return Verdict::Interim;
    }
    if head.status == 503
        && refusable
        && let Some(refused) = head.header("neap-refused")
    {
        let rest = if let Framing::Length(rest) = head.body { rest } else { 0 };
        return Verdict::Refused { header: refused.to_owned(), rest };
    }
    if head.status == 101 && !(meta.websocket && head.accepts_websocket()) {
        return Verdict::Bad;
    }
    head.write(out);
    if head.status == 101 {
        live.role().response(head, &mut HeadWriter::new(out));
        live.role().long_lived(LongLived::Tunnel);
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        return Verdict::Tunnel;
    }
    live.role().response(head, &mut HeadWriter::new(out));
    if head.is_event_stream() {
        live.role().long_lived(LongLived::EventStream);
    }
    Verdict::Final(frame(head, meta, closing, out))
}

/// Writes the framing that the client gets: lengths stay, all else becomes chunks, or the connection's end in HTTP/1.0.
fn frame(head: &ResponseHead<'_>, meta: &Meta, closing: bool, out: &mut Vec<u8>) -> Relay {
    let mut writer = HeadWriter::new(out);
    let chunked = matches!(head.body, Framing::Chunked | Framing::UntilClose) && !meta.http10;
    let until_close = matches!(head.body, Framing::Chunked | Framing::UntilClose) && meta.http10;
    match (head.body, head.status) {
        (Framing::Length(length), _) => writer.add_display("Content-Length", length),
        // What it would have been for GET.
        (Framing::Empty, status) if (meta.is_head && status != 204) || status == 304 => {
            if let Some(length) = head.header("content-length") {
                writer.add("Content-Length", length);
            }
        }
        (Framing::Chunked | Framing::UntilClose, _) if chunked => writer.add("Transfer-Encoding", "chunked"),
        _ => {}
    }
    let closing = closing || until_close;
    out.extend_from_slice(meta.connection_line(closing).as_bytes());
    out.extend_from_slice(b"\r\n");
    let fate = if closing { Fate::Close } else { Fate::KeepAlive };
    let broken = if until_close { Fate::Reset } else { Fate::Abort };
    Relay { status: head.status, framing: head.body, chunked, keep_alive: head.keep_alive, fate, broken }
}

/// Which of a request's sides came to an end.
enum Raced<T> {
    Done(T),
    Upload(End),
    Cut,
}

/// Runs the response's side, the request's side and the cut together.
async fn race<T, R: Attempts>(
    mut main: Pin<&mut impl Future<Output = T>>,
    mut upload: Pin<&mut impl Future<Output = End>>,
    live: &mut Live<R>,
) -> Raced<T> {
    poll_fn(|cx| {
        // The request's side first: the response's timer goes by what it did.
        if let Poll::Ready(end) = upload.as_mut().poll(cx) {
            return Poll::Ready(Raced::Upload(end));
        }
        if let Poll::Ready(done) = main.as_mut().poll(cx) {
            return Poll::Ready(Raced::Done(done));
        }
        live.role().poll_cut(cx).map(|()| Raced::Cut)
    })
    .await
}

async fn carry_tunnel<R: Attempts>(
    x: &mut Exchange<'_, '_, R>,
    mut stream: TcpStream,
    mut surplus: Input,
) -> Attempted {
    let passed = tunnel::Passed::default();
    watch_peer(x.client.inbound.reader.as_ref());
    let Exchange { client, live, worker, .. } = x;
    let cut = |cx: &mut std::task::Context<'_>| live.role().poll_cut(cx);
    let ended = tunnel::run(client, &mut stream, &mut surplus, &passed, worker.limits.half_closed, cut).await;
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
