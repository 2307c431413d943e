//! Owns what servers and routers tell management, and what they are answered. Must not know what it leads to.

use std::time::Instant;

use actix::prelude::*;

use super::control::{About, Control};
use super::list_actor::ListActor;
use super::observer;
use crate::domain::names::{NodeName, RunId, ServerName};
use crate::domain::placement::Millis;
use crate::domain::ripple::Asked;
use crate::domain::server_list::Report;
use crate::programs::successor;
use crate::wire::binary::PROTOCOL;
use crate::wire::envelope::Envelope;
use crate::wire::messages::{Heartbeat, NodeRole, Registration, Renewal, Renewals, ServerAt, ToManagement, Welcome};
use crate::wire::problem::{Code, Problem};

/// A message of a node, as it came in. Answered with the JSON of its answer.
pub struct FromNode(pub Envelope<ToManagement>);

impl Message for FromNode {
    type Result = Result<serde_json::Value, Problem>;
}

impl Handler<FromNode> for ListActor {
    type Result = Result<serde_json::Value, Problem>;

    fn handle(&mut self, FromNode(envelope): FromNode, ctx: &mut Context<Self>) -> Self::Result {
        let Envelope { from, run, body, .. } = envelope;
        observer::heard_of(&mut self.control, &from, &run);
        let answer = match body {
            ToManagement::Register(registration) => {
                register(&mut self.control, &from, &run, *registration)?;
                json(&Welcome {
                    management: self.identity.name.clone(),
                    run: self.identity.run.clone(),
                    term: self.control.leader.term().clone(),
                    tag_keys: self.control.told_keys(),
                })
            }
            ToManagement::Heartbeat(heartbeat) => {
                let components = heartbeat.components;
                let renewals = beat(&mut self.control, &from, &run, *heartbeat);
                if !renewals.unknown {
                    self.ask_components(&from, components, ctx);
                }
                json(&renewals)
            }
            ToManagement::Drained { report } | ToManagement::Upgraded { report } | ToManagement::Failed { report } => {
                self.control.leader.heard(&from, &run, report);
                self.tell_what_is_seen(ctx);
                Ok(serde_json::json!({}))
            }
            ToManagement::Servers {} => {
                let servers =
                    self.control.nodes.values().filter(|node| node.record.registration.role == NodeRole::AppServer);
                // One that this management has not heard yet may be about to be.
                let has_waited = self.control.now() >= self.down_after.as_millis() as Millis;
                let at = |node: &super::control::Node| ServerAt {
                    server: node.record.name.clone(),
                    control: node.record.registration.control,
                    is_down: has_waited && !node.up,
                    only_there: node.sessions_only_there,
                };
                json(&servers.map(at).collect::<Vec<_>>())
            }
            ToManagement::Sessions(_) | ToManagement::TakeSession(_) | ToManagement::SessionsHere { .. } => {
                Err(Problem::new(Code::Internal, "words on sessions go to the master Session List"))
            }
        };
        self.turn_soon(ctx);
        answer
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(value).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

/// Nodes that are one release apart understand each other; a node that is further away is refused, with the cure.
fn speaks_the_same(name: &NodeName, registration: &Registration) -> Result<(), Problem> {
    let own = successor::binary().map_or(PROTOCOL, |binary| binary.protocol);
    let (spoken, version) = (registration.protocol(), &registration.version);
    if own.abs_diff(spoken) <= 1 {
        return Ok(());
    }
    let which = if spoken < own { "upgrade that node first" } else { "upgrade this management, and all nodes, first" };
    Err(Problem::new(
        Code::VersionSkew,
        format!("{name} runs neap {version} with protocol {spoken}, and this management speaks protocol {own}"),
    )
    .hint(format!("they understand each other when they are one release apart: {which}, release by release")))
}

fn register(control: &mut Control, name: &NodeName, run: &RunId, registration: Registration) -> Result<(), Problem> {
    speaks_the_same(name, &registration)?;
    let known = control.nodes.get(&(registration.role, name.clone())).and_then(|node| node.run.clone());
    let role = registration.role;
    if !control.nodes.contains_key(&(role, name.clone())) && control.nodes.len() >= control.bounds.nodes {
        let most = control.bounds.nodes;
        return Err(Problem::new(Code::TooManyRequests, format!("{most} nodes have registered already"))
            .hint("remove nodes that are gone, or raise management.limits.nodes"));
    }
    control.register(name, run, registration);
    if known.as_ref() != Some(run) {
        let message = format!("{name} registered as {role}");
        control.event("node_registered", message, About { node: Some(name), ..About::default() });
    }
    Ok(())
}

fn beat(control: &mut Control, name: &NodeName, run: &RunId, heartbeat: Heartbeat) -> Renewals {
    let term = control.leader.term().clone();
    let role = heartbeat.role;
    let Some(node) = control.nodes.get_mut(&(role, name.clone())).filter(|node| node.run.as_ref() == Some(run)) else {
        return Renewals { tag_keys: None, term, renewed: Vec::new(), kept_closed: Vec::new(), unknown: true };
    };
    let was_up = std::mem::replace(&mut node.up, true);
    (node.heard, node.load, node.held) = (Some(Instant::now()), heartbeat.load, heartbeat.held);
    (node.told_held, node.sessions_only_there) = (true, heartbeat.sessions_only_here);
    node.active = heartbeat.active;
    if !was_up {
        node.since = jiff::Timestamp::now();
        control.event("node_up", format!("{name} is heard again"), About { node: Some(name), ..About::default() });
    }
    if role != NodeRole::AppServer {
        return Renewals {
            tag_keys: control.told_keys(),
            term,
            renewed: Vec::new(),
            kept_closed: Vec::new(),
            unknown: false,
        };
    }
    let now = control.now();
    control.leader.up(name, run, now);
    let cores = node_cores(control, name);
    control.leader.uses(name, cores, &heartbeat.cpu_milli);
    for report in &heartbeat.reports {
        control.leader.heard(name, run, report.clone());
    }
    let renewed = heartbeat.reports.iter().filter_map(|report| renewal(control, report)).collect();
    Renewals { tag_keys: control.told_keys(), term, renewed, kept_closed: kept_closed(control, name), unknown: false }
}

fn node_cores(control: &Control, name: &NodeName) -> u32 {
    let node = control.nodes.get(&(NodeRole::AppServer, name.clone()));
    node.map_or(0, |node| u32::try_from(node.record.registration.cores).unwrap_or(u32::MAX))
}

/// A lease is renewed while a ripple of this leadership still wants the quiesce (protocol P8): one that is to be aborted
/// runs out, should the reopening not get through.
fn renewal(control: &Control, report: &Report) -> Option<Renewal> {
    let operation = report.operation.as_ref()?;
    let wanted = control.leader.stepped_down.is_none()
        && control.leader.ripples.values().any(|ripple| ripple.asked != Asked::Abort && ripple.owns(&operation.id));
    let (program, generation) = (report.program.clone(), report.generation);
    wanted.then(|| Renewal { program, operation: operation.id.clone(), generation })
}

fn kept_closed(control: &Control, server: &ServerName) -> Vec<crate::domain::names::ProgramName> {
    let programs = control.leader.list.programs.keys();
    programs.filter(|program| control.leader.stays_closed(program, server)).cloned().collect()
}
