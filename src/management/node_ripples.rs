//! Owns the driving of node ripples: what their machine sees of nodes, and how what it wants is done. Must not know how one
//! is asked for, or shown.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use actix::prelude::*;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::control::{About, Control, Node};
use super::drain_asks;
use super::list_actor::ListActor;
use super::node_asks;
use super::records::RippleRecord;
use crate::domain::leader::Drain;
use crate::domain::names::{NodeName, OperationId, RippleId, Sha256, Version};
use crate::domain::placement::State;
use crate::domain::ripple::nodes::{Do, NodePhase, NodeRipple, Seen, Stage, Told};
use crate::link::client::LinkError;
use crate::programs::successor;
use crate::wire::api;
use crate::wire::binary::{BYTES_MAX, BinaryStage, BinaryTold, TakeBinary};
use crate::wire::messages::{NodeRole, ToRouter, ToServer};
use crate::wire::problem::{Code, Problem};

/// The least time between two questions how far a node is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Events of one ripple that are kept.
const EVENTS_MAX: usize = 5_000;

/// A node ripple, with what is told of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeRippleRecord {
    pub ripple: NodeRipple,
    /// What each binary in it is called.
    pub shown: Vec<(Sha256, Version)>,
    /// Gates close whatever that leaves.
    pub force: bool,
    pub asked_by: Option<String>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    #[serde(default)]
    pub events: Vec<api::RippleEvent>,
    #[serde(default)]
    pub times: BTreeMap<NodeName, api::StepTimes>,
    /// When the present part of the step under way began.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

impl NodeRippleRecord {
    pub fn new(ripple: NodeRipple, shown: Vec<(Sha256, Version)>, force: bool, asked_by: Option<String>) -> Self {
        Self {
            ripple,
            shown,
            force,
            asked_by,
            started_at: Timestamp::now(),
            ended_at: None,
            events: Vec::new(),
            times: BTreeMap::new(),
            since: None,
        }
    }

    pub fn note(&mut self, node: Option<&NodeName>, what: impl Into<String>) {
        if self.events.len() < EVENTS_MAX {
            let (at, server) = (Timestamp::now(), node.cloned());
            self.events.push(api::RippleEvent { at, server, what: what.into() });
        }
    }

    /// What a binary is called.
    pub fn version(&self, sha256: Sha256) -> Option<Version> {
        let known = self.shown.iter().find(|(known, _)| *known == sha256).map(|(_, shown)| shown.clone());
        known.or_else(|| Version::new(&sha256.to_string()[..12]).ok())
    }
}

/// All node ripples that are kept, and what is under way of the present one.
#[derive(Default)]
pub struct NodeRipples {
    pub records: BTreeMap<RippleId, NodeRippleRecord>,
    told: HashMap<OperationId, Told>,
    asked: HashMap<OperationId, Asked>,
}

#[derive(Clone, Copy)]
struct Asked {
    under_way: bool,
    next: Instant,
}

impl NodeRipples {
    pub fn loaded(records: BTreeMap<RippleId, NodeRippleRecord>) -> Self {
        Self { records, ..Self::default() }
    }

    /// The one that is not over.
    pub fn under_way(&self) -> Option<&NodeRippleRecord> {
        self.records.values().find(|record| !record.ripple.state.is_over())
    }

    fn prune(&mut self, most: usize) {
        while self.records.len() > most.max(1) {
            let over = self.records.iter().filter(|(_, record)| record.ripple.state.is_over());
            let Some(id) = over.min_by_key(|(_, record)| record.started_at).map(|(id, _)| id.clone()) else { return };
            self.records.remove(&id);
        }
    }
}

/// Whether a ripple is driven by the leadership. The parts of node ripples are not: they are accounts.
pub fn is_driven(records: &BTreeMap<RippleId, NodeRippleRecord>, ripple: &RippleRecord) -> bool {
    ripple.plan.set.as_ref().is_none_or(|set| !records.contains_key(set))
}

/// An order that is to leave once what it follows from is saved.
pub(super) struct Taking {
    node: NodeName,
    order: TakeBinary,
}

impl ListActor {
    /// Decides: what it changes is saved before `take_binaries` carries out the rest.
    pub(super) fn advance_nodes(&mut self) -> Vec<Taking> {
        let own = self.identity.name.clone();
        let Some(id) = self.control.node_ripples.under_way().map(|record| record.ripple.id.clone()) else {
            return Vec::new();
        };
        if self.control.leader.stepped_down.is_some() {
            return Vec::new();
        }
        advance(&mut self.control, &id, &own)
    }

    /// Tells nodes to take a binary, and hears how far they are.
    pub(super) fn take_binaries(&mut self, takings: Vec<Taking>, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for Taking { node, order } in takings {
            let operation = order.operation.clone();
            let asked = self.control.node_ripples.asked.get(&operation);
            if asked.is_some_and(|asked| asked.under_way || asked.next > now) {
                continue;
            }
            let asked = Asked { under_way: true, next: now + ASK_EVERY };
            if primary(&self.control, &node).is_none() {
                continue;
            }
            self.control.node_ripples.asked.insert(operation.clone(), asked);
            if node == self.identity.name {
                // One process: there is nobody to send it to.
                self.told(&operation, successor::take(&order));
                continue;
            }
            let Some(((role, _), at)) = primary(&self.control, &node) else { continue };
            let (url, client) = (at.messages_url(), self.client.clone());
            let term = Some(self.control.leader.term().clone());
            let body = match role {
                NodeRole::Router => serde_json::to_vec(&self.identity.envelope(term, ToRouter::TakeBinary(order))),
                _ => serde_json::to_vec(&self.identity.envelope(term, ToServer::TakeBinary(order))),
            };
            let post = async move {
                let answer = client.post(&url, body.unwrap_or_default()).await;
                answer.map_err(|error: LinkError| error.problem())?.json::<BinaryTold>()
            };
            ctx.spawn(post.into_actor(self).map(move |told, actor, ctx| {
                actor.told(&operation, told);
                actor.turn(ctx);
            }));
        }
    }

    fn told(&mut self, operation: &OperationId, told: Result<BinaryTold, Problem>) {
        let ripples = &mut self.control.node_ripples;
        if let Some(asked) = ripples.asked.get_mut(operation) {
            asked.under_way = false;
        }
        let told = match told {
            Ok(BinaryTold { stage: Some(stage), .. }) => match stage {
                BinaryStage::Fetching => Told::UnderWay(Stage::Fetching),
                BinaryStage::Checking => Told::UnderWay(Stage::Checking),
                BinaryStage::HandingOver => Told::UnderWay(Stage::HandingOver),
                BinaryStage::Failed { reason } => Told::Failed(reason),
            },
            Ok(BinaryTold { stage: None, .. }) => Told::Unknown,
            Err(problem) if problem.code == Code::UnknownMessage => Told::Refused(
                "its release does not know how to take another binary: put the file in its place, and send USR2 to \
                 its process"
                    .to_owned(),
            ),
            Err(problem) => {
                tracing::debug!(%operation, %problem, "a node does not say how far it is with its binary");
                return;
            }
        };
        ripples.told.insert(operation.clone(), told);
    }
}

/// The role by which a node is spoken to.
fn primary<'a>(control: &'a Control, name: &NodeName) -> Option<(&'a (NodeRole, NodeName), &'a Node)> {
    let order = [NodeRole::AppServer, NodeRole::Router, NodeRole::Management];
    order.iter().find_map(|role| control.nodes.get_key_value(&(*role, name.clone())))
}

fn advance(control: &mut Control, id: &RippleId, own: &NodeName) -> Vec<Taking> {
    let Some(mut record) = control.node_ripples.records.get(id).cloned() else { return Vec::new() };
    let before: Vec<NodePhase> = record.ripple.steps.iter().map(|step| step.phase.clone()).collect();
    let operations: Vec<Option<OperationId>> =
        record.ripple.steps.iter().map(|step| step.phase.taking().cloned()).collect();
    let taking = |name: &NodeName| {
        let index = record.ripple.steps.iter().position(|step| step.node == *name)?;
        operations[index].clone()
    };
    let views: HashMap<NodeName, Seen> = record
        .ripple
        .steps
        .iter()
        .map(|step| (step.node.clone(), seen(control, &step.node, own, taking(&step.node).as_ref())))
        .collect();
    let mint = &mut control.leader.mint;
    let acts = record.ripple.advance(
        |name| views.get(name).cloned().unwrap_or_default(),
        || OperationId::new(format!("binary-{}", mint.operation()?)).ok(),
    );
    note(control, &mut record, &before);
    let mut takings = Vec::new();
    for act in acts {
        match act {
            Do::Drain { node, operation } => {
                if !control.leader.is_drained(&node) {
                    let drain = Drain::new(operation, drain_asks::margins(control), record.force);
                    let asked_by = Some(format!("ripple {id}"));
                    control.leader.drain(node, Drain { asked_by, ..drain });
                }
            }
            Do::Resume { node } => {
                control.leader.resume(&node);
            }
            Do::Take { node, operation, run, sha256 } => {
                takings.push(Taking { node, order: TakeBinary { operation, run, sha256, bytes: BYTES_MAX } })
            }
        }
    }
    control.node_ripples.records.insert(id.clone(), record);
    let most = control.bounds.ripples;
    control.node_ripples.prune(most);
    takings
}

fn seen(control: &Control, name: &NodeName, own: &NodeName, operation: Option<&OperationId>) -> Seen {
    let roles: Vec<&Node> =
        control.nodes.iter().filter(|((_, other), _)| other == name).map(|(_, node)| node).collect();
    let Some((_, first)) = primary(control, name) else { return Seen::default() };
    let runs = |node: &Node| node.record.registration.binary.as_ref().map(|binary| binary.sha256);
    let server = control.leader.list.servers.get(name);
    let sealed = server.is_some_and(|server| server.up && server.sealed.is_some());
    let drain = control.leader.drains.get(name);
    let ours = |drain: &Drain| drain.operation.as_str().starts_with("binary-");
    let settled = control.leader.list.cells.keys().all(|program| {
        let seen = control.leader.list.observed(program, name);
        seen.is_none_or(|seen| !matches!(seen.state, State::Closed | State::Quiescing))
    });
    Seen {
        // A management that has just begun says nothing of itself before it has heard of the others.
        up: if name == own { control.is_settled() } else { roles.iter().all(|node| node.up) },
        run: first.run.clone(),
        runs: runs(first).filter(|first| roles.iter().copied().all(|node| runs(node) == Some(*first))),
        told: operation.and_then(|operation| control.node_ripples.told.get(operation).cloned()),
        // Of one that has not answered to this leadership, nothing is known.
        drained: sealed && drain_asks::view(control, name).is_some_and(|view| view.drained),
        out_of_service: drain.is_some_and(|drain| !drain.resumed && !ours(drain)),
        serves: drain.is_none() && settled && (server.is_none() || sealed),
    }
}

/// Keeps what has happened since, and how long it took.
fn note(control: &mut Control, record: &mut NodeRippleRecord, before: &[NodePhase]) {
    let now = Timestamp::now();
    for (index, before) in before.iter().enumerate() {
        let step = record.ripple.steps[index].clone();
        if *before == step.phase {
            continue;
        }
        let began = record.since.replace(now).unwrap_or(now);
        let took = u64::try_from(now.duration_since(began).as_millis()).unwrap_or(0);
        let times = record.times.entry(step.node.clone()).or_default();
        match before {
            NodePhase::Draining { .. } => times.drain_ms = Some(took),
            NodePhase::Taking { .. } => times.start_ms = Some(took),
            _ => {}
        }
        let shown = record.version(step.to).map(|version| version.to_string()).unwrap_or_default();
        let what = match &step.phase {
            NodePhase::Pending => continue,
            NodePhase::Draining { .. } => "closes its gates and drains".to_owned(),
            NodePhase::Taking { .. } => format!("takes neap {shown}"),
            NodePhase::Returning { failed: None } => format!("runs neap {shown}, and opens its gates"),
            NodePhase::Returning { failed: Some(reason) } => format!("opens its gates on what it had: {reason}"),
            NodePhase::Done if matches!(before, NodePhase::Pending) => format!("runs neap {shown} already"),
            NodePhase::Done => format!("is done: it runs neap {shown}"),
            NodePhase::Skipped { reason } => format!("is skipped: {reason}"),
            NodePhase::Failed { reason } => format!("failed: {reason}"),
        };
        record.note(Some(&step.node), what);
    }
    if record.ripple.state.is_over() && record.ended_at.is_none() {
        record.ended_at = Some(now);
        node_asks::end_parts(control, &record.ripple);
        let why = record.ripple.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let word = super::observer::end_word(record.ripple.state);
        record.note(None, format!("{word}{why}"));
        let id = record.ripple.id.clone();
        let about = About { ripple: Some(&id), ..About::default() };
        control.event("ripple_ended", format!("ripple {id} of the nodes' binary {word}{why}"), about);
        (control.node_ripples.told, control.node_ripples.asked) = Default::default();
    }
}
