//! Owns how what was sighted becomes edges: one a component, of each source the shortest evidence, within a bound.
//! Must not know how anything was sighted.

use std::collections::BTreeMap;

use super::{Component, ComponentName, Edge, Evidence, FILES_NAMED, Source, Stale, Unread};

/// A file of a component, and how a program comes to use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    pub component: Component,
    /// `None`: it was declared by name only.
    pub file: Option<String>,
    pub evidence: Evidence,
    pub stale: Option<Stale>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compiled {
    pub edges: Vec<Edge>,
    /// What the bound left out.
    pub unread: Option<Unread>,
}

/// Makes edges, at most `most`. What is only loadable is left out first.
pub fn compile(sightings: impl IntoIterator<Item = Sighting>, most: usize) -> Compiled {
    let mut edges: BTreeMap<ComponentName, Edge> = BTreeMap::new();
    for Sighting { component, file, evidence, stale } in sightings {
        let empty = || Edge { component: component.clone(), files: Vec::new(), evidence: Vec::new(), stale: None };
        let edge = edges.entry(component.name.clone()).or_insert_with(empty);
        edge.component.version = edge.component.version.take().or(component.version);
        add_file(edge, file);
        add_evidence(edge, evidence);
        // One is enough to tell; the smallest, so that the order of looking does not matter.
        edge.stale = [edge.stale.take(), stale].into_iter().flatten().min();
    }
    let mut edges: Vec<Edge> = edges.into_values().collect();
    let left_out = edges.len().saturating_sub(most);
    if left_out == 0 {
        return Compiled { edges, unread: None };
    }
    edges.sort_by_key(|edge| !edge.quiesces());
    edges.truncate(most);
    edges.sort_by(|one, other| one.component.name.cmp(&other.component.name));
    let why = format!("only {most} are kept; raise [app_server.limits] components");
    Compiled { edges, unread: Some(Unread { what: format!("{left_out} more components"), why }) }
}

fn add_file(edge: &mut Edge, file: Option<String>) {
    let Some(file) = file.filter(|file| !edge.files.contains(file)) else { return };
    edge.files.push(file);
    edge.files.sort();
    edge.files.truncate(FILES_NAMED);
}

fn add_evidence(edge: &mut Edge, new: Evidence) {
    let same = |one: &Evidence| (one.source, one.can_load) == (new.source, new.can_load);
    // Who needs it has no use for being told that it could be loaded.
    let needed = |one: &Evidence| one.source == Source::Static && !one.can_load;
    if new.can_load && edge.evidence.iter().any(needed) {
        return;
    }
    match edge.evidence.iter_mut().find(|one| same(one)) {
        Some(old) if (new.chain.len(), &new.chain) < (old.chain.len(), &old.chain) => *old = new,
        Some(_) => {}
        None => {
            if needed(&new) {
                edge.evidence.retain(|one| !one.can_load);
            }
            edge.evidence.push(new);
            edge.evidence.sort();
        }
    }
}
