//! Owns what the master list's thread writes, each time: what has changed, and the removal of data whose session no list
//! names. Must not know threads.

use std::sync::{Arc, Mutex};

use super::lists::{DATA, Lists};
use super::lock;
use crate::domain::session::WallMillis;
use crate::store::packed::Packed;
use crate::store::{Change, Store, StoreError, Tree};

/// Records of data that are looked at each time: they are read for it, and there is no hurry.
const LOOKED_AT: usize = 100;

pub struct Writer {
    lists: Arc<Mutex<Lists>>,
    packed: Packed<(Store, Tree)>,
    store: Store,
    /// The last record of data that was looked at in this run; `None`: the first is next.
    looked_at: Option<String>,
    /// All were.
    has_looked: bool,
}

impl Writer {
    pub fn new(lists: Arc<Mutex<Lists>>, packed: Packed<(Store, Tree)>, store: Store) -> Self {
        Self { lists, packed, store, looked_at: None, has_looked: false }
    }

    /// All that has to be saved at once.
    pub fn due(&mut self, now: WallMillis) -> Vec<Change> {
        let strays = self.strays(now).unwrap_or_else(|error| {
            tracing::warn!(%error, "data of sessions that nobody names is not looked for any more");
            self.has_looked = true;
            Vec::new()
        });
        let due = lock(&self.lists).due(now);
        let mut changes = self.packed.batch(due.sessions);
        changes.extend(due.others);
        changes.extend(strays);
        changes
    }

    /// Removals of data whose session is in no list: its server died before it told of it, and this node before that was
    /// on disk. Who writes data lists its session first, and writes it after what is removed here.
    fn strays(&mut self, now: WallMillis) -> Result<Vec<Change>, StoreError> {
        if self.has_looked || !lock(&self.lists).has_heard_all(now) {
            return Ok(Vec::new());
        }
        let keys = self.store.some_keys(Tree::Sessions, DATA, self.looked_at.as_deref(), LOOKED_AT)?;
        self.has_looked = keys.len() < LOOKED_AT;
        self.looked_at = keys.last().cloned();
        let lists = lock(&self.lists);
        let strays: Vec<Change> = keys
            .into_iter()
            .filter(|key| lists.is_stray(key, now))
            .map(|key| Change::remove(Tree::Sessions, key))
            .collect();
        if !strays.is_empty() {
            tracing::info!(count = strays.len(), "removes data of sessions that nobody names");
        }
        Ok(strays)
    }
}
