//! Owns the work of sets on this server: it begins when the last member has stopped, is on record before and after it
//! runs, and nothing starts meanwhile (protocol P15). Must not know placements, nor what the work is for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::records;
use crate::domain::names::{OperationId, ProgramName};
use crate::domain::placement::{Work, Worked};
use crate::programs::command::{self, Known};
use crate::store::{Change, Store, StoreError};

/// Sets that are over and kept, so that a repeat of their order is known.
const KEPT: usize = 16;
/// Before a record that could not be saved is saved again.
const SAVE_RETRY: Duration = Duration::from_secs(1);

/// A set on this server's disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetRecord {
    pub operation: OperationId,
    pub members: BTreeSet<ProgramName>,
    pub work: Work,
    pub state: SetState,
    /// Orders those that are over.
    #[serde(default)]
    pub number: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SetState {
    /// For its last member to stop.
    Waiting,
    /// The command runs, or is just about to.
    Running {
        known: Option<Known>,
    },
    Ended {
        worked: Worked,
    },
}

/// The sets of this server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Sets {
    inner: Rc<Inner>,
}

struct Inner {
    store: Store,
    /// Where commands run, and what they write is kept meanwhile.
    dir: PathBuf,
    entries: RefCell<BTreeMap<OperationId, Entry>>,
    /// Commands that run.
    running: watch::Sender<usize>,
}

struct Entry {
    record: SetRecord,
    stopped: BTreeSet<ProgramName>,
    ended: watch::Sender<Option<Worked>>,
}

impl Sets {
    /// The sets that were on record when the node ended. A command that still runs is waited for.
    pub fn load(store: Store, dir: PathBuf) -> Result<Self, StoreError> {
        let found = records::sets(&store)?;
        let inner = Inner { store, dir, entries: RefCell::default(), running: watch::channel(0).0 };
        let sets = Self { inner: Rc::new(inner) };
        for record in found {
            sets.insert(record);
        }
        Ok(sets)
    }

    /// Goes on with what an earlier run of the node had begun.
    pub fn resume(&self) {
        let running: Vec<(OperationId, Option<Known>, Work)> = self
            .inner
            .entries
            .borrow()
            .values()
            .filter_map(|entry| match &entry.record.state {
                SetState::Running { known } => {
                    Some((entry.record.operation.clone(), known.clone(), entry.record.work.clone()))
                }
                SetState::Waiting | SetState::Ended { .. } => None,
            })
            .collect();
        for (operation, known, work) in running {
            let sets = self.clone();
            sets.inner.running.send_modify(|running| *running += 1);
            tokio::task::spawn_local(async move {
                let log = sets.log(&operation);
                let worked = match known {
                    Some(known) => command::outlived(&known, &work, &log).await,
                    None => command::unknown(&log, Duration::ZERO),
                };
                sets.end(&operation, worked).await;
            });
        }
    }

    fn insert(&self, record: SetRecord) {
        let ended = match &record.state {
            SetState::Ended { worked } => Some(worked.clone()),
            SetState::Waiting | SetState::Running { .. } => None,
        };
        let entry = Entry { stopped: BTreeSet::new(), ended: watch::channel(ended).0, record };
        self.inner.entries.borrow_mut().insert(entry.record.operation.clone(), entry);
    }

    /// A new set's record, for the write that freezes its members.
    pub fn record(&self, operation: &OperationId, members: BTreeSet<ProgramName>, work: Work) -> SetRecord {
        let last = self.inner.entries.borrow().values().map(|entry| entry.record.number).max().unwrap_or(0);
        SetRecord { operation: operation.clone(), members, work, state: SetState::Waiting, number: last + 1 }
    }

    /// Takes in a set that is on disk, and forgets the oldest that are over.
    pub fn begin(&self, record: SetRecord) {
        self.insert(record);
        let mut over: Vec<(u64, OperationId)> = self
            .inner
            .entries
            .borrow()
            .values()
            .filter(|entry| matches!(entry.record.state, SetState::Ended { .. }))
            .map(|entry| (entry.record.number, entry.record.operation.clone()))
            .collect();
        over.sort();
        let many = over.len().saturating_sub(KEPT);
        let gone: Vec<Change> = over[..many].iter().map(|(_, operation)| records::forget_set(operation)).collect();
        if many > 0
            && let Err(error) = self.inner.store.save(gone)
        {
            return tracing::warn!(%error, "sets that are over stay on record");
        }
        for (_, operation) in &over[..many] {
            self.inner.entries.borrow_mut().remove(operation);
        }
    }

    pub fn is_known(&self, operation: &OperationId) -> bool {
        self.inner.entries.borrow().contains_key(operation)
    }

    /// How its work ended; `None`: it has not.
    pub fn worked(&self, operation: &OperationId) -> Option<Worked> {
        self.inner.entries.borrow().get(operation).and_then(|entry| entry.ended.borrow().clone())
    }

    /// The same, for who asks for an order that was given: a set that is not on record has lost its work.
    pub fn outcome(&self, operation: &OperationId) -> Option<Worked> {
        if self.is_known(operation) { self.worked(operation) } else { Some(lost()) }
    }

    /// A member has stopped: waits for the set's work to end. The last one to stop has it begin.
    pub async fn stopped(&self, operation: &OperationId, program: &ProgramName) -> Worked {
        let ended = {
            let mut entries = self.inner.entries.borrow_mut();
            entries.get_mut(operation).map(|entry| {
                entry.stopped.insert(program.clone());
                (entry.ended.subscribe(), entry.stopped == entry.record.members)
            })
        };
        let Some((mut ended, all)) = ended else { return lost() };
        if all {
            self.work(operation);
        }
        match ended.wait_for(Option::is_some).await {
            Ok(worked) => worked.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    /// Waits until no command runs: what would start meanwhile could get half of a component.
    pub async fn quiet(&self) {
        let mut running = self.inner.running.subscribe();
        // It ends only with the node.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Runs the work, once.
    fn work(&self, operation: &OperationId) {
        let waits = |entry: &&mut Entry| entry.record.state == SetState::Waiting;
        let record = {
            let mut entries = self.inner.entries.borrow_mut();
            let Some(entry) = entries.get_mut(operation).filter(waits) else { return };
            entry.record.state = SetState::Running { known: None };
            entry.record.clone()
        };
        self.inner.running.send_modify(|running| *running += 1);
        let sets = self.clone();
        tokio::task::spawn_local(async move {
            // That it may run is on disk before it does (protocol P11).
            sets.save(&record).await;
            tracing::info!(operation = %record.operation, command = ?record.work.run, "runs a set's command");
            let worked = match command::start(&record.work, &sets.inner.dir, &sets.log(&record.operation)) {
                Ok(running) => {
                    let state = SetState::Running { known: Some(running.known.clone()) };
                    sets.save(&sets.note(&record.operation, state).unwrap_or(record.clone())).await;
                    running.ended().await
                }
                Err(failure) => Worked { failure: Some(failure), lines: Vec::new(), took_ms: 0 },
            };
            sets.end(&record.operation, worked).await;
        });
    }

    async fn end(&self, operation: &OperationId, worked: Worked) {
        tracing::info!(%operation, failure = worked.failure, took_ms = worked.took_ms, "a set's command has ended");
        if let Some(record) = self.note(operation, SetState::Ended { worked: worked.clone() }) {
            self.save(&record).await;
        }
        self.inner.running.send_modify(|running| *running = running.saturating_sub(1));
        if let Some(entry) = self.inner.entries.borrow().get(operation) {
            entry.ended.send_replace(Some(worked));
        }
    }

    fn note(&self, operation: &OperationId, state: SetState) -> Option<SetRecord> {
        let mut entries = self.inner.entries.borrow_mut();
        let entry = entries.get_mut(operation)?;
        entry.record.state = state;
        Some(entry.record.clone())
    }

    /// Saves a record, however long that takes: nothing that rests on it happens before.
    async fn save(&self, record: &SetRecord) {
        while let Err(error) = records::set(record).and_then(|change| self.inner.store.save(vec![change])) {
            tracing::error!(operation = %record.operation, %error, "a set's record cannot be saved");
            tokio::time::sleep(SAVE_RETRY).await;
        }
    }

    fn log(&self, operation: &OperationId) -> PathBuf {
        self.inner.dir.join(format!("command-{operation}.log"))
    }
}

fn lost() -> Worked {
    let failure = Some("this server has lost its record of what was to be done".to_owned());
    Worked { failure, lines: Vec::new(), took_ms: 0 }
}
