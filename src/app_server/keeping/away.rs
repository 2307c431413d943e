//! Owns of which sessions management has not got the data that is here: noted on disk before it is written, so that a crash
//! costs no more than a question. Must not know how management is given it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Lists;
use super::disk::Disk;
use crate::domain::names::ProgramName;
use crate::domain::session::SessionId;
use crate::wire::problem::Problem;

type Named = (ProgramName, SessionId);

/// Those sessions.
pub struct Away {
    named: Mutex<BTreeSet<Named>>,
    disk: Disk,
    lists: Arc<dyn Lists>,
}

impl Away {
    /// With what an earlier run left.
    pub fn begin(disk: Disk, lists: Arc<dyn Lists>) -> Self {
        let named: BTreeSet<Named> = disk.away().unwrap_or_default().into_iter().collect();
        lists.note_only_here(named.len());
        Self { named: Mutex::new(named), disk, lists }
    }

    pub fn contains(&self, program: &ProgramName, id: SessionId) -> bool {
        self.lock().contains(&(program.clone(), id))
    }

    /// Some of them.
    pub fn first(&self, most: usize) -> Vec<Named> {
        self.lock().iter().take(most).cloned().collect()
    }

    /// On disk when this returns.
    pub async fn note(&self, program: &ProgramName, id: SessionId) -> Result<(), Problem> {
        let is_new = self.change(|named| named.insert((program.clone(), id)));
        if is_new && let Err(error) = self.disk.note_away(program, id).await {
            self.change(|named| named.remove(&(program.clone(), id)));
            return Err(error.problem());
        }
        Ok(())
    }

    /// Management has it.
    pub fn is_there(&self, program: &ProgramName, id: SessionId) {
        if self.change(|named| named.remove(&(program.clone(), id))) {
            self.disk.note_there(program, id);
        }
    }

    /// Its session has ended, and its records go with it.
    pub fn ended(&self, program: &ProgramName, id: SessionId) {
        self.change(|named| named.remove(&(program.clone(), id)));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Named>) -> bool) -> bool {
        let mut named = self.lock();
        let changed = change(&mut named);
        if changed {
            self.lists.note_only_here(named.len());
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Named>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
