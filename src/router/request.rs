//! Owns a client's request from its head to its end: which servers in turn, what is told of it.
//! Must not know how bytes move (`proxy`), or how the asking is decided (`domain::routing`).

mod attempts;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::affinity::{self, Carried};
use super::heads::Names;
use super::here::Visit;
use super::ledger::Counter;
use super::overhead::EVERY;
use super::shared::HeldPlace;
use super::snapshot::{HERE, Placement, Server};
use super::worker::{Local, Worker};
use crate::domain::names::{Generation, ProgramName, RunId};
use crate::domain::routing::dispatch::Bounds;
use crate::domain::routing::{self, Dispatch, GiveUp};
use crate::proxy::{Answer, Framing, Kept, Next, Outcome, Target, too_large};
use crate::wire::messages::LedgerFailure;

/// What a client that got no server is told to wait.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One request under way.
pub struct Request {
    worker: Rc<Worker>,
    /// The program as it was when the request came: its rules hold for the whole of it, whatever lists come meanwhile.
    program: Rc<Local>,
    strip: usize,
    trusted: bool,
    names: Names,
    /// `None`: the program has no sessions.
    carried: Option<Carried>,
    body: Framing,
    began: Instant,
    dispatch: Dispatch,
    /// The program as the newest snapshot has it; `None`: it has it no more.
    view: Option<Rc<Local>>,
    seen: u64,
    /// When it was last decided where it goes; at first, when it came.
    decided_at: Instant,
    decided: bool,
    at: Option<Claim>,
    /// Where it is tried is in this process.
    visit: Option<Box<dyn Visit>>,
    /// A server's answer has begun, and was counted here.
    counted: Option<Kept<Counter>>,
    refused_before: bool,
    /// It was sent once more after it was cut.
    repeated: bool,
    held: Option<Held>,
    gave_up: bool,
    /// How long it takes to be sent on is looked at.
    sampled: bool,
}

/// What is known of a request when it comes.
pub(super) struct Came {
    pub program: Rc<Local>,
    pub strip: usize,
    pub trusted: bool,
    pub names: Names,
    pub carried: Option<Carried>,
    pub body: Framing,
    pub at: Instant,
    /// The news that its program was found by.
    pub seen: u64,
}

/// This request, counted at the placement where it is tried; given back by drop.
struct Claim {
    local: Rc<Local>,
    place: usize,
    worker: usize,
}

impl Claim {
    fn take(local: &Rc<Local>, place: usize, worker: usize) -> Option<Self> {
        local.placement(place)?.own.active.add(worker);
        Some(Self { local: Rc::clone(local), place, worker })
    }

    fn placement(&self) -> &Placement {
        &self.local.program.placements[self.place]
    }

    fn server(&self) -> &Arc<Server> {
        &self.placement().server
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.placement().own.active.take(self.worker);
    }
}

/// This request's place among those held; counted until dropped.
struct Held {
    counter: Kept<Counter>,
    worker: Rc<Worker>,
    program: ProgramName,
    since: Instant,
    /// Its place in the line.
    ticket: u64,
    _place: HeldPlace,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counter.not_held();
        self.worker.shared.ledger.held_for(&self.program, self.since.elapsed());
    }
}

impl Request {
    pub(super) fn new(worker: &Rc<Worker>, came: Came) -> Self {
        let Came { program, strip, trusted, names, carried, body, at, seen } = came;
        let (turn, came_whole) = (worker.next_turn(), matches!(body, Framing::Empty | Framing::Length(0)));
        let (hold, patience) = (program.program.manifest().upgrade.hold, worker.shared.rules.unreachable_wait);
        Self {
            strip,
            trusted,
            names,
            carried,
            body,
            began: at,
            dispatch: Dispatch::new(Bounds { hold, patience }, turn),
            view: Some(Rc::clone(&program)),
            program,
            worker: Rc::clone(worker),
            seen,
            decided_at: at,
            decided: false,
            at: None,
            visit: None,
            counted: None,
            refused_before: false,
            repeated: false,
            held: None,
            gave_up: false,
            // While a body comes, or it is held, it is not the router that takes time.
            sampled: came_whole && turn.is_multiple_of(EVERY),
        }
    }

    /// Looks at the newest snapshot, if there is news.
    fn look(&mut self) {
        let seen = self.worker.look();
        if seen != self.seen {
            self.seen = seen;
            self.view = self.worker.program_named(self.program.name());
        }
    }

    fn decide(&mut self) -> routing::Next {
        let Some(view) = &self.view else {
            return self.dispatch.next(self.worker.shared.millis(Instant::now()), std::iter::empty());
        };
        // The clock is asked again only where time may have gone by that matters: a body may have come in the meantime.
        let came_whole = matches!(self.body, Framing::Empty | Framing::Length(0));
        if std::mem::replace(&mut self.decided, true) || !came_whole || view.program.placements.is_empty() {
            self.decided_at = Instant::now();
        }
        let now = self.worker.shared.millis(self.decided_at);
        match self.carried.as_ref().and_then(|carried| carried.tag.as_ref()) {
            Some(tag) => self.dispatch.next(now, affinity::candidates(&view.program, tag, self.decided_at)),
            None => self.dispatch.next(now, view.program.candidates(self.decided_at)),
        }
    }

    /// Goes to a placement; `None`: it refused at once.
    fn go(&mut self, place: usize) -> Option<Next> {
        let claim = self.view.as_ref().and_then(|view| Claim::take(view, place, self.worker.number));
        let Some(claim) = claim else { return Some(Next::Stop(self.no_server(GiveUp::NoPlacement))) };
        if std::mem::take(&mut self.refused_before) {
            self.program_counter().redispatched();
        }
        let (addr, key, here) = (claim.server().data, claim.placement().pool_key, claim.server().here);
        self.at = Some(claim);
        if let Some(here) = self.worker.here.as_ref().filter(|_| here) {
            let mut visit = here.desk.visit(self.program.name());
            if let Some(carried) = &self.carried {
                visit.carry(carried.tag.clone(), carried.secure);
            }
            self.visit = Some(visit);
            return self.enter();
        }
        let request_timeout = self.program.program.manifest().request_timeout;
        Some(Next::Try(Target { addr, key, authenticated: true, request_timeout, body_limit: u64::MAX }))
    }

    /// Has the server in this process admit it; `None`: refused.
    fn enter(&mut self) -> Option<Next> {
        let visit = self.visit.as_mut()?;
        let target = match visit.admit(&self.names.about, self.decided_at) {
            Ok(target) => target,
            Err(generation) => {
                self.refused_here(generation);
                return None;
            }
        };
        if let Framing::Length(length) = self.body
            && length > target.body_limit
        {
            visit.withdraw();
            return Some(Next::Stop(too_large(target.body_limit)));
        }
        let request_timeout = target.request_timeout.min(self.program.program.manifest().request_timeout);
        // Keys of instances and of servers never meet in the pool.
        Some(Next::Try(Target { request_timeout, key: target.key | HERE, ..target }))
    }

    /// It is sent on now.
    fn sample(&mut self) {
        if std::mem::take(&mut self.sampled) {
            self.worker.shared.overhead.took(self.began.elapsed());
        }
    }

    fn program_counter(&self) -> Kept<Counter> {
        self.program.counter(&self.worker, None, None)
    }

    /// Takes a place among the held requests, once; whether it has one.
    fn hold(&mut self) -> bool {
        if self.held.is_none()
            && let Some(place) = self.worker.shared.hold()
        {
            let counter = self.program_counter();
            counter.held();
            let (worker, program) = (Rc::clone(&self.worker), self.program.name().clone());
            let ticket = worker.shared.line.ticket();
            self.held = Some(Held { counter, worker, program, since: Instant::now(), ticket, _place: place });
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
        let name = self.program.name();
        let detail = match why {
            GiveUp::AllRefused => format!("no server takes requests for {name} now"),
            GiveUp::Unreachable => format!("no server of {name} can be reached"),
            GiveUp::NoPlacement => format!("no server hosts {name}"),
        };
        self.give_up("no_server", detail)
    }

    fn refused(&mut self, said: &str) {
        match parse_refusal(said) {
            Some((run, generation)) => self.refused_by(Some((&run, generation))),
            None => self.refused_by(None),
        }
    }

    fn refused_here(&mut self, generation: Generation) {
        self.visit = None;
        let worker = Rc::clone(&self.worker);
        self.refused_by(worker.here.as_ref().map(|here| (&here.run, generation)));
    }

    fn refused_by(&mut self, said: Option<(&RunId, Generation)>) {
        let Some(claim) = self.at.take() else { return };
        self.refused_before = true;
        let (server, now) = (&claim.server().name, Instant::now());
        claim.local.counter(&self.worker, Some(claim.place), None).refused();
        match said {
            Some((run, generation)) => {
                self.dispatch.refused(server, run, generation);
                let same = |placement: &&Placement| placement.server.name == *server;
                let placement = self.view.as_ref().and_then(|view| view.program.placements.iter().find(same));
                if let Some(placement) = placement {
                    placement.mark_refused(run, generation, now);
                }
            }
            None => {
                tracing::warn!(%server, "a refusal names no run and generation: it proves nothing");
                self.dispatch.unreachable(server, self.worker.shared.millis(now));
            }
        }
    }

    fn not_reached(&mut self, error: &std::io::Error) {
        if let Some(visit) = &mut self.visit {
            tracing::debug!(program = %self.program.name(), %error, "the instance took no connection");
            if let Some(generation) = visit.not_connected() {
                self.refused_here(generation);
            }
            return;
        }
        let Some(claim) = self.at.take() else { return };
        let server = claim.server();
        tracing::debug!(server = %server.name, program = %self.program.name(), %error, "a server cannot be reached");
        self.refused_before = true;
        self.dispatch.unreachable(&server.name, self.worker.shared.millis(Instant::now()));
        self.worker.shared.set_aside(server);
    }

    /// Ends its stay at the server in this process; whether it was there.
    fn leave(&mut self, outcome: Outcome) -> bool {
        self.visit.take().map(|mut visit| visit.ended(outcome, &self.names.about)).is_some()
    }

    /// Where it is counted before an answer began, or when none did.
    fn counter(&self, version: Option<&str>) -> Kept<Counter> {
        match &self.at {
            Some(claim) => claim.local.counter(&self.worker, Some(claim.place), version),
            None => self.program.counter(&self.worker, None, version),
        }
    }

    fn name_failure(&self, reason: &str) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let about = &self.names.about;
        self.worker.shared.ledger.name(LedgerFailure {
            request_id: text(about.id()),
            program: self.program.name().clone(),
            server: self.at.as_ref().map(|claim| claim.server().name.clone()),
            at: jiff::Timestamp::now().to_string(),
            method: text(about.method()),
            path: text(about.path()),
            reason: reason.to_owned(),
        });
    }
}

/// `<run>.<generation>`; a run may have dots.
fn parse_refusal(said: &str) -> Option<(RunId, Generation)> {
    let (run, generation) = said.trim().rsplit_once('.')?;
    Some((RunId::new(run).ok()?, Generation(generation.parse().ok()?)))
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
