//! Owns what management keeps on disk, and under which keys. Must not know why it changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::draft::{Draft, Key, SavedCells};
use super::node_ripples::NodeRippleRecord;
use crate::domain::components::{ComponentsList, Taken, Usage};
use crate::domain::leader::Drain;
use crate::domain::ledger::LedgerCut;
use crate::domain::names::{NodeName, ProgramName, Release, RippleId, ServerName, Sha256, Version};
use crate::domain::program::Manifest;
use crate::domain::ripple::Ripple;
use crate::domain::ripple::plan::Plan;
use crate::domain::ripple::set::Set;
use crate::domain::server_list::{Cell, Wanted};
use crate::store::{Change, Store, StoreError, Tree};
use crate::wire::api;
use crate::wire::messages::{NodeRole, Registration, TagKeys};

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
    /// What has happened, oldest first.
    #[serde(default)]
    pub events: Vec<api::RippleEvent>,
    pub receipt: Option<api::Receipt>,
}

/// Events of one ripple that are kept: with all its steps, one of many hundred servers.
const EVENTS_MAX: usize = 5_000;

impl RippleRecord {
    pub fn planned(plan: Plan, asked_by: Option<String>, hold_ms: Option<u64>) -> Self {
        let started_at = Timestamp::now();
        Self {
            plan,
            ripple: None,
            asked_by,
            started_at,
            ended_at: None,
            hold_ms,
            before: Vec::new(),
            times: BTreeMap::new(),
            lowest: None,
            stale_routers: Vec::new(),
            events: Vec::new(),
            receipt: None,
        }
    }

    /// Keeps what has happened.
    pub fn note(&mut self, server: Option<&ServerName>, what: impl Into<String>) {
        if self.events.len() < EVENTS_MAX {
            let (at, server) = (Timestamp::now(), server.cloned());
            self.events.push(api::RippleEvent { at, server, what: what.into() });
        }
    }
}

/// A set, with what is told of it beside its parts' records.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SetRecord {
    pub set: Set,
    pub asked_by: Option<String>,
    pub started_at: Timestamp,
    /// Why each program is in it, as it was known when it was planned.
    #[serde(default)]
    pub evidence: BTreeMap<ProgramName, String>,
}

impl SetRecord {
    pub fn new(set: Set, asked_by: Option<String>) -> Self {
        Self { set, asked_by, started_at: Timestamp::now(), evidence: BTreeMap::new() }
    }
}

/// One node's ledger at one instant; `None`: it did not answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeCut {
    pub node: NodeName,
    pub role: NodeRole,
    pub cut: Option<LedgerCut>,
}

/// The last term taken, and by which id. The id belongs to the store: a management that lost its disk has another, so
/// that no two leaderships ever share a term (protocol P6).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LastTerm {
    pub number: u64,
    pub id: Option<NodeName>,
}

/// All of it, as it was found on disk.
#[derive(Default, Deserialize)]
pub struct Loaded {
    pub term: LastTerm,
    /// `None`: none were made yet.
    #[serde(default)]
    pub tag_keys: Option<TagKeys>,
    pub programs: BTreeMap<ProgramName, Wanted>,
    pub cells: BTreeMap<ProgramName, BTreeMap<ServerName, Cell>>,
    pub releases: BTreeMap<ProgramName, BTreeMap<Version, ReleaseRecord>>,
    pub nodes: Vec<NodeRecord>,
    pub ripples: BTreeMap<RippleId, RippleRecord>,
    #[serde(default)]
    pub sets: BTreeMap<RippleId, SetRecord>,
    #[serde(default)]
    pub node_ripples: BTreeMap<RippleId, NodeRippleRecord>,
    #[serde(default)]
    pub drains: BTreeMap<ServerName, Drain>,
}

const TERM: &str = "management/term";
const TAG_KEYS: &str = "management/tag-keys";
const EXPORT: &str = "management";
/// Servers' words on components; not in the export, for servers say it again.
const COMPONENTS: &str = "component/";

/// All of it, as it has to be on disk.
#[derive(Serialize)]
pub struct State<'a> {
    pub term: LastTerm,
    /// Not in the export, which people read: sessions outlive a lost store by the cluster's secret, or not at all.
    #[serde(skip)]
    pub tag_keys: &'a TagKeys,
    pub programs: &'a BTreeMap<ProgramName, Wanted>,
    pub cells: &'a BTreeMap<ProgramName, BTreeMap<ServerName, Cell>>,
    pub releases: &'a BTreeMap<ProgramName, BTreeMap<Version, ReleaseRecord>>,
    pub nodes: Vec<&'a NodeRecord>,
    #[serde(serialize_with = "live_only")]
    pub ripples: &'a BTreeMap<RippleId, RippleRecord>,
    pub sets: &'a BTreeMap<RippleId, SetRecord>,
    pub node_ripples: &'a BTreeMap<RippleId, NodeRippleRecord>,
    pub drains: &'a BTreeMap<ServerName, Drain>,
}

/// The export leaves history out: it is for going on, not for looking back.
fn live_only<S: serde::Serializer>(
    ripples: &&BTreeMap<RippleId, RippleRecord>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(ripples.iter().filter(|(_, record)| record.receipt.is_none()))
}

/// The disk, and what is known to be on it, so that only what changed is written.
pub struct Disk {
    store: Store,
    /// A digest of each record.
    saved: HashMap<Key, Sha256>,
    cells: SavedCells,
    /// Ripples as they were saved: each holds whole ledgers, and is not written out only to be found the same.
    ripples: BTreeMap<RippleId, RippleRecord>,
    /// Something was saved that is not in the export yet.
    unexported: bool,
    /// The thread that writes an export.
    exporting: Option<Exporting>,
}

impl Disk {
    pub fn new(store: Store) -> Self {
        let (saved, cells, ripples) = Default::default();
        Self { store, saved, cells, ripples, unexported: false, exporting: None }
    }

    /// Reads everything. With an empty store, the export of an earlier one is taken.
    pub fn load(&mut self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded { term: self.store.get(Tree::Control, TERM)?.unwrap_or_default(), ..Loaded::default() };
        if loaded.term.id.is_none()
            && let Some(exported) = self.store.import::<Loaded>(EXPORT)?
        {
            return Ok(exported);
        }
        loaded.tag_keys = self.store.get(Tree::Control, TAG_KEYS)?;
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
        for (_, record) in self.store.scan::<SetRecord>(Tree::Ripples, "set/")? {
            loaded.sets.insert(record.set.plan.id.clone(), record);
        }
        for (_, record) in self.store.scan::<NodeRippleRecord>(Tree::Ripples, "nodes/")? {
            loaded.node_ripples.insert(record.ripple.id.clone(), record);
        }
        for (key, drain) in self.store.scan::<Drain>(Tree::Control, "drain/")? {
            if let Some(server) = part(&key, 1) {
                loaded.drains.insert(server, drain);
            }
        }
        Ok(loaded)
    }

    /// What servers' programs use, as it was last said. A record that cannot be read is said again by its server.
    pub fn components(&self) -> Vec<(ServerName, Usage)> {
        let records = self.store.scan::<serde_json::Value>(Tree::Control, COMPONENTS).unwrap_or_else(|error| {
            tracing::warn!(%error, "the Components List cannot be read: servers are asked again");
            Vec::new()
        });
        let usage =
            |(key, record): (String, serde_json::Value)| Some((part(&key, 1)?, serde_json::from_value(record).ok()?));
        records.into_iter().filter_map(usage).collect()
    }

    /// Writes what was taken in of a server's word.
    pub fn save_components(&self, server: &ServerName, list: &ComponentsList, taken: &Taken) -> Result<(), StoreError> {
        let key = |program: &ProgramName| format!("{COMPONENTS}{server}/{program}");
        let kept = taken.kept.iter().filter_map(|program| list.usage(server, program));
        let put = kept.map(|usage| Change::put(Tree::Control, key(&usage.program), usage));
        let gone =
            taken.dropped.iter().chain(&taken.refused).map(|program| Ok(Change::remove(Tree::Control, key(program))));
        let changes = put.chain(gone).collect::<Result<Vec<_>, StoreError>>()?;
        if changes.is_empty() { Ok(()) } else { self.store.save(changes) }
    }

    /// Writes what differs from what is on disk, flushed. Nothing that depends on the state may leave before this has
    /// succeeded (protocol P11).
    pub fn save(&mut self, state: &State<'_>) -> Result<(), StoreError> {
        let mut draft = Draft { saved: &self.saved, seen: HashMap::new(), changes: Vec::new() };
        draft.record(Tree::Control, TERM.to_owned(), &state.term)?;
        draft.record(Tree::Control, TAG_KEYS.to_owned(), state.tag_keys)?;
        for (name, wanted) in state.programs {
            draft.record(Tree::Programs, format!("program/{name}"), wanted)?;
        }
        for (program, releases) in state.releases {
            for (version, record) in releases {
                draft.record(Tree::Programs, format!("release/{program}/{version}"), record)?;
            }
        }
        for node in &state.nodes {
            draft.record(Tree::Control, node.key(), node)?;
        }
        for (id, record) in state.ripples {
            draft.ripple(id, record, self.ripples.get(id))?;
        }
        for (id, record) in state.sets {
            draft.record(Tree::Ripples, format!("set/{id}"), record)?;
        }
        for (id, record) in state.node_ripples {
            draft.record(Tree::Ripples, format!("nodes/{id}"), record)?;
        }
        for (server, drain) in state.drains {
            draft.record(Tree::Control, format!("drain/{server}"), drain)?;
        }
        let Draft { seen, mut changes, .. } = draft;
        changes.extend(
            self.saved
                .keys()
                .filter(|key| !seen.contains_key(*key))
                .map(|(tree, key)| Change::remove(*tree, key.clone())),
        );
        let cells = self.cells.differ(state.cells);
        for (program, server, cell) in &cells {
            let key = format!("cell/{program}/{server}");
            changes.push(match cell {
                Some(cell) => Change::put(Tree::Control, key, cell)?,
                None => Change::remove(Tree::Control, key),
            });
        }
        if !changes.is_empty() {
            self.store.save(changes)?;
            (self.saved, self.unexported) = (seen, true);
            self.cells.saved(cells);
        }
        self.keep(state.ripples);
        Ok(())
    }

    /// Remembers the ripples as they are on disk; of those that do not change any more nothing need be.
    fn keep(&mut self, ripples: &BTreeMap<RippleId, RippleRecord>) {
        self.ripples.retain(|id, _| ripples.get(id).is_some_and(|record| record.receipt.is_none()));
        for (id, record) in ripples.iter().filter(|(_, record)| record.receipt.is_none()) {
            if self.ripples.get(id) != Some(record) {
                self.ripples.insert(id.clone(), record.clone());
            }
        }
    }

    /// Writes the export, on a thread of its own, if what was saved is not in it; while one is being written, the next
    /// waits. Nobody waits for it: the records are safe, and the export is for people, and for the day that they are not.
    pub fn export(&mut self, state: &State<'_>) {
        let is_busy = self.exporting.as_ref().is_some_and(|exporting| !exporting.thread.is_finished());
        if !self.unexported || is_busy {
            return;
        }
        self.unexported = false;
        let store = self.store.clone();
        let (ended, end) = channel();
        let text = serde_json::value::to_raw_value(state);
        let write = move || {
            let written = text.map_err(|error| error.to_string()).and_then(|text| {
                let state: serde_json::Value = serde_json::from_str(text.get()).map_err(|error| error.to_string())?;
                store.export(EXPORT, &state).map_err(|error| error.to_string())
            });
            if let Err(error) = written {
                tracing::warn!(error, "the export of the control state was not written");
            }
            // Who waits for it may have gone.
            let _ = ended.send(());
        };
        match std::thread::Builder::new().name("export".to_owned()).spawn(write) {
            Ok(thread) => self.exporting = Some(Exporting { thread, end }),
            Err(error) => {
                tracing::warn!(%error, "no thread writes the export of the control state");
                (self.unexported, self.exporting) = (true, None);
            }
        }
    }

    /// The same, and waits until all that was saved is written: for so long at the most.
    pub fn export_last(&mut self, state: &State<'_>, within: Duration) {
        let until = Instant::now() + within;
        self.await_export(until);
        self.export(state);
        self.await_export(until);
    }

    fn await_export(&mut self, until: Instant) {
        let Some(Exporting { thread, end }) = self.exporting.take() else { return };
        match end.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => self.exporting = Some(Exporting { thread, end }),
            // It has said so, or panicked: it ends now.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                if thread.join().is_err() {
                    tracing::error!("the thread that writes the export had panicked");
                }
            }
        }
    }
}

/// An export that is being written.
struct Exporting {
    thread: JoinHandle<()>,
    /// Hears of its end.
    end: Receiver<()>,
}

impl NodeRecord {
    fn key(&self) -> String {
        format!("node/{:?}/{}", self.registration.role, self.name)
    }
}

fn part<T: std::str::FromStr>(key: &str, index: usize) -> Option<T> {
    key.split('/').nth(index)?.parse().ok()
}
