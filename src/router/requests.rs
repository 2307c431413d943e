//! Owns which program a client's request is for, one worker's requests together.
//! Must not know where it goes from there (`request`), or how bytes move (`proxy`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::affinity::Carried;
use super::heads::Names;
use super::request::{Came, RETRY_AFTER, Request};
use super::shared::Shared;
use super::worker::Worker;
use crate::domain::routing::Ask;
use crate::proxy::{Answer, Begin, Handler, Peer, RequestHead, cut};

/// Bytes of a path that an answer shows.
const PATH_SHOWN: usize = 200;

/// One worker's requests.
pub struct Requests(Rc<Worker>);

impl Requests {
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self(Rc::new(Worker::begin(shared, worker)))
    }
}

impl Handler for Requests {
    type Request = Request;

    fn begin(&self, head: &RequestHead<'_>, peer: Peer) -> Begin<Request> {
        let worker = &self.0;
        if let Some(redirect) = worker.shared.rules.redirect.as_ref().filter(|_| !peer.secure) {
            let trusted = (worker.shared.rules.trusted)(peer.addr.ip().to_canonical());
            if let Some(answer) = redirect.of(head, trusted) {
                return Begin::Answer(answer);
            }
        }
        let seen = worker.look();
        let snapshot = worker.snapshot();
        let headers = head.headers.iter().map(|header| (header.name, header.value));
        let Some(matched) = snapshot.table.find(Ask { host: head.host, path: head.path, headers }) else {
            return Begin::Answer(no_program(snapshot.list.is_some(), head));
        };
        let program = worker.program(matched.program);
        let (manifest, at) = (program.program.manifest(), Instant::now());
        let trusted = (worker.shared.rules.trusted)(peer.addr.ip().to_canonical());
        let carried = manifest.session.as_ref().map(|_| {
            let secure = match trusted.then(|| head.header("x-forwarded-proto")).flatten() {
                Some(scheme) => scheme.eq_ignore_ascii_case("https"),
                None => peer.secure,
            };
            Carried::of(head, secure, program.name(), &worker.shared.rules.tag_keys, &worker.tags)
        });
        let came = Came {
            carried,
            strip: if manifest.strip_prefix { matched.prefix_len() } else { 0 },
            trusted,
            names: Names::of(head, &worker.ids, at),
            body: head.body,
            at,
            program,
            seen,
        };
        Begin::Forward(Request::new(worker, came))
    }

    fn nudges(&self) -> Option<watch::Receiver<()>> {
        self.0.here.as_ref().map(|here| here.nudges.clone())
    }

    fn nudged(&self) {
        if let Some(here) = &self.0.here {
            here.desk.nudged();
        }
    }
}

fn no_program(has_list: bool, head: &RequestHead<'_>) -> Answer {
    if !has_list {
        return Answer::new(503, "no_server_list", "this router has not heard from management yet")
            .retry_after(RETRY_AFTER);
    }
    let shown = String::from_utf8_lossy(cut(head.path.as_bytes(), PATH_SHOWN));
    Answer::new(404, "unknown_program", format!("no program is known by {}{shown}", head.host))
        .hint("`neap route test URL` tells which rule matches what")
}
