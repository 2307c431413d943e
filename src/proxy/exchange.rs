//! Owns one forwarded request from its head to its end: its attempts, its one outcome, and what becomes of the client's
//! connection. Must not know how an attempt goes (`attempt.rs`), or how targets are chosen.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::answer::Answer;
use super::attempt::{self, Attempted};
use super::body::{Decoder, Framing};
use super::buffer::Output;
use super::handler::{Attempts, Failure, Next, Outcome, Tally};
use super::head::RequestHead;
use super::inbound::Client;
use super::limits::Limits;
use super::serve::Worker;
use super::upload::{Body, End, too_large};

/// While the rest of a small body is read and dropped to keep a connection.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// What becomes of a client's connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    KeepAlive,
    /// Closed once the client has had its answer.
    Close,
    /// Closed at once: the client asked for it, and has nothing more to say.
    CloseNow,
    /// Broken off: what was sent is not whole, and its framing shows it.
    Abort,
    /// Broken off with a reset: nothing else would show it.
    Reset,
}

/// What of a request's head matters after it was handled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub body: Framing,
    pub websocket: bool,
    pub expects_continue: bool,
    pub http10: bool,
    pub keep_alive: bool,
    pub idempotent: bool,
    pub is_head: bool,
}

impl Meta {
    pub fn of(head: &RequestHead<'_>) -> Self {
        Self {
            body: head.body,
            websocket: head.websocket,
            expects_continue: head.expects_continue && !matches!(head.body, Framing::Empty | Framing::Length(0)),
            http10: head.http10,
            keep_alive: head.keep_alive,
            idempotent: head.idempotent(),
            is_head: head.method == "HEAD",
        }
    }

    /// The line that tells the client what becomes of its connection.
    pub fn connection_line(&self, closing: bool) -> &'static str {
        match (closing, self.http10) {
            (true, _) => "Connection: close\r\n",
            (false, true) => "Connection: keep-alive\r\n",
            (false, false) => "",
        }
    }
}

/// The role's part of a request, told its end exactly once, also when the task is dropped or panics.
pub(super) struct Live<R: Attempts> {
    request: R,
    over: bool,
    pub received: Cell<u64>,
    pub sent: Cell<u64>,
}

impl<R: Attempts> Live<R> {
    pub fn new(request: R) -> Self {
        Self { request, over: false, received: Cell::new(0), sent: Cell::new(0) }
    }

    pub fn role(&mut self) -> &mut R {
        &mut self.request
    }

    fn tell(&mut self, outcome: Outcome) {
        self.over = true;
        self.request.ended(outcome, Tally { received: self.received.get(), sent: self.sent.get() });
    }
}

impl<R: Attempts> Drop for Live<R> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let outcome = if std::thread::panicking() { Outcome::Failed(Failure::Panic) } else { Outcome::Cut };
        // A second panic while unwinding would end the process, and all its requests.
        let _ = catch_unwind(AssertUnwindSafe(|| self.tell(outcome)));
    }
}

/// One forwarded request under way.
pub(super) struct Exchange<'x, 'c, R: Attempts> {
    pub client: &'x mut Client<'c>,
    pub worker: &'x Worker,
    pub meta: Meta,
    /// The forwarded head without framing; each attempt adds its own lines behind `head_bytes`.
    pub head: &'x mut Output,
    pub head_bytes: usize,
    pub body: Body,
    pub live: &'x mut Live<R>,
    /// `100 Continue` was sent to the client.
    pub continued: bool,
}

/// Carries a request through to its end.
pub(super) async fn run<R: Attempts>(
    client: &mut Client<'_>,
    worker: &Worker,
    meta: Meta,
    head: &mut Output,
    live: &mut Live<R>,
) -> Fate {
    let (head_bytes, body) = (head.len(), Body::new(meta.body, live.role().body_limit()));
    let mut exchange = Exchange { client, worker, meta, head, head_bytes, body, live, continued: false };
    let (outcome, fate) = exchange.carry().await;
    let Exchange { client, body, live, .. } = exchange;
    live.received.set(live.received.get() + body.received);
    let said_all = !meta.keep_alive && body.decoder.is_done();
    drop(body);
    live.tell(outcome);
    // Nothing unread turns this close into a reset.
    if fate == Fate::Close && said_all && client.inbound.is_quiet().await { Fate::CloseNow } else { fate }
}

impl<R: Attempts> Exchange<'_, '_, R> {
    async fn carry(&mut self) -> (Outcome, Fate) {
        if let Framing::Length(length) = self.meta.body {
            if length > self.body.limit {
                return self.answered(&too_large(self.body.limit)).await;
            }
            if let Err(end) = self.keep_body(length).await {
                return self.ended_early(end).await;
            }
        }
        // Bounded by the role: `next` stops by time (protocol P2e).
        loop {
            let target = match self.next().await {
                None => return (Outcome::ClientLeft, Fate::Abort),
                Some(Next::Stop(answer)) => return self.answered(&answer).await,
                Some(Next::Try(target)) => target,
            };
            match attempt::run(self, &target).await {
                Attempted::Again => {}
                Attempted::Ended(outcome, fate) => return (outcome, fate),
                Attempted::Early(end) => return self.ended_early(end).await,
                Attempted::Failed(failure, answer) => {
                    let (_, fate) = self.answered(&answer).await;
                    return (Outcome::Failed(failure), fate);
                }
                Attempted::Cut(answer) => {
                    let (_, fate) = self.answered(&answer).await;
                    return (Outcome::Cut, fate);
                }
            }
        }
    }

    /// Reads a small body before anything is asked for it, so that it can be repeated (P2f).
    async fn keep_body(&mut self, length: u64) -> Result<(), End> {
        let limits = &self.worker.limits;
        let admission_first = self.meta.expects_continue && limits.continue_is_admission;
        if length == 0 || length > limits.replay_bytes || admission_first {
            return Ok(());
        }
        let Some(reservation) = limits.replay_budget.reserve(usize::try_from(length).unwrap_or(usize::MAX)) else {
            return Ok(());
        };
        self.send_continue().await?;
        self.body.keep(&mut self.client.inbound, length, reservation, limits).await
    }

    /// Whether the client sends its body only once told to.
    pub fn waits_for_continue(&self) -> bool {
        self.meta.expects_continue && !self.continued
    }

    /// Tells a client that waits for it to send its body.
    pub async fn send_continue(&mut self) -> Result<(), End> {
        if !self.waits_for_continue() {
            return Ok(());
        }
        self.continued = true;
        self.client.outbound.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| End::ClientLeft)
    }

    /// Asks the role; `None` when the client left meanwhile.
    async fn next(&mut self) -> Option<Next> {
        let may_half_close = !self.meta.keep_alive;
        let Self { client, live, .. } = self;
        let mut next = pin!(live.role().next());
        poll_fn(|cx| {
            if let Poll::Ready(next) = next.as_mut().poll(cx) {
                return Poll::Ready(Some(next));
            }
            client.inbound.poll_left(cx, may_half_close).map(|()| None)
        })
        .await
    }

    async fn ended_early(&mut self, end: End) -> (Outcome, Fate) {
        match end {
            End::ClientLeft => (Outcome::ClientLeft, Fate::Abort),
            End::Fault(answer) => self.answered(&answer).await,
        }
    }

    async fn answered(&mut self, answer: &Answer) -> (Outcome, Fate) {
        let waits = self.waits_for_continue();
        match give(self.client, self.worker, &self.meta, &mut self.body.decoder, waits, answer).await {
            Fate::Abort => (Outcome::ClientLeft, Fate::Abort),
            fate => (Outcome::Answered { status: answer.status }, fate),
        }
    }
}

/// Gives neap's own answer. A small body that is still coming is read and dropped, to keep the connection; a client that
/// waits for `100` may or may not send it, so its connection ends.
pub(super) async fn give(
    client: &mut Client<'_>,
    worker: &Worker,
    meta: &Meta,
    rest: &mut Decoder,
    waits: bool,
    answer: &Answer,
) -> Fate {
    let small = rest.left().is_some_and(|left| left == 0 || (!waits && left <= worker.limits.replay_bytes));
    let closing = answer.close || !meta.keep_alive || worker.is_draining() || !small;
    let mut out = Output::lease();
    answer.write(&mut out, meta.is_head, meta.connection_line(closing));
    if client.outbound.write_all(&out).await.is_err() {
        return Fate::Abort;
    }
    if closing || !drop_rest(client, rest, &worker.limits).await { Fate::Close } else { Fate::KeepAlive }
}

/// Reads the rest of a small body; whether it came in time.
async fn drop_rest(client: &mut Client<'_>, rest: &mut Decoder, limits: &Limits) -> bool {
    client.inbound.expect_within(Some(DISCARD_TIME.min(limits.body_idle)));
    while !rest.is_done() {
        if client.inbound.input.is_empty() && client.inbound.fill(|| false).await.is_err() {
            return false;
        }
        let Ok(piece) = rest.next(client.inbound.input.filled()) else { return false };
        client.inbound.input.consume(piece.used);
    }
    true
}
