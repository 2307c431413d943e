//! Owns the server's own store of sessions: their records and their data. Must not know who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Lists;
use crate::domain::names::ProgramName;
use crate::domain::session::SessionId;
use crate::domain::session_list::{Change, End, Unpacker, session_key, session_key_of_text};
use crate::store::behind::Behind;
use crate::store::packed::{Former, Packed};
use crate::store::tagged::Tagged;
use crate::store::{self, Options, Store, StoreError, Tree};

/// Where earlier releases had sessions.
const FORMER: Former = Former { prefix: "list/", key: session_key_of_text };
const DATA: &str = "data/";
const AWAY: &str = "away/";
const MARK: &str = "mark";
/// How often what changed is written.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);
/// Keys that wait to be removed, at the most: with a disk that takes nothing, data is left, and found at the next start.
const REMOVED_MAX: usize = 1_000_000;

/// Records of data that one look looks at: they are read for it, and there is no hurry.
const LOOKED_AT: usize = 20;

/// Sessions, and where to go on.
pub type Strays = (Vec<(ProgramName, SessionId)>, Option<String>);

/// The store, and the thread that writes to it.
#[derive(Clone)]
pub struct Disk {
    store: Store,
    behind: Arc<Behind>,
    waiting: Arc<Mutex<Waiting>>,
}

/// What the next write holds.
#[derive(Default)]
struct Waiting {
    /// Sessions by their keys, packed; `None`: it is not here any more.
    sessions: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Records that go.
    removed: BTreeSet<String>,
}

impl Waiting {
    fn remove(&mut self, key: String) {
        if self.removed.len() < REMOVED_MAX {
            self.removed.insert(key);
        }
    }
}

pub fn data_key(program: &ProgramName, id: SessionId) -> String {
    format!("{DATA}{program}/{id}")
}

fn away_key(program: &ProgramName, id: SessionId) -> String {
    format!("{AWAY}{program}/{id}")
}

fn named(key: &str, prefix: &str) -> Option<(ProgramName, SessionId)> {
    let (program, id) = key[prefix.len()..].split_once('/')?;
    Some((program.parse().ok()?, id.parse().ok()?))
}

impl Disk {
    /// Opens the store in `dir` and has all sessions begin again; how many. `true`: it remembers nothing; management may.
    pub fn open(dir: &Path, lists: &dyn Lists) -> Result<(Self, usize, bool), StoreError> {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
        let late = Some((Tree::Sessions, DATA));
        let opened = Store::open(dir, &stamp, Options { late, ..Options::default() })?;
        if let Some(recovered) = &opened.recovered {
            tracing::error!("this server's Session List is rebuilt from management's: {recovered}");
        }
        let store = opened.store;
        let is_new = store.get::<bool>(Tree::Sessions, MARK)?.is_none();
        let (mut count, mut unpacker) = (0, Unpacker::default());
        let mut packed = Packed::open_or_convert(&store, Tree::Sessions, FORMER, |key, value| {
            if let Some((program, session)) = unpacker.read(key, value) {
                lists.restore(program, &session);
                count += 1;
            }
        })?;
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let ours = Arc::clone(&waiting);
        let due = Box::new(move || {
            let Waiting { sessions, removed } = std::mem::take(&mut *lock(&ours));
            let mut changes = packed.batch(sessions);
            changes.extend(removed.into_iter().map(|key| store::Change::remove(Tree::Sessions, key)));
            changes
        });
        let behind = Behind::begin(store.clone(), "sessions", WRITE_INTERVAL, due)
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok((Self { store, behind: Arc::new(behind), waiting }, count, is_new))
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

    /// Data of sessions that are not listed here: they went on elsewhere, or were not written. Looks at a few records, and
    /// says where to go on; `None`: these were the last.
    pub fn stray_data(&self, after: Option<&str>, lists: &dyn Lists) -> Result<Strays, StoreError> {
        let keys = self.store.some_keys(Tree::Sessions, DATA, after, LOOKED_AT)?;
        let is_stray = |(program, id): &(ProgramName, SessionId)| !lists.contains(program, *id);
        let strays = keys.iter().filter_map(|key| named(key, DATA)).filter(is_stray).collect();
        Ok((strays, keys.into_iter().nth(LOOKED_AT - 1)))
    }

    /// Has changes written soon. Data ends with its session, unless that goes on elsewhere: its new home may ask.
    pub fn write(&self, program: &ProgramName, changes: &[Change]) {
        let mut waiting = lock(&self.waiting);
        for change in changes {
            match change {
                Change::Is(session) => {
                    waiting.sessions.insert(session_key(program, session.id), Some(session.pack()));
                }
                Change::Gone { id, how, .. } => {
                    waiting.sessions.insert(session_key(program, *id), None);
                    if *how != End::Migrated {
                        waiting.remove(data_key(program, *id));
                        waiting.remove(away_key(program, *id));
                    }
                }
            }
        }
    }

    /// Has the data of a session removed soon.
    pub fn forget_data(&self, program: &ProgramName, id: SessionId) {
        let mut waiting = lock(&self.waiting);
        waiting.remove(data_key(program, id));
        waiting.remove(away_key(program, id));
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
        lock(&self.waiting).remove(away_key(program, id));
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
