//! Owns the way back from a set: its servers in reverse, each with the command that takes the component back, and the
//! programs that use it restarted with what is there then. Must not know why somebody wants it.

use std::time::Duration;

use super::{Set, SetPlan, Subject};
use crate::domain::names::{RippleId, ServerName};
use crate::domain::ripple::plan::{Plan, PlannedStep, Policy, RippleKind};
use crate::domain::ripple::undo::NoUndo;
use crate::domain::ripple::{Ripple, StepPhase};

/// The way back: a set, and a ripple for each of its programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undone {
    pub set: SetPlan,
    pub parts: Vec<Plan>,
}

/// Computes the way back from a component's set. The server that is under way is the first, then those that are
/// finished, the last one first.
pub fn undo(id: RippleId, set: &Set, parts: &[&Ripple]) -> Result<Undone, NoUndo> {
    let Subject::Component { name, work, undo_work } = &set.plan.subject else {
        return Err(NoUndo::NoCommand);
    };
    let mut touched: Vec<ServerName> =
        set.plan.servers.iter().filter(|server| touched(set, parts, server)).cloned().collect();
    if touched.is_empty() {
        return Err(NoUndo::Nothing);
    }
    let undo_work = undo_work.clone().ok_or(NoUndo::NoCommand)?;
    touched.sort_by_key(|server| {
        let place = set.plan.servers.iter().position(|other| other == server);
        (is_done(parts, server), std::cmp::Reverse(place))
    });
    let plans: Vec<Plan> =
        parts.iter().enumerate().filter_map(|(number, part)| back(&id, number, part, &touched)).collect();
    let subject = Subject::Component { name: name.clone(), work: undo_work, undo_work: Some(work.clone()) };
    let plan = SetPlan {
        id,
        subject,
        servers: touched,
        parts: plans.iter().map(|plan| plan.id.clone()).collect(),
        batch: set.plan.batch,
        canary: 0,
        promote: set.plan.promote,
        undoes: Some(set.plan.id.clone()),
    };
    Ok(Undone { set: plan, parts: plans })
}

/// Whether anything was done there: the command was ordered, or has ended.
fn touched(set: &Set, parts: &[&Ripple], server: &ServerName) -> bool {
    let worked =
        |phase: &StepPhase| matches!(phase, StepPhase::Upgrading { .. } | StepPhase::Soaking { .. } | StepPhase::Done);
    set.worked.contains_key(server) || super::phases(parts.iter().copied(), server).any(worked)
}

fn is_done(parts: &[&Ripple], server: &ServerName) -> bool {
    super::phases(parts.iter().copied(), server).all(|phase| *phase == StepPhase::Done)
}

fn back(set: &RippleId, number: usize, part: &Ripple, touched: &[ServerName]) -> Option<Plan> {
    let planned = |server: &ServerName| part.plan.steps.iter().find(|step| step.server == *server);
    let step = |server| planned(server).map(|step| PlannedStep { back_to: None, ..step.clone() });
    let steps: Vec<PlannedStep> = touched.iter().filter_map(step).collect();
    if steps.is_empty() {
        return None;
    }
    let id = RippleId::new(format!("{set}-{}", number + 1)).ok()?;
    // As careful with clients as the set was; but what it goes back to is known, and is not watched again.
    let policy = Policy { canary: 0, rollback_on: None, soak: Duration::ZERO, ..part.plan.policy.clone() };
    Some(Plan {
        id,
        kind: RippleKind::Restart,
        steps,
        policy,
        undoes: Some(part.plan.id.clone()),
        set: Some(set.clone()),
        ..part.plan.clone()
    })
}
