//! Owns the data that programs keep in sessions, as one server sees it: what it has itself, what management has, and what
//! the server has where the session was before. Must not know who is allowed to ask, or HTTP's words to programs.
//!
//! With management there, it decides which of two writes was first, and an acknowledged write is on disk here and there.
//! Without it, what is written is on disk here alone, which the answer says; management gets it when it is back, and a
//! server to which the session moves meanwhile asks the one that its tag names.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::Method;
use tokio::sync::{Semaphore, mpsc};

use super::Lists;
use super::arrivals::{Arrivals, Came};
use super::disk::{Disk, data_key};
use super::sources::{Sources, Word};
use super::teller::{Links, Taken};
use crate::domain::names::{ProgramName, ServerName};
use crate::domain::session::SessionId;
use crate::domain::session_list::{Change, End};
use crate::link::client::Answer;
use crate::store::tagged::{Outcome, Tagged, What};
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Condition, DATA_WRITTEN, DataTag};

/// Sessions that come and are taken at a time.
const TAKING_MAX: usize = 32;
/// Data that management is given when it is back, in one round.
const GIVEN_MAX: usize = 200;

type Named = (ProgramName, SessionId);

/// A session's data, and whether this server alone has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    pub tag: DataTag,
    pub data: Vec<u8>,
    pub only_here: bool,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    Is { tag: DataTag, only_here: bool },
    Removed { only_here: bool },
    Stale(Option<DataTag>),
}

/// All of it. Cheap to clone.
#[derive(Clone)]
pub struct SessionData {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Sources,
    lists: Arc<dyn Lists>,
    disk: Disk,
    here: Tagged,
    /// What management has not got yet.
    away: Mutex<BTreeSet<Named>>,
    /// Of moved sessions: removed when nobody can ask for it any more.
    leaving: Mutex<VecDeque<(u64, Named)>>,
    links: Links,
    arrivals: Arc<Arrivals>,
}

impl SessionData {
    /// With what an earlier run left.
    pub fn begin(links: Links, lists: Arc<dyn Lists>, disk: Disk, arrivals: Arc<Arrivals>) -> Self {
        let away = disk.away().unwrap_or_default().into_iter().collect();
        let strays = disk.stray_data(lists.as_ref()).unwrap_or_default();
        let leaving = strays.into_iter().map(|named| (super::now() + lists.idle(&named.0), named)).collect();
        let here = disk.data();
        let sources = Sources::new(links.clone(), lists.clone());
        let (away, leaving) = (Mutex::new(away), Mutex::new(leaving));
        let inner = Inner { sources, lists, disk, here, away, leaving, links, arrivals };
        Self { inner: Arc::new(inner) }
    }

    /// Takes those that come in the master list (protocol P16), and fetches their data while the program begins with the
    /// request.
    pub async fn take_all(self, mut come: mpsc::Receiver<Came>) {
        let room = Arc::new(Semaphore::new(TAKING_MAX));
        while let Some(came) = come.recv().await {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let data = self.clone();
            tokio::task::spawn_local(async move {
                data.take(came).await;
                drop(place);
            });
        }
    }

    async fn take(&self, came: Came) {
        let Came { program, id, from, to } = came;
        match self.inner.links.take(&program, id, from, to).await {
            Taken::Here => {}
            Taken::At(home) => {
                // Another server was faster: it has the session, and this one no more than a request of it.
                tracing::debug!(%program, %id, home = %home.server, "a session is at home elsewhere");
                self.inner.lists.end(&program, id, End::Migrated);
            }
            Taken::Ended => {
                self.inner.lists.end(&program, id, End::Ended);
            }
        }
        if let Err(problem) = self.load(&program, id).await {
            tracing::debug!(%program, %id, %problem, "session data was not prefetched");
        }
    }

    /// The data as it is now, wherever that is; on disk here when this returns.
    pub async fn load(&self, program: &ProgramName, id: SessionId) -> Result<Option<Loaded>, Problem> {
        let here = self.local(program, id)?;
        let held = here.as_ref().map(|(tag, _)| ("if-none-match", tag.to_string()));
        let found =
            match self.inner.sources.ask(Method::GET, program, id, held.into_iter().collect(), Bytes::new()).await? {
                Word::Answer(answer) => {
                    let taken = self.taken(program, id, here, &answer).await?;
                    let Some(peer) = self.inner.arrivals.arrived(program, id) else { return Ok(taken) };
                    // That server may have what it wrote while management was away, and has not given it yet. One that does
                    // not answer holds nobody up: management has been there to be given it.
                    let known = taken.clone().map(|loaded| (loaded.tag, loaded.data));
                    match self.at_peer(program, id, known, &peer).await {
                        Ok(found) if found.as_ref().map(|(tag, _)| *tag) != taken.as_ref().map(|loaded| loaded.tag) => {
                            found
                        }
                        _ => return Ok(taken),
                    }
                }
                Word::Nobody => self.without_management(program, id, here).await?,
            };
        Ok(found.map(|(tag, data)| Loaded { tag, data, only_here: true }))
    }

    /// What is here, or at the server where the session was, whichever is later.
    async fn without_management(
        &self,
        program: &ProgramName,
        id: SessionId,
        here: Option<(DataTag, Vec<u8>)>,
    ) -> Result<Option<(DataTag, Vec<u8>)>, Problem> {
        let Some(peer) = self.inner.arrivals.from(program, id) else { return Ok(here) };
        let found = self.at_peer(program, id, here, &peer).await?;
        self.inner.arrivals.arrived(program, id);
        Ok(found)
    }

    async fn taken(
        &self,
        program: &ProgramName,
        id: SessionId,
        here: Option<(DataTag, Vec<u8>)>,
        answer: &Answer,
    ) -> Result<Option<Loaded>, Problem> {
        let waits = self.inner.is_away(program, id);
        match (answer.status, here) {
            (304, Some((tag, data))) => Ok(Some(Loaded { tag, data, only_here: false })),
            // What was written while management was away is later than what it has, or as good.
            (200 | 404, Some((tag, data))) if waits => Ok(Some(Loaded { tag, data, only_here: true })),
            (200, _) => {
                let tag = tag_of(answer).ok_or_else(|| unreadable("management"))?;
                let data = answer.body.to_vec();
                self.keep(program, id, What::Is(tag, data.clone())).await?;
                Ok(Some(Loaded { tag, data, only_here: false }))
            }
            (404, here) => {
                if here.is_some() {
                    self.keep(program, id, What::Remove).await?;
                }
                Ok(None)
            }
            _ => Err(Problem::read(answer.status, &answer.body)),
        }
    }

    /// What is here, or at that server, whichever is later; management is given that.
    async fn at_peer(
        &self,
        program: &ProgramName,
        id: SessionId,
        here: Option<(DataTag, Vec<u8>)>,
        peer: &ServerName,
    ) -> Result<Option<(DataTag, Vec<u8>)>, Problem> {
        let unknown = |why: String| {
            Problem::new(Code::Unavailable, format!("the data of session {id} may be on {peer}: {why}"))
                .hint("it is found when that server, or management, answers")
        };
        let answer = self.inner.sources.ask_peer(peer, program, id).await.map_err(unknown)?;
        let there = match answer.status {
            200 => Some((tag_of(&answer).ok_or_else(|| unreadable(peer.as_str()))?, answer.body.to_vec())),
            404 => None,
            status => return Err(unknown(format!("it answered {status}"))),
        };
        let later = there.filter(|(tag, _)| here.as_ref().is_none_or(|(ours, _)| tag > ours));
        if let Some((tag, data)) = &later {
            self.keep(program, id, What::Written(*tag, data.clone())).await?;
            self.inner.note_away(program, id).await?;
        }
        Ok(later.or(here))
    }

    /// Writes data, or removes it, where the condition holds; what was acknowledged is on disk.
    pub async fn write(
        &self,
        program: &ProgramName,
        id: SessionId,
        condition: Condition,
        data: Option<Bytes>,
    ) -> Result<Written, Problem> {
        let (method, body) = match &data {
            Some(data) => (Method::PUT, data.clone()),
            None => (Method::DELETE, Bytes::new()),
        };
        if self.inner.is_away(program, id) {
            // Management must know of the earlier write before it can judge this one.
            self.give(program, id).await;
        }
        let fields = condition.field().into_iter().collect();
        let word = match self.inner.is_away(program, id) {
            true => Word::Nobody,
            false => self.inner.sources.ask(method, program, id, fields, body).await?,
        };
        match word {
            Word::Answer(answer) => self.wrote(program, id, data, &answer).await,
            Word::Nobody => self.write_here(program, id, condition, data).await,
        }
    }

    async fn wrote(
        &self,
        program: &ProgramName,
        id: SessionId,
        data: Option<Bytes>,
        answer: &Answer,
    ) -> Result<Written, Problem> {
        match (answer.status, data) {
            (204, Some(data)) => {
                let tag = tag_of(answer).ok_or_else(|| unreadable("management"))?;
                self.keep(program, id, What::Is(tag, data.to_vec())).await?;
                self.inner.arrivals.arrived(program, id);
                Ok(Written::Is { tag, only_here: false })
            }
            (204, None) => {
                self.keep(program, id, What::Remove).await?;
                self.inner.arrivals.arrived(program, id);
                Ok(Written::Removed { only_here: false })
            }
            (412, _) => Ok(Written::Stale(tag_of(answer))),
            _ => Err(Problem::read(answer.status, &answer.body)),
        }
    }

    async fn write_here(
        &self,
        program: &ProgramName,
        id: SessionId,
        condition: Condition,
        data: Option<Bytes>,
    ) -> Result<Written, Problem> {
        // Not over something later that the server before this has.
        self.without_management(program, id, self.local(program, id)?).await?;
        let what = data.map_or(What::Remove, |data| What::Data(data.to_vec()));
        // Before the data itself: a note too many costs a question, one too few the data.
        self.inner.note_away(program, id).await?;
        let written = self.inner.here.write(data_key(program, id), condition, what).await;
        match written.map_err(|error| error.problem())? {
            Outcome::Is(tag) => Ok(Written::Is { tag, only_here: true }),
            Outcome::Removed => Ok(Written::Removed { only_here: true }),
            Outcome::Stale(now) => Ok(Written::Stale(now)),
        }
    }

    /// What is here.
    pub fn local(&self, program: &ProgramName, id: SessionId) -> Result<Option<(DataTag, Vec<u8>)>, Problem> {
        self.inner.here.get(&data_key(program, id)).map_err(|error| error.problem())
    }

    async fn keep(&self, program: &ProgramName, id: SessionId, what: What) -> Result<(), Problem> {
        let kept = self.inner.here.write(data_key(program, id), Condition::Always, what).await;
        kept.map(drop).map_err(|error| error.problem())
    }

    /// Sessions have changed: what is kept for those that moved goes in time.
    pub fn changed(&self, program: &ProgramName, changes: &[Change]) {
        for change in changes {
            let Change::Gone { id, how, at, .. } = change else { continue };
            let named = (program.clone(), *id);
            if *how == End::Migrated {
                lock(&self.inner.leaving).push_back((at + self.inner.lists.idle(program), named));
            } else {
                lock(&self.inner.away).remove(&named);
            }
        }
    }

    /// Gives management what it has not got, asks where servers are, and forgets what nobody can ask for any more.
    pub async fn tell_management(&self) {
        let due: Vec<Named> = lock(&self.inner.away).iter().take(GIVEN_MAX).cloned().collect();
        for (program, id) in due {
            if !self.give(&program, id).await {
                break;
            }
        }
        self.inner.sources.learn_servers().await;
        let now = super::now();
        loop {
            let mut leaving = lock(&self.inner.leaving);
            let Some((_, (program, id))) = leaving.pop_front_if(|(at, _)| *at <= now) else { break };
            drop(leaving);
            if !self.inner.lists.contains(&program, id) {
                self.inner.disk.forget_data(&program, id);
            }
        }
    }

    /// Gives management what it has not got of one session; `false`: it does not answer.
    async fn give(&self, program: &ProgramName, id: SessionId) -> bool {
        let Ok(here) = self.local(program, id) else { return true };
        let asked = match here {
            Some((tag, data)) => {
                let fields = vec![(DATA_WRITTEN, tag.to_string())];
                self.inner.sources.ask(Method::PUT, program, id, fields, data.into()).await
            }
            None => self.inner.sources.ask(Method::DELETE, program, id, Vec::new(), Bytes::new()).await,
        };
        match asked {
            Ok(Word::Nobody) => false,
            Ok(Word::Answer(answer)) if matches!(answer.status, 204 | 404 | 412) => {
                // 412: management has a later one, which the next question brings. 404: the session has ended.
                lock(&self.inner.away).remove(&(program.clone(), id));
                self.inner.disk.note_there(program, id);
                true
            }
            Ok(Word::Answer(answer)) => {
                let problem = Problem::read(answer.status, &answer.body);
                tracing::warn!(%program, %id, %problem, "management does not take session data");
                true
            }
            Err(problem) => {
                tracing::warn!(%program, %id, %problem, "management is not given session data");
                true
            }
        }
    }
}

impl Inner {
    fn is_away(&self, program: &ProgramName, id: SessionId) -> bool {
        lock(&self.away).contains(&(program.clone(), id))
    }

    async fn note_away(&self, program: &ProgramName, id: SessionId) -> Result<(), Problem> {
        if lock(&self.away).insert((program.clone(), id)) {
            self.disk.note_away(program, id).await.map_err(|error| error.problem())?;
        }
        Ok(())
    }
}

fn tag_of(answer: &Answer) -> Option<DataTag> {
    answer.headers.get("etag")?.to_str().ok()?.parse().ok()
}

fn unreadable(who: &str) -> Problem {
    Problem::new(Code::Internal, format!("{who} answers for session data without a tag that can be read"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
