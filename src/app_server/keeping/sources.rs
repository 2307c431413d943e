//! Owns who is asked for the data of sessions that this server has not got, or not for certain: management, and the server
//! where a session was before. Must not know what is done with an answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::Lists;
use super::teller::Links;
use crate::domain::names::{ProgramName, ServerName};
use crate::domain::session::SessionId;
use crate::link::client::Answer;
use crate::wire::messages::ToManagement;
use crate::wire::problem::Problem;
use crate::wire::sessions::{ServerAt, data_path};

/// After a management did not answer, it is not asked for so long: programs wait for it once, and not each time.
const QUIET: Duration = Duration::from_secs(1);
/// Between two questions where servers are.
const SERVERS_EVERY: Duration = Duration::from_secs(5);

/// What management said, or that there is none to ask.
pub enum Word {
    Answer(Answer),
    Nobody,
}

/// Those that are asked.
pub struct Sources {
    links: Links,
    lists: Arc<dyn Lists>,
    /// Where servers are asked, as management last said.
    servers: Mutex<BTreeMap<ServerName, SocketAddr>>,
    servers_asked: Mutex<Option<Instant>>,
    quiet_until: Mutex<Option<Instant>>,
}

impl Sources {
    pub fn new(links: Links, lists: Arc<dyn Lists>) -> Self {
        let (servers, servers_asked, quiet_until) = Default::default();
        Self { links, lists, servers, servers_asked, quiet_until }
    }

    /// What that server has itself. `Err`: why it cannot be said.
    pub async fn ask_peer(&self, peer: &ServerName, program: &ProgramName, id: SessionId) -> Result<Answer, String> {
        let at = lock(&self.servers).get(peer).copied();
        let at = at.ok_or_else(|| "nobody has said where that is".to_owned())?;
        let url = format!("http://{at}{}", data_path(program, id));
        self.links.client.get(&url).await.map_err(|error| error.to_string())
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

    pub async fn learn_servers(&self) {
        {
            let mut asked = lock(&self.servers_asked);
            if asked.is_some_and(|at| at.elapsed() < SERVERS_EVERY) {
                return;
            }
            *asked = Some(Instant::now());
        }
        for management in &self.links.management {
            if let Ok(servers) = self.links.ask::<Vec<ServerAt>>(management, &ToManagement::Servers {}).await {
                let known = servers.into_iter().map(|told| (told.server, told.control));
                *lock(&self.servers) = known.collect();
                return;
            }
        }
    }
}

fn escaped(version: &str) -> String {
    version.replace('+', "%2B")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
