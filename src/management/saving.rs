//! Owns what of management's state is written when, and how it goes back to what it was. Must not know keys or files.

use std::collections::BTreeMap;
use std::time::Duration;

use super::control::Control;
use super::node_ripples::NodeRippleRecord;
use super::records::{Disk, LastTerm, ReleaseRecord, RippleRecord, SetRecord, State};
use crate::domain::leader::Leader;
use crate::domain::names::{ProgramName, RippleId, Version};
use crate::domain::ripple::set::Set;
use crate::store::StoreError;

/// How long a node that ends may take to write its export.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// The part of the state that requests change.
pub struct Copied {
    leader: Leader,
    releases: BTreeMap<ProgramName, BTreeMap<Version, ReleaseRecord>>,
    ripples: BTreeMap<RippleId, RippleRecord>,
    sets: BTreeMap<RippleId, SetRecord>,
    node_ripples: BTreeMap<RippleId, NodeRippleRecord>,
}

impl Control {
    /// Writes the export of what was saved, in its own time.
    pub fn export(&mut self) {
        self.with_state(|disk, state| disk.export(state));
    }

    /// Writes it before the node ends, if that does not take long.
    pub fn export_last(&mut self) {
        self.with_state(|disk, state| disk.export_last(state, LAST_EXPORT));
    }

    /// Writes what has changed; nothing that depends on it may leave before.
    pub fn save(&mut self) -> Result<(), StoreError> {
        for (id, ripple) in &self.leader.ripples {
            if let Some(record) = self.ripples.get_mut(id) {
                record.ripple = Some(ripple.clone());
            }
        }
        for (id, set) in &self.leader.sets {
            if let Some(record) = self.sets.get_mut(id) {
                record.set = set.clone();
            }
        }
        self.prune();
        self.with_state(|disk, state| disk.save(state))
    }

    fn with_state<T>(&mut self, then: impl FnOnce(&mut Disk, &State<'_>) -> T) -> T {
        let state = State {
            term: LastTerm { number: self.leader.term().number, id: Some(self.leader.term().management.clone()) },
            tag_keys: &self.tag_keys,
            programs: &self.leader.list.programs,
            cells: &self.leader.list.cells,
            releases: &self.releases,
            nodes: self.nodes.values().map(|node| &node.record).collect(),
            ripples: &self.ripples,
            sets: &self.sets,
            node_ripples: &self.node_ripples.records,
            drains: &self.leader.drains,
        };
        then(&mut self.disk, &state)
    }

    /// What a person's request may change, as it is now.
    pub fn copy(&self) -> Copied {
        let (leader, releases) = (self.leader.clone(), self.releases.clone());
        let node_ripples = self.node_ripples.records.clone();
        Copied { leader, releases, ripples: self.ripples.clone(), sets: self.sets.clone(), node_ripples }
    }

    /// Goes back to what was, when it could not be saved.
    pub fn restore(&mut self, before: Copied) {
        let Copied { leader, releases, ripples, sets, node_ripples } = before;
        (self.leader, self.releases, self.ripples, self.sets) = (leader, releases, ripples, sets);
        self.node_ripples.records = node_ripples;
    }

    fn prune(&mut self) {
        let over = |record: &RippleRecord| record.receipt.is_some();
        while self.ripples.len() > self.bounds.ripples {
            let oldest = self.ripples.iter().filter(|(_, record)| over(record)).min_by_key(|(_, r)| r.started_at);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
            self.ripples.remove(&id);
            self.leader.ripples.remove(&id);
        }
        let ripples = &self.ripples;
        self.leader.ripples.retain(|id, ripple| {
            !ripple.state.is_over() || ripples.get(id).is_none_or(|record| record.receipt.is_none())
        });
        self.prune_sets();
    }

    /// A set goes with the last of its programs' ripples.
    fn prune_sets(&mut self) {
        let ripples = &self.ripples;
        let kept = |set: &Set| !set.state.is_over() || set.plan.parts.iter().any(|part| ripples.contains_key(part));
        self.leader.sets.retain(|_, set| kept(set));
        self.sets.retain(|_, record| kept(&record.set));
    }
}
