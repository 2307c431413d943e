//! Owns the data that programs keep in sessions, as one server sees it: what it has itself, what management has, and what
//! the server has where the session was before. Must not know who is allowed to ask, or HTTP's words to programs.
//!
//! With management there, it decides which of two writes was first, and an acknowledged write is on disk here and there.
//! Without it, what is written is on disk here alone, which the answer says; management gets it when it is back, and a
//! server to which the session moves meanwhile asks the one that its tag names. It asks that one with management there too:
//! what was written there while management was late may not have been given yet. Of what that server may have, none is
//! made up for: as long as it neither answers nor is known to be gone, there is no answer to the program either.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::Method;
use tokio::sync::{Semaphore, mpsc};

use super::Lists;
use super::arrivals::{Arrivals, Came};
use super::away::Away;
use super::disk::{Disk, data_key};
use super::sources::{Before, Sources, Word, datum_of};
use super::teller::{Links, Taken};
use super::turns::Turns;
use crate::domain::names::{ProgramName, ServerName};
use crate::domain::session::SessionId;
use crate::domain::session_list::{Change, End};
use crate::link::client::Answer;
use crate::store::tagged::{Outcome, Tagged, What};
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Condition, DATA_WRITTEN, DataTag, Datum};

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
    away: Away,
    turns: Turns,
    /// Of moved sessions: removed when nobody can ask for it any more.
    leaving: Mutex<VecDeque<(u64, Named)>>,
    /// Of what an earlier run left, the last that was looked at; `None`: all is.
    looked_at: Mutex<Option<Option<String>>>,
    links: Links,
    arrivals: Arc<Arrivals>,
}

impl SessionData {
    /// With what an earlier run left.
    pub fn begin(links: Links, lists: Arc<dyn Lists>, disk: Disk, arrivals: Arc<Arrivals>) -> Self {
        let away = Away::begin(disk.clone(), lists.clone());
        let here = disk.data();
        let sources = Sources::new(links.clone(), lists.clone());
        let (turns, leaving, looked_at) = (Turns::default(), Mutex::default(), Mutex::new(Some(None)));
        let inner = Inner { sources, lists, disk, here, away, turns, leaving, looked_at, links, arrivals };
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
        let (program, id) = (came.program.clone(), came.id);
        match self.inner.links.take(came).await {
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

    /// The data as it is now, wherever that is; on disk here when this returns. An error says why that cannot be told.
    pub async fn load(&self, program: &ProgramName, id: SessionId) -> Result<Option<Loaded>, Problem> {
        let _turn = self.inner.turns.take(program, id).await;
        let is_asked = self.find(program, id).await?;
        let only_here = !is_asked || self.inner.away.contains(program, id);
        let here = self.local(program, id)?;
        Ok(here.and_then(|Datum { tag, data }| data.map(|data| Loaded { tag, data, only_here })))
    }

    /// Has here what is latest, and says whether management was there to be asked.
    async fn find(&self, program: &ProgramName, id: SessionId) -> Result<bool, Problem> {
        let here = self.local(program, id)?;
        let held = here.as_ref().map(|datum| ("if-none-match", datum.tag.to_string()));
        let word = self.inner.sources.ask(Method::GET, program, id, held.into_iter().collect(), Bytes::new()).await?;
        let is_asked = match word {
            Word::Answer(answer) => {
                self.take_managements(program, id, here, &answer).await?;
                true
            }
            Word::Nobody => false,
        };
        if let Some(peer) = self.inner.arrivals.from(program, id) {
            self.take_peers(program, id, &peer, is_asked).await?;
            self.inner.arrivals.arrived(program, id, &peer);
        }
        Ok(is_asked)
    }

    async fn take_managements(
        &self,
        program: &ProgramName,
        id: SessionId,
        here: Option<Datum>,
        answer: &Answer,
    ) -> Result<(), Problem> {
        let written_here = here.as_ref().filter(|_| self.inner.away.contains(program, id)).map(|datum| datum.tag);
        match (answer.status, datum_of("management", answer)) {
            (304, _) => {
                // It has just that.
                self.inner.away.is_there(program, id);
                Ok(())
            }
            // Written while it was away, and by nobody since.
            (200 | 404, Ok(datum)) if written_here > datum.as_ref().map(|datum| datum.tag) => Ok(()),
            (200 | 404, Ok(Some(datum))) => {
                self.keep(program, id, What::Is(datum)).await?;
                self.inner.away.is_there(program, id);
                Ok(())
            }
            // It never had any, or has lost its disk.
            (404, Ok(None)) if here.is_some() => self.inner.away.note(program, id).await,
            (404, Ok(None)) => Ok(()),
            (200 | 404, Err(problem)) => Err(problem),
            _ => Err(Problem::read(answer.status, &answer.body)),
        }
    }

    /// Takes what the server has where the session was, if that is later; management is given it.
    async fn take_peers(
        &self,
        program: &ProgramName,
        id: SessionId,
        peer: &ServerName,
        is_asked: bool,
    ) -> Result<(), Problem> {
        let unknown = |why: String| {
            Problem::new(Code::Unavailable, format!("the data of session {id} may be on {peer}: {why}"))
                .hint("it is found when that server answers, or management says that it is down")
        };
        let there = match self.inner.sources.ask_peer(peer, program, id).await.map_err(unknown)? {
            Before::Has(there) => there,
            Before::Gone if is_asked => None,
            Before::Gone => {
                let why = format!(
                    "{peer}, where session {id} was, is gone, and management, which has its data, does not answer"
                );
                return Err(Problem::new(Code::Unavailable, why).hint("it is found when management answers"));
            }
        };
        let here = self.local(program, id)?.map(|datum| datum.tag);
        if let Some(later) = there.filter(|there| here.is_none_or(|here| there.tag > here)) {
            self.inner.away.note(program, id).await?;
            self.keep(program, id, What::Written(later)).await?;
        }
        Ok(())
    }

    /// Writes data, or removes it, where the condition holds; what was acknowledged is on disk.
    pub async fn write(
        &self,
        program: &ProgramName,
        id: SessionId,
        condition: Condition,
        data: Option<Bytes>,
    ) -> Result<Written, Problem> {
        let _turn = self.inner.turns.take(program, id).await;
        if self.inner.arrivals.from(program, id).is_some() {
            // Not over something later that the server before this has.
            self.find(program, id).await?;
        }
        if self.inner.away.contains(program, id) {
            // Management must know of the earlier write before it can judge this one.
            self.give(program, id).await;
        }
        let (method, body) = match &data {
            Some(data) => (Method::PUT, data.clone()),
            None => (Method::DELETE, Bytes::new()),
        };
        let fields = condition.field().into_iter().collect();
        let word = match self.inner.away.contains(program, id) {
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
                let tag = tag_of(answer).ok_or_else(|| {
                    Problem::new(Code::Internal, "management answers for session data without a tag that can be read")
                })?;
                self.keep(program, id, What::Is(Datum { tag, data: Some(data.to_vec()) })).await?;
                Ok(Written::Is { tag, only_here: false })
            }
            (204, None) => {
                let removal = tag_of(answer).map(|tag| What::Is(Datum { tag, data: None }));
                self.keep(program, id, removal.unwrap_or(What::Remove)).await?;
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
        let what = data.map_or(What::Remove, |data| What::Data(data.to_vec()));
        // Before the data itself: a note too many costs a question, one too few the data.
        self.inner.away.note(program, id).await?;
        let written = self.inner.here.write(data_key(program, id), condition, what).await;
        match written.map_err(|error| error.problem())? {
            Outcome::Is(tag) => Ok(Written::Is { tag, only_here: true }),
            Outcome::Removed(_) => Ok(Written::Removed { only_here: true }),
            Outcome::Stale(now) => Ok(Written::Stale(now)),
        }
    }

    /// What another server is told to which the session has moved on: what is here, if that is all there was to come.
    pub fn for_peer(&self, program: &ProgramName, id: SessionId) -> Result<Option<Datum>, Problem> {
        match self.inner.arrivals.from(program, id) {
            None => self.local(program, id),
            Some(before) => {
                let why = format!("the data of session {id} has not come here from {before} yet");
                Err(Problem::new(Code::Unavailable, why))
            }
        }
    }

    /// What is here.
    pub fn local(&self, program: &ProgramName, id: SessionId) -> Result<Option<Datum>, Problem> {
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
                self.inner.away.ended(program, *id);
            }
        }
    }

    /// Gives management what it has not got, asks where servers are, and forgets what nobody can ask for any more.
    pub async fn tell_management(&self) {
        for (program, id) in self.inner.away.first(GIVEN_MAX) {
            // One that is at work on it may wait for long: the next round comes.
            let Some(_turn) = self.inner.turns.take_now(&program, id) else { continue };
            if self.inner.away.contains(&program, id) && !self.give(&program, id).await {
                break;
            }
        }
        self.inner.sources.learn_servers().await;
        self.look_for_strays();
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

    /// Data that an earlier run left of sessions that are not listed goes, too, when nobody can ask for it any more.
    fn look_for_strays(&self) {
        let mut looked_at = lock(&self.inner.looked_at);
        let Some(after) = looked_at.take() else { return };
        match self.inner.disk.stray_data(after.as_deref(), self.inner.lists.as_ref()) {
            Ok((strays, next)) => {
                let now = super::now();
                let until = |named: Named| (now + self.inner.lists.idle(&named.0), named);
                lock(&self.inner.leaving).extend(strays.into_iter().map(until));
                *looked_at = next.map(Some);
            }
            Err(error) => tracing::warn!(%error, "data that an earlier run left is not looked for any more"),
        }
    }

    /// Gives management what it has not got of one session, in its turn; `false`: it does not answer.
    async fn give(&self, program: &ProgramName, id: SessionId) -> bool {
        let asked = match self.local(program, id) {
            Ok(Some(Datum { tag, data })) => {
                let fields = vec![(DATA_WRITTEN, tag.to_string())];
                let (method, body) = data.map_or((Method::DELETE, Bytes::new()), |data| (Method::PUT, data.into()));
                self.inner.sources.ask(method, program, id, fields, body).await
            }
            // Noted, and then not written.
            Ok(None) => {
                self.inner.away.is_there(program, id);
                return true;
            }
            Err(problem) => Err(problem),
        };
        match asked {
            Ok(Word::Nobody) => return false,
            // 412: management has a later one, which the next question brings. 404: the session has ended.
            Ok(Word::Answer(answer)) if matches!(answer.status, 204 | 404 | 412) => {
                self.inner.away.is_there(program, id);
            }
            Ok(Word::Answer(answer)) => {
                let problem = Problem::read(answer.status, &answer.body);
                tracing::warn!(%program, %id, %problem, "management does not take session data");
            }
            Err(problem) => tracing::warn!(%program, %id, %problem, "management is not given session data"),
        }
        true
    }
}

fn tag_of(answer: &Answer) -> Option<DataTag> {
    answer.headers.get("etag")?.to_str().ok()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
