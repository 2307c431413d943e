//! Owns what passes on one upstream connection: the request sent, each response's head judged, the final one passed on.
//! Must not know how the connection was made, nor what follows when it came to nothing (`attempt.rs`).

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::answer::Answer;
use super::attempt::{Attempted, Driven};
use super::body::{Decoder, Framing};
use super::buffer::{Input, Output};
use super::download::{self, NoHead, Relayed};
use super::exchange::{Exchange, Fate, Live, Meta};
use super::handler::{AttemptFailure, Attempts, Failure, LongLived, Outcome, Target, WhenCut};
use super::inbound::{Outbound, watch_peer};
use super::limits::{OF_PROGRAM, OF_SERVER};
use super::race::{Patience, Raced, race};
use super::response::{self, ResponseHead};
use super::seats::Timer;
use super::serve::Worker;
use super::upload::{self, End, Progress};
use super::writer::HeadWriter;

/// Interim responses to one request; an upstream that sends more never comes to an answer.
const INTERIM_RESPONSES: u32 = 1000;

/// What a connection is good for after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// `keeps_for`: how long the upstream keeps it idle, where it says so.
    Reusable {
        keeps_for: Option<Duration>,
    },
    Spent,
    /// Some of the request was not taken.
    Unfinished,
}

/// Sends the request and reads responses until the final one has been passed on; and what the connection is good for
/// then. `awaits`: the body waits for the upstream's `100 Continue`; `head_sent`: only the body is to be sent.
pub(super) async fn run<R: Attempts>(
    x: &mut Exchange<'_, '_, R>,
    target: &Target,
    stream: &mut TcpStream,
    awaits: bool,
    head_sent: bool,
) -> (Driven, Left) {
    let Exchange { client, worker, meta, head, body, live, continued, .. } = x;
    let (mut reader, mut writer) = stream.split();
    let progress = Progress::default();
    progress.go.set(!awaits);
    progress.started.set(head_sent);
    let head: &[u8] = if head_sent { &[] } else { head };
    let head = upload::send_at_once(&writer, head, body, &progress);
    let (inbound, outbound) = (&mut client.inbound, &mut client.outbound);
    let repeatable = meta.idempotent && body.is_repeatable();
    let upload = upload::run(&mut writer, inbound, head, body, &progress, !meta.keep_alive, &worker.limits);
    let mut upload = pin!(upload);
    let timer = &mut client.upstream_timer;
    let (input, out) = (Input::default(), Output::unleased());
    let mut talk =
        Talk { meta, target, awaits, repeatable, worker, outbound, live, continued, progress: &progress, input, out };
    let mut keeps_for = None;
    let (driven, reusable) = match talk.hear(&mut reader, upload.as_mut(), timer).await {
        Heard::Over(driven, reusable) => (driven, reusable),
        Heard::Final(relay) => {
            keeps_for = relay.keeps_for;
            talk.relay(&mut reader, upload.as_mut(), &relay).await
        }
    };
    let left = match (reusable, progress.done.get()) {
        (true, _) => Left::Reusable { keeps_for },
        (false, true) => Left::Spent,
        (false, false) => Left::Unfinished,
    };
    (driven, left)
}

/// A request and its responses on one connection.
struct Talk<'t, 'c, R: Attempts> {
    meta: &'t Meta,
    target: &'t Target,
    awaits: bool,
    repeatable: bool,
    worker: &'t Worker,
    outbound: &'t mut Outbound<'c>,
    live: &'t mut Live<R>,
    continued: &'t mut bool,
    progress: &'t Progress,
    /// From the upstream.
    input: Input,
    /// To the client; leased when there is something to say, so that those that wait hold none.
    out: Output,
}

/// What a response's head asks for.
enum Verdict {
    Interim,
    Continue,
    /// `rest`: the length of its body, where the connection is kept after it.
    Refused {
        header: String,
        rest: Option<u64>,
    },
    Tunnel,
    /// More bytes are needed.
    Partial,
    Bad,
    Final(Relay),
}

/// What came of hearing responses.
enum Heard {
    Final(Relay),
    /// It ended otherwise; and whether the connection can be used again.
    Over(Driven, bool),
}

/// How a final response is passed on.
struct Relay {
    status: u16,
    framing: Framing,
    chunked: bool,
    keep_alive: bool,
    keeps_for: Option<Duration>,
    fate: Fate,
    /// The client's fate when the body breaks off.
    broken: Fate,
    long_lived: bool,
}

impl<R: Attempts> Talk<'_, '_, R> {
    /// Hears responses up to the final one's head, which is then in `out`.
    async fn hear(
        &mut self,
        reader: &mut ReadHalf<'_>,
        mut upload: Pin<&mut impl Future<Output = End>>,
        timer: &mut Timer<'_>,
    ) -> Heard {
        let over = |attempted| Heard::Over(Driven::Attempted(attempted), false);
        let mut first_look = true;
        for heard in 0..INTERIM_RESPONSES {
            let mut patience = Patience { timer, timeout: self.target.request_timeout, seen: None };
            let raced = {
                let head = pin!(download::head(reader, &mut self.input, first_look));
                race(head, upload.as_mut(), self.progress, self.live, Some(&mut patience)).await
            };
            match raced {
                Raced::Done(Ok(())) => {}
                Raced::Done(Err(why)) => return Heard::Over(self.no_head(why, heard > 0), false),
                Raced::Upload(end) => return over(Attempted::Early(end)),
                Raced::Cut => return over(self.cut()),
                Raced::Late => return Heard::Over(self.late(), false),
            }
            match self.judge() {
                Verdict::Final(relay) => return Heard::Final(relay),
                Verdict::Partial => first_look = false,
                Verdict::Bad => return over(self.bad_response()),
                Verdict::Refused { header, rest } => {
                    let clean = self.progress.done.get() && rest == Some(self.input.len() as u64);
                    return Heard::Over(Driven::Refused(header), clean);
                }
                verdict => {
                    first_look = true;
                    if self.outbound.write_all(&self.out).await.is_err() {
                        return over(Attempted::Early(End::ClientLeft));
                    }
                    self.out.clear();
                    if matches!(verdict, Verdict::Tunnel) {
                        return Heard::Over(Driven::Tunnel(std::mem::take(&mut self.input)), false);
                    }
                }
            }
        }
        over(self.bad_response())
    }

    /// Passes the final response's body on.
    async fn relay(
        &mut self,
        reader: &mut ReadHalf<'_>,
        upload: Pin<&mut impl Future<Output = End>>,
        relay: &Relay,
    ) -> (Driven, bool) {
        let Self { outbound, input, out, live, progress, .. } = self;
        if relay.long_lived {
            watch_peer(outbound.writer.tcp());
        }
        let mut decoder = Decoder::new(relay.framing);
        let sent = std::mem::take(&mut live.sent);
        let passing = download::body(reader, input, &mut decoder, outbound, out, relay.chunked, &sent);
        let raced = race(pin!(passing), upload, progress, live, None).await;
        live.sent = sent;
        let (outcome, fate) = match raced {
            Raced::Done(Relayed::Whole) => (Outcome::Completed { status: relay.status }, relay.fate),
            Raced::Done(Relayed::Truncated) => (Outcome::Failed(Failure::Truncated), relay.broken),
            Raced::Done(Relayed::ClientLeft) | Raced::Upload(End::ClientLeft) => (Outcome::ClientLeft, Fate::Abort),
            Raced::Upload(End::Fault(answer)) => (Outcome::Answered { status: answer.status }, relay.broken),
            Raced::Cut | Raced::Late => (Outcome::Cut, relay.broken),
        };
        let whole = matches!(outcome, Outcome::Completed { .. });
        let reusable = whole && relay.keep_alive && self.progress.done.get() && self.input.is_empty();
        (Driven::Attempted(Attempted::Ended(outcome, fate)), reusable)
    }

    /// Takes one head off `input` and writes to `out` what the client gets of it.
    fn judge(&mut self) -> Verdict {
        // Once a body was admitted and is on its way, it cannot be sent elsewhere.
        let refusable = self.target.authenticated && !(self.awaits && self.progress.go.get());
        let closing = !self.meta.keep_alive || self.worker.is_draining() || !self.progress.done.get();
        let Self { meta, live, input, .. } = self;
        let out = self.out.ready();
        let bounds = if self.target.authenticated { OF_SERVER } else { OF_PROGRAM };
        let parsed = response::parse(input.filled(), meta.is_head, bounds, |head, length| {
            (judge(head, meta, refusable, closing, live, out), length)
        });
        let (verdict, length) = match parsed {
            Ok(Some(judged)) => judged,
            Ok(None) => return Verdict::Partial,
            Err(_) => return Verdict::Bad,
        };
        self.input.consume(length);
        if matches!(verdict, Verdict::Continue) {
            self.progress.go.set(true);
            if self.meta.expects_continue && !std::mem::replace(self.continued, true) {
                self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        verdict
    }

    fn cut(&mut self) -> Attempted {
        match self.live.role().when_cut(self.repeatable) {
            WhenCut::BreakOff => Attempted::Ended(Outcome::Cut, Fate::Abort),
            WhenCut::Answer(answer) => Attempted::Cut(answer),
            WhenCut::Again => Attempted::Again,
        }
    }

    fn no_head(&mut self, why: NoHead, heard: bool) -> Driven {
        match why {
            NoHead::Died if !heard && self.input.is_empty() => Driven::Died { unsent: !self.progress.started.get() },
            NoHead::Died | NoHead::TooLarge => Driven::Attempted(self.bad_response()),
        }
    }

    fn late(&mut self) -> Driven {
        self.live.role().failed(AttemptFailure::Timeout);
        let answer = Answer::new(504, "upstream_timeout", "the program did not answer within its request_timeout");
        Driven::Attempted(Attempted::Failed(Failure::Timeout, answer))
    }

    fn bad_response(&mut self) -> Attempted {
        self.live.role().failed(AttemptFailure::DiedBeforeResponse);
        let answer = Answer::new(502, "bad_response", "the program's answer is not HTTP that has one meaning");
        Attempted::Failed(Failure::NoResponse, answer)
    }
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
        let rest = match head.body {
            Framing::Length(rest) if head.keep_alive => Some(rest),
            Framing::Empty if head.keep_alive => Some(0),
            _ => None,
        };
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
    let long_lived = head.is_event_stream();
    if long_lived {
        live.role().long_lived(LongLived::EventStream);
    }
    Verdict::Final(Relay { long_lived, ..frame(head, meta, closing, out) })
}

/// Writes the framing that the client gets: lengths stay, all else becomes chunks, or the connection's end in HTTP/1.0.
fn frame(head: &ResponseHead<'_>, meta: &Meta, closing: bool, out: &mut Vec<u8>) -> Relay {
    let mut writer = HeadWriter::new(out);
    let chunked = matches!(head.body, Framing::Chunked | Framing::UntilClose) && !meta.http10;
    let until_close = matches!(head.body, Framing::Chunked | Framing::UntilClose) && meta.http10;
    match (head.body, head.status) {
        (Framing::Length(length), _) => writer.add_number("Content-Length", length),
        // What it would have been for GET.
        (Framing::Empty, status) if (meta.is_head && status != 204) || status == 304 => {
            if let Some(length) = head.header("content-length").filter(|_| head.header("transfer-encoding").is_none()) {
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
    Relay {
        status: head.status,
        framing: head.body,
        chunked,
        keep_alive: head.keep_alive,
        keeps_for: head.keeps_for,
        fate,
        broken,
        long_lived: false,
    }
}
