//! Owns the way of a router in the same process: its requests are admitted by a call, and go straight to the instance. What
//! is counted here, and when, is as if they had come over the wire. Must not know that router: the node joins the two.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::claims::Claims;
use super::ledger::{End, Ledger};
use super::visit::{self, Desk};
use crate::domain::names::{Generation, NodeName, ProgramName, RunId, Version};
use crate::domain::session::HeldTag;
use crate::link::identity::Identity;
use crate::proxy::{About, HeadWriter, Outcome, ResponseHead, Target};

/// This server, for who is in its process.
#[derive(Clone, Debug)]
pub struct Direct {
    identity: Identity,
    data: SocketAddr,
    claims: Arc<Claims>,
    ledger: Arc<Ledger>,
}

/// For one worker; stays on its thread.
#[derive(Debug)]
pub struct DirectDesk(Rc<Desk>);

/// One request.
#[derive(Debug)]
pub struct DirectVisit(visit::Visit);

impl Direct {
    pub(super) fn new(identity: Identity, data: SocketAddr, claims: Arc<Claims>, ledger: Arc<Ledger>) -> Self {
        Self { identity, data, claims, ledger }
    }

    pub fn name(&self) -> &NodeName {
        &self.identity.name
    }

    pub fn run(&self) -> &RunId {
        &self.identity.run
    }

    /// Where it takes requests that come over the wire.
    pub fn data(&self) -> SocketAddr {
        self.data
    }

    pub fn desk(&self) -> DirectDesk {
        DirectDesk(Rc::new(Desk::new(self.claims.clone(), self.ledger.clone())))
    }

    /// Changes when requests are to be cut, and when a gate's pointer moved.
    pub fn nudges(&self) -> watch::Receiver<()> {
        self.ledger.nudge().take()
    }
}

impl DirectDesk {
    pub fn visit(&self, program: &ProgramName) -> DirectVisit {
        DirectVisit(self.0.visit(program.as_str()))
    }

    pub fn nudged(&self) {
        self.0.nudged();
    }
}

impl DirectVisit {
    /// Admits and counts the request in one step, or refuses it at this generation (protocol P1).
    pub fn admit(&mut self, about: &About, now: Instant) -> Result<Target, Generation> {
        self.0.admit(about, now).map_err(|refused| refused.generation)
    }

    /// The instance took no connection. `None`: it has been replaced, and the request may be admitted again.
    pub fn not_connected(&mut self) -> Option<Generation> {
        self.0.not_connected().map(|refused| refused.generation)
    }

    pub fn withdraw(&mut self) {
        self.0.withdraw();
    }

    /// What its client sent of a session: an authentic tag, and whether through TLS.
    pub fn carry(&mut self, tag: Option<Rc<HeldTag>>, secure: bool) {
        self.0.carry(tag, secure);
    }

    /// Adds fields for the program.
    pub fn write_headers(&self, out: &mut HeadWriter<'_>) {
        self.0.write_headers(out);
    }

    /// Its answer begins.
    pub fn answered(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        self.0.answered(head, out);
    }

    pub fn version(&self) -> Option<&Version> {
        self.0.version()
    }

    pub fn set_long_lived(&self) {
        self.0.set_long_lived();
    }

    pub fn is_cut(&self) -> bool {
        self.0.is_cut()
    }

    /// Counts the end as the data port would have seen it: what ends at the router's side looks like a client that left.
    pub fn ended(&mut self, outcome: Outcome, about: &About) {
        match outcome {
            Outcome::Completed { status } => self.0.end(End::Completed { server_error: status >= 500 }),
            Outcome::Cut if self.is_cut() => self.0.end(End::Cut),
            Outcome::Answered { .. } | Outcome::ClientLeft | Outcome::Cut => self.0.end(End::ClientLeft),
            Outcome::Failed(failure) => self.0.fail(failure, about),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::app_server::claims::{self, Admission, Slot};
    use crate::domain::names::{Release, Sha256};
    use crate::proxy::{Failure, RequestHead};
    use crate::wire::messages::Counts;

    const G: Generation = Generation(4);

    struct Ground {
        direct: Direct,
        slot: Arc<Slot>,
        _dir: tempfile::TempDir,
    }

    fn shop() -> ProgramName {
        ProgramName::new("shop").unwrap()
    }

    fn about() -> About {
        About::new(b"r1", &RequestHead::of_test("GET", "/cart", &[]))
    }

    impl Ground {
        fn new(seats: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let identity = Identity::begin(NodeName::new("s1").unwrap());
            let opened = Ledger::open(dir.path(), identity.name.clone(), 4, seats, "now").unwrap();
            let ledger = Arc::new(opened.ledger);
            let claims = Arc::new(Claims::telling(ledger.nudge().clone()));
            let slot = claims.open_slot(&shop());
            let ground =
                Self { direct: Direct::new(identity, ([127, 0, 0, 1], 7421).into(), claims, ledger), slot, _dir: dir };
            ground.install(G, 1);
            ground
        }

        /// An instance of the version of that number, open at this generation; the one before is closed.
        fn install(&self, generation: Generation, number: u64) {
            let version = Version::new(number.to_string()).unwrap();
            let row = self.direct.ledger.row(&shop(), &version).unwrap();
            let admission = Admission::to(
                generation,
                claims::Target {
                    addr: ([127, 0, 0, 1], 9).into(),
                    key: number,
                    release: Release { version, sha256: Sha256([0; 32]) },
                    request_timeout: Duration::from_secs(5),
                    body_limit: 100,
                    row,
                    sessions: None,
                },
            );
            admission.gate.open(generation);
            self.slot.point(Arc::new(admission)).gate.close(generation);
        }

        fn visit(&self) -> DirectVisit {
            self.direct.desk().visit(&shop())
        }

        fn admitted(&self) -> DirectVisit {
            let mut visit = self.visit();
            visit.admit(&about(), Instant::now()).unwrap();
            visit
        }

        fn counts(&self) -> Counts {
            self.direct.ledger.cut(&self.direct.identity.run).entries[0].counts
        }
    }

    #[test]
    fn a_request_is_admitted_in_one_step_and_its_end_is_counted_as_the_data_port_would_see_it() {
        let ground = Ground::new(20);
        let mut visit = ground.visit();
        let target = visit.admit(&about(), Instant::now()).unwrap();
        assert_eq!((target.key, target.authenticated, target.body_limit), (1, false, 100));
        assert_eq!(visit.version().unwrap().as_str(), "1");
        let shown = ground.direct.ledger.active(&shop(), 9);
        assert_eq!((shown[0].request_id.as_str(), shown[0].path.as_str()), ("r1", "/cart"));
        assert_eq!((ground.slot.admission().active(), ground.counts().active), (1, 1));
        visit.ended(Outcome::Completed { status: 503 }, &about());
        assert_eq!((ground.slot.admission().active(), ground.counts().active), (0, 0));
        for outcome in [
            Outcome::Completed { status: 200 },
            Outcome::Answered { status: 400 },
            Outcome::ClientLeft,
            // The router was told to stop: to this server, its client left.
            Outcome::Cut,
            Outcome::Failed(Failure::NoResponse),
        ] {
            ground.admitted().ended(outcome, &about());
        }
        drop(ground.admitted());
        let counts = ground.counts();
        let ends = (counts.completed, counts.completed_5xx, counts.client_left, counts.cut, counts.failed);
        assert_eq!((ends, counts.admitted), ((2, 1, 3, 0, 2), 7));
        let failures = ground.direct.ledger.cut(&ground.direct.identity.run).failures;
        assert_eq!(failures.len(), 1);
        assert_eq!(
            (failures[0].request_id.as_str(), failures[0].reason.as_str()),
            ("r1", "the program gave no answer")
        );
    }

    #[test]
    fn a_closed_gate_full_seats_and_an_unknown_program_refuse_and_are_counted() {
        let ground = Ground::new(1);
        let holds = ground.admitted();
        assert_eq!(ground.visit().admit(&about(), Instant::now()), Err(G), "no seat is left");
        assert_eq!(ground.slot.admission().active(), 1, "a refused request claims nothing");
        drop(holds);
        ground.slot.admission().gate.close(G.next());
        assert_eq!(ground.visit().admit(&about(), Instant::now()), Err(G.next()));
        assert_eq!((ground.counts().refused, ground.counts().admitted), (2, 1));
        let mut unknown = ground.direct.desk().visit(&ProgramName::new("mail").unwrap());
        assert_eq!(unknown.admit(&about(), Instant::now()), Err(Generation(0)));
    }

    #[test]
    fn an_instance_that_took_no_connection_refuses_unless_it_was_replaced() {
        let ground = Ground::new(9);
        let mut visit = ground.admitted();
        ground.install(G.next(), 2);
        assert_eq!(visit.not_connected(), None, "replaced meanwhile");
        assert_eq!(visit.admit(&about(), Instant::now()).unwrap().key, 2);
        assert_eq!(visit.not_connected(), Some(G.next()));
        let counts = ground.counts();
        assert_eq!((counts.admitted, counts.active, ground.slot.admission().active()), (0, 0, 0));
        let mut visit = ground.admitted();
        visit.withdraw();
        visit.ended(Outcome::Answered { status: 413 }, &about());
        assert_eq!((ground.counts().admitted, ground.slot.admission().active()), (0, 0));
    }

    #[test]
    fn a_cut_is_told_to_the_request_and_counted() {
        let ground = Ground::new(9);
        let (mut nudges, mut visit) = (ground.direct.nudges(), ground.admitted());
        assert!(!visit.is_cut());
        nudges.borrow_and_update();
        visit.set_long_lived();
        assert_eq!(ground.direct.ledger.cut_requests(&shop(), true, 0), 1);
        assert!(visit.is_cut() && nudges.has_changed().unwrap());
        visit.ended(Outcome::Cut, &about());
        assert_eq!((ground.counts().cut, ground.counts().active), (1, 0));
    }
}
