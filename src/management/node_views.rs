//! Owns how node ripples are shown: as ripples of the component neap, with a step a node. Must not know HTTP, nor change
//! anything.

use super::control::Control;
use super::node_asks;
use super::node_ripples::NodeRippleRecord;
use super::{drain_asks, ripple_view};
use crate::domain::names::{ComponentName, NodeName};
use crate::domain::ripple::Asked;
use crate::domain::ripple::nodes::{NodePhase, NodeReason, NodeStep};
use crate::wire::api::{self, StepState};
use crate::wire::binary::Binary;

/// The component that nodes are.
pub const NEAP: &str = "neap";

/// A node ripple; `whole`: with what has happened, and its programs' accounts.
pub fn ripple(control: &Control, record: &NodeRippleRecord, whole: bool) -> api::RippleView {
    let ripple = &record.ripple;
    let undone_by = node_asks::undone_by(control, &ripple.id);
    let parts = control.ripples.values().filter(|part| part.plan.set.as_ref() == Some(&ripple.id));
    api::RippleView {
        id: ripple.id.clone(),
        program: None,
        component: ComponentName::new(NEAP).ok(),
        part_of: None,
        kind: if ripple.undoes.is_some() { api::RippleKind::Undo } else { api::RippleKind::Component },
        from: ripple.steps.iter().find_map(|step| step.from).and_then(|from| record.version(from)),
        to: ripple.steps.last().and_then(|step| record.version(step.to)),
        state: ripple_view::word(ripple.state),
        undoes: ripple.undoes.clone(),
        undone_by: undone_by.map(|undo| undo.ripple.id.clone()),
        waiting_for: ripple.wait.as_ref().map(|(node, reason)| waiting(control, record, node, reason)),
        next: next(record),
        steps: ripple.steps.iter().map(|step| self::step(control, record, step)).collect(),
        events: if whole { record.events.clone() } else { Vec::new() },
        hooks: Vec::new(),
        reason: reason(record),
        failure: None,
        asked_by: record.asked_by.clone(),
        started_at: record.started_at,
        ended_at: record.ended_at,
        // Of each program that leaves service with its servers, its account.
        parts: if whole { parts.map(|part| ripple_view::ripple(control, part)).collect() } else { Vec::new() },
    }
}

/// Why it ended otherwise than well, and how what it did is taken back.
fn reason(record: &NodeRippleRecord) -> Option<String> {
    let ripple = &record.ripple;
    let reason = ripple.reason.clone()?;
    let taken = ripple.steps.iter().filter(|step| step.phase == NodePhase::Done && step.from != Some(step.to)).count();
    if taken == 0 || !ripple.state.is_over() {
        return Some(reason);
    }
    let id = &ripple.id;
    Some(format!(
        "{reason}; {taken} of {} nodes run the new binary: `neap ripple undo {id}` takes them back, the same upgrade \
         again goes on",
        ripple.steps.len()
    ))
}

fn waiting(control: &Control, record: &NodeRippleRecord, node: &NodeName, reason: &NodeReason) -> api::WaitingFor {
    let id = &record.ripple.id;
    let drain = drain_asks::view(control, node);
    let detail = match (reason, drain) {
        (NodeReason::Draining, Some(drain)) => match drain.waiting_for {
            Some(wait) => wait.detail,
            None => {
                let left = drain.programs.iter().filter(|one| !one.drained);
                let left: Vec<String> =
                    left.map(|one| format!("{} ({} active)", one.program, one.active_requests)).collect();
                format!("{node}: {reason}: {}", left.join(", "))
            }
        },
        _ => format!("{node}: {reason}"),
    };
    let command = match reason {
        NodeReason::Paused => Some(format!("neap ripple resume {id}")),
        NodeReason::Draining => Some(format!("neap ripple abort {id}")),
        _ => Some(format!("neap node show {node}")),
    };
    api::WaitingFor { reason: reason.code().to_owned(), detail, until: None, command }
}

fn next(record: &NodeRippleRecord) -> Option<String> {
    let ripple = &record.ripple;
    if ripple.state.is_over() {
        return None;
    }
    if ripple.asked == Asked::Abort {
        return Some("ends when the node that is under way serves again".to_owned());
    }
    let pending = ripple.steps.iter().find(|step| step.phase == NodePhase::Pending);
    Some(match (ripple.current(), pending) {
        (Some(step), _) if matches!(step.phase, NodePhase::Draining { .. }) => {
            format!("replaces {} when drained; its programs stay", step.node)
        }
        (_, Some(step)) if step.kind.has_gates() => format!("closes the gates of {}", step.node),
        (_, Some(step)) => format!("replaces {}", step.node),
        (_, None) => "ends".to_owned(),
    })
}

fn step(control: &Control, record: &NodeRippleRecord, step: &NodeStep) -> api::StepView {
    let waits = record.ripple.wait.as_ref().is_some_and(|(node, _)| *node == step.node);
    let drained = || drain_asks::view(control, &step.node).is_some_and(|drain| drain.drained);
    let (state, reason) = match &step.phase {
        NodePhase::Pending if waits => (StepState::Waiting, None),
        NodePhase::Pending => (StepState::Planned, None),
        NodePhase::Draining { .. } if drained() => (StepState::Drained, None),
        NodePhase::Draining { .. } => (StepState::Quiescing, None),
        NodePhase::Taking { .. } => (StepState::Upgrading, None),
        NodePhase::Returning { failed } => (StepState::Upgrading, failed.clone()),
        NodePhase::Done => (StepState::Upgraded, None),
        NodePhase::Skipped { reason } => (StepState::Skipped, Some(reason.clone())),
        NodePhase::Failed { reason } => (StepState::Failed, Some(reason.clone())),
    };
    api::StepView {
        server: step.node.clone(),
        state,
        from: step.from.and_then(|from| record.version(from)),
        to: record.version(step.to),
        times: record.times.get(&step.node).copied().unwrap_or_default(),
        reason,
        judged: None,
        programs: if step.kind.has_gates() { programs(control, &step.node) } else { Vec::new() },
        command: None,
    }
}

fn programs(control: &Control, node: &NodeName) -> Vec<crate::domain::names::ProgramName> {
    let here = control.leader.list.cells.keys().filter(|program| {
        let seen = control.leader.list.observed(program, node);
        seen.is_some_and(|seen| seen.release.is_some())
    });
    here.cloned().collect()
}

/// A plan, as it is shown before it starts.
pub fn plan(control: &Control, record: &NodeRippleRecord, binary: &Binary, id: String) -> Option<api::BinaryPlanView> {
    let to = record.version(binary.sha256)?;
    let steps = record.ripple.steps.iter().map(|step| {
        let programs = if step.kind.has_gates() { programs(control, &step.node) } else { Vec::new() };
        let active = programs.iter().filter_map(|program| control.leader.list.observed(program, &step.node));
        api::PlannedNode {
            node: step.node.clone(),
            roles: control.nodes.keys().filter(|(_, name)| *name == step.node).map(|(role, _)| *role).collect(),
            from: step.from.and_then(|from| record.version(from)),
            to: to.clone(),
            active_requests: active.map(|seen| seen.active).sum(),
            programs,
            skipped: match &step.phase {
                NodePhase::Skipped { reason } => Some(reason.clone()),
                _ => None,
            },
            nothing_to_do: step.from == Some(step.to),
        }
    });
    Some(api::BinaryPlanView { id, to: to.clone(), sha256: binary.sha256, steps: steps.collect(), force: record.force })
}
