//! Owns what management keeps on disk, and under which keys. Must not know why it changes.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::ledger::LedgerCut;
use crate::domain::names::{NodeName, ProgramName, Release, RippleId, ServerName, Version};
use crate::domain::program::Manifest;
use crate::domain::ripple::Ripple;
use crate::domain::ripple::plan::Plan;
use crate::domain::server_list::{Cell, Wanted};
use crate::store::{Change, Store, StoreError, Tree};
use crate::wire::api;
use crate::wire::messages::{NodeRole, Registration};

/// A release that management keeps, or has kept: its manifest stays for as long as anything runs it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReleaseRecord {
    pub release: Release,
    pub manifest: Manifest,
    /// Bytes of the archive; `None`: only servers have it.
    pub size: Option<u64>,
    pub pushed_at: Timestamp,
}

/// A node that has registered in a role.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: NodeName,
    pub registration: Registration,
}

/// A ripple, with what its receipt needs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RippleRecord {
    pub plan: Plan,
    /// `None`: planned, the ledgers are being read.
    pub ripple: Option<Ripple>,
    pub asked_by: Option<String>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// The ripple's own hold, in place of the manifest's, in milliseconds.
    pub hold_ms: Option<u64>,
    pub before: Vec<NodeCut>,
    pub times: BTreeMap<ServerName, api::StepTimes>,
    /// The fewest placements that were open and healthy at once.
    pub lowest: Option<usize>,
    pub stale_routers: Vec<NodeName>,
    pub receipt: Option<api::Receipt>,
}

/// One node's ledger at one instant; `None`: it did not answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeCut {
    pub node: NodeName,
    pub role: NodeRole,
    pub cut: Option<LedgerCut>,
}

/// All of it, as it was found on disk.
#[derive(Default, Serialize, Deserialize)]
pub struct Loaded {
    pub term: u64,
    pub programs: BTreeMap<ProgramName, Wanted>,
    pub cells: BTreeMap<ProgramName, BTreeMap<ServerName, Cell>>,
    pub releases: BTreeMap<ProgramName, BTreeMap<Version, ReleaseRecord>>,
    pub nodes: Vec<NodeRecord>,
    pub ripples: BTreeMap<RippleId, RippleRecord>,
}

const TERM: &str = "management/term";
const EXPORT: &str = "management";

/// The disk, and what is known to be on it, so that only what changed is written.
pub struct Disk {
    store: Store,
    saved: HashMap<(Tree, String), Vec<u8>>,
}

impl Disk {
    pub fn new(store: Store) -> Self {
        Self { store, saved: HashMap::new() }
    }

    /// Reads everything. With an empty store, the export of an earlier one is taken.
    pub fn load(&mut self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded { term: self.store.get(Tree::Control, TERM)?.unwrap_or(0), ..Loaded::default() };
        if loaded.term == 0
            && let Some(exported) = self.store.import::<Loaded>(EXPORT)?
        {
            return Ok(exported);
        }
        for (key, wanted) in self.store.scan::<Wanted>(Tree::Programs, "program/")? {
            if let Some(name) = part(&key, 1) {
                loaded.programs.insert(name, wanted);
            }
        }
        for (key, cell) in self.store.scan::<Cell>(Tree::Control, "cell/")? {
            if let (Some(program), Some(server)) = (part(&key, 1), part(&key, 2)) {
                loaded.cells.entry(program).or_default().insert(server, cell);
            }
        }
        for (_, record) in self.store.scan::<ReleaseRecord>(Tree::Programs, "release/")? {
            let of_program = loaded.releases.entry(record.manifest.name.clone()).or_default();
            of_program.insert(record.release.version.clone(), record);
        }
        loaded.nodes = self.store.scan(Tree::Control, "node/")?.into_iter().map(|(_, record)| record).collect();
        for (_, record) in self.store.scan::<RippleRecord>(Tree::Ripples, "ripple/")? {
            loaded.ripples.insert(record.plan.id.clone(), record);
        }
        Ok(loaded)
    }

    /// Writes what differs from what is on disk, flushed, and the export beside it. Nothing that depends on the state
    /// may leave before this has succeeded (protocol P11).
    pub fn save(&mut self, state: &Loaded) -> Result<(), StoreError> {
        let mut now = HashMap::new();
        encode(&mut now, Tree::Control, TERM.to_owned(), &state.term)?;
        for (name, wanted) in &state.programs {
            encode(&mut now, Tree::Programs, format!("program/{name}"), wanted)?;
        }
        for (program, cells) in &state.cells {
            for (server, cell) in cells {
                encode(&mut now, Tree::Control, format!("cell/{program}/{server}"), cell)?;
            }
        }
        for (program, releases) in &state.releases {
            for (version, record) in releases {
                encode(&mut now, Tree::Programs, format!("release/{program}/{version}"), record)?;
            }
        }
        for node in &state.nodes {
            encode(&mut now, Tree::Control, node.key(), node)?;
        }
        for (id, record) in &state.ripples {
            encode(&mut now, Tree::Ripples, format!("ripple/{id}"), record)?;
        }
        self.write(now, state)
    }

    fn write(&mut self, now: HashMap<(Tree, String), Vec<u8>>, state: &Loaded) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        for ((tree, key), bytes) in &now {
            if self.saved.get(&(*tree, key.clone())) != Some(bytes) {
                let record = serde_json::value::RawValue::from_string(String::from_utf8_lossy(bytes).into_owned());
                let record = record.map_err(|source| StoreError::Write { tree: tree.as_str(), key: key.clone(), source })?;
                changes.push(Change::put(*tree, key.clone(), &record)?);
            }
        }
        let gone = self.saved.keys().filter(|key| !now.contains_key(*key));
        changes.extend(gone.map(|(tree, key)| Change::remove(*tree, key.clone())));
        if changes.is_empty() {
            return Ok(());
        }
        self.store.save(changes)?;
        self.saved = now;
        if let Err(error) = self.store.export(EXPORT, state) {
            // The records are safe; the export is for people, and for the day that the records are not.
            tracing::warn!(%error, "the export of the control state was not written");
        }
        Ok(())
    }
}

impl NodeRecord {
    fn key(&self) -> String {
        format!("node/{:?}/{}", self.registration.role, self.name)
    }
}

fn encode<T: Serialize>(
    into: &mut HashMap<(Tree, String), Vec<u8>>,
    tree: Tree,
    key: String,
    record: &T,
) -> Result<(), StoreError> {
    match serde_json::to_vec(record) {
        Ok(bytes) => {
            into.insert((tree, key), bytes);
            Ok(())
        }
        Err(source) => Err(StoreError::Write { tree: tree.as_str(), key, source }),
    }
}

fn part<T: std::str::FromStr>(key: &str, index: usize) -> Option<T> {
    key.split('/').nth(index)?.parse().ok()
}
