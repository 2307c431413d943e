//! Owns what the data port does with a request: who may ask, which program, what a refusal and an answer say over the
//! wire. Must not know how bytes move, or how a request is admitted and counted (`visit`).

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::watch;

use super::claims::Refused;
use super::ledger::End;
use super::nudge::Nudge;
use super::visit::{Desk, Visit};
use crate::domain::names::{Generation, RunId};
use crate::link::secret::{CLUSTER_KEY, Secret};
use crate::proxy::{
    About, Answer, AttemptFailure, Attempts, Begin, Handler, HeadWriter, LongLived, Next, Outcome, Peer, RequestHead,
    ResponseHead, Tally, header,
};

/// By which a router names the program.
pub const PROGRAM_HEADER: &str = "Neap-Program";
/// By which a server says that no byte of a request reached the program: `<run>.<generation>` (protocol P1).
pub const REFUSED_HEADER: &str = "Neap-Refused";
/// By which a server tells its router which version answered.
pub const VERSION_HEADER: &str = "Neap-Version";
/// By which a router hands on the tag of the client's session.
pub const TAG_HEADER: &str = "Neap-Tag";
const PROTO_HEADER: &str = "X-Forwarded-Proto";
const REQUEST_ID_HEADER: &str = "X-Request-Id";
const REQUEST_ID_LEN_MAX: usize = 64;

/// The data port of one worker.
pub struct DataPort {
    pub desk: Rc<Desk>,
    pub nudge: Nudge,
    pub run: RunId,
    pub secret: Option<Secret>,
}

impl DataPort {
    fn admits(&self, key: Option<&[u8]>, peer: Peer) -> bool {
        match &self.secret {
            Some(secret) => key.is_some_and(|given| secret.verify(given)),
            // Without a secret the port is on loopback only, and so is who asks.
            None => peer.addr.ip().to_canonical().is_loopback(),
        }
    }

    fn refuse(&self, program: &str, refused: Refused) -> Answer {
        Answer::new(503, "refused", format!("{program} takes no requests on this server now"))
            .header(REFUSED_HEADER, format!("{}.{}", self.run, refused.generation))
    }
}

/// What a router says in a head besides the request: the first field of each name.
#[derive(Default)]
struct Said<'a> {
    key: Option<&'a [u8]>,
    program: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
}

impl<'a> Said<'a> {
    /// All fields are looked at once, and most by their length only.
    fn of(head: &RequestHead<'a>) -> Self {
        let mut said = Self::default();
        for field in head.headers {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let place = match field.name.len() {
                12 if is(PROGRAM_HEADER) => &mut said.program,
                12 if is(REQUEST_ID_HEADER) => &mut said.id,
                16 if is(CLUSTER_KEY) => &mut said.key,
                _ => continue,
            };
            place.get_or_insert(field.value);
        }
        said
    }
}

/// Shared through `Rc`, since each of its requests holds it.
pub struct Port(pub Rc<DataPort>);

impl Handler for Port {
    type Request = Request;

    fn begin(&self, head: &RequestHead<'_>, peer: Peer) -> Begin<Request> {
        let said = Said::of(head);
        if !self.0.admits(said.key, peer) {
            let answer = Answer::new(401, "unauthorized", "this port takes requests of the cluster's routers only");
            return Begin::Answer(answer.hint("ask a router").closing());
        }
        let Some(program) = said.program.and_then(|program| std::str::from_utf8(program).ok()) else {
            let detail = format!("the request names no program in {PROGRAM_HEADER}");
            return Begin::Answer(Answer::new(400, "no_program", detail));
        };
        let visit = self.0.desk.visit(program);
        if visit.program().is_none() {
            return Begin::Answer(self.0.refuse(program, Refused { generation: Generation(0) }));
        }
        Begin::Forward(Request::new(self.0.clone(), visit, head, said.id))
    }

    fn nudges(&self) -> Option<watch::Receiver<()>> {
        Some(self.0.nudge.take())
    }

    fn nudged(&self) {
        self.0.desk.nudged();
    }
}

/// One request: forwarded to the instance that it is claimed on, or refused.
pub struct Request {
    port: Rc<DataPort>,
    visit: Visit,
    about: About,
    body_limit: u64,
    refused: Option<Refused>,
}

impl Request {
    fn new(port: Rc<DataPort>, mut visit: Visit, head: &RequestHead<'_>, id: Option<&[u8]>) -> Self {
        if visit.has_sessions() {
            let secure = head.header(PROTO_HEADER).is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
            visit.carry_text(header(head.headers, TAG_HEADER), secure);
        }
        let about = match id {
            Some(id) if (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.is_ascii() => About::new(id, head),
            _ => About::new(ulid::Ulid::new().to_string().as_bytes(), head),
        };
        Self { port, body_limit: visit.body_limit(), visit, about, refused: None }
    }

    fn stop(&self, refused: Refused) -> Next {
        let program = self.visit.program().map_or("the program", |program| program.as_str());
        Next::Stop(self.port.refuse(program, refused))
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
        match self.visit.admit(&self.about, Instant::now()) {
            Ok(target) => Next::Try(target),
            Err(refused) => self.stop(refused),
        }
    }

    fn failed(&mut self, why: AttemptFailure<'_>) {
        if let AttemptFailure::Connect(error) = why {
            tracing::debug!(program = ?self.visit.program(), %error, "the instance took no connection");
            self.refused = self.visit.not_connected();
        }
    }

    fn write_target_headers(&self, out: &mut HeadWriter<'_>) {
        self.visit.write_headers(out);
    }

    fn response(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        self.visit.answered(head, out);
        if let Some(version) = self.visit.version() {
            out.add_clean(VERSION_HEADER, version.as_str().as_bytes());
        }
    }

    fn long_lived(&mut self, _: LongLived) {
        self.visit.set_long_lived();
    }

    fn poll_cut(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.visit.is_cut() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn ended(&mut self, outcome: Outcome, _: Tally) {
        match outcome {
            Outcome::Completed { status } | Outcome::Answered { status } => {
                self.visit.end(End::Completed { server_error: status >= 500 });
            }
            Outcome::ClientLeft => self.visit.end(End::ClientLeft),
            Outcome::Cut => self.visit.end(End::Cut),
            Outcome::Failed(failure) => self.visit.fail(failure, &self.about),
        }
    }
}
