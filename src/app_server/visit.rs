//! Owns one request's stay at this server: claimed or refused, seated in the ledger, its end counted. Must not know by
//! which way it came (`requests`: over the wire; `direct`: from a router in this process), or how bytes move.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::claims::{Claim, Claims, Entries, Entry, Refused};
use super::ledger::{End, Ledger, Seat, Told};
use super::stay::{Carried, Stay};
use crate::domain::names::{Generation, ProgramName, Version};
use crate::domain::session::{HeldTag, RememberedTags};
use crate::proxy::{About, Failure, HeadWriter, Kept, ResponseHead, Target};

/// Instances that one request tries, where each was replaced meanwhile.
const TRIES_MAX: usize = 3;

/// What one worker's requests have in common.
#[derive(Debug)]
pub struct Desk {
    entries: Entries,
    ledger: Kept<Ledger>,
    /// Sessions' tags that came of late.
    tags: RefCell<RememberedTags>,
}

impl Desk {
    pub fn new(claims: Arc<Claims>, ledger: Arc<Ledger>) -> Self {
        Self { entries: Entries::new(claims), ledger: Rc::new(ledger), tags: RefCell::default() }
    }

    /// A request for a program; one that this server does not know is refused when it asks to be admitted.
    pub fn visit(self: &Rc<Self>, program: &str) -> Visit {
        Visit {
            desk: self.clone(),
            entry: self.entries.entry(program),
            admitted: None,
            carried: Carried::default(),
            tries: 0,
        }
    }

    /// After a nudge: lets go of what is not so any more.
    pub fn nudged(&self) {
        self.entries.refresh();
    }
}

/// One request at this server.
#[derive(Debug)]
pub struct Visit {
    desk: Rc<Desk>,
    /// `None`: no such program here.
    entry: Option<Rc<Entry>>,
    admitted: Option<Admitted>,
    carried: Carried,
    tries: usize,
}

/// The seat and the session are given up before the claim: a drained gate finds everything counted and listed.
#[derive(Debug)]
struct Admitted {
    seat: Seat,
    stay: Option<Stay>,
    claim: Claim,
    at: Instant,
}

impl Visit {
    /// Bytes of body that the program takes as it is now; what nobody takes has no bound.
    pub fn body_limit(&self) -> u64 {
        let target = self.entry.as_ref().and_then(|entry| entry.read().target.as_ref().map(|target| target.body_limit));
        target.unwrap_or(u64::MAX)
    }

    /// Whether the program has sessions, as it is now.
    pub fn has_sessions(&self) -> bool {
        let target = |entry: &Rc<Entry>| entry.read().target.as_ref().is_some_and(|target| target.sessions.is_some());
        self.entry.as_ref().is_some_and(target)
    }

    /// Claims the instance that takes requests, and a seat in the ledger; what is refused is counted so.
    pub fn admit(&mut self, about: &About, now: Instant) -> Result<Target, Refused> {
        let admitted = self.claim(about, now);
        if admitted.is_err() {
            self.count_refusal();
        }
        admitted
    }

    fn claim(&mut self, about: &About, now: Instant) -> Result<Target, Refused> {
        self.tries += 1;
        let Some(entry) = &self.entry else { return Err(Refused { generation: Generation(0) }) };
        let carried = &self.carried;
        let claim = entry.claim(|target| target.sessions.as_ref().is_some_and(|sessions| sessions.knows(carried)))?;
        let nowhere = Refused { generation: claim.word().generation() };
        let Some(to) = claim.target() else { return Err(nowhere) };
        let (addr, key, request_timeout, body_limit) = (to.addr, to.key, to.request_timeout, to.body_limit);
        let seat = Ledger::seat(&self.desk.ledger, &to.row, Told::of(about), now).ok_or(nowhere)?;
        let stay = to.sessions.as_ref().and_then(|sessions| sessions.enter(carried));
        self.admitted = Some(Admitted { seat, stay, claim, at: now });
        // A program is no server of the cluster: its Neap-Refused is not believed.
        Ok(Target { addr, key, authenticated: false, request_timeout, body_limit })
    }

    fn count_refusal(&self) {
        let admission = self.entry.as_ref().map(|entry| entry.read());
        if let Some(target) = admission.as_ref().and_then(|admission| admission.target.as_ref()) {
            self.desk.ledger.refused(&target.row);
        }
    }

    /// The instance took no connection: the request never was one of this server's (protocol P1). `None`: it has been
    /// replaced meanwhile, and the request may be admitted again; else it is refused.
    pub fn not_connected(&mut self) -> Option<Refused> {
        let Admitted { seat, stay, claim, .. } = self.admitted.take()?;
        seat.withdraw();
        drop(stay);
        if claim.is_outdated() && self.tries < TRIES_MAX {
            return None;
        }
        self.count_refusal();
        Some(Refused { generation: claim.word().generation() })
    }

    /// It was admitted, and will not be sent after all.
    pub fn withdraw(&mut self) {
        if let Some(Admitted { seat, stay, claim, .. }) = self.admitted.take() {
            seat.withdraw();
            drop((stay, claim));
        }
    }

    /// What its client sent of a session; before it is admitted.
    pub fn carry(&mut self, tag: Option<Rc<HeldTag>>, secure: bool) {
        self.carried = Carried { tag, secure };
    }

    /// The same, where the tag is not checked yet.
    pub fn carry_text(&mut self, tag: Option<&[u8]>, secure: bool) {
        let admission = self.entry.as_ref().map(|entry| entry.read());
        let target = admission.as_ref().and_then(|admission| admission.target.as_ref());
        let sessions = target.and_then(|target| target.sessions.as_ref());
        let tag = sessions.zip(tag).and_then(|(sessions, text)| sessions.check(text, &mut self.desk.tags.borrow_mut()));
        self.carry(tag, secure);
    }

    /// Adds fields for the program.
    pub fn write_headers(&self, out: &mut HeadWriter<'_>) {
        if let Some(stay) = self.admitted.as_ref().and_then(|admitted| admitted.stay.as_ref()) {
            stay.write_headers(out);
        }
    }

    /// Its answer begins: how long that took is counted with its version's, and its session may begin or end with it.
    pub fn answered(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        let Some(admitted) = &mut self.admitted else { return };
        if let Some(target) = admitted.claim.target() {
            target.row.answered_after(admitted.at.elapsed());
        }
        if let Some(stay) = &mut admitted.stay {
            stay.answered(head, out);
        }
    }

    /// The version of the instance that it was admitted to.
    pub fn version(&self) -> Option<&Version> {
        let target = self.admitted.as_ref()?.claim.target()?;
        Some(&target.release.version)
    }

    pub fn set_long_lived(&self) {
        if let Some(admitted) = &self.admitted {
            admitted.seat.set_long_lived();
        }
    }

    /// Whether it is to end now.
    pub fn is_cut(&self) -> bool {
        self.admitted.as_ref().is_some_and(|admitted| admitted.seat.is_cut())
    }

    /// It ended, if it was admitted at all.
    pub fn end(&mut self, end: End) {
        if let Some(Admitted { seat, stay, claim, .. }) = self.admitted.take() {
            seat.end(end);
            drop((stay, claim));
        }
    }

    /// It failed, and is named.
    pub fn fail(&mut self, failure: Failure, about: &About) {
        if let (Some(entry), true) = (&self.entry, self.admitted.is_some()) {
            self.desk.ledger.fail(entry.program(), Told::of(about), reason(failure));
        }
        self.end(End::Failed);
    }

    pub fn program(&self) -> Option<&ProgramName> {
        self.entry.as_ref().map(|entry| entry.program())
    }
}

fn reason(failure: Failure) -> &'static str {
    match failure {
        Failure::NoResponse => "the program gave no answer",
        Failure::Timeout => "the program did not answer within request_timeout",
        Failure::Truncated => "the program's answer broke off",
        Failure::Panic => "neap made a mistake",
    }
}
