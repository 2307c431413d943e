//! Owns how the Components List is shown in the API. Must not know HTTP, nor change anything.

use std::collections::BTreeMap;

use super::control::Control;
use crate::domain::components::{ComponentsList, Edge, Evidence, Usage, Use};
use crate::domain::names::{ComponentName, ProgramName, ServerName};
use crate::wire::api;
use crate::wire::problem::{Code, Problem};

/// Every component in a line, by name.
pub fn components(list: &ComponentsList) -> Vec<api::ComponentSummary> {
    let mut all: BTreeMap<&ComponentName, Vec<Use<'_>>> = BTreeMap::new();
    for one in list.uses() {
        all.entry(&one.edge.component.name).or_default().push(one);
    }
    all.values().filter_map(|uses| summary(uses)).collect()
}

fn summary(uses: &[Use<'_>]) -> Option<api::ComponentSummary> {
    let component = &uses.first()?.edge.component;
    let programs = |quiesced: bool| {
        let of = uses.iter().filter(|one| one.edge.quiesces() == quiesced);
        sorted(of.map(|one| one.usage.program.clone()))
    };
    let programs_quiesced = programs(true);
    let can_load = programs(false).into_iter().filter(|program| !programs_quiesced.contains(program)).collect();
    Some(api::ComponentSummary {
        name: component.name.clone(),
        kind: component.kind,
        versions: sorted(uses.iter().filter_map(|one| one.edge.component.version.clone())),
        programs: programs_quiesced,
        can_load,
        servers: sorted(uses.iter().map(|one| one.server.clone())),
        stale: uses.iter().filter_map(stale).collect(),
    })
}

fn sorted<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort();
    all.dedup();
    all
}

fn stale(one: &Use<'_>) -> Option<api::StaleUse> {
    let stale = one.edge.stale.clone()?;
    Some(api::StaleUse {
        program: one.usage.program.clone(),
        server: one.server.clone(),
        file: stale.file,
        why: stale.why,
        running: stale.running,
        on_disk: one.edge.component.version.clone(),
    })
}

/// One component with its uses, by its name, or by a file of its own that no other has.
pub fn component(list: &ComponentsList, word: &str) -> Result<api::ComponentView, Problem> {
    let by_name = ComponentName::new(word).ok().filter(|name| !list.of(name).is_empty());
    let name = match by_name {
        Some(name) => name,
        None => match &list.named_by_file(word)[..] {
            [one] => (*one).clone(),
            [] => {
                return Err(Problem::new(Code::UnknownComponent, format!("no program uses a component {word}"))
                    .hint("`neap component ls` shows what is used; `neap component scan` looks again"));
            }
            several => {
                let names: Vec<&str> = several.iter().take(20).map(|name| name.as_str()).collect();
                return Err(Problem::new(Code::UnknownComponent, format!("{word} is a file of several components"))
                    .hint(format!("name one of them: {}", names.join(", "))));
            }
        },
    };
    let uses = list.of(&name);
    let kind = uses.first().map_or(crate::domain::components::Kind::Declared, |one| one.edge.component.kind);
    let views = uses.iter().map(|one| api::ComponentUse {
        program: one.usage.program.clone(),
        server: one.server.clone(),
        program_version: one.usage.release.version.clone(),
        version: one.edge.component.version.clone(),
        quiesced: one.edge.quiesces(),
        files: one.edge.files.clone(),
        evidence: one.edge.evidence.iter().map(|evidence| evidence_view(&one.usage.program, evidence)).collect(),
        stale: stale(one),
    });
    // Who uses it for certain need not be told to use it perhaps.
    let certain = |server: &ServerName, usage: &Usage| {
        let of = usage.edges.iter().filter(|edge| edge.component.name == name && edge.quiesces());
        of.count() > 0 && list.usage(server, &usage.program).is_some()
    };
    let unread = list.usages().filter(|(server, usage)| !certain(server, usage));
    let unread = unread.flat_map(|(server, usage)| unread_parts(server, usage)).collect();
    Ok(api::ComponentView { kind, uses: views.collect(), unread, name })
}

fn evidence_view(program: &ProgramName, evidence: &Evidence) -> api::EvidenceView {
    let (source, can_load, chain) = (evidence.source, evidence.can_load, evidence.chain.clone());
    api::EvidenceView { source, can_load, text: format!("{program} → {evidence}"), chain }
}

pub fn unread_parts(server: &ServerName, usage: &Usage) -> Vec<api::UnreadPart> {
    let part = |unread: &crate::domain::components::Unread| api::UnreadPart {
        program: usage.program.clone(),
        server: server.clone(),
        what: unread.what.clone(),
        why: unread.why.clone(),
    };
    usage.unread.iter().map(part).collect()
}

/// What one program uses, over all servers.
pub fn of_program(control: &Control, program: &ProgramName) -> (Vec<api::ProgramComponent>, Vec<api::UnreadPart>) {
    let usages: Vec<_> = control.components.usages().filter(|(_, usage)| usage.program == *program).collect();
    let mut edges: BTreeMap<&ComponentName, Vec<&Edge>> = BTreeMap::new();
    for edge in usages.iter().flat_map(|(_, usage)| &usage.edges) {
        edges.entry(&edge.component.name).or_default().push(edge);
    }
    let views = edges.into_iter().map(|(name, edges)| api::ProgramComponent {
        name: name.clone(),
        kind: edges[0].component.kind,
        versions: sorted(edges.iter().filter_map(|edge| edge.component.version.clone())),
        quiesced: edges.iter().any(|edge| edge.quiesces()),
    });
    let unread = usages.iter().flat_map(|(server, usage)| unread_parts(server, usage)).collect();
    (views.collect(), unread)
}

/// What is known of one server after a scan of it.
pub fn scanned(list: &ComponentsList, server: &ServerName) -> api::ScannedServer {
    let usages: Vec<&Usage> = list.usages().filter(|(other, _)| *other == server).map(|(_, usage)| usage).collect();
    let edges = || usages.iter().flat_map(|usage| &usage.edges);
    api::ScannedServer {
        server: server.clone(),
        programs: usages.len(),
        components: sorted(edges().map(|edge| &edge.component.name)).len(),
        stale: edges().filter(|edge| edge.stale.is_some()).count(),
        unread: usages.iter().flat_map(|usage| unread_parts(server, usage)).collect(),
    }
}
