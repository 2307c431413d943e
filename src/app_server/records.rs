//! Owns what this role keeps in the store, and under which keys. Must not know when it is saved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sets::SetRecord;
use crate::domain::components::Memory;
use crate::domain::names::{OperationId, ProgramName, Release, Sha256};
use crate::domain::placement::{Placement, State};
use crate::domain::program::Manifest;
use crate::domain::ripple::hooks::{HookEnd, HookOrder};
use crate::domain::seal::Seal;
use crate::programs::instance::InstanceRecord;
use crate::store::{Change, Store, StoreError, Tree};
use crate::wire::messages::{HeldManifest, LedgerFailure};

const SEAL: &str = "server/seal";
const FAILURES: &str = "server/failures";
const PLACEMENTS: &str = "server/placement/";
const INSTANCES: &str = "server/instance/";
const MEMORIES: &str = "server/memory/";
const SETS: &str = "server/set/";
const MANIFESTS: &str = "server/manifest/";
const HOOKS: &str = "server/hook/";
const TOKEN_KEY: &str = "server/session-token-key";
const SESSION_PORT: &str = "server/session-port";
/// Hooks that are remembered; of older ripples nobody asks any more.
const HOOKS_MAX: usize = 512;

/// What a node knew when it ended.
#[derive(Debug, Default)]
pub struct Kept {
    pub seal: Seal,
    pub placements: Vec<Placement>,
    pub instances: Vec<InstanceRecord>,
}

impl Kept {
    pub fn load(store: &Store) -> Result<Self, StoreError> {
        let records = |(_, record)| record;
        Ok(Self {
            seal: store.get(Tree::Control, SEAL)?.unwrap_or_default(),
            placements: store.scan(Tree::Control, PLACEMENTS)?.into_iter().map(records).collect(),
            instances: store.scan(Tree::Control, INSTANCES)?.into_iter().map(|(_, record)| record).collect(),
        })
    }
}

pub fn save_seal(store: &Store, seal: &Seal) -> Result<(), StoreError> {
    store.put(Tree::Control, SEAL, seal)
}

/// The key that programs' session tokens are made with, and the port where they ask. Instances outlive runs with both, and
/// a Session List that is lost: they stand with the records of instances.
pub fn tokens(store: &Store) -> Result<([u8; 32], Option<u16>), StoreError> {
    let key = match store.get(Tree::Control, TOKEN_KEY)? {
        Some(key) => key,
        None => {
            let key: [u8; 32] = rand::random();
            store.put(Tree::Control, TOKEN_KEY, &key)?;
            key
        }
    };
    Ok((key, store.get(Tree::Control, SESSION_PORT)?))
}

pub fn save_session_port(store: &Store, port: u16) -> Result<(), StoreError> {
    store.put(Tree::Control, SESSION_PORT, &port)
}

pub fn placement(placement: &Placement) -> Result<Change, StoreError> {
    Change::put(Tree::Control, format!("{PLACEMENTS}{}", placement.program), placement)
}

pub fn instance(record: &InstanceRecord) -> Result<Change, StoreError> {
    Change::put(Tree::Control, format!("{INSTANCES}{}", record.name), record)
}

pub fn forget_instance(name: &str) -> Change {
    Change::remove(Tree::Control, format!("{INSTANCES}{name}"))
}

pub fn has_instance(store: &Store, name: &str) -> Result<bool, StoreError> {
    let record: Option<InstanceRecord> = store.get(Tree::Control, &format!("{INSTANCES}{name}"))?;
    Ok(record.is_some())
}

/// The names of all instances on record.
pub fn instances(store: &Store) -> Result<Vec<String>, StoreError> {
    let records: Vec<(String, InstanceRecord)> = store.scan(Tree::Control, INSTANCES)?;
    Ok(records.into_iter().map(|(_, record)| record.name).collect())
}

/// Whether a program is placed here, running or not.
pub fn holds(store: &Store, program: &ProgramName) -> Result<bool, StoreError> {
    let placement: Option<Placement> = store.get(Tree::Control, &format!("{PLACEMENTS}{program}"))?;
    Ok(placement.is_some_and(|placement| placement.state != State::Absent))
}

/// What was seen in the memory of each program's instance.
pub fn memories(store: &Store) -> Result<BTreeMap<ProgramName, Memory>, StoreError> {
    let kept = store.scan(Tree::Control, MEMORIES)?.into_iter();
    Ok(kept.filter_map(|(key, memory)| Some((ProgramName::new(key.strip_prefix(MEMORIES)?).ok()?, memory))).collect())
}

pub fn save_memory(store: &Store, program: &ProgramName, memory: &Memory) -> Result<(), StoreError> {
    store.put(Tree::Control, format!("{MEMORIES}{program}"), memory)
}

pub fn forget_memory(store: &Store, program: &ProgramName) -> Result<(), StoreError> {
    store.save(vec![Change::remove(Tree::Control, format!("{MEMORIES}{program}"))])
}

/// The sets that are under way, and some that are over.
pub fn sets(store: &Store) -> Result<Vec<SetRecord>, StoreError> {
    Ok(store.scan(Tree::Control, SETS)?.into_iter().map(|(_, record)| record).collect())
}

pub fn set(record: &SetRecord) -> Result<Change, StoreError> {
    Change::put(Tree::Control, format!("{SETS}{}", record.operation), record)
}

pub fn forget_set(operation: &OperationId) -> Change {
    Change::remove(Tree::Control, format!("{SETS}{operation}"))
}

fn manifest_key(program: &ProgramName, sha256: Sha256) -> String {
    format!("{MANIFESTS}{program}/{sha256}")
}

pub fn save_manifest(store: &Store, program: &ProgramName, held: &HeldManifest) -> Result<(), StoreError> {
    store.put(Tree::Programs, manifest_key(program, held.release.sha256), held)
}

pub fn manifest(store: &Store, program: &ProgramName, release: &Release) -> Result<Option<Manifest>, StoreError> {
    let held: Option<HeldManifest> = store.get(Tree::Programs, &manifest_key(program, release.sha256))?;
    Ok(held.map(|held| held.manifest))
}

/// A hook that was begun here, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookRecord {
    pub end: Option<HookEnd>,
}

/// Ripples' ids begin with the time: the first keys are the oldest.
pub fn hook_key(program: &ProgramName, order: &HookOrder) -> String {
    format!("{HOOKS}{}/{program}/{}", order.ripple, order.hook.as_str())
}

pub fn hook(store: &Store, key: &str) -> Result<Option<HookRecord>, StoreError> {
    store.get(Tree::Control, key)
}

/// Keeps it, and forgets the oldest beyond the bound.
pub fn save_hook(store: &Store, key: &str, record: &HookRecord) -> Result<(), StoreError> {
    let kept: Vec<(String, HookRecord)> = store.scan(Tree::Control, HOOKS)?;
    let surplus = kept.len().saturating_sub(HOOKS_MAX);
    let ended = kept.into_iter().filter(|(_, record)| record.end.is_some());
    let mut changes: Vec<Change> = ended.take(surplus).map(|(key, _)| Change::remove(Tree::Control, key)).collect();
    changes.push(Change::put(Tree::Control, key, record)?);
    store.save(changes)
}

/// Names the requests that died with the process before this one; those of earlier deaths stay named too.
pub fn save_failures(store: &Store, died: &[LedgerFailure], most: usize) -> Result<Vec<LedgerFailure>, StoreError> {
    let mut all: Vec<LedgerFailure> = store.get(Tree::Control, FAILURES)?.unwrap_or_default();
    let new = died.iter().filter(|failure| !all.iter().any(|known| known.request_id == failure.request_id));
    let new: Vec<_> = new.cloned().collect();
    if !new.is_empty() {
        all.extend(new);
        all.drain(..all.len().saturating_sub(most));
        store.put(Tree::Control, FAILURES, &all)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn the_key_of_tokens_and_the_port_outlive_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), "now", Options::default()).unwrap().store;
        let key = {
            let store = open();
            let (key, port) = tokens(&store).unwrap();
            assert_eq!(port, None);
            save_session_port(&store, 7_007).unwrap();
            key
        };
        assert_eq!(tokens(&open()).unwrap(), (key, Some(7_007)));
    }
}
