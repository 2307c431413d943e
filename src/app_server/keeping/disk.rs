//! Owns the server's own store of sessions: their records and their data. Must not know who asks.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Lists;
use crate::domain::names::ProgramName;
use crate::domain::session::SessionId;
use crate::domain::session_list::{Change, End, Session};
use crate::store::behind::Behind;
use crate::store::tagged::Tagged;
use crate::store::{self, Options, Store, StoreError, Tree};

const LIST: &str = "list/";
const DATA: &str = "data/";
const AWAY: &str = "away/";
const MARK: &str = "mark";
/// How often what changed is written.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);

/// The store, and the thread that writes to it.
#[derive(Clone)]
pub struct Disk {
    store: Store,
    behind: Arc<Behind>,
    waiting: Arc<Mutex<Vec<store::Change>>>,
}

pub fn data_key(program: &ProgramName, id: SessionId) -> String {
    format!("{DATA}{program}/{id}")
}

fn list_key(program: &ProgramName, id: SessionId) -> String {
    format!("{LIST}{program}/{id}")
}

fn away_key(program: &ProgramName, id: SessionId) -> String {
    format!("{AWAY}{program}/{id}")
}

fn named(key: &str, prefix: &str) -> Option<(ProgramName, SessionId)> {
    let (program, id) = key[prefix.len()..].split_once('/')?;
    Some((program.parse().ok()?, id.parse().ok()?))
}

impl Disk {
    /// Opens the store in `dir`. `true`: it remembers nothing; management may.
    pub fn open(dir: &Path) -> Result<(Self, bool), StoreError> {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
        let opened = Store::open(dir, &stamp, Options::default())?;
        if let Some(recovered) = &opened.recovered {
            tracing::error!("this server's Session List is rebuilt from management's: {recovered}");
        }
        let store = opened.store;
        let is_new = store.get::<bool>(Tree::Sessions, MARK)?.is_none();
        let waiting: Arc<Mutex<Vec<store::Change>>> = Arc::default();
        let ours = Arc::clone(&waiting);
        let due = Box::new(move || std::mem::take(&mut *ours.lock().unwrap_or_else(PoisonError::into_inner)));
        let behind = Behind::begin(store.clone(), "sessions", WRITE_INTERVAL, due)
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok((Self { store, behind: Arc::new(behind), waiting }, is_new))
    }

    /// Writes what has changed and what waits, and no more after that. Blocks.
    pub fn stop(&self, lists: &dyn Lists) {
        for program in lists.programs() {
            self.write(&program, &lists.take_changes(&program, usize::MAX));
        }
        self.behind.stop();
    }

    /// From now on it remembers.
    pub fn mark(&self) -> Result<(), StoreError> {
        self.store.put(Tree::Sessions, MARK, &true)
    }

    pub fn data(&self) -> Tagged {
        Tagged::new(self.store.clone(), Tree::Sessions, self.behind.asker())
    }

    /// Has all sessions begin again; how many.
    pub fn restore(&self, lists: &dyn Lists) -> Result<usize, StoreError> {
        let mut count = 0;
        self.store.each(Tree::Sessions, LIST, |key, value| {
            if let Some((program, id)) = named(key, LIST)
                && let Some(session) = Session::unpack(id, value)
            {
                lists.restore(&program, &session);
                count += 1;
            }
        })?;
        Ok(count)
    }

    /// Data of sessions that are not listed here: they went on elsewhere, or their records were not written.
    pub fn stray_data(&self, lists: &dyn Lists) -> Result<Vec<(ProgramName, SessionId)>, StoreError> {
        let mut strays = Vec::new();
        self.store.each(Tree::Sessions, DATA, |key, _| {
            strays.extend(named(key, DATA).filter(|(program, id)| !lists.contains(program, *id)));
        })?;
        Ok(strays)
    }

    /// Has changes written soon. Data ends with its session, unless that goes on elsewhere: its new home may ask.
    pub fn write(&self, program: &ProgramName, changes: &[Change]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Is(session) => {
                    waiting.push(store::Change::bytes(Tree::Sessions, list_key(program, session.id), session.pack()))
                }
                Change::Gone { id, how, .. } => {
                    waiting.push(store::Change::remove(Tree::Sessions, list_key(program, *id)));
                    if *how != End::Migrated {
                        waiting.push(store::Change::remove(Tree::Sessions, data_key(program, *id)));
                        waiting.push(store::Change::remove(Tree::Sessions, away_key(program, *id)));
                    }
                }
            }
        }
    }

    /// Has the data of a session removed soon.
    pub fn forget_data(&self, program: &ProgramName, id: SessionId) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(store::Change::remove(Tree::Sessions, data_key(program, id)));
        waiting.push(store::Change::remove(Tree::Sessions, away_key(program, id)));
    }

    /// Data that management has not got yet, from an earlier run too.
    pub fn away(&self) -> Result<Vec<(ProgramName, SessionId)>, StoreError> {
        let keys = self.store.keys(Tree::Sessions, AWAY)?;
        Ok(keys.iter().filter_map(|key| named(key, AWAY)).collect())
    }

    /// Notes that management has not got the data of a session; on disk when this returns.
    pub async fn note_away(&self, program: &ProgramName, id: SessionId) -> Result<(), StoreError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let edit: store::behind::Edit = Box::new(|_| Some(store::behind::Write::Put(Vec::new())));
        let done = Box::new(move |saved| drop(tell.send(saved)));
        self.behind.asker().edit(Tree::Sessions, away_key(program, id), edit, done)?;
        told.await.map_err(|_| StoreError::Failed("the node is stopping".to_owned()))?
    }

    /// Management has it.
    pub fn note_there(&self, program: &ProgramName, id: SessionId) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(store::Change::remove(Tree::Sessions, away_key(program, id)));
    }
}
