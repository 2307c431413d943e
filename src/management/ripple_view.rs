//! Owns how a ripple is shown: where each step is, what it waits for, what comes next, which command changes that.
//! Must not know HTTP, nor change anything.

use super::control::Control;
use super::records::RippleRecord;
use crate::domain::names::{ComponentName, Release, RippleId, ServerName, Version};
use crate::domain::placement::Outcome;
use crate::domain::program::Strategy;
use crate::domain::ripple::hooks::HookRun;
use crate::domain::ripple::plan::{Plan, RippleKind};
use crate::domain::ripple::set::Subject;
use crate::domain::ripple::wait::{Reason, Wait};
use crate::domain::ripple::{Asked, Ripple, RippleState, StepPhase};
use crate::wire::api::{self, StepState};

/// Lines of a failed instance's output that are shown.
const LOG_LINES: usize = 20;

pub fn kind(kind: RippleKind) -> api::RippleKind {
    match kind {
        RippleKind::Install => api::RippleKind::Install,
        RippleKind::Upgrade => api::RippleKind::Upgrade,
        RippleKind::CatchUp => api::RippleKind::CatchUp,
        RippleKind::Restart => api::RippleKind::Restart,
        RippleKind::Remove => api::RippleKind::Remove,
        RippleKind::Undo => api::RippleKind::Undo,
        RippleKind::Aside => api::RippleKind::Aside,
    }
}

/// A ripple, whole.
pub fn ripple(control: &Control, record: &RippleRecord) -> api::RippleView {
    let plan = &record.plan;
    let ripple = record.ripple.as_ref();
    let wait =
        ripple.and_then(|ripple| control.leader.ripples.get(&ripple.plan.id)).and_then(|live| live.wait.as_ref());
    let steps = (0..plan.steps.len()).map(|index| step(control, record, index)).collect();
    let reason = ripple.and_then(|ripple| ripple.reason.clone());
    // Whoever is told of its end may ask for its receipt.
    let accounted = record.receipt.is_some();
    api::RippleView {
        id: plan.id.clone(),
        program: Some(plan.program.clone()),
        component: component(control, plan),
        part_of: plan.set.clone(),
        kind: kind(plan.kind),
        from: plan.steps.iter().find_map(|step| version(step.from.as_ref())),
        to: version(plan.to.as_ref()),
        state: match ripple.map_or(api::RippleState::Planned, state) {
            ended if ended.ended() && !accounted => api::RippleState::Running,
            ended => by_itself(control, record).unwrap_or(ended),
        },
        undoes: plan.undoes.clone(),
        undone_by: undone_by(control, &plan.id).map(|undo| undo.plan.id.clone()),
        waiting_for: match (ripple, wait) {
            (None, _) => Some(reading_ledgers()),
            (Some(ripple), _) if ripple.state.is_over() && !accounted => Some(ending(control, record)),
            (_, Some(wait)) => Some(waiting_for(control, record, wait)),
            (_, None) if by_itself(control, record) == Some(api::RippleState::Undoing) => undoing(control, plan),
            (_, None) => None,
        },
        next: ripple.filter(|ripple| !ripple.state.is_over()).and_then(next),
        steps,
        hooks: ripple.map_or(&[][..], |ripple| &ripple.hooks).iter().map(hook).collect(),
        events: record.events.clone(),
        failure: failure(record),
        reason: reason.map(|reason| first_line(&reason).to_owned()),
        asked_by: record.asked_by.clone(),
        started_at: record.started_at,
        ended_at: record.ended_at.filter(|_| accounted),
        parts: Vec::new(),
    }
}

/// The component for whose sake a program is restarted.
fn component(control: &Control, plan: &Plan) -> Option<ComponentName> {
    match &control.sets.get(plan.set.as_ref()?)?.set.plan.subject {
        Subject::Component { name, .. } => Some(name.clone()),
        Subject::Server { .. } => None,
    }
}

fn hook(run: &HookRun) -> api::HookView {
    let state = match &run.end {
        None => api::HookState::Running,
        Some(end) if end.well => api::HookState::Succeeded,
        Some(_) => api::HookState::Failed,
    };
    let end = run.end.as_ref();
    api::HookView {
        hook: run.hook,
        server: run.server.clone(),
        state,
        how: end.map(|end| end.how.clone()),
        took_ms: end.map(|end| end.took_ms),
        log: end.map(|end| end.lines.clone()).unwrap_or_default(),
    }
}

/// The state of a ripple that undoes itself: its end is that of the ripple which does.
fn by_itself(control: &Control, record: &RippleRecord) -> Option<api::RippleState> {
    let ripple = record.ripple.as_ref().filter(|ripple| ripple.undoes_itself && ripple.state.is_over())?;
    let undo = undone_by(control, &ripple.plan.id)?;
    match undo.ripple.as_ref().filter(|_| undo.receipt.is_some()).map(|undo| undo.state) {
        Some(RippleState::Undone) => Some(api::RippleState::Undone),
        Some(_) => Some(api::RippleState::Failed),
        None => Some(api::RippleState::Undoing),
    }
}

fn undoing(control: &Control, plan: &Plan) -> Option<api::WaitingFor> {
    let undo = &undone_by(control, &plan.id)?.plan.id;
    Some(api::WaitingFor {
        reason: "undoing".to_owned(),
        detail: format!("ripple {undo} to take back what is upgraded"),
        until: None,
        command: Some(format!("neap ripple show {undo} --watch")),
    })
}

/// The latest ripple that undoes this one.
fn undone_by<'a>(control: &'a Control, id: &RippleId) -> Option<&'a RippleRecord> {
    let undoes = control.ripples.values().filter(|record| record.plan.undoes.as_ref() == Some(id));
    undoes.max_by_key(|record| record.started_at)
}

fn version(release: Option<&Release>) -> Option<Version> {
    release.map(|release| release.version.clone())
}

pub(super) fn first_line(text: &str) -> &str {
    let first = text.lines().next().unwrap_or_default();
    // What announces the lines that are told apart from it.
    first.strip_suffix("; its last lines:").unwrap_or(first)
}

fn state(ripple: &Ripple) -> api::RippleState {
    word(ripple.state)
}

pub(super) fn word(state: RippleState) -> api::RippleState {
    match state {
        RippleState::Planned => api::RippleState::Planned,
        RippleState::Running => api::RippleState::Running,
        RippleState::Paused => api::RippleState::Paused,
        RippleState::Upgraded => api::RippleState::Upgraded,
        RippleState::Undone => api::RippleState::Undone,
        RippleState::Failed => api::RippleState::Failed,
        RippleState::Aborted => api::RippleState::Aborted,
    }
}

/// Between a ripple's last step and the word of its end.
fn ending(control: &Control, record: &RippleRecord) -> api::WaitingFor {
    if control.told_the_end(record) {
        return reading_ledgers();
    }
    api::WaitingFor {
        reason: "routers".to_owned(),
        detail: "routers to acknowledge the Server List with the last gate open".to_owned(),
        until: record.ended_at.map(|at| at + control.bounds.router_wait),
        command: Some("neap node ls".to_owned()),
    }
}

pub(super) fn reading_ledgers() -> api::WaitingFor {
    api::WaitingFor {
        reason: "ledgers".to_owned(),
        detail: "every node's ledger to be read, for the receipt".to_owned(),
        until: None,
        command: None,
    }
}

fn waiting_for(control: &Control, record: &RippleRecord, wait: &Wait) -> api::WaitingFor {
    waiting(control, &record.plan.id, wait)
}

/// What the ripple of this id waits for, and which command changes that.
pub(super) fn waiting(control: &Control, id: &RippleId, wait: &Wait) -> api::WaitingFor {
    let at = wait.server.as_ref().map(|server| format!("{server}: ")).unwrap_or_default();
    let program = control.ripples.get(id).map(|record| &record.plan.program);
    let command = match wait.reason.itself() {
        Reason::Paused | Reason::PausedItself { .. } => Some(format!("neap ripple resume {id}")),
        Reason::Promotion { .. } => Some(format!("neap ripple promote {id}")),
        Reason::OldDraining { .. } => program.map(|program| format!("neap program requests {program}")),
        Reason::Sessions { .. } => Some(format!("neap ripple migrate {id}")),
        Reason::Draining { .. } => Some(format!("neap ripple abort {id}")),
        Reason::Drained => wait.server.as_ref().map(|server| format!("neap node resume {server}")),
        Reason::ServerDown => wait.server.as_ref().map(|server| format!("neap node show {server}")),
        Reason::Capacity { .. } | Reason::Neighbour { .. } | Reason::MinServing { .. } => {
            Some("neap status".to_owned())
        }
        Reason::OldInstance => program.map(|program| format!("neap program show {program}")),
        _ => None,
    };
    api::WaitingFor {
        reason: wait.reason.code().to_owned(),
        detail: format!("{at}{}", wait.reason),
        until: wait.until.map(|until| control.wall(until)),
        command,
    }
}

fn next(ripple: &Ripple) -> Option<String> {
    if ripple.asked == Asked::Abort {
        return Some("opens the gates again, and ends".to_owned());
    }
    let current = ripple.steps.iter().position(|step| !step.is_over() && *step != StepPhase::Pending);
    let pending = ripple.steps.iter().position(|step| *step == StepPhase::Pending);
    let server = |index: usize| &ripple.plan.steps[index].server;
    match (current, pending) {
        (Some(index), _) if matches!(ripple.steps[index], StepPhase::Quiescing { .. }) => {
            Some(format!("stops and upgrades it on {} when drained", server(index)))
        }
        (_, Some(index)) if ripple.plan.policy.strategy == Strategy::Overlap => {
            Some(format!("starts the new version beside the old one on {}", server(index)))
        }
        (_, Some(index)) => Some(format!("quiesces it on {}", server(index))),
        (Some(_), None) => Some("ends with the receipt".to_owned()),
        (None, None) => None,
    }
}

fn step(control: &Control, record: &RippleRecord, index: usize) -> api::StepView {
    let planned = &record.plan.steps[index];
    let phase = record.ripple.as_ref().map_or(&StepPhase::Pending, |ripple| &ripple.steps[index]);
    let reason = match phase {
        StepPhase::Skipped { reason } | StepPhase::Failed { reason } => Some(first_line(reason).to_owned()),
        _ => None,
    };
    let verdict = record.ripple.as_ref().and_then(|ripple| ripple.verdicts.get(&planned.server));
    api::StepView {
        server: planned.server.clone(),
        state: step_state(control, record, &planned.server, phase),
        from: version(planned.from.as_ref()),
        to: version(record.plan.target(index)),
        times: record.times.get(&planned.server).copied().unwrap_or_default(),
        reason,
        judged: verdict.map(ToString::to_string),
        programs: Vec::new(),
        command: None,
    }
}

fn step_state(control: &Control, record: &RippleRecord, server: &ServerName, phase: &StepPhase) -> StepState {
    let seen = control.leader.list.observed(&record.plan.program, server);
    let waits = control.leader.ripples.get(&record.plan.id).and_then(|ripple| ripple.wait.as_ref());
    let waits_here = waits.filter(|wait| wait.server.as_ref() == Some(server));
    match phase {
        StepPhase::Pending => match waits_here.map(|wait| &wait.reason) {
            Some(Reason::Preparing) => StepState::Preparing,
            Some(_) => StepState::Waiting,
            None => StepState::Planned,
        },
        StepPhase::Quiescing { .. } if seen.is_some_and(|seen| seen.is_drained()) => StepState::Drained,
        StepPhase::Quiescing { .. } => StepState::Quiescing,
        StepPhase::Upgrading { .. } => StepState::Upgrading,
        StepPhase::Overlapping { .. } => StepState::Overlapping,
        StepPhase::Soaking { .. } => StepState::Soaking,
        StepPhase::Done => StepState::Upgraded,
        StepPhase::Skipped { .. } => StepState::Skipped,
        StepPhase::Failed { .. } => match seen.and_then(|seen| seen.ended.as_ref()).map(|ended| &ended.outcome) {
            Some(Outcome::TakenBack(_)) => StepState::Undone,
            _ => StepState::Failed,
        },
    }
}

/// How the new version's instance failed: the first line of the reason, then what the instance wrote.
fn failure(record: &RippleRecord) -> Option<api::FailedStart> {
    let ripple = record.ripple.as_ref()?;
    if ripple.hooks.iter().any(|run| run.end.as_ref().is_some_and(|end| !end.well)) {
        // Told apart, with what the hook wrote.
        return None;
    }
    let (index, reason) = ripple.steps.iter().enumerate().find_map(|(index, step)| match step {
        StepPhase::Failed { reason } => Some((index, reason)),
        _ => None,
    })?;
    let (server, to) = (&ripple.plan.steps[index].server, ripple.plan.target(index)?);
    let log: Vec<String> = reason.lines().skip(1).map(str::to_owned).collect();
    let skip = log.len().saturating_sub(LOG_LINES);
    let first = first_line(reason);
    let status = first.find("exit status").or_else(|| first.find("signal ")).map(|at| first[at..].to_owned());
    Some(api::FailedStart {
        server: server.clone(),
        version: to.version.clone(),
        reason: first.to_owned(),
        exit_status: status,
        log: log.into_iter().skip(skip).collect(),
    })
}
