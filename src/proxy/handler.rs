//! Owns what a role implements to decide about requests, and what it hears of them. Must not know how bytes move.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

use super::answer::Answer;
use super::fields::Letters;
use super::head::RequestHead;
use super::response::ResponseHead;
use super::writer::HeadWriter;

/// A role: decides about each request from its head. One per worker, or one shared through `Rc`.
pub trait Handler: 'static {
    type Request: Attempts;

    /// Decides from the head alone. A request answered here was never forwarded, and has no [`Attempts`].
    fn begin(&self, head: &RequestHead<'_>, peer: Peer) -> Begin<Self::Request>;

    /// Changes when some requests are to be cut: then all of the worker's are polled, and so [`Attempts::poll_cut`] need
    /// not keep a waker. Asked once.
    fn nudges(&self) -> Option<watch::Receiver<()>> {
        None
    }

    /// After each such change, before the requests are polled.
    fn nudged(&self) {}
}

/// Who is at the other end of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub addr: SocketAddr,
    /// What it sends comes through TLS.
    pub secure: bool,
}

impl Peer {
    /// The scheme of what it asks for.
    pub fn scheme(self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

pub enum Begin<R> {
    Answer(Answer),
    Forward(R),
}

/// One request that is forwarded, from its head to its end. Dropped right after [`Attempts::ended`].
pub trait Attempts: 'static {
    /// Bytes of body allowed; more is 413.
    fn body_limit(&self) -> u64 {
        u64::MAX
    }

    /// Bytes at the start of the normalised path that the upstream does not see. A `/` is put in front where one lacks.
    fn strip_prefix(&self) -> usize {
        0
    }

    /// First letters of the names that [`Attempts::keeps_header`] is asked about; all others are sent on.
    const ASKS_OF: Letters = Letters::ALL;

    /// Whether the client's field is sent on. Hop-by-hop fields, `Host`, `Expect` and framing are not asked about, nor is
    /// any `Neap-*`, which are never sent on. Names are as the client wrote them. The default keeps all others.
    fn keeps_header(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// Adds fields to the forwarded head, once a request, with the client's head at hand (see [`super::forwarded`]).
    fn write_headers(&self, head: &RequestHead<'_>, peer: Peer, out: &mut HeadWriter<'_>) {
        let _ = (head, peer, out);
    }

    /// The next thing to do: at first, and after each [`Attempts::failed`]. Dropped unfinished when the client leaves. It
    /// is what bounds the number or time of attempts. A server claims here: its small body is already read by then.
    fn next(&mut self) -> impl Future<Output = Next>;

    /// Adds fields for the target just chosen, such as the cluster's key.
    fn write_target_headers(&self, out: &mut HeadWriter<'_>) {
        let _ = out;
    }

    /// An attempt came to nothing. After [`AttemptFailure::Refused`] and [`AttemptFailure::Connect`] nothing reached
    /// the program and `next` is asked again; after the others the proxy answers 502 or 504 itself.
    fn failed(&mut self, why: AttemptFailure<'_>) {
        let _ = why;
    }

    /// The final response's head has come. May add fields to what the client gets; `Neap-*` of the upstream are readable
    /// here and are never sent on.
    fn response(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        let _ = (head, out);
    }

    /// This request may live long: it became a tunnel, or its answer is an event stream.
    fn long_lived(&mut self, kind: LongLived) {
        let _ = kind;
    }

    /// Ready when the request is to be cut; polled while it is in flight, and after each nudge of [`Handler::nudges`]. What
    /// else makes it ready has to wake the task, as [`super::Cut`] does.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// It was cut before its answer began: what becomes of it. `repeatable`: it may be sent once more (P2c).
    fn when_cut(&mut self, repeatable: bool) -> WhenCut {
        let _ = repeatable;
        WhenCut::BreakOff
    }

    /// The request has ended: called exactly once, whatever happened.
    fn ended(&mut self, outcome: Outcome, tally: Tally);
}

pub enum Next {
    Try(Target),
    Stop(Answer),
}

/// What becomes of a request that is cut before its answer began.
pub enum WhenCut {
    /// The client's connection is broken off.
    BreakOff,
    /// The client is told.
    Answer(Answer),
    /// [`Attempts::next`] is asked again; only of one that may be repeated.
    Again,
}

/// Where an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub addr: SocketAddr,
    /// The identity that connections are pooled by: the instance or the server's run, never the address alone (P2c).
    pub key: u64,
    /// The next hop is one of the cluster's servers: its `Neap-Refused` is believed (P1), and its `100 Continue` is
    /// waited for where a body cannot be sent again (P2f).
    pub authenticated: bool,
    /// To the first response byte, from the last byte sent; then 504.
    pub request_timeout: Duration,
    /// Bytes of body that the target takes, where that is less than [`Attempts::body_limit`].
    pub body_limit: u64,
}

#[derive(Debug)]
pub enum AttemptFailure<'a> {
    /// `Neap-Refused` as it came: `<run>.<generation>`.
    Refused(&'a str),
    /// No connection could be made; nothing was sent.
    Connect(io::Error),
    /// The connection died, or said what is not HTTP, before the response's head was whole. 502 follows.
    DiedBeforeResponse,
    /// `request_timeout` passed. 504 follows.
    Timeout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongLived {
    Tunnel,
    EventStream,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's answer was passed on whole; 101: a tunnel that both sides ended.
    Completed {
        status: u16,
    },
    /// neap's own answer was given: `Next::Stop`, or the client's fault (a malformed, too large or too slow body).
    Answered {
        status: u16,
    },
    ClientLeft,
    Cut,
    Failed(Failure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No whole response head came; the client got 502.
    NoResponse,
    /// The client got 504.
    Timeout,
    /// The response broke off; the client's connection was broken off too.
    Truncated,
    /// A panic, in this request only.
    Panic,
}

/// Bytes of bodies that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub received: u64,
    pub sent: u64,
}
