//! Owns one client that holds a session: its cookies, what its session must hold, and whether an answer shows that.
//! Pure. Must not know how requests travel.
//!
//! A program that takes part says in its answers `X-Session-Id`, its own name of the session; `X-Session-Items`, how
//! many things are in it; `X-Session-Last`, the id of the last; and `X-Server`, where it runs. Each POST puts one thing in.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::check::Trouble;
use super::jar::Jar;
use super::mix::Request;
use super::report::FailureKind;

/// Versions that one client remembers.
const VERSIONS_MAX: usize = 16;

/// What became of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Clients with a cookie jar each.
    pub clients: u64,
    /// Sessions that an answer named for the first time to a client that had none.
    pub begun: u64,
    /// Sessions that their clients ended.
    pub ended: u64,
    /// Answers that showed another session than the client's, none, or one with things missing.
    pub lost: u64,
    /// Answers that showed things in a session which its client did not put there.
    pub mixed: u64,
    /// Answers of a version that the same session had already left.
    pub regressed: u64,
    /// Answers of another version than the session's last, and of another server.
    pub upgraded: u64,
    pub moved: u64,
}

impl SessionCounts {
    pub fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.begun += other.begun;
        self.ended += other.ended;
        self.lost += other.lost;
        self.mixed += other.mixed;
        self.regressed += other.regressed;
        self.upgraded += other.upgraded;
        self.moved += other.moved;
    }
}

/// A client, between its requests.
#[derive(Debug, Default)]
pub struct Client {
    jar: Jar,
    session: Option<Session>,
}

/// What a client knows of its session.
#[derive(Debug)]
struct Session {
    id: String,
    /// Things in it: more than one figure only after a POST of which nobody knows whether it was executed.
    items: (u64, u64),
    /// The last thing put in, where that is known.
    last: Option<String>,
    server: Option<String>,
    /// The last is the present one.
    versions: Vec<String>,
}

impl Client {
    /// The value of `Cookie` for a request to this path.
    pub fn cookies(&self, path: &str, secure: bool, now: Timestamp) -> Option<String> {
        self.jar.field(path, secure, now)
    }

    /// Takes a whole answer to a request for `path`: cookies, and what it shows of the session. `Err`: not what it must.
    pub fn answered(&mut self, ask: Ask<'_>, answer: &Answer, counts: &mut SessionCounts) -> Result<(), Trouble> {
        for field in &answer.set_cookies {
            self.jar.set(field, ask.path, ask.now);
        }
        if answer.status != ask.request.expect_status {
            self.unanswered(ask.request);
            return Ok(());
        }
        let adds = ask.request.is_post() && !ask.last;
        match (&mut self.session, Shown::read(answer)) {
            (None, None) => Ok(()),
            (Some(_), None) if ask.last => Ok(()),
            (Some(session), None) => {
                counts.lost += 1;
                let id = session.id.clone();
                self.session = None;
                Err(Trouble::new(FailureKind::SessionLost, format!("session {id} is gone: the answer names none")))
            }
            (None, Some(shown)) => {
                counts.begun += 1;
                self.session = Some(Session::begin(shown, answer));
                Ok(())
            }
            (Some(session), Some(shown)) => {
                let seen = session.see(&shown, adds.then_some(ask.id), counts);
                if seen.is_err() {
                    self.session = Some(Session::begin(shown, answer));
                    return seen;
                }
                session.travel(answer, counts)
            }
        }
    }

    /// No whole answer came, or not the one due: whether a POST was executed is not known.
    pub fn unanswered(&mut self, request: &Request) {
        if let Some(session) = self.session.as_mut().filter(|_| request.is_post()) {
            session.items.1 += 1;
            session.last = None;
        }
    }

    /// The client ends its session, and begins anew with no cookie.
    pub fn leave(&mut self, counts: &mut SessionCounts) {
        counts.ended += u64::from(self.session.is_some());
        *self = Self::default();
    }
}

/// A request that a client made.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub request: &'a Request,
    pub id: &'a str,
    /// As sent.
    pub path: &'a str,
    /// Ends the session.
    pub last: bool,
    pub now: Timestamp,
}

/// What an answer shows of a session.
struct Shown<'a> {
    id: &'a str,
    items: Option<u64>,
    last: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn read(answer: &'a Answer) -> Option<Self> {
        let id = answer.session_id.as_deref().filter(|id| !id.is_empty())?;
        Some(Self { id, items: answer.session_items, last: answer.session_last.as_deref() })
    }
}

impl Session {
    /// A session as an answer shows it, whatever is in it.
    fn begin(shown: Shown<'_>, answer: &Answer) -> Self {
        let items = shown.items.unwrap_or(0);
        Self {
            id: shown.id.to_owned(),
            items: (items, items),
            last: shown.last.map(str::to_owned),
            server: answer.server.clone(),
            versions: answer.version.iter().cloned().collect(),
        }
    }

    /// Compares, and takes what is shown for the truth of now.
    fn see(&mut self, shown: &Shown<'_>, added: Option<&str>, counts: &mut SessionCounts) -> Result<(), Trouble> {
        if shown.id != self.id {
            counts.lost += 1;
            return Err(Trouble::new(FailureKind::SessionLost, format!("session {}, expected {}", shown.id, self.id)));
        }
        let plus = u64::from(added.is_some());
        let (least, most) = (self.items.0 + plus, self.items.1 + plus);
        let Some(items) = shown.items else { return Ok(()) };
        if items < least {
            counts.lost += 1;
            let detail = format!("{items} things in session {}, of {least} put in", self.id);
            return Err(Trouble::new(FailureKind::SessionLost, detail));
        }
        let last = added.or(self.last.as_deref()).filter(|_| added.is_some() || least == most);
        let other = shown.last.zip(last).filter(|(shown, last)| shown != last);
        if items > most || other.is_some() {
            counts.mixed += 1;
            let detail = match other {
                Some((shown, last)) => format!("the last thing in session {} is {shown}, expected {last}", self.id),
                None => format!("{items} things in session {}, of at most {most} put in", self.id),
            };
            return Err(Trouble::new(FailureKind::SessionMixed, detail));
        }
        // What was overdue may still be executed, so that the upper figure stands.
        self.items = (items, if least == most { items } else { most });
        self.last = added.map(str::to_owned).or(self.last.take());
        Ok(())
    }

    fn travel(&mut self, answer: &Answer, counts: &mut SessionCounts) -> Result<(), Trouble> {
        if let Some(server) = answer.server.as_ref().filter(|server| self.server.as_ref() != Some(server)) {
            counts.moved += u64::from(self.server.is_some());
            self.server = Some(server.clone());
        }
        let Some(version) = answer.version.as_ref().filter(|version| self.versions.last() != Some(version)) else {
            return Ok(());
        };
        let before = self.versions.iter().position(|other| other == version);
        counts.upgraded += u64::from(!self.versions.is_empty());
        match before {
            None => {
                if self.versions.len() == VERSIONS_MAX {
                    self.versions.remove(0);
                }
                self.versions.push(version.clone());
                Ok(())
            }
            Some(index) => {
                counts.regressed += 1;
                let was = self.versions.last().cloned().unwrap_or_default();
                self.versions.truncate(index + 1);
                let detail = format!("session {} was at version {was}, and is back at {version}", self.id);
                Err(Trouble::new(FailureKind::SessionRegressed, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Driven {
        client: Client,
        counts: SessionCounts,
    }

    impl Driven {
        fn new() -> Self {
            Self { client: Client::default(), counts: SessionCounts::default() }
        }

        fn ask(&mut self, request: &Request, id: &str, answer: &Answer) -> Option<FailureKind> {
            let ask = Ask { request, id, path: "/", last: false, now: Timestamp::UNIX_EPOCH };
            self.client.answered(ask, answer, &mut self.counts).err().map(|trouble| trouble.kind)
        }

        fn get(&mut self, answer: &Answer) -> Option<FailureKind> {
            self.ask(&Request::get("/"), "g", answer)
        }

        fn post(&mut self, id: &str, answer: &Answer) -> Option<FailureKind> {
            self.ask(&Request::post("/items", 0), id, answer)
        }
    }

    fn shows(id: &str, items: u64, last: &str) -> Answer {
        Answer {
            status: 200,
            session_id: Some(id.to_owned()),
            session_items: Some(items),
            session_last: (!last.is_empty()).then(|| last.to_owned()),
            ..Answer::default()
        }
    }

    fn on(server: &str, version: &str) -> Answer {
        Answer { server: Some(server.to_owned()), version: Some(version.to_owned()), ..shows("a", 0, "") }
    }

    #[test]
    fn a_session_shows_all_that_was_put_in_and_nothing_else() {
        let mut driven = Driven::new();
        assert_eq!(driven.get(&Answer { status: 200, ..Answer::default() }), None);
        assert_eq!(driven.post("p1", &shows("a", 1, "p1")), None);
        assert_eq!(driven.post("p2", &shows("a", 2, "p2")), None);
        assert_eq!(driven.get(&shows("a", 2, "p2")), None);
        assert_eq!((driven.counts.begun, driven.counts.lost, driven.counts.mixed), (1, 0, 0));
        assert_eq!(driven.get(&shows("a", 1, "p1")), Some(FailureKind::SessionLost));
        assert_eq!(driven.get(&shows("a", 1, "p1")), None, "a loss is counted once");
        assert_eq!(driven.get(&shows("a", 2, "p9")), Some(FailureKind::SessionMixed));
        assert_eq!(driven.post("p3", &shows("a", 3, "p9")), Some(FailureKind::SessionMixed));
        assert_eq!(driven.get(&shows("b", 3, "p9")), Some(FailureKind::SessionLost));
        assert_eq!(driven.get(&Answer { status: 200, ..Answer::default() }), Some(FailureKind::SessionLost));
        assert_eq!((driven.counts.lost, driven.counts.mixed), (3, 2));
    }

    #[test]
    fn a_post_without_an_answer_may_have_been_executed_or_not() {
        for executed in [0, 1] {
            let mut driven = Driven::new();
            assert_eq!(driven.post("p1", &shows("a", 1, "p1")), None);
            driven.client.unanswered(&Request::post("/items", 0));
            assert_eq!(driven.get(&shows("a", 1 + executed, "p2")), None);
            assert_eq!(driven.get(&shows("a", 3, "p3")), Some(FailureKind::SessionMixed));
        }
        let mut driven = Driven::new();
        assert_eq!(driven.post("p1", &shows("a", 1, "p1")), None);
        assert_eq!(driven.post("p2", &Answer { status: 503, ..Answer::default() }), None, "told by its status");
        assert_eq!(driven.get(&shows("a", 0, "")), Some(FailureKind::SessionLost));
    }

    #[test]
    fn versions_go_forward_and_servers_change() {
        let mut driven = Driven::new();
        for answer in [on("x", "1"), on("y", "1"), on("y", "2"), on("x", "2")] {
            assert_eq!(driven.get(&answer), None);
        }
        assert_eq!((driven.counts.moved, driven.counts.upgraded, driven.counts.regressed), (2, 1, 0));
        assert_eq!(driven.get(&on("x", "1")), Some(FailureKind::SessionRegressed));
        assert_eq!(driven.get(&on("x", "1")), None, "counted once");
        assert_eq!(driven.counts.regressed, 1);
    }

    #[test]
    fn a_client_that_leaves_begins_with_an_empty_jar() {
        let mut driven = Driven::new();
        let answer = Answer { set_cookies: vec!["sid=1; Path=/".to_owned()], ..shows("a", 0, "") };
        assert_eq!(driven.get(&answer), None);
        let cookies = |client: &Client| client.cookies("/", false, Timestamp::UNIX_EPOCH);
        assert_eq!(cookies(&driven.client).as_deref(), Some("sid=1"));
        driven.client.leave(&mut driven.counts);
        assert_eq!(cookies(&driven.client), None);
        assert_eq!(driven.get(&shows("b", 0, "")), None);
        assert_eq!((driven.counts.begun, driven.counts.ended), (2, 1));
    }
}
