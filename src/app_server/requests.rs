//! Owns what the data port does with a request: who may ask, which program, claimed or refused, and how its end is
//! counted. Must not know how bytes move, or who decides about gates.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::claims::{Claim, Claims, Refused, Slot};
use super::ledger::{End, Ledger, Row, Seat, Told};
use crate::domain::names::{Generation, RunId};
use crate::link::secret::{CLUSTER_KEY, Secret};
use crate::proxy::{
    Answer, AttemptFailure, Attempts, Begin, Cut, Failure, Handler, HeadWriter, LongLived, Next, Outcome, Peer,
    RequestHead, ResponseHead, Tally, Target, header,
};

/// By which a router names the program.
pub const PROGRAM_HEADER: &str = "Neap-Program";
/// By which a server says that no byte of a request reached the program: `<run>.<generation>` (protocol P1).
pub const REFUSED_HEADER: &str = "Neap-Refused";
/// By which a server tells its router which version answered.
pub const VERSION_HEADER: &str = "Neap-Version";
const REQUEST_ID_HEADER: &str = "X-Request-Id";
const REQUEST_ID_LEN_MAX: usize = 64;
/// Bytes of a path that are kept to show it.
const PATH_SHOWN_MAX: usize = 152;
/// Instances that one request tries, where each was replaced meanwhile.
const TRIES_MAX: usize = 3;

/// The data port of one worker.
pub struct DataPort {
    pub claims: Arc<Claims>,
    pub ledger: Arc<Ledger>,
    pub run: RunId,
    pub secret: Option<Secret>,
}

impl DataPort {
    fn admits(&self, head: &RequestHead<'_>, peer: Peer) -> bool {
        match &self.secret {
            Some(secret) => header(head.headers, CLUSTER_KEY).is_some_and(|given| secret.verify(given)),
            // Without a secret the port is on loopback only, and so is who asks.
            None => peer.addr.ip().to_canonical().is_loopback(),
        }
    }

    fn refuse(&self, program: &str, refused: Refused) -> Answer {
        Answer::new(503, "refused", format!("{program} takes no requests on this server now"))
            .header(REFUSED_HEADER, format!("{}.{}", self.run, refused.generation))
    }
}

/// Shared through `Rc`, since each of its requests holds it.
pub struct Port(pub Rc<DataPort>);

impl Handler for Port {
    type Request = Request;

    fn begin(&self, head: &RequestHead<'_>, peer: Peer) -> Begin<Request> {
        if !self.0.admits(head, peer) {
            let answer = Answer::new(401, "unauthorized", "this port takes requests of the cluster's routers only");
            return Begin::Answer(answer.hint("ask a router").closing());
        }
        let Some(program) = head.header(PROGRAM_HEADER) else {
            let detail = format!("the request names no program in {PROGRAM_HEADER}");
            return Begin::Answer(Answer::new(400, "no_program", detail));
        };
        match self.0.claims.slot(program) {
            Some(slot) => Begin::Forward(Request::new(self.0.clone(), slot, head)),
            None => Begin::Answer(self.0.refuse(program, Refused { generation: Generation(0) })),
        }
    }
}

/// One request: forwarded to the instance that it is claimed on, or refused.
pub struct Request {
    port: Rc<DataPort>,
    slot: Arc<Slot>,
    id: String,
    method: String,
    path: String,
    body_limit: u64,
    cut: Arc<Cut>,
    admitted: Option<Admitted>,
    refused: Option<Refused>,
    tries: usize,
}

/// The seat is given up before the claim: a drained gate finds everything counted.
struct Admitted {
    seat: Seat,
    claim: Claim,
}

impl Request {
    fn new(port: Rc<DataPort>, slot: Arc<Slot>, head: &RequestHead<'_>) -> Self {
        let body_limit = slot.admission().target.as_ref().map_or(u64::MAX, |target| target.body_limit);
        Self {
            port,
            slot,
            id: request_id(head),
            method: head.method.to_owned(),
            path: head.path.chars().take(PATH_SHOWN_MAX).collect(),
            body_limit,
            cut: Cut::new(),
            admitted: None,
            refused: None,
            tries: 0,
        }
    }

    fn told(&self) -> Told<'_> {
        Told { id: &self.id, method: &self.method, path: &self.path }
    }

    /// Claims the instance that takes requests, and a seat in the ledger.
    fn admit(&mut self) -> Result<Target, Refused> {
        self.tries += 1;
        let claim = self.slot.claim()?;
        let nowhere = Refused { generation: claim.word().generation() };
        let (target, row) = match claim.target() {
            Some(to) => {
                let (addr, key, request_timeout) = (to.addr, to.key, to.request_timeout);
                // A program is no server of the cluster: its Neap-Refused is not believed.
                (Target { addr, key, authenticated: false, request_timeout }, to.row.clone())
            }
            None => return Err(nowhere),
        };
        let seat = self.port.ledger.seat(&row, self.told(), &self.cut).ok_or(nowhere)?;
        self.admitted = Some(Admitted { seat, claim });
        Ok(target)
    }

    fn stop(&self, refused: Refused) -> Next {
        if let Some(row) = self.row() {
            self.port.ledger.refused(&row);
        }
        Next::Stop(self.port.refuse(self.slot.program.as_str(), refused))
    }

    fn row(&self) -> Option<Arc<Row>> {
        Some(self.slot.admission().target.as_ref()?.row.clone())
    }
}

impl Attempts for Request {
    fn body_limit(&self) -> u64 {
        self.body_limit
    }

    async fn next(&mut self) -> Next {
        // A refusal is final unless the instance that took no connection has been replaced (see `failed`).
        if let Some(refused) = self.refused {
            return self.stop(refused);
        }
        match self.admit() {
            Ok(target) => Next::Try(target),
            Err(refused) => self.stop(refused),
        }
    }

    fn failed(&mut self, why: AttemptFailure<'_>) {
        // An instance that took no connection: the request never was one of this server's (protocol P1).
        if let AttemptFailure::Connect(error) = why
            && let Some(Admitted { seat, claim }) = self.admitted.take()
        {
            tracing::debug!(program = %self.slot.program, %error, "the instance took no connection");
            seat.withdraw();
            if !claim.is_outdated() || self.tries >= TRIES_MAX {
                self.refused = Some(Refused { generation: claim.word().generation() });
            }
        }
    }

    fn response(&mut self, _: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        let target = self.admitted.as_ref().and_then(|admitted| admitted.claim.target());
        if let Some(target) = target {
            out.add(VERSION_HEADER, target.release.version.as_str());
        }
    }

    fn long_lived(&mut self, _: LongLived) {
        if let Some(admitted) = &self.admitted {
            admitted.seat.set_long_lived();
        }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.cut.poll(cx)
    }

    fn ended(&mut self, outcome: Outcome, _: Tally) {
        let Some(Admitted { seat, claim }) = self.admitted.take() else { return };
        seat.end(match outcome {
            Outcome::Completed { status } | Outcome::Answered { status } => {
                End::Completed { server_error: status >= 500 }
            }
            Outcome::ClientLeft => End::ClientLeft,
            Outcome::Cut => End::Cut,
            Outcome::Failed(failure) => {
                self.port.ledger.fail(&self.slot.program, self.told(), reason(failure));
                End::Failed
            }
        });
        drop(claim);
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

/// The router's id of the request, or a new one.
fn request_id(head: &RequestHead<'_>) -> String {
    let given = head.header(REQUEST_ID_HEADER).filter(|id| (1..=REQUEST_ID_LEN_MAX).contains(&id.len()));
    given.map_or_else(|| ulid::Ulid::new().to_string(), str::to_owned)
}
