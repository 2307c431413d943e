//! Owns how a ripple goes on: which steps move, what they send, when it is over.
//! Must not know how a message travels; one step's own moves are in `step.rs`.

use serde::{Deserialize, Serialize};

use super::canary::{self, Hold};
use super::hooks::{self, HookOrder};
use super::plan::RippleKind;
use super::step::{self, Moved};
use super::wait::{Reason, Wait};
use super::{Asked, Ripple, RippleState, StepPhase};
use crate::domain::names::{OperationId, ProgramName, Release, Revision, RippleId, ServerName, Term};
use crate::domain::placement::{Command, Millis, Stamp, Work};
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
    /// One order for all members of a set (protocol P15).
    Together {
        server: ServerName,
        set: RippleId,
        operation: OperationId,
        members: Vec<Member>,
        work: Work,
    },
    /// "How has the work of a set ended?"
    Worked {
        server: ServerName,
        set: RippleId,
        operation: OperationId,
    },
}

/// One program's part of an order to a set.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    pub program: ProgramName,
    pub command: Command,
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
        let may = !begun && places > 0 && goes_on(ripple) && may_take_part(ripple, list, index);
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
    pause_for_want_of_room(ripple, now);
    if let Some(wait) = held {
        ripple.wait.get_or_insert(wait);
    }
    conclude(ripple, list, mint, now);
    sends.extend(hooks::sends(ripple));
    sends
}

/// A ripple that has waited for room long enough pauses, and says why.
fn pause_for_want_of_room(ripple: &mut Ripple, now: Millis) {
    match &ripple.wait {
        Some(Wait { reason: reason @ Reason::Capacity { .. }, until: Some(until), .. }) => {
            if *until <= now && ripple.asked == Asked::Nothing {
                (ripple.asked, ripple.paused_by) = (Asked::Pause, Some(reason.to_string()));
                (ripple.short_since, ripple.wait) = (None, None);
            }
        }
        _ => ripple.short_since = None,
    }
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

/// A server that a person has drained takes no part; catching up does its step when it is resumed.
fn may_take_part(ripple: &Ripple, list: &ServerList, index: usize) -> bool {
    list.servers.get(&ripple.plan.steps[index].server).is_some_and(|server| server.up && !server.drained)
}

/// Whether new steps may begin.
fn goes_on(ripple: &Ripple) -> bool {
    let failed = ripple.steps.iter().any(|step| matches!(step, StepPhase::Failed { .. }));
    let failed = failed || hooks::before_ripple_failed(ripple).is_some();
    ripple.asked == Asked::Nothing && !failed
}

/// A server may fetch and prepare the release before its turn: its gate stays as it is.
pub(super) fn prepare_ahead(ripple: &Ripple, list: &ServerList, index: usize) -> Option<Send> {
    let server = &ripple.plan.steps[index].server;
    let wants = ripple.steps[index] == StepPhase::Pending && goes_on(ripple) && !ripple.prepared.contains(server);
    let sealed = is_up(ripple, list, index) && list.servers.get(server).is_some_and(|server| server.sealed.is_some());
    let release = ripple.plan.target(index).cloned().filter(|_| wants && sealed)?;
    Some(Send::Prepare { server: server.clone(), program: ripple.plan.program.clone(), release })
}

/// Ends the ripple when nothing is left to do, or says what it waits for.
fn conclude(ripple: &mut Ripple, list: &mut ServerList, mint: &mut Mint, now: Millis) {
    let stops = stops(ripple);
    if !stops && ripple.asked == Asked::Pause {
        ripple.state = RippleState::Paused;
        let itself = |why: &String| Reason::PausedItself { why: why.clone() };
        let reason = ripple.paused_by.as_ref().map_or(Reason::Paused, itself);
        ripple.wait.get_or_insert(Wait { server: None, reason, until: None });
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
    match left(ripple, list, now) {
        Some(wait) => {
            ripple.wait.get_or_insert(wait);
        }
        None => finish(ripple, list, mint),
    }
}

/// No new step begins any more.
fn stops(ripple: &Ripple) -> bool {
    ripple.asked == Asked::Abort || failure(ripple).is_some()
}

fn failure(ripple: &Ripple) -> Option<String> {
    let failed = ripple.steps.iter().find_map(|step| match step {
        StepPhase::Failed { reason } => Some(reason.clone()),
        _ => None,
    });
    failed.or_else(|| hooks::before_ripple_failed(ripple))
}

/// What keeps a ripple from ending; `None`: nothing is left to do.
pub(super) fn left(ripple: &Ripple, list: &ServerList, now: Millis) -> Option<Wait> {
    let stops = stops(ripple);
    let silent = |name: &ServerName, patience: Millis| {
        list.servers.get(name).is_none_or(|server| !server.up && server.heard_at + patience <= now)
    };
    let down = |name: &ServerName| list.servers.get(name).is_none_or(|server| !server.up);
    let drained = |name: &ServerName| list.servers.get(name).is_some_and(|server| server.drained);
    // What runs when the last old instance has stopped waits for servers that are down or drained, for they may have one.
    let leaves_none_out = !stops && ripple.plan.policy.hooks.contains(&hooks::Hook::AfterRipple);
    let waits = |index: &usize| match &ripple.steps[*index] {
        step if step.is_over() => false,
        _ if leaves_none_out => true,
        StepPhase::Pending if drained(&ripple.plan.steps[*index].server) => false,
        StepPhase::Pending => !stops && !silent(&ripple.plan.steps[*index].server, BEGIN_PATIENCE_MS),
        _ => !silent(&ripple.plan.steps[*index].server, DOWN_PATIENCE_MS),
    };
    let index = (0..ripple.steps.len()).find(waits)?;
    let server = ripple.plan.steps[index].server.clone();
    let reason = match (down(&server), drained(&server)) {
        (true, _) => Reason::ServerDown,
        (false, true) => Reason::Drained,
        (false, false) if ripple.steps[index] == StepPhase::Pending => Reason::Sealing,
        (false, false) => Reason::AnswerToOrder,
    };
    Some(Wait { server: Some(server), reason, until: None })
}

/// Ends a ripple of which nothing is left to do, but for its last hook.
pub(super) fn finish(ripple: &mut Ripple, list: &mut ServerList, mint: &mut Mint) {
    let (failure, stops) = (failure(ripple), stops(ripple));
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
    let why = |name: &ServerName| match list.servers.get(name) {
        Some(server) if server.up && server.drained => "the server is drained",
        Some(server) if server.up => "the ripple ended before it",
        _ => "the server is down",
    };
    for (step, planned) in ripple.steps.iter_mut().zip(&ripple.plan.steps) {
        if !step.is_over() {
            *step = StepPhase::Skipped { reason: why(&planned.server).to_owned() };
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
