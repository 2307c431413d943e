//! Owns the master Session List: every program's sessions as servers tell of them, served from memory, and written behind
//! to a store of its own, from which it begins again; what is missing there servers tell anew. Must not know how a server
//! keeps its own list, nor HTTP.

mod lists;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::names::{ProgramName, RunId, ServerName};
use crate::domain::session::{Place, SessionId, WallMillis};
use crate::domain::session_list::{Bounds, End, Figures, Query, Session};
use crate::store::behind::Behind;
use crate::store::tagged::{Outcome, Tagged, What};
use crate::store::{Options, Store, StoreError, Tree};
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Condition, Datum, SessionsHere, SessionsTaken, TakeSession, TakenSession, ToldSessions};

use lists::Lists;
use writer::Writer;

/// How often what changed is written, and what is idle ends.
const WRITE_INTERVAL: Duration = Duration::from_millis(500);
/// Sessions of a program that has not said when they are idle.
const IDLE_DEFAULT: WallMillis = 30 * 60 * 1_000;

/// The master list. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Sessions {
    lists: Arc<Mutex<Lists>>,
    data: Tagged,
    behind: Arc<Behind>,
}

impl Sessions {
    /// Begins with what the store in `dir` has. At most so many sessions of one program are listed.
    pub fn open(dir: &Path, most: usize) -> Result<Self, StoreError> {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
        let late = Some((Tree::Sessions, lists::DATA));
        let opened = Store::open(dir, &stamp, Options { late, ..Options::default() })?;
        if let Some(recovered) = &opened.recovered {
            tracing::error!("the master Session List is rebuilt from the servers: {recovered}");
        }
        let store = opened.store;
        let bounds = Bounds { idle: IDLE_DEFAULT, sessions: most };
        let (lists, packed) = Lists::load(&store, bounds, now())?;
        let lists = Arc::new(Mutex::new(lists));
        let mut writer = Writer::new(Arc::clone(&lists), packed, store.clone());
        let due = Box::new(move || writer.due(now()));
        let behind = Behind::begin(store.clone(), "session-list", WRITE_INTERVAL, due)
            .map_err(|error: io::Error| StoreError::Failed(error.to_string()))?;
        let data = Tagged::new(store, Tree::Sessions, behind.asker());
        Ok(Self { lists, data, behind: Arc::new(behind) })
    }

    /// Writes what is not written yet, and no more after that. Blocks.
    pub fn stop(&self) {
        self.behind.stop();
    }

    /// A server tells what happened.
    pub fn told(&self, server: &ServerName, run: &RunId, told: ToldSessions) -> SessionsTaken {
        self.lock().told(server, run, told, now())
    }

    /// The servers that there are: who may know of sessions.
    pub fn servers_are(&self, servers: BTreeSet<ServerName>) {
        self.lock().servers_are(servers);
    }

    /// A session moves to another server (protocol P16).
    pub fn take(&self, take: &TakeSession) -> Result<TakenSession, Problem> {
        self.lock().take(take)
    }

    /// Those at home at a server, for it to begin again with.
    pub fn here(&self, server: &ServerName, after: Option<&(ProgramName, SessionId)>) -> SessionsHere {
        self.lock().here(server, after)
    }

    /// Whether anybody has told of such a program.
    pub fn has(&self, program: &ProgramName) -> bool {
        self.lock().list(program).is_some()
    }

    /// A page of a program's sessions; `None`: nobody has told of such a program.
    pub fn page(&self, program: &ProgramName, query: &Query) -> Option<Vec<Session>> {
        Some(self.lock().list(program)?.page(query))
    }

    pub fn get(&self, program: &ProgramName, id: SessionId) -> Option<Session> {
        self.lock().list(program)?.get(id)
    }

    /// A person has ended it, at the servers too.
    pub fn end(&self, program: &ProgramName, id: SessionId) {
        self.lock().end(program, id, End::Ended, now());
    }

    /// How many are at home at each server, by program.
    pub fn counts(&self) -> Vec<(ProgramName, ServerName, usize)> {
        self.lock().counts()
    }

    /// What is told of a program's sessions, server by server. Looks at all of them.
    pub fn figures(&self, program: &ProgramName) -> BTreeMap<ServerName, Figures> {
        self.lock().list(program).map(|list| list.figures_by_server(now())).unwrap_or_default()
    }

    /// The data that a program keeps in a session.
    pub fn data(&self, program: &ProgramName, id: SessionId) -> Result<Option<Datum>, Problem> {
        self.data.get(&lists::data_key(program, id)).map_err(|error| error.problem())
    }

    /// Writes or removes data, where the condition holds; it is on disk when this returns. The session is listed from
    /// then on, so that its data ends with it.
    pub async fn write_data(
        &self,
        program: &ProgramName,
        id: SessionId,
        place: &Place,
        condition: Condition,
        what: What,
    ) -> Result<Outcome, Problem> {
        let is_written = !matches!(what, What::Remove);
        if is_written && !self.lock().has_data(program, id, place, now()) {
            return Err(Problem::new(Code::SessionEnded, format!("session {id} of {program} has ended")));
        }
        let written = self.data.write(lists::data_key(program, id), condition, what).await;
        let outcome = written.map_err(|error| error.problem())?;
        // It may have ended meanwhile, and its data been removed before this was written.
        self.lock().look_again(program, id);
        Ok(outcome)
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        lock(&self.lists)
    }
}

fn lock(lists: &Mutex<Lists>) -> MutexGuard<'_, Lists> {
    lists.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock: sessions outlive runs.
fn now() -> WallMillis {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
