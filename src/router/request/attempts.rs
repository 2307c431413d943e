//! Owns how one request answers the proxy: what it adds to heads, where it is tried next, what is counted of its end.
//! Must not know how its servers are asked (`request`), or how bytes move.

use std::task::{Context, Poll};

use super::super::affinity;
use super::super::heads;
use super::super::ledger::End;
use super::Request;
use crate::domain::names::Version;
use crate::domain::routing;
use crate::proxy::{
    Answer, AttemptFailure, Attempts, Failure, HeadWriter, Letters, LongLived, Next, Outcome, Peer, RequestHead,
    ResponseHead, Tally, WhenCut, forwarded,
};

impl Attempts for Request {
    const ASKS_OF: Letters = heads::REPLACED;

    fn body_limit(&self) -> u64 {
        self.program.program.manifest().body_limit
    }

    fn strip_prefix(&self) -> usize {
        self.strip
    }

    fn keeps_header(&self, name: &str) -> bool {
        self.names.keeps(name) && self.carried.as_ref().is_none_or(|carried| carried.keeps(name))
    }

    fn write_headers(&self, head: &RequestHead<'_>, peer: Peer, out: &mut HeadWriter<'_>) {
        forwarded::write(head, peer.addr, self.trusted, peer.scheme(), out);
        if let Some(prefix) = head.path.get(..self.strip).filter(|prefix| !prefix.is_empty()) {
            out.add_clean("X-Forwarded-Prefix", prefix.as_bytes());
        }
        if let Some(carried) = &self.carried {
            carried.write_cookies(head, out);
        }
        self.names.write(&self.worker.ids, out);
    }

    async fn next(&mut self) -> Next {
        // Its instance was replaced while it was on its way there.
        if self.visit.is_some()
            && let Some(next) = self.enter()
        {
            return next;
        }
        // Bounded by the dispatch, which ends by proof or by time.
        loop {
            self.look();
            match self.decide() {
                routing::Next::Try(place) => {
                    if let Some(next) = self.go(place) {
                        self.sample();
                        return next;
                    }
                }
                routing::Next::GiveUp(why) => return Next::Stop(self.no_server(why)),
                routing::Next::Wait { held: true, .. } if !self.hold() => {
                    let name = self.program.name();
                    let detail = format!("no server takes requests for {name} now, and too many are held");
                    return Next::Stop(self.give_up("held_requests_full", detail));
                }
                routing::Next::Wait { until, .. } => {
                    self.sampled = false;
                    let shared = &self.worker.shared;
                    let held = self.held.as_ref();
                    let line = held.map(|held| shared.line.wait(&held.program, held.ticket, self.seen));
                    let until = shared.instant(until);
                    shared.news_since(self.seen, until).await;
                    if let Some(waiting) = line {
                        waiting.turn(shared.news_seen(), until).await;
                    }
                }
            }
        }
    }

    fn write_target_headers(&self, out: &mut HeadWriter<'_>) {
        if let Some(visit) = &self.visit {
            visit.write_headers(out);
        } else {
            // These are for a server: no program sees them.
            out.add_clean(heads::PROGRAM, self.program.name().as_str().as_bytes());
            if let Some(secret) = &self.worker.shared.rules.secret {
                out.add_clean(heads::CLUSTER_KEY, secret.key());
            }
            if let Some(tag) = self.carried.as_ref().and_then(|carried| carried.tag.as_ref()) {
                out.add_clean(affinity::TAG, tag.text().as_bytes());
            }
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
        if let Some(claim) = self.at.as_ref().filter(|claim| claim.server().is_aside()) {
            claim.server().take_back();
            self.worker.shared.wake();
        }
        if let Some(visit) = &mut self.visit {
            visit.answered(head, out);
        }
        // What a program says of its version is not believed.
        let version = match &self.visit {
            Some(visit) => visit.version().map(Version::as_str),
            None => head.header(heads::VERSION),
        };
        let counter = self.counter(version);
        counter.answered();
        if self.worker.shared.rules.expose_version
            && let Some(version) = version.filter(|version| Version::new(version).is_ok())
        {
            out.add(heads::VERSION, version);
        }
        self.counted = Some(counter);
    }

    fn long_lived(&mut self, kind: LongLived) {
        if let Some(visit) = &mut self.visit {
            visit.long_lived(kind);
        }
    }

    fn poll_cut(&mut self, _: &mut Context<'_>) -> Poll<()> {
        match &self.visit {
            Some(visit) if visit.is_cut() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    fn when_cut(&mut self, repeatable: bool) -> WhenCut {
        // As over the wire, where the server's connection ends without an answer.
        if repeatable && !std::mem::replace(&mut self.repeated, true) {
            self.leave(Outcome::Cut);
            self.at = None;
            return WhenCut::Again;
        }
        let answer = Answer::new(502, "no_response", "the program gave no answer: the request was cut on its server");
        WhenCut::Answer(answer.hint("whether the request was carried out is not known; it was not repeated"))
    }

    fn ended(&mut self, outcome: Outcome, _: Tally) {
        let here = self.leave(outcome);
        let end = match outcome {
            Outcome::Answered { .. } if self.gave_up => End::NoServer { was_held: self.dispatch.was_held() },
            Outcome::Completed { status } | Outcome::Answered { status } => End::Completed { status },
            // The server's own answer, as it would have come over the wire; it is the server that names the failure.
            Outcome::Failed(Failure::NoResponse) if here => End::Completed { status: 502 },
            Outcome::Failed(Failure::Timeout) if here => End::Completed { status: 504 },
            Outcome::ClientLeft => End::ClientLeft,
            Outcome::Cut => End::Cut,
            Outcome::Failed(failure) => {
                self.name_failure(told(failure));
                End::Failed
            }
        };
        let answered = self.counted.is_some();
        let counter = self.counted.take().unwrap_or_else(|| self.counter(None));
        counter.ended(end, answered, self.began.elapsed());
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
