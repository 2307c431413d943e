//! Owns a client's request from its head to its end: which program, which servers in turn, what is told of it.
//! Must not know how bytes move (`proxy`), or how the asking is decided (`domain::routing`).

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::heads::{self, Names};
use super::ledger::{End, Row};
use super::shared::{HeldPlace, Shared};
use super::snapshot::{Own, Program, Server};
use crate::domain::names::{Generation, ProgramName, RunId, Version};
use crate::domain::program::Manifest;
use crate::domain::routing::dispatch::Bounds;
use crate::domain::routing::{self, Ask, Dispatch, GiveUp};
use crate::proxy::{
    Answer, AttemptFailure, Attempts, Begin, Failure, Handler, HeadWriter, Next, Outcome, Peer, RequestHead,
    ResponseHead, Tally, Target, forwarded,
};
use crate::wire::messages::LedgerFailure;

/// What a client that got no server is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Characters of a path that a named failure shows.
const PATH_SHOWN: usize = 200;

/// One worker's requests.
pub struct Requests {
    shared: Arc<Shared>,
    worker: usize,
    turn: Cell<usize>,
}

impl Requests {
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self { shared, worker, turn: Cell::new(worker) }
    }

    fn next_turn(&self) -> usize {
        self.turn.set(self.turn.get().wrapping_add(1));
        self.turn.get()
    }
}

impl Handler for Requests {
    type Request = Request;

    fn begin(&self, head: &RequestHead<'_>, peer: Peer) -> Begin<Request> {
        if let Some(redirect) = self.shared.rules.redirect.as_ref().filter(|_| !peer.secure) {
            let trusted = (self.shared.rules.trusted)(peer.addr.ip().to_canonical());
            if let Some(answer) = redirect.of(head, trusted) {
                return Begin::Answer(answer);
            }
        }
        let news = self.shared.news_seen();
        let snapshot = self.shared.snapshot();
        let headers = head.headers.iter().map(|header| (header.name, header.value));
        let Some(matched) = snapshot.table.find(Ask { host: head.host, path: head.path, headers }) else {
            return Begin::Answer(no_program(snapshot.list.is_some(), head));
        };
        let program = Arc::clone(&snapshot.programs[matched.program]);
        let manifest = &program.manifest;
        let strip = if manifest.strip_prefix { matched.prefix_len() } else { 0 };
        let bounds = Bounds { hold: manifest.upgrade.hold, patience: self.shared.rules.unreachable_wait };
        Begin::Forward(Request {
            shared: Arc::clone(&self.shared),
            worker: self.worker,
            name: manifest.name.clone(),
            rules: Kept::of(manifest, strip),
            trusted: (self.shared.rules.trusted)(peer.addr.ip().to_canonical()),
            names: Names::of(head),
            about: (head.method.to_owned(), head.path.chars().take(PATH_SHOWN).collect()),
            began: Instant::now(),
            dispatch: Dispatch::new(bounds, self.next_turn()),
            view: Some(program),
            seen: news,
            at: None,
            refused_before: false,
            held: None,
            version: None,
            answered: false,
            gave_up: false,
        })
    }
}

fn no_program(has_list: bool, head: &RequestHead<'_>) -> Answer {
    if !has_list {
        return Answer::new(503, "no_server_list", "this router has not heard from management yet")
            .retry_after(RETRY_AFTER);
    }
    let shown: String = head.path.chars().take(PATH_SHOWN).collect();
    Answer::new(404, "unknown_program", format!("no program is known by {}{shown}", head.host))
        .hint("`neap route test URL` tells which rule matches what")
}

/// What of the manifest holds for the whole of a request, whatever lists come meanwhile.
#[derive(Clone, Copy)]
struct Kept {
    strip: usize,
    body_limit: u64,
    request_timeout: Duration,
}

impl Kept {
    fn of(manifest: &Manifest, strip: usize) -> Self {
        Self { strip, body_limit: manifest.body_limit, request_timeout: manifest.request_timeout }
    }
}

/// One request under way.
pub struct Request {
    shared: Arc<Shared>,
    worker: usize,
    name: ProgramName,
    rules: Kept,
    trusted: bool,
    names: Names,
    about: (String, String),
    began: Instant,
    dispatch: Dispatch,
    /// The program as the newest snapshot has it; `None`: it has it no more.
    view: Option<Arc<Program>>,
    seen: u64,
    at: Option<Claim>,
    refused_before: bool,
    held: Option<Held>,
    version: Option<Version>,
    /// A server's answer has begun.
    answered: bool,
    gave_up: bool,
}

/// This request, counted at the placement where it is tried; given back by drop.
struct Claim {
    server: Arc<Server>,
    own: Arc<Own>,
    place: usize,
}

impl Claim {
    fn take(program: &Program, place: usize) -> Self {
        let placement = &program.placements[place];
        placement.own.active.fetch_add(1, Ordering::Relaxed);
        Self { server: Arc::clone(&placement.server), own: Arc::clone(&placement.own), place }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.own.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// This request's place among those held; counted until dropped.
struct Held {
    shared: Arc<Shared>,
    worker: usize,
    program: ProgramName,
    _place: HeldPlace,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.ledger.not_held(self.worker, &self.program);
    }
}

impl Request {
    /// Looks at the newest snapshot, if there is news.
    fn look(&mut self) {
        let seen = self.shared.news_seen();
        if seen != self.seen {
            self.seen = seen;
            self.view = self.shared.snapshot().program(&self.name).cloned();
        }
    }

    fn decide(&mut self) -> routing::Next {
        let now = Instant::now();
        let view = self.view.as_deref();
        let candidates = view.into_iter().flat_map(|program| program.candidates(now));
        self.dispatch.next(self.shared.millis(now), candidates)
    }

    fn go(&mut self, place: usize) -> Option<Target> {
        let program = self.view.as_deref()?;
        let placement = program.placements.get(place)?;
        if std::mem::take(&mut self.refused_before) {
            self.shared.ledger.redispatched(self.worker, &self.name);
        }
        self.at = Some(Claim::take(program, place));
        Some(Target {
            addr: placement.server.data,
            key: placement.pool_key,
            authenticated: true,
            request_timeout: self.rules.request_timeout,
        })
    }

    /// Takes a place among the held requests, once; whether it has one.
    fn hold(&mut self) -> bool {
        if self.held.is_none()
            && let Some(place) = self.shared.hold()
        {
            let (shared, program) = (Arc::clone(&self.shared), self.name.clone());
            shared.ledger.held(self.worker, &program);
            self.held = Some(Held { shared, worker: self.worker, program, _place: place });
        }
        self.held.is_some()
    }

    fn give_up(&mut self, code: &'static str, detail: String) -> Answer {
        self.gave_up = true;
        Answer::new(503, code, detail)
            .retry_after(RETRY_AFTER)
            .hint("`neap status` shows where the program runs, and why not")
    }

    fn no_server(&mut self, why: GiveUp) -> Answer {
        let name = &self.name;
        let detail = match why {
            GiveUp::AllRefused => format!("no server takes requests for {name} now"),
            GiveUp::Unreachable => format!("no server of {name} can be reached"),
            GiveUp::NoPlacement => format!("no server hosts {name}"),
        };
        self.give_up("no_server", detail)
    }

    fn refused(&mut self, said: &str) {
        let Some(claim) = self.at.take() else { return };
        self.refused_before = true;
        let server = &claim.server.name;
        self.shared.ledger.refused(self.worker, Row::at(&self.name, server));
        let now = Instant::now();
        match parse_refusal(said) {
            Some((run, generation)) => {
                self.dispatch.refused(server, &run, generation);
                let placement = self.view.as_deref().and_then(|program| program.placements.get(claim.place));
                if let Some(placement) = placement {
                    placement.mark_refused(&run, generation, now);
                }
            }
            None => {
                tracing::warn!(%server, "a refusal names no run and generation: it proves nothing");
                self.dispatch.unreachable(server, self.shared.millis(now));
            }
        }
    }

    fn not_reached(&mut self, error: &std::io::Error) {
        let Some(claim) = self.at.take() else { return };
        tracing::debug!(server = %claim.server.name, program = %self.name, %error, "a server cannot be reached");
        self.refused_before = true;
        self.dispatch.unreachable(&claim.server.name, self.shared.millis(Instant::now()));
        self.shared.set_aside(&claim.server);
    }

    fn row(&self) -> Row {
        let server = self.at.as_ref().map(|claim| claim.server.name.clone());
        Row { program: self.name.clone(), version: self.version.clone(), server }
    }

    fn name_failure(&self, reason: &str) {
        let (method, path) = self.about.clone();
        self.shared.ledger.name(LedgerFailure {
            request_id: self.names.request_id.clone(),
            program: self.name.clone(),
            server: self.at.as_ref().map(|claim| claim.server.name.clone()),
            at: jiff::Timestamp::now().to_string(),
            method,
            path,
            reason: reason.to_owned(),
        });
    }
}

/// `<run>.<generation>`; a run may have dots.
fn parse_refusal(said: &str) -> Option<(RunId, Generation)> {
    let (run, generation) = said.trim().rsplit_once('.')?;
    Some((RunId::new(run).ok()?, Generation(generation.parse().ok()?)))
}

impl Attempts for Request {
    fn body_limit(&self) -> u64 {
        self.rules.body_limit
    }

    fn strip_prefix(&self) -> usize {
        self.rules.strip
    }

    fn keeps_header(&self, name: &str) -> bool {
        self.names.keeps(name)
    }

    fn write_headers(&self, head: &RequestHead<'_>, peer: Peer, out: &mut HeadWriter<'_>) {
        forwarded::write(head, peer.addr, self.trusted, peer.scheme(), out);
        if let Some(prefix) = head.path.get(..self.rules.strip).filter(|prefix| !prefix.is_empty()) {
            out.add("X-Forwarded-Prefix", prefix);
        }
        self.names.write(out);
        out.add(heads::PROGRAM, self.name.as_str());
    }

    async fn next(&mut self) -> Next {
        // Bounded by the dispatch, which ends by proof or by time.
        loop {
            self.look();
            match self.decide() {
                routing::Next::Try(place) => match self.go(place) {
                    Some(target) => return Next::Try(target),
                    None => return Next::Stop(self.no_server(GiveUp::NoPlacement)),
                },
                routing::Next::GiveUp(why) => return Next::Stop(self.no_server(why)),
                routing::Next::Wait { held: true, .. } if !self.hold() => {
                    let detail = format!("no server takes requests for {} now, and too many are held", self.name);
                    return Next::Stop(self.give_up("held_requests_full", detail));
                }
                routing::Next::Wait { until, .. } => {
                    self.shared.news_since(self.seen, self.shared.instant(until)).await
                }
            }
        }
    }

    fn write_target_headers(&self, out: &mut HeadWriter<'_>) {
        if let Some(secret) = &self.shared.rules.secret {
            out.add(heads::CLUSTER_KEY, secret.header());
        }
    }

    fn failed(&mut self, why: AttemptFailure<'_>) {
        match why {
            AttemptFailure::Refused(said) => self.refused(said),
            AttemptFailure::Connect(error) => self.not_reached(&error),
            // The proxy answers 502 or 504 itself, and says so in `ended`.
            AttemptFailure::DiedBeforeResponse | AttemptFailure::Timeout => {}
        }
    }

    fn response(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        self.held = None;
        if let Some(claim) = self.at.as_ref().filter(|claim| claim.server.is_aside()) {
            claim.server.take_back();
            self.shared.wake();
        }
        let version = head.header(heads::VERSION);
        self.version = version.and_then(|version| Version::new(version).ok());
        if let Some(version) = self.version.as_ref().filter(|_| self.shared.rules.expose_version) {
            out.add(heads::VERSION, version.as_str());
        }
        self.answered = true;
        self.shared.ledger.answered(self.worker, self.row());
    }

    fn ended(&mut self, outcome: Outcome, _: Tally) {
        let end = match outcome {
            Outcome::Answered { .. } if self.gave_up => End::NoServer { was_held: self.dispatch.was_held() },
            Outcome::Completed { status } | Outcome::Answered { status } => End::Completed { status },
            Outcome::ClientLeft => End::ClientLeft,
            Outcome::Cut => End::Cut,
            Outcome::Failed(failure) => {
                self.name_failure(told(failure));
                End::Failed
            }
        };
        self.shared.ledger.ended(self.worker, self.row(), end, self.answered, self.began.elapsed());
        self.at = None;
        self.held = None;
    }
}

fn told(failure: Failure) -> &'static str {
    match failure {
        Failure::NoResponse => "no whole response head came",
        Failure::Timeout => "no response within the program's request_timeout",
        Failure::Truncated => "the response broke off",
        Failure::Panic => "a panic in this request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_run_and_generation_or_proves_nothing() {
        let parsed = |said| parse_refusal(said).map(|(run, generation)| (run.to_string(), generation.0));
        assert_eq!(parsed("01J.7"), Some(("01J".into(), 7)));
        assert_eq!(parsed("a.b.7 "), Some(("a.b".into(), 7)));
        for bad in ["", "7", "r.", ".7", "r.x", "r r.1"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
