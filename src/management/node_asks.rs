//! Owns what people ask of node ripples: to have all nodes run another neap binary, to stop that, and to take it back.
//! From a request to a plan, or to the problem with its cure. Must not know HTTP.

use std::collections::BTreeMap;

use sha2::Digest;

use super::asks::{self, as_shown, leads, new_id};
use super::control::{About, Control};
use super::drain_asks;
use super::node_ripples::NodeRippleRecord;
use super::records::RippleRecord;
use super::set_asks;
use crate::domain::leader::Drain;
use crate::domain::names::{NodeName, OperationId, RippleId, Sha256, Version};
use crate::domain::ripple::nodes::{NodeKind, NodePhase, NodeRipple, NodeStep};
use crate::domain::ripple::plan::{Plan, RippleKind};
use crate::domain::ripple::{Asked, Ripple, RippleState, StepPhase};
use crate::wire::api::{BinaryUpgradeRequest, RippleOptions};
use crate::wire::binary::Binary;
use crate::wire::messages::NodeRole;
use crate::wire::problem::{Code, Problem};

/// Plans a ripple of all nodes to a binary that management keeps; nothing is changed.
pub fn plan(control: &Control, binary: &Binary, request: &BinaryUpgradeRequest) -> Result<NodeRippleRecord, Problem> {
    leads(control)?;
    not_busy(control)?;
    let steps = steps(control, binary);
    if steps.iter().all(|step| step.from == Some(step.to)) {
        return Err(Problem::new(Code::NothingToDo, format!("every node runs neap {} already", binary.shown())));
    }
    speak_the_same(control, binary)?;
    if !request.force {
        enough_serve(control, &steps)?;
    }
    let ripple = NodeRipple::new(new_id(), steps, None);
    Ok(NodeRippleRecord::new(ripple, shown(control, Some(binary)), request.force, None))
}

fn not_busy(control: &Control) -> Result<(), Problem> {
    match control.node_ripples.under_way().map(|record| &record.ripple.id) {
        None => Ok(()),
        Some(id) => Err(Problem::new(Code::Busy, format!("the nodes' binary is upgraded by ripple {id}"))
            .hint(format!("`neap ripple show {id} --watch` follows it; `neap ripple abort {id}` ends it"))),
    }
}

/// Every node's part: servers first, management last.
fn steps(control: &Control, binary: &Binary) -> Vec<NodeStep> {
    let mut nodes: BTreeMap<&NodeName, Vec<(NodeRole, &super::control::Node)>> = BTreeMap::new();
    for ((role, name), node) in &control.nodes {
        nodes.entry(name).or_default().push((*role, node));
    }
    let step = |(name, roles): (&NodeName, Vec<(NodeRole, &super::control::Node)>)| {
        let has = |wanted| roles.iter().any(|(role, _)| *role == wanted);
        let from = roles.iter().find_map(|(_, node)| node.record.registration.binary.as_ref());
        let down = roles.iter().any(|(_, node)| !node.up);
        let kind = match (has(NodeRole::AppServer), has(NodeRole::Management)) {
            (true, true) => NodeKind::ServerAndManagement,
            (false, true) => NodeKind::Management,
            (true, false) => NodeKind::Server,
            (false, false) => NodeKind::Router,
        };
        let phase = match down {
            true => NodePhase::Skipped {
                reason: "it was down when this was planned: start it with the new binary".to_owned(),
            },
            false => NodePhase::Pending,
        };
        NodeStep { node: name.clone(), kind, from: from.map(|binary| binary.sha256), to: binary.sha256, phase }
    };
    let mut steps: Vec<NodeStep> = nodes.into_iter().map(step).collect();
    steps.sort_by_key(|step| step.kind);
    steps
}

/// What is known of each binary's name.
fn shown(control: &Control, new: Option<&Binary>) -> Vec<(Sha256, Version)> {
    let running = control.nodes.values().filter_map(|node| node.record.registration.binary.as_ref());
    let mut shown: Vec<(Sha256, Version)> =
        running.chain(new).filter_map(|binary| Some((binary.sha256, Version::new(binary.shown()).ok()?))).collect();
    shown.sort();
    shown.dedup();
    shown
}

/// While the ripple is under way, nodes of both binaries work together.
fn speak_the_same(control: &Control, binary: &Binary) -> Result<(), Problem> {
    for node in control.nodes.values() {
        let registration = &node.record.registration;
        let spoken = registration.protocol();
        if spoken.abs_diff(binary.protocol) > 1 {
            let (name, to) = (&node.record.name, binary.protocol);
            return Err(Problem::new(
                Code::VersionSkew,
                format!("neap {} speaks protocol {to}, and {name} protocol {spoken}", binary.shown()),
            )
            .hint(
                "nodes understand each other when they are one release apart: upgrade to the releases between first",
            ));
        }
    }
    Ok(())
}

fn enough_serve(control: &Control, steps: &[NodeStep]) -> Result<(), Problem> {
    let operation = OperationId::new("plan").map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let drain = Drain::new(operation, drain_asks::margins(control), false);
    let gates = |step: &&NodeStep| step.kind.has_gates() && step.phase == NodePhase::Pending;
    for step in steps.iter().filter(gates).filter(|step| !control.leader.is_drained(&step.node)) {
        let short = control.leader.short_without(&step.node, &drain);
        if let Some((program, serving, least)) = short.first() {
            return Err(Problem::new(
                Code::MinServing,
                format!(
                    "without {}, too few servers would serve {program}: {serving} do, and {least} have to stay",
                    step.node
                ),
            )
            .hint(
                "add a server; or set `hold` in its manifest, so that routers keep its requests meanwhile; or `--force`, \
                 which closes the gates all the same",
            ));
        }
    }
    Ok(())
}

/// A plan's id for `--plan`: another as soon as what it would do, or what it would do it to, is another.
pub fn plan_id(control: &Control, record: &NodeRippleRecord) -> String {
    let runs: Vec<_> = control.nodes.iter().map(|(key, node)| (key, node.up, &node.run)).collect();
    let whole = serde_json::to_vec(&(&record.ripple.steps, record.force, runs)).unwrap_or_default();
    format!("plan-{}", &Sha256(sha2::Sha256::digest(&whole).into()).to_string()[..16])
}

/// Starts it.
pub fn start(
    control: &mut Control,
    binary: &Binary,
    request: &BinaryUpgradeRequest,
    asked_by: Option<String>,
) -> Result<RippleId, Problem> {
    let planned = plan(control, binary, request)?;
    as_shown(request.plan.as_deref(), &plan_id(control, &planned))?;
    let record = NodeRippleRecord { asked_by, ..planned };
    let message = format!("ripple {} takes the nodes to neap {}", record.ripple.id, binary.shown());
    Ok(begin(control, record, message))
}

fn begin(control: &mut Control, record: NodeRippleRecord, message: String) -> RippleId {
    let id = record.ripple.id.clone();
    for part in parts(control, &record.ripple) {
        let ripple = Some(Ripple::new(part.clone()));
        let part = RippleRecord { ripple, ..RippleRecord::planned(part, record.asked_by.clone(), None) };
        control.ripples.insert(part.plan.id.clone(), part);
    }
    control.event("ripple_started", message, About { ripple: Some(&id), ..About::default() });
    control.node_ripples.records.insert(id.clone(), record);
    id
}

/// Whether a ripple is of the nodes.
pub fn is_one(control: &Control, id: &RippleId) -> bool {
    control.node_ripples.records.contains_key(id)
}

/// The account of each program that leaves service with its servers: nobody drives these parts, their ledgers are read. One
/// that has a ripple of its own at the time has that one's account.
fn parts(control: &Control, ripple: &NodeRipple) -> Vec<Plan> {
    let mut parts = Vec::new();
    for (program, wanted) in &control.leader.list.programs {
        let here = |step: &NodeStep| {
            let seen = control.leader.list.observed(program, &step.node)?;
            (step.kind.has_gates() && seen.release.is_some()).then(|| step.node.clone())
        };
        let servers: Vec<NodeName> = ripple.steps.iter().filter_map(here).collect();
        let rule = control.manifest(program).map(|manifest| manifest.upgrade.clone());
        let (Some(release), Some(rule), false) = (wanted.release.clone(), rule, servers.is_empty()) else { continue };
        let options = RippleOptions { canary: Some(0), min_serving: Some(0), ..RippleOptions::default() };
        let plan = asks::make(control, RippleKind::Aside, program, Some(release), servers, &rule, &options);
        let number = parts.len();
        parts.extend(plan.and_then(|plan| set_asks::as_part(plan, &ripple.id, number)).ok());
    }
    parts
}

/// The parts of a ripple that is over are over, too.
pub fn end_parts(control: &mut Control, ripple: &NodeRipple) {
    let of_it = |record: &&mut RippleRecord| record.plan.set.as_ref() == Some(&ripple.id) && record.ended_at.is_none();
    for record in control.ripples.values_mut().filter(of_it) {
        record.ended_at = Some(jiff::Timestamp::now());
        if let Some(part) = &mut record.ripple {
            part.state = ripple.state;
            let ended =
                |node: &NodeName| ripple.steps.iter().any(|step| step.node == *node && step.phase == NodePhase::Done);
            for (phase, planned) in part.steps.iter_mut().zip(&part.plan.steps) {
                *phase = match ended(&planned.server) {
                    true => StepPhase::Done,
                    false => StepPhase::Skipped { reason: "its node was not replaced".to_owned() },
                };
            }
        }
    }
}

/// Asks it to abort, pause or go on. `None`: there is no such node ripple.
pub fn ask(control: &mut Control, id: &RippleId, asked: Asked, by: Option<&str>) -> Option<Result<(), Problem>> {
    let record = control.node_ripples.records.get_mut(id)?;
    if !record.ripple.ask(asked) {
        return Some(Err(asks::ended(id)));
    }
    record.note(None, format!("{} by {}", asks::asked_word(asked), by.unwrap_or("somebody")));
    Some(Ok(()))
}

/// Starts the way back. `None`: there is no such node ripple.
pub fn undo(control: &mut Control, id: &RippleId, asked_by: Option<String>) -> Option<Result<RippleId, Problem>> {
    let record = control.node_ripples.records.get(id)?.clone();
    Some(undo_it(control, &record, asked_by))
}

fn undo_it(control: &mut Control, record: &NodeRippleRecord, asked_by: Option<String>) -> Result<RippleId, Problem> {
    leads(control)?;
    let id = &record.ripple.id;
    if !record.ripple.state.is_over() {
        return Err(Problem::new(Code::Busy, format!("ripple {id} is under way"))
            .hint(format!("`neap ripple abort {id}` first, and undo it when it has ended")));
    }
    not_busy(control)?;
    let nothing = || Problem::new(Code::NothingToDo, format!("ripple {id} has changed no node"));
    let back = record.ripple.undo(new_id()).ok_or_else(nothing)?;
    if !record.force {
        enough_serve(control, &back.steps)?;
    }
    let message = format!("ripple {} takes the nodes back to what they ran before ripple {id}", back.id);
    let back = NodeRippleRecord::new(back, record.shown.clone(), record.force, asked_by.clone());
    let undo = begin(control, back, message);
    if let Some(undone) = control.node_ripples.records.get_mut(id) {
        undone
            .note(None, format!("undone by ripple {undo}, asked for by {}", asked_by.as_deref().unwrap_or("somebody")));
    }
    Ok(undo)
}

/// The latest ripple that takes this one back.
pub fn undone_by<'a>(control: &'a Control, id: &RippleId) -> Option<&'a NodeRippleRecord> {
    let undoes = control.node_ripples.records.values().filter(|other| other.ripple.undoes.as_ref() == Some(id));
    undoes.max_by_key(|other| other.started_at)
}

/// The binaries that a ripple may still want of management.
pub fn in_use(control: &Control) -> Vec<Sha256> {
    let live = control.node_ripples.records.values().filter(|record| record.ripple.state != RippleState::Undone);
    let steps = live.flat_map(|record| &record.ripple.steps);
    steps.flat_map(|step| step.from.into_iter().chain([step.to])).collect()
}
