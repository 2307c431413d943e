//! Owns who is asked for the data of sessions that this server has not got, or not for certain: management, and the server
//! where a session was before. Must not know what is done with an answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::Lists;
use super::teller::Links;
use crate::domain::names::{ProgramName, ServerName};
use crate::domain::session::{self, SessionId};
use crate::link::client::{Answer, LinkError};
use crate::wire::messages::ToManagement;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Datum, ServerAt, data_path};

/// After a management did not answer, it is not asked for so long: programs wait for it once, and not each time.
const QUIET: Duration = Duration::from_secs(1);
/// Between two questions where servers are.
const SERVERS_EVERY: Duration = Duration::from_secs(1);
/// What management said of a server that does not answer is as good as new for so long.
const SERVERS_FRESH: Duration = Duration::from_millis(500);

/// What management said, or that there is none to ask.
pub enum Word {
    Answer(Answer),
    Nobody,
}

/// What the server says where a session was before.
pub enum Before {
    Has(Option<Datum>),
    /// It is gone, and what it had management has.
    Gone,
}

/// Those that are asked.
pub struct Sources {
    links: Links,
    lists: Arc<dyn Lists>,
    /// Servers, as management last said.
    servers: Mutex<BTreeMap<ServerName, ServerAt>>,
    servers_asked: Mutex<Option<Instant>>,
    quiet_until: Mutex<Option<Instant>>,
}

impl Sources {
    pub fn new(links: Links, lists: Arc<dyn Lists>) -> Self {
        let (servers, servers_asked, quiet_until) = Default::default();
        Self { links, lists, servers, servers_asked, quiet_until }
    }

    /// What that server has itself. `Err`: why it cannot be said: what it was given and nobody else was may still come back.
    ///
    /// It is gone when management says that it is down, or when nothing listens there any more and management has been
    /// given all that it had, as it said with its last heartbeat.
    pub async fn ask_peer(&self, peer: &ServerName, program: &ProgramName, id: SessionId) -> Result<Before, String> {
        if !lock(&self.servers).contains_key(peer) {
            self.ask_servers(SERVERS_FRESH).await;
        }
        let at = lock(&self.servers).get(peer).map(|told| told.control);
        let (why, is_refused) = match at {
            None => ("nobody has said where that is".to_owned(), false),
            Some(at) => match self.links.client.get(&format!("http://{at}{}", data_path(program, id))).await {
                Ok(answer) if matches!(answer.status, 200 | 404) => {
                    let datum = datum_of(peer.as_str(), &answer).map_err(|problem| problem.to_string())?;
                    return Ok(Before::Has(datum));
                }
                Ok(answer) => (format!("it answered {}", answer.status), false),
                Err(error) => {
                    let refused = matches!(&error, LinkError::Unreachable { source, .. }
                        if source.kind() == std::io::ErrorKind::ConnectionRefused);
                    (error.to_string(), refused)
                }
            },
        };
        if !self.ask_servers(SERVERS_FRESH).await {
            return Err(format!("{why}, and management does not say whether it is down"));
        }
        let told = lock(&self.servers).get(peer).cloned();
        let is_down = told.as_ref().is_none_or(|told| told.is_down);
        if !session::is_gone_with_nothing(is_refused, is_down, told.and_then(|told| told.only_there)) {
            return Err(why);
        }
        tracing::warn!(server = %peer, %program, %id, %why, is_down, "session data is not looked for there");
        Ok(Before::Gone)
    }

    /// Asks the first management that answers.
    pub async fn ask(
        &self,
        method: Method,
        program: &ProgramName,
        id: SessionId,
        fields: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<Word, Problem> {
        if lock(&self.quiet_until).is_some_and(|until| Instant::now() < until) {
            return Ok(Word::Nobody);
        }
        let field = |(name, value): (&'static str, String)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
        };
        let fields: Vec<_> = fields.into_iter().filter_map(field).collect();
        let place = self.lists.place(program);
        let home = place.map(|place| format!("?server={}&version={}", place.server, escaped(place.version.as_str())));
        let home = home.unwrap_or_default();
        for management in &self.links.management {
            let url = format!("{}{}{home}", management.trim_end_matches('/'), data_path(program, id));
            match self.links.client.send(method.clone(), &url, &fields, body.clone()).await {
                // It is starting, or stopping.
                Ok(answer) if matches!(answer.status, 502..=504) => {}
                Ok(answer) => return Ok(Word::Answer(answer)),
                Err(error) => tracing::debug!(management, %error, "no answer about session data"),
            }
        }
        *lock(&self.quiet_until) = Some(Instant::now() + QUIET);
        Ok(Word::Nobody)
    }

    /// Hears from time to time where servers are.
    pub async fn learn_servers(&self) {
        let _ = self.ask_servers(SERVERS_EVERY).await;
    }

    /// Asks where servers are, unless it was told within `age`. `false`: no management says.
    async fn ask_servers(&self, age: Duration) -> bool {
        if lock(&self.servers_asked).is_some_and(|at| at.elapsed() < age) {
            return true;
        }
        let asked = Instant::now();
        for management in &self.links.management {
            if let Ok(servers) = self.links.ask::<Vec<ServerAt>>(management, &ToManagement::Servers {}).await {
                *lock(&self.servers) = servers.into_iter().map(|told| (told.server.clone(), told)).collect();
                *lock(&self.servers_asked) = Some(asked);
                return true;
            }
        }
        false
    }
}

/// What an answer of management, or of another server, says of data.
pub fn datum_of(who: &str, answer: &Answer) -> Result<Option<Datum>, Problem> {
    let tag = answer.headers.get("etag").map(|tag| tag.to_str().ok().and_then(|tag| tag.parse().ok()));
    let unreadable =
        || Problem::new(Code::Internal, format!("{who} answers for session data without a tag that can be read"));
    match (answer.status, tag) {
        (200, Some(Some(tag))) => Ok(Some(Datum { tag, data: Some(answer.body.to_vec()) })),
        (404, Some(Some(tag))) => Ok(Some(Datum { tag, data: None })),
        (200, _) | (404, Some(None)) => Err(unreadable()),
        _ => Ok(None),
    }
}

fn escaped(version: &str) -> String {
    version.replace('+', "%2B")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
