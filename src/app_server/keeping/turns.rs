//! Owns whose turn it is: one after another works on a session's data, so that nobody takes an earlier look for the last.
//! Must not know what is done in a turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::domain::names::ProgramName;
use crate::domain::session::SessionId;

type Named = (ProgramName, SessionId);
type Waiting = HashMap<Named, Arc<tokio::sync::Mutex<()>>>;

/// The turns that are under way, or waited for: as many as requests for data are.
#[derive(Default)]
pub struct Turns {
    waiting: Mutex<Waiting>,
}

/// One session's turn, until it is dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    named: Named,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for those who came before.
    pub async fn take(&self, program: &ProgramName, id: SessionId) -> Turn<'_> {
        let named = (program.clone(), id);
        let gate = Arc::clone(self.waiting().entry(named.clone()).or_default());
        // Made before the wait: one that is given up leaves nothing behind.
        let mut turn = Turn { turns: self, named, held: None };
        turn.held = Some(gate.lock_owned().await);
        turn
    }

    /// `None`: it is somebody else's.
    pub fn take_now(&self, program: &ProgramName, id: SessionId) -> Option<Turn<'_>> {
        let named = (program.clone(), id);
        let gate = Arc::clone(self.waiting().entry(named.clone()).or_default());
        let held = gate.try_lock_owned().ok();
        let turn = Turn { turns: self, named, held };
        turn.held.is_some().then_some(turn)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = self.turns.waiting();
        self.held = None;
        // The map's own, and that of the wait that was just given up, if it was.
        if waiting.get(&self.named).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            waiting.remove(&self.named);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn turns_of_one_session_come_one_after_another_and_nothing_is_left() {
        let (turns, shop) = (Turns::default(), ProgramName::new("shop").unwrap());
        let first = turns.take(&shop, SessionId(1)).await;
        let other = turns.take(&shop, SessionId(2)).await;
        let mut second = Box::pin(turns.take(&shop, SessionId(1)));
        assert!((&mut second).now_or_never().is_none());
        let mut given_up = Box::pin(turns.take(&shop, SessionId(1)));
        assert!((&mut given_up).now_or_never().is_none());
        assert!(turns.take_now(&shop, SessionId(1)).is_none());
        drop(given_up);
        drop(first);
        drop(second.await);
        drop(other);
        assert!(turns.waiting().is_empty());
    }
}
