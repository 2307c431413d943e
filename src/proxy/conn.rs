//! Owns a client's connection: heads one after the other, keep-alive, when it is parked, how it ends. Must not know
//! upstreams.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use super::answer::Answer;
use super::body::Decoder;
use super::buffer::Output;
use super::exchange::{self, Fate, Live, Meta};
use super::handler::{Attempts, Begin, Handler, Peer};
use super::head;
use super::inbound::{Client, Inbound, NoBytes};
use super::seats::{Seat, Timer};
use super::serve::Worker;
use super::stream::Stream;
use super::tls::{Handshake, TlsStream};
use super::writer::HeadWriter;

/// How a client's connection went on.
enum Ended {
    /// It ended between two requests.
    Idle,
    With(Fate),
    /// It is idle, with nothing read ahead.
    Parks,
}

/// Serves one client's connection until it ends, or is parked.
pub(super) async fn run<H: Handler>(stream: Stream, peer: Peer, handler: Rc<H>, worker: Rc<Worker>, seat: Seat) {
    seat.sit().await;
    let (mut stream, speaks) = match stream {
        Stream::Plain(_) => (stream, Speaks::AsIsMeant),
        // On the heap, so that plain connections do not pay for it.
        Stream::Tls(tls) => match Box::pin(secure(tls, &worker, &seat)).await {
            Some(opened) => opened,
            None => return,
        },
    };
    // What TLS knows of a connection would have to be kept, so there is little to gain.
    let mut parks = matches!(stream, Stream::Plain(_)) && worker.parks();
    loop {
        let mut client = Client::new(&mut stream, &seat, worker.limits.write_idle);
        let ended = match speaks {
            Speaks::AsIsMeant => requests(&mut client, peer, &*handler, &worker, parks).await,
            Speaks::PlainToTls => Ended::With(turn_away(&mut client, &plain_to_tls()).await),
        };
        match ended {
            Ended::With(Fate::Close) => return linger(&mut client, &worker).await,
            Ended::With(Fate::Reset) => {
                drop(client);
                // Where only the connection's end tells that an answer is whole, it must not look like one.
                let _ = rustix::net::sockopt::set_socket_linger(stream.tcp(), Some(Duration::ZERO));
                return;
            }
            Ended::With(Fate::Abort) => return,
            Ended::With(Fate::CloseNow | Fate::KeepAlive) | Ended::Idle => {
                return client.outbound.writer.say_goodbye();
            }
            Ended::Parks => drop(client),
        }
        let Stream::Plain(tcp) = stream else { return };
        let Some(kept) = park(tcp, &worker) else { return };
        (stream, parks) = (Stream::Plain(kept), false);
    }
}

/// Parks a connection; gives it back where that cannot be done.
fn park(tcp: TcpStream, worker: &Worker) -> Option<TcpStream> {
    let now = worker.seats.at();
    let idle_since = now.checked_sub(worker.limits.park_after).unwrap_or(now);
    let kept = worker.lot.park(tcp.into_std().ok()?, idle_since).err()?;
    TcpStream::from_std(kept).ok()
}

/// Whether a client speaks what is spoken at the door that it came in by.
#[derive(Clone, Copy)]
enum Speaks {
    AsIsMeant,
    PlainToTls,
}

/// Makes a connection ready for requests; `None`: it came to nothing.
async fn secure(mut tls: Box<TlsStream>, worker: &Worker, seat: &Seat) -> Option<(Stream, Speaks)> {
    let mut timer = Timer::new(seat);
    timer.arm(worker.limits.handshake_timeout);
    seat.waits_for_rest();
    let opened = poll_fn(|cx| {
        if let Poll::Ready(opened) = tls.poll_handshake(cx) {
            return Poll::Ready(opened);
        }
        // Nothing was asked for yet.
        if worker.closes_idle() || seat.gives_way() {
            return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
        }
        timer.poll().map(|()| Err(io::ErrorKind::TimedOut.into()))
    });
    match opened.await {
        Ok(Handshake::Secure) => Some((Stream::Tls(tls), Speaks::AsIsMeant)),
        Ok(Handshake::NotTls) => Some((Stream::Plain(tls.into_tcp()), Speaks::PlainToTls)),
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake came to nothing");
            None
        }
    }
}

fn plain_to_tls() -> Answer {
    Answer::new(400, "tls_expected", "this address speaks TLS, and the request came without").hint("use https://")
}

/// Answers what cannot be understood, and ends the connection.
async fn turn_away(client: &mut Client<'_>, answer: &Answer) -> Fate {
    let mut out = Output::lease();
    answer.write(&mut out, false, "Connection: close\r\n");
    client.outbound.write_all(&out).await.map_or(Fate::Abort, |()| Fate::Close)
}

/// Serves request after request.
async fn requests<H: Handler>(client: &mut Client<'_>, peer: Peer, handler: &H, worker: &Worker, parks: bool) -> Ended {
    loop {
        match wait_for_request(&mut client.inbound, worker, parks).await {
            Some(Waited::ForBytes) => {}
            Some(Waited::ToPark) => return Ended::Parks,
            None => return Ended::Idle,
        }
        let (mut head, mut live) = (Output::unleased(), None);
        let Some(opened) = read_head(&mut client.inbound, peer, handler, worker, &mut head, &mut live).await else {
            return Ended::Idle;
        };
        let fate = match (opened, &mut live) {
            (Ok((meta, None)), Some(live)) => exchange::run(client, worker, meta, &mut head, live).await,
            (Ok((meta, Some(answer))), _) => {
                let (mut rest, waits) = (Decoder::new(meta.body), meta.expects_continue);
                exchange::give(client, worker, &meta, &mut rest, waits, &answer).await
            }
            (Err(answer), _) => turn_away(client, &answer).await,
            // There is none: what has no answer lives.
            (Ok((_, None)), None) => Fate::Abort,
        };
        if fate != Fate::KeepAlive {
            return Ended::With(fate);
        }
    }
}

enum Waited {
    ForBytes,
    ToPark,
}

/// Waits for a request's first byte; what the client sent ahead comes before anything is read. Empty lines between
/// requests are skipped (RFC 9112, 2.2), and count as no request. `None`: the connection ended, or is to end.
async fn wait_for_request(inbound: &mut Inbound<'_>, worker: &Worker, parks: bool) -> Option<Waited> {
    let idle = worker.limits.idle_timeout;
    inbound.expect_within(if parks { Some(worker.limits.park_after) } else { idle });
    let (mut parks, mut ending) = (parks, false);
    loop {
        while inbound.input.filled().starts_with(b"\r\n") {
            inbound.input.consume(2);
        }
        if !matches!(inbound.input.filled(), [] | [b'\r']) {
            inbound.seat.is_busy();
            return Some(Waited::ForBytes);
        }
        inbound.seat.waits_for_request();
        match inbound.fill(|| !ending && worker.closes_idle()).await {
            Ok(()) => {}
            // Without an idle timeout the other side closes, and its next request may already be on the way. Once the
            // connection was idle for longer than `reuse_idle`, only one that is safe to repeat can be (P2c).
            Err(NoBytes::Late) if !ending && worker.closes_idle() && idle.is_none() => {
                ending = true;
                inbound.expect_within(Some(2 * worker.limits.reuse_idle));
            }
            Err(NoBytes::Late) if parks && !worker.closes_idle() && !inbound.seat.gives_way() => {
                if inbound.input.is_empty() {
                    return Some(Waited::ToPark);
                }
                parks = false;
                inbound.expect_within(idle);
            }
            Err(_) => return None,
        }
    }
}

/// What a head asks for, with the role's own answer to it, where it has one.
type Opened = (Meta, Option<Answer>);

/// Reads a head and lets the role decide; a forwarded one is written to `out` and lives in `live` from then on: moving it
/// from hand to hand costs more than deciding about it. `None`: the client left.
async fn read_head<H: Handler>(
    inbound: &mut Inbound<'_>,
    peer: Peer,
    handler: &H,
    worker: &Worker,
    out: &mut Output,
    live: &mut Option<Live<H::Request>>,
) -> Option<Result<Opened, Answer>> {
    let (mut first, mut searched) = (true, 0);
    loop {
        // A head that comes in many pieces is parsed when it may be whole, or can no longer be.
        if first
            || head::has_end(inbound.input.filled(), &mut searched)
            || inbound.input.len() > worker.limits.target_bytes
        {
            match open(inbound.input.filled(), peer, handler, worker, out, live) {
                Ok(Some((length, opened))) => {
                    inbound.seat.is_busy();
                    inbound.input.consume(length);
                    return Some(Ok(opened));
                }
                Ok(None) => {}
                Err(answer) => return Some(Err(answer)),
            }
        }
        if std::mem::take(&mut first) {
            inbound.expect_within(Some(worker.limits.head_timeout));
            inbound.seat.waits_for_rest();
        }
        match inbound.fill(|| false).await {
            Ok(()) => {}
            Err(NoBytes::Ended) => return None,
            Err(NoBytes::Late) => {
                return Some(Err(Answer::new(408, "head_too_slow", "the head did not come in time").closing()));
            }
        }
    }
}

fn open<H: Handler>(
    bytes: &[u8],
    peer: Peer,
    handler: &H,
    worker: &Worker,
    out: &mut Output,
    live: &mut Option<Live<H::Request>>,
) -> Result<Option<(usize, Opened)>, Answer> {
    head::parse(bytes, &worker.limits, |head, length| {
        let answer = match handler.begin(head, peer) {
            Begin::Answer(answer) => Some(answer),
            Begin::Forward(request) => {
                let request = live.insert(Live::new(request)).role();
                let out = out.ready();
                let keeps = |name: &str| !H::Request::ASKS_OF.begin(name) || request.keeps_header(name);
                head.write(request.strip_prefix(), keeps, out);
                request.write_headers(head, peer, &mut HeadWriter::new(out));
                None
            }
        };
        (length, (Meta::of(head), answer))
    })
}

/// Closes so that the client can still read its answer: unread bytes would turn the close into a reset.
async fn linger(client: &mut Client<'_>, worker: &Worker) {
    if client.outbound.end().await.is_ok() {
        client.inbound.expect_within(Some(worker.limits.linger));
        client.inbound.discard(worker.limits.linger_bytes).await;
    }
}
