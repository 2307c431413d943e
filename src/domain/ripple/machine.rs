//! Owns how a ripple goes on: which steps move, what they send, when it is over.
//! Must not know how a message travels; one step's own moves are in `step.rs`.

use serde::{Deserialize, Serialize};

use super::canary::{self, Hold};
use super::hooks::{self, HookOrder};
use super::plan::RippleKind;
use super::step::{self, Moved};
use super::wait::{Reason, Wait};
use super::{Asked, Ripple, RippleState, StepPhase};
use crate::domain::names::{OperationId, ProgramName, Release, Revision, ServerName, Term};
use crate::domain::placement::{Command, Millis, Stamp};
use crate::domain::server_list::ServerList;

/// A message that should reach a server. Sent again until its answer has changed what is known, so all are idempotent.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "send", rename_all = "snake_case")]
pub enum Send {
    Seal {
        server: ServerName,
        asked: u64,
    },
    Prepare {
        server: ServerName,
        program: ProgramName,
        release: Release,
    },
    /// "What have each version's answers been like?"
    Measure {
        server: ServerName,
        program: ProgramName,
    },
    /// Run a hook, or tell how it has ended. No server: management itself.
    Hook {
        server: Option<ServerName>,
        program: ProgramName,
        order: HookOrder,
    },
    Command {
        server: ServerName,
        program: ProgramName,
        command: Command,
    },
}

/// Makes ids and stamps that no other leadership makes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mint {
    pub term: Term,
    pub next: u64,
    pub revision: Revision,
}

impl Mint {
    pub fn operation(&mut self) -> Option<OperationId> {
        self.next += 1;
        OperationId::new(format!("{}.{}", self.next, self.term)).ok()
    }

    pub fn stamp(&mut self) -> Stamp {
        self.revision = self.revision.next();
        Stamp { term: self.term.clone(), revision: self.revision }
    }
}

/// How long a step under way waits for a server that is down, before the ripple goes on without it.
pub const DOWN_PATIENCE_MS: Millis = 60_000;

/// How long a step that has not begun waits for a server that is down: longer than servers take to find a management
/// that has restarted.
pub const BEGIN_PATIENCE_MS: Millis = 10_000;

/// Moves a ripple as far as it goes with what is known now, and answers what should be sent. The changed ripple and
/// Server List are saved before any of it leaves.
pub fn advance(ripple: &mut Ripple, list: &mut ServerList, mint: &mut Mint, now: Millis) -> Vec<Send> {
    ripple.wait = None;
    if ripple.state.is_over() {
        return Vec::new();
    }
    let mut sends = Vec::new();
    hooks::lose(ripple, list, now);
    let held = hooks::hold(ripple);
    let mut places = places(ripple, list);
    for index in 0..ripple.steps.len() {
        let begun = ripple.steps[index] != StepPhase::Pending;
        let may = !begun && places > 0 && goes_on(ripple) && is_up(ripple, list, index);
        let may_begin = may && held.is_none() && canary::hold(ripple).is_none();
        if ripple.steps[index].is_over() || !(begun || may_begin) {
            sends.extend(prepare_ahead(ripple, list, index));
            continue;
        }
        match step::advance(ripple, index, list, mint, now) {
            Moved::Sends(more) => sends.extend(more),
            Moved::Waits(wait, more) => {
                // What ends by itself keeps its turn, so that the plan's order is kept; all else is waited for without
                // a place.
                let keeps_its_turn = !begun && matches!(wait.reason, Reason::Preparing | Reason::Hook { .. });
                places -= usize::from(keeps_its_turn);
                ripple.wait.get_or_insert(wait);
                sends.extend(more);
            }
            Moved::Over => {}
        }
        let has_begun = !begun && ripple.steps[index] != StepPhase::Pending && !ripple.steps[index].is_over();
        places -= usize::from(has_begun);
    }
    if let Some(wait) = held {
        ripple.wait.get_or_insert(wait);
    }
    conclude(ripple, list, mint, now);
    sends.extend(hooks::sends(ripple));
    sends
}

/// How many more steps may be under way at a time. A step takes its place in the one decision in which its gate may
/// close, and holds none while it waits for that: one that needs no margin goes on meanwhile (protocol P15).
fn places(ripple: &Ripple, list: &ServerList) -> usize {
    let under_way = |index: &usize| {
        let step = &ripple.steps[*index];
        *step != StepPhase::Pending && !step.is_over() && is_up(ripple, list, *index)
    };
    let taken = (0..ripple.steps.len()).filter(under_way).count();
    ripple.plan.policy.batch.saturating_sub(taken)
}

fn is_up(ripple: &Ripple, list: &ServerList, index: usize) -> bool {
    list.servers.get(&ripple.plan.steps[index].server).is_some_and(|server| server.up)
}

/// Whether new steps may begin.
fn goes_on(ripple: &Ripple) -> bool {
    let failed = ripple.steps.iter().any(|step| matches!(step, StepPhase::Failed { .. }));
    let failed = failed || hooks::before_ripple_failed(ripple).is_some();
    ripple.asked == Asked::Nothing && !failed
}

/// A server may fetch and prepare the release before its turn: its gate stays as it is.
fn prepare_ahead(ripple: &Ripple, list: &ServerList, index: usize) -> Option<Send> {
    let server = &ripple.plan.steps[index].server;
    let wants = ripple.steps[index] == StepPhase::Pending && goes_on(ripple) && !ripple.prepared.contains(server);
    let sealed = is_up(ripple, list, index) && list.servers.get(server).is_some_and(|server| server.sealed.is_some());
    let release = ripple.plan.target(index).cloned().filter(|_| wants && sealed)?;
    Some(Send::Prepare { server: server.clone(), program: ripple.plan.program.clone(), release })
}

/// Ends the ripple when nothing is left to do, or says what it waits for.
fn conclude(ripple: &mut Ripple, list: &mut ServerList, mint: &mut Mint, now: Millis) {
    let failure = ripple.steps.iter().find_map(|step| match step {
        StepPhase::Failed { reason } => Some(reason.clone()),
        _ => None,
    });
    let failure = failure.or_else(|| hooks::before_ripple_failed(ripple));
    let stops = failure.is_some() || ripple.asked == Asked::Abort;
    if !stops && ripple.asked == Asked::Pause {
        ripple.state = RippleState::Paused;
        ripple.wait.get_or_insert(Wait { server: None, reason: Reason::Paused, until: None });
        return;
    }
    ripple.state = RippleState::Running;
    if let Some(wait) = hooks::running(ripple) {
        // An abort lets it end too: half of a migration is worse than all of it.
        ripple.wait.get_or_insert(wait);
        return;
    }
    if let (false, Some(Hold::Promotion(reason))) = (stops, canary::hold(ripple)) {
        ripple.wait.get_or_insert(Wait { server: None, reason, until: None });
        return;
    }
    let silent = |name: &ServerName, patience: Millis| {
        list.servers.get(name).is_none_or(|server| !server.up && server.heard_at + patience <= now)
    };
    let down = |name: &ServerName| list.servers.get(name).is_none_or(|server| !server.up);
    // What runs when the last old instance has stopped waits for servers that are down, for they may have one.
    let leaves_none_out = !stops && ripple.plan.policy.hooks.contains(&hooks::Hook::AfterRipple);
    let waits = |index: usize| match &ripple.steps[index] {
        step if step.is_over() => false,
        _ if leaves_none_out => true,
        StepPhase::Pending => !stops && !silent(&ripple.plan.steps[index].server, BEGIN_PATIENCE_MS),
        _ => !silent(&ripple.plan.steps[index].server, DOWN_PATIENCE_MS),
    };
    if let Some(index) = (0..ripple.steps.len()).find(|&index| waits(index)) {
        let server = ripple.plan.steps[index].server.clone();
        let reason = if down(&server) { Reason::ServerDown } else { Reason::Sealing };
        ripple.wait.get_or_insert(Wait { server: Some(server), reason, until: None });
        return;
    }
    if stops {
        for index in unfinished(&ripple.steps) {
            step::want_again(ripple, index, list, mint);
        }
    }
    let last = if stops { Ok(None) } else { hooks::at_the_end(ripple, list) };
    match last {
        Ok(Some(wait)) => ripple.wait = Some(wait),
        Ok(None) => end(ripple, failure, list),
        Err(reason) => end(ripple, Some(reason), list),
    }
}

/// Steps that ended without the upgrade.
fn unfinished(steps: &[StepPhase]) -> Vec<usize> {
    let ended = |step: &StepPhase| matches!(step, StepPhase::Pending | StepPhase::Failed { .. });
    (0..steps.len()).filter(|&index| ended(&steps[index])).collect()
}

fn end(ripple: &mut Ripple, failure: Option<String>, list: &ServerList) {
    let down = |name: &ServerName| list.servers.get(name).is_none_or(|server| !server.up);
    for (step, planned) in ripple.steps.iter_mut().zip(&ripple.plan.steps) {
        if !step.is_over() {
            let reason = if down(&planned.server) { "the server is down" } else { "the ripple ended before it" };
            *step = StepPhase::Skipped { reason: reason.to_owned() };
        }
    }
    ripple.wait = None;
    let did_any = ripple.steps.contains(&StepPhase::Done);
    (ripple.state, ripple.reason) = match (failure, ripple.asked) {
        (Some(reason), _) => (RippleState::Failed, Some(reason)),
        (None, Asked::Abort) => (RippleState::Aborted, ripple.reason.take().or(Some("aborted as asked".to_owned()))),
        (None, _) if did_any && ripple.plan.kind == RippleKind::Undo => (RippleState::Undone, None),
        (None, _) if did_any => (RippleState::Upgraded, None),
        (None, _) => (RippleState::Failed, Some("no server that is up could be upgraded".to_owned())),
    };
}
