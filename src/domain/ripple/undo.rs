//! Owns the way back from a ripple: a plan of its own, to what was desired where when that one was planned (protocol P13).
//! Must not know why somebody wants it.

use std::time::Duration;

use super::plan::{Plan, PlannedStep, Policy, RippleKind};
use super::{Ripple, StepPhase};
use crate::domain::names::{Release, RippleId, ServerName, Version};
use crate::domain::server_list::ServerList;

/// Why a ripple cannot be undone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoUndo {
    #[error("ripple {under_way} of this program is under way")]
    Busy { under_way: RippleId },
    #[error("it has changed nothing that is not back already")]
    Nothing,
    #[error("there is no command that takes it back")]
    NoCommand,
    #[error("it brought a server to what is desired of it")]
    CatchUp,
    #[error("since then {server} was to have {}", .to.as_ref().map_or("nothing", Version::as_str))]
    Superseded { server: ServerName, to: Option<Version> },
}

/// Computes the way back. The server that is under way is the first, then those that are finished, the last one first.
pub fn plan(id: RippleId, undone: &Ripple, list: &ServerList) -> Result<Plan, NoUndo> {
    if undone.plan.kind == RippleKind::CatchUp {
        return Err(NoUndo::CatchUp);
    }
    let mut touched: Vec<usize> = (0..undone.steps.len()).filter(|&index| touched(undone, index, list)).collect();
    if touched.is_empty() {
        return Err(NoUndo::Nothing);
    }
    for &index in &touched {
        superseded(undone, index, list)?;
    }
    touched.sort_by_key(|&index| (rank(&undone.steps[index]), std::cmp::Reverse(index)));
    let steps = touched.into_iter().map(|index| {
        let from = desired(undone, index, list).unwrap_or_else(|| undone.plan.target(index).cloned());
        PlannedStep { server: undone.plan.steps[index].server.clone(), from, back_to: back_to(undone, index) }
    });
    let steps: Vec<PlannedStep> = steps.collect();
    let to = undone.plan.was.clone().or_else(|| undone.plan.steps.iter().find_map(|step| step.from.clone()));
    let was = undone.plan.to.clone();
    let policy = policy(&undone.plan.policy, steps.len());
    let (program, undoes) = (undone.plan.program.clone(), Some(undone.plan.id.clone()));
    Ok(Plan { id, kind: RippleKind::Undo, program, to, steps, policy, was, undoes, set: None })
}

/// As careful as the ripple was with clients; but what it goes back to is known, and is not watched again; nor does it wait for room, or it would never come.
fn policy(undone: &Policy, steps: usize) -> Policy {
    Policy {
        batch: undone.batch.clamp(1, steps),
        canary: 0,
        rollback_on: None,
        hooks: Vec::new(),
        max_utilization_milli: 0,
        soak: Duration::ZERO,
        ..undone.clone()
    }
}

/// What was desired on a server; where nothing was told apart of it, what was desired of the program.
fn back_to(undone: &Ripple, index: usize) -> Option<Release> {
    undone.plan.steps[index].from.clone().or_else(|| undone.plan.was.clone())
}

fn desired(undone: &Ripple, index: usize, list: &ServerList) -> Option<Option<Release>> {
    let cell = list.cell(&undone.plan.program, &undone.plan.steps[index].server)?;
    cell.desired.as_ref().map(|desired| desired.release.clone())
}

fn touched(undone: &Ripple, index: usize, list: &ServerList) -> bool {
    let (step, planned) = (&undone.steps[index], &undone.plan.steps[index]);
    let back_to = back_to(undone, index);
    if back_to.is_none() && !matches!(undone.plan.kind, RippleKind::Install | RippleKind::Undo) {
        // Nothing is known of what was there: it is not taken away for that.
        return false;
    }
    let under_way = !step.is_over() && *step != StepPhase::Pending;
    let moved = desired(undone, index, list).is_some_and(|desired| desired != back_to);
    let seen = list.observed(&undone.plan.program, &planned.server);
    let runs_another = seen.is_some_and(|seen| seen.release != back_to) && *step != StepPhase::Pending;
    under_way || moved || runs_another
}

/// What another ripple has wanted since is not taken back in silence.
fn superseded(undone: &Ripple, index: usize, list: &ServerList) -> Result<(), NoUndo> {
    let planned = &undone.plan.steps[index];
    match desired(undone, index, list) {
        Some(desired) if desired != back_to(undone, index) && desired.as_ref() != undone.plan.target(index) => {
            let to = desired.map(|release| release.version);
            Err(NoUndo::Superseded { server: planned.server.clone(), to })
        }
        _ => Ok(()),
    }
}

fn rank(step: &StepPhase) -> u8 {
    match step {
        StepPhase::Quiescing { .. }
        | StepPhase::Upgrading { .. }
        | StepPhase::Overlapping { .. }
        | StepPhase::Soaking { .. } => 0,
        StepPhase::Failed { .. } => 1,
        StepPhase::Done => 2,
        StepPhase::Pending | StepPhase::Skipped { .. } => 3,
    }
}
