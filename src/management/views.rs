//! Owns how management's state is shown in the API. Must not know HTTP, nor change anything.

use super::asks;
use super::component_views;
use super::control::{Control, Node};
use crate::domain::capacity;
use crate::domain::names::{NodeName, ProgramName, ServerName, Version};
use crate::domain::placement::State;
use crate::domain::program::{Kind, OnDrainTimeout, Strategy};
use crate::domain::ripple::plan::Plan;
use crate::domain::server_list::{Cell, Report};
use crate::wire::api::{self, PlacementState};
use crate::wire::messages::NodeRole;

/// Servers × programs, and every ripple under way.
pub fn status(control: &Control) -> api::StatusView {
    let list = &control.leader.list;
    let servers: Vec<&ServerName> = list.servers.keys().collect();
    let placements = servers.iter().flat_map(|server| {
        let cells = list.cells.iter().filter_map(|(program, cells)| Some((program, cells.get(*server)?)));
        cells
            .filter(|(_, cell)| cell.observed.is_some())
            .map(|(program, cell)| placement(control, program, server, cell))
    });
    let mut ripples: Vec<_> = control.ripples.values().filter(|record| record.ended_at.is_none()).collect();
    ripples.sort_by_key(|record| std::cmp::Reverse(record.started_at));
    let nodes_under_way = control.node_ripples.under_way().into_iter();
    api::StatusView {
        at: jiff::Timestamp::now(),
        term: control.leader.term().clone(),
        revision: control.leader.mint.revision.0,
        nodes: nodes(control),
        programs: list.programs.keys().map(|name| summary(control, name)).collect(),
        placements: placements.collect(),
        ripples: ripples
            .into_iter()
            .map(|record| super::ripple_view::ripple(control, record))
            .chain(nodes_under_way.map(|record| super::node_views::ripple(control, record, false)))
            .collect(),
    }
}

fn summary(control: &Control, name: &ProgramName) -> api::ProgramSummary {
    api::ProgramSummary { name: name.clone(), desired_version: desired_version(control, name) }
}

fn desired_version(control: &Control, program: &ProgramName) -> Option<Version> {
    let wanted = control.leader.list.programs.get(program)?;
    wanted.release.as_ref().map(|release| release.version.clone())
}

/// Every node, in all its roles, by name.
pub fn nodes(control: &Control) -> Vec<api::NodeView> {
    let mut names: Vec<&NodeName> = control.nodes.keys().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| node(control, name)).collect()
}

/// One node, as its roles together tell.
pub fn node(control: &Control, name: &NodeName) -> Option<api::NodeView> {
    let roles: Vec<(&NodeRole, &Node)> =
        control.nodes.iter().filter(|((_, other), _)| other == name).map(|((role, _), node)| (role, node)).collect();
    let (_, first) = roles.first()?;
    let server = control.leader.list.servers.get(name);
    let programs = control.leader.list.cells.iter().filter(|(_, cells)| {
        let seen = cells.get(name).and_then(|cell| cell.observed.as_ref());
        seen.is_some_and(|seen| seen.state != State::Absent)
    });
    let up = roles.iter().all(|(_, node)| node.up);
    let registration = &first.record.registration;
    Some(api::NodeView {
        name: name.clone(),
        roles: roles.iter().map(|(role, _)| **role).collect(),
        address: registration.control.to_string(),
        state: if up { api::NodeState::Up } else { api::NodeState::Down },
        since: roles.iter().map(|(_, node)| node.since).max().unwrap_or(first.since),
        run: first.run.clone(),
        version: registration.version.clone(),
        binary: registration.binary.as_ref().map(|binary| binary.sha256),
        protocol: registration.protocol(),
        sealed: server.is_some_and(|server| server.sealed.is_some()),
        labels: registration.labels.clone(),
        load: up.then(|| api::LoadView {
            cores_used: first.load.load_average,
            cores: registration.cores as u32,
            memory_bytes: 0,
            active_requests: roles.iter().map(|(_, node)| node.load.active_requests).sum(),
        }),
        programs: programs.map(|(program, _)| program.clone()).collect(),
        drain: super::drain_asks::view(control, name),
        revision: roles.iter().find_map(|(_, node)| node.held.as_ref()).map(|held| held.revision.0),
    })
}

/// One program with its placements.
pub fn program(control: &Control, name: &ProgramName) -> Option<api::ProgramView> {
    let list = &control.leader.list;
    list.programs.get(name)?;
    let cells = list.cells.get(name).into_iter().flatten();
    let placements = cells.filter(|(_, cell)| cell.observed.is_some());
    let mut releases: Vec<_> = control.releases.get(name).into_iter().flat_map(|all| all.values()).collect();
    releases.sort_by_key(|record| std::cmp::Reverse(record.pushed_at));
    let manifest = control.manifest(name);
    let (components, unread) = component_views::of_program(control, name);
    Some(api::ProgramView {
        name: name.clone(),
        desired_version: desired_version(control, name),
        versions: releases.into_iter().map(|record| record.release.version.clone()).collect(),
        kind: manifest
            .map_or("unknown", |manifest| match manifest.kind {
                Kind::Process(_) => "process",
                Kind::Static(_) => "static",
                Kind::External(_) => "external",
            })
            .to_owned(),
        routes: manifest.map(|manifest| manifest.routes.iter().map(route).collect()).unwrap_or_default(),
        placements: placements.map(|(server, cell)| placement(control, name, server, cell)).collect(),
        ripple: list.programs.get(name).and(control.leader.under_way(name)).map(|ripple| ripple.plan.id.clone()),
        components,
        unread,
    })
}

fn route(route: &crate::domain::program::Route) -> String {
    format!("{}{}", route.host.as_deref().unwrap_or("*"), route.prefix)
}

fn placement(control: &Control, program: &ProgramName, server: &ServerName, cell: &Cell) -> api::PlacementView {
    let absent = crate::domain::placement::Placement::absent(program.clone());
    let seen = cell.observed.clone().unwrap_or_else(|| Report::of(&absent, false, 0, 0));
    let up = control.leader.list.servers.get(server).is_some_and(|server| server.up);
    let desired = cell.desired.as_ref().and_then(|desired| desired.release.as_ref());
    api::PlacementView {
        program: program.clone(),
        server: server.clone(),
        state: state(seen.state),
        generation: seen.generation.0,
        version: seen.release.as_ref().map(|release| release.version.clone()),
        desired_version: desired.map(|release| release.version.clone()),
        healthy: seen.healthy && up,
        active_requests: seen.active,
        drained: seen.is_drained(),
        oldest_request: seen.oldest.map(|oldest| api::OldestRequest {
            age_ms: oldest.age_ms,
            method: oldest.method,
            path: oldest.path,
        }),
        failure: seen.failure,
        operation: seen.operation.map(|operation| operation.id),
    }
}

pub fn state(state: State) -> PlacementState {
    match state {
        State::Absent => PlacementState::Absent,
        State::Closed => PlacementState::Closed,
        State::Open => PlacementState::Open,
        State::Quiescing => PlacementState::Quiescing,
        State::Upgrading => PlacementState::Upgrading,
        State::Overlapping => PlacementState::Overlapping,
        State::Failed => PlacementState::Failed,
    }
}

/// Releases, newest first.
pub fn releases(control: &Control, of: Option<&ProgramName>) -> Vec<api::ReleaseView> {
    let wanted = control.releases.iter().filter(|(program, _)| of.is_none_or(|of| of == *program));
    let mut views: Vec<_> =
        wanted.flat_map(|(program, all)| all.values().map(|record| release(control, program, record))).collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.pushed_at));
    views
}

pub fn release(control: &Control, program: &ProgramName, record: &super::records::ReleaseRecord) -> api::ReleaseView {
    let cells = control.leader.list.cells.get(program).into_iter().flatten();
    let holds = cells
        .filter(|(_, cell)| cell.observed.as_ref().and_then(|seen| seen.release.as_ref()) == Some(&record.release));
    api::ReleaseView {
        program: program.clone(),
        version: record.release.version.clone(),
        sha256: record.release.sha256,
        size_bytes: record.size.unwrap_or(0),
        pushed_at: record.pushed_at,
        servers: holds.map(|(server, _)| server.clone()).collect(),
    }
}

/// What the server with the least left would carry while this one is out of service.
fn carries(control: &Control, plan: &Plan, server: &ServerName) -> Option<api::Carries> {
    if plan.policy.strategy == Strategy::Overlap {
        return None;
    }
    let heaviest = capacity::heaviest(&control.leader.list, &plan.program, server)?;
    Some(api::Carries {
        most_milli: heaviest.most_milli(plan.policy.max_utilization_milli),
        server: heaviest.server,
        now_milli: heaviest.now_milli,
        would_milli: heaviest.would_milli,
        cores: heaviest.cores,
    })
}

/// A plan, as it is shown before it starts.
pub fn plan(control: &Control, plan: &Plan, hold_ms: u64, to: &Version) -> api::PlanView {
    let up = |name: &ServerName| control.leader.list.servers.get(name).is_some_and(|server| server.up);
    let (steps, down): (Vec<_>, Vec<_>) = plan.steps.iter().partition(|step| up(&step.server));
    let version = |from: &Option<crate::domain::names::Release>| from.as_ref().map(|release| release.version.clone());
    let policy = &plan.policy;
    let active = |server| control.leader.list.observed(&plan.program, server).map_or(0, |seen| seen.active);
    api::PlanView {
        id: asks::plan_id(control, plan),
        program: plan.program.clone(),
        kind: super::ripple_view::kind(plan.kind),
        from: plan.steps.iter().find_map(|step| version(&step.from)),
        to: to.clone(),
        revision: control.leader.mint.revision.0,
        steps: steps
            .into_iter()
            .map(|step| api::PlannedStep {
                server: step.server.clone(),
                from: version(&step.from),
                to: to.clone(),
                active_requests: active(&step.server),
                sessions: 0,
                expected_drain_ms: None,
                carries: carries(control, plan, &step.server),
            })
            .collect(),
        skipped: down
            .into_iter()
            .map(|step| api::SkippedStep {
                server: step.server.clone(),
                reason: "it is down; it is caught up when it comes back, before it serves".to_owned(),
            })
            .collect(),
        strategy: policy.strategy,
        batch: policy.batch as u32,
        canary: policy.canary as u32,
        promote: policy.promote,
        min_serving: policy.min_serving as u32,
        hold_ms,
        drain_timeout_ms: policy.drain_timeout.as_millis() as u64,
        soak_ms: policy.soak.as_millis() as u64,
        force: policy.on_drain_timeout == OnDrainTimeout::Force,
        aside: Vec::new(),
    }
}
