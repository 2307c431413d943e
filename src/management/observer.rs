//! Owns what is noted while ripples run and nodes come and go: how long each phase took, the least capacity, events,
//! and what a sealed server tells of releases. Must not decide anything.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::control::{About, Control, Node};
use super::records::{ReleaseRecord, RippleRecord};
use super::set_asks;
use crate::domain::names::{NodeName, RippleId, RunId, ServerName};
use crate::domain::placement::{Millis, Phase};
use crate::domain::ripple::hooks::{HookEnd, HookOrder};
use crate::domain::ripple::plan::Plan;
use crate::domain::ripple::set::Set;
use crate::domain::ripple::{Ripple, RippleState, StepPhase};
use crate::domain::server_list::Wanted;
use crate::wire::api::StepTimes;
use crate::wire::messages::{HeldManifest, NodeRole, Sealed};

/// The part of a step that a moment belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Waiting,
    Preparing,
    Draining,
    Stopping,
    Working,
    Starting,
    /// The new instance starts beside the old one.
    Beside,
    /// The new instance serves, and the old one goes.
    OldGoing,
    Soaking,
    Over,
}

/// Since when a step is in which part.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    part: Part,
    since: Millis,
}

/// Notes what has changed since the last look.
pub fn observe(control: &mut Control) {
    note_sets(control);
    let ids: Vec<RippleId> = control.leader.ripples.keys().cloned().collect();
    for id in ids {
        let Some(ripple) = control.leader.ripples.get(&id).cloned() else { continue };
        note_record(control, &ripple);
        note_parts(control, &ripple);
        note_capacity(control, &ripple);
        note_end(control, &ripple);
    }
}

/// A ripple that the leadership started by itself gets a record too.
fn note_record(control: &mut Control, ripple: &Ripple) {
    if control.ripples.contains_key(&ripple.plan.id) {
        return;
    }
    if ripple.plan.set.is_some() {
        // Kept with its set.
        return;
    }
    let about = About { program: Some(&ripple.plan.program), ripple: Some(&ripple.plan.id), node: None };
    let program = &ripple.plan.program;
    let hold_ms = match &ripple.plan.undoes {
        Some(undone) => {
            control.event("undo", format!("ripple {undone} of {program} undoes itself: {}", ripple.plan.id), about);
            control.ripples.get(undone).and_then(|record| record.hold_ms)
        }
        None => {
            control.event("catch_up", format!("{program} is behind on {}: it is caught up", names(ripple)), about);
            None
        }
    };
    let mut record = RippleRecord::planned(ripple.plan.clone(), Some("management".to_owned()), hold_ms);
    record.ripple = Some(ripple.clone());
    control.ripples.insert(ripple.plan.id.clone(), record);
}

/// A set that the leadership started by itself gets records too, and every set's end is told.
fn note_sets(control: &mut Control) {
    let known = |set: &&Set| !control.sets.contains_key(&set.plan.id);
    let new: Vec<Set> = control.leader.sets.values().filter(known).cloned().collect();
    for set in new {
        let plans: Vec<_> = set.plan.parts.iter().filter_map(|part| control.leader.ripples.get(part)).collect();
        let plans: Vec<Plan> = plans.into_iter().map(|ripple| ripple.plan.clone()).collect();
        set_asks::keep_undo(control, &set.plan.id, &plans, Some("management".to_owned()));
    }
    let ended = |set: &&Set| {
        let kept = control.sets.get(&set.plan.id).is_some_and(|record| !record.set.state.is_over());
        set.state.is_over() && kept
    };
    let ended: Vec<Set> = control.leader.sets.values().filter(ended).cloned().collect();
    for set in ended {
        let why = set.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let what = set_asks::subject(&set.plan.subject);
        let message = format!("ripple {} of {what} {}{why}", set.plan.id, end_word(set.state));
        control.event("ripple_ended", message, About { ripple: Some(&set.plan.id), ..About::default() });
        if let Some(record) = control.sets.get_mut(&set.plan.id) {
            record.set = set;
        }
    }
}

pub(super) fn end_word(state: RippleState) -> &'static str {
    match state {
        RippleState::Upgraded | RippleState::Undone => "ended well",
        RippleState::Aborted => "was aborted",
        _ => "failed",
    }
}

fn names(ripple: &Ripple) -> String {
    ripple.plan.steps.iter().map(|step| step.server.as_str()).collect::<Vec<_>>().join(", ")
}

fn note_parts(control: &mut Control, ripple: &Ripple) {
    let now = control.now();
    for (index, planned) in ripple.plan.steps.iter().enumerate() {
        let part = part(control, ripple, index);
        let key = (ripple.plan.id.clone(), planned.server.clone());
        let before = control.watches.insert(key, Watch { part, since: now });
        match before {
            Some(before) if before.part == part => {
                control.watches.insert((ripple.plan.id.clone(), planned.server.clone()), before);
            }
            Some(before) => {
                note_time(control, ripple, &planned.server, before, now);
                note_took(control, ripple, &planned.server, before.part);
                note_step(control, ripple, index, part);
            }
            None if part != Part::Waiting => note_step(control, ripple, index, part),
            None => {}
        }
    }
}

fn part(control: &Control, ripple: &Ripple, index: usize) -> Part {
    let server = &ripple.plan.steps[index].server;
    let seen = control.leader.list.observed(&ripple.plan.program, server);
    let phase = seen.and_then(|seen| seen.operation.as_ref()).map(|operation| operation.phase);
    match &ripple.steps[index] {
        StepPhase::Pending if ripple.wait.as_ref().is_some_and(|wait| wait.reason.code() == "preparing") => {
            Part::Preparing
        }
        StepPhase::Pending => Part::Waiting,
        StepPhase::Quiescing { .. } => Part::Draining,
        StepPhase::Upgrading { .. } => match phase {
            Some(Phase::Working) => Part::Working,
            Some(Phase::Starting | Phase::TakingBack) => Part::Starting,
            _ => Part::Stopping,
        },
        StepPhase::Overlapping { .. } => match phase {
            Some(Phase::Switched | Phase::StoppingOld) => Part::OldGoing,
            _ => Part::Beside,
        },
        StepPhase::Soaking { .. } => Part::Soaking,
        StepPhase::Done | StepPhase::Skipped { .. } | StepPhase::Failed { .. } => Part::Over,
    }
}

fn note_step(control: &mut Control, ripple: &Ripple, index: usize, part: Part) {
    let Some(record) = control.ripples.get_mut(&ripple.plan.id) else { return };
    let server = &ripple.plan.steps[index].server;
    let what = match (part, &ripple.steps[index]) {
        (Part::Waiting, _) => "waits".to_owned(),
        (Part::Preparing, _) => "prepares the release".to_owned(),
        (Part::Draining, _) => "closes its gate and drains".to_owned(),
        (Part::Stopping, _) => "stops the old version".to_owned(),
        (Part::Working, _) => "waits for the component's command".to_owned(),
        (Part::Starting, _) => "starts the version that it is to have".to_owned(),
        (Part::Beside, _) => "starts the new version beside the old one".to_owned(),
        (Part::OldGoing, _) => "has switched; the old version drains and stops".to_owned(),
        (Part::Soaking, _) => "is open again, and soaks".to_owned(),
        (Part::Over, StepPhase::Skipped { reason }) => format!("is skipped: {}", first_line(reason)),
        (Part::Over, StepPhase::Failed { reason }) => format!("failed: {}", first_line(reason)),
        (Part::Over, _) => match ripple.verdicts.get(server) {
            Some(verdict) => format!("is done; {verdict}"),
            None => "is done".to_owned(),
        },
    };
    record.note(Some(server), what);
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn note_time(control: &mut Control, ripple: &Ripple, server: &ServerName, before: Watch, now: Millis) {
    let Some(record) = control.ripples.get_mut(&ripple.plan.id) else { return };
    let times = record.times.entry(server.clone()).or_default();
    let took = now.saturating_sub(before.since);
    if let Some(field) = field(times, before.part) {
        *field = Some(field.unwrap_or(0) + took);
    }
}

/// The server's own clock knows better how long the program was out of service there.
fn note_took(control: &mut Control, ripple: &Ripple, server: &ServerName, ended: Part) {
    let starts = matches!(ended, Part::Draining | Part::Stopping | Part::Starting);
    let took = control.leader.list.observed(&ripple.plan.program, server).and_then(|seen| seen.took);
    let (Some(took), true) = (took, starts) else { return };
    if let Some(record) = control.ripples.get_mut(&ripple.plan.id) {
        let times = record.times.entry(server.clone()).or_default();
        if times.command_ms.is_some() {
            // A component's command ran between the stop and the start.
            return;
        }
        (times.drain_ms, times.stop_ms) = (Some(took.drain_ms), Some(took.stop_ms));
        (times.start_ms, times.probe_ms) = (Some(took.start_ms), Some(took.probe_ms));
    }
}

fn field(times: &mut StepTimes, part: Part) -> Option<&mut Option<u64>> {
    match part {
        Part::Preparing => Some(&mut times.prepare_ms),
        Part::Draining => Some(&mut times.drain_ms),
        Part::Stopping => Some(&mut times.stop_ms),
        Part::Working => Some(&mut times.command_ms),
        Part::Starting => Some(&mut times.start_ms),
        Part::Beside => Some(&mut times.overlap_ms),
        Part::OldGoing => Some(&mut times.old_ms),
        Part::Soaking => Some(&mut times.soak_ms),
        Part::Waiting | Part::Over => None,
    }
}

fn note_capacity(control: &mut Control, ripple: &Ripple) {
    let serving = control.leader.list.serving(&ripple.plan.program).count();
    if let Some(record) = control.ripples.get_mut(&ripple.plan.id).filter(|_| !ripple.state.is_over()) {
        record.lowest = Some(record.lowest.map_or(serving, |lowest| lowest.min(serving)));
    }
}

fn note_end(control: &mut Control, ripple: &Ripple) {
    let Some(record) = control.ripples.get_mut(&ripple.plan.id) else { return };
    if !ripple.state.is_over() || record.ended_at.is_some() {
        return;
    }
    record.ended_at = Some(Timestamp::now());
    record.ripple = Some(ripple.clone());
    let word = end_word(ripple.state);
    let why = ripple.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    record.note(None, format!("{word}{}", first_line(&why)));
    let message = format!("ripple {} of {} {word}{why}", ripple.plan.id, ripple.plan.program);
    let about = About { program: Some(&ripple.plan.program), ripple: Some(&ripple.plan.id), node: None };
    control.watches.retain(|(id, _), _| *id != ripple.plan.id);
    control.event("ripple_ended", message, about);
    control.place();
}

/// A hook has ended: the ripple goes on, or does not, and what became of it is kept.
pub fn hooked(control: &mut Control, order: &HookOrder, server: Option<&ServerName>, end: HookEnd) {
    let took = crate::domain::duration::show(Duration::from_millis(end.took_ms));
    let word = if end.well { "ran" } else { "failed" };
    let what = format!("{} {word}: {}, after {took}", order.hook.as_str(), first_line(&end.how));
    if !control.leader.hooked(&order.ripple, order.hook, server, end) {
        return;
    }
    if let Some(record) = control.ripples.get_mut(&order.ripple) {
        record.note(server, what);
    }
}

/// Takes in a sealed server's state, and the manifests of what it holds where they are not known.
pub fn adopt(control: &mut Control, server: &ServerName, sealed: Sealed) {
    for HeldManifest { release, manifest } in sealed.manifests {
        let of_program = control.releases.entry(manifest.name.clone()).or_default();
        of_program.entry(release.version.clone()).or_insert_with(|| ReleaseRecord {
            release,
            manifest,
            size: None,
            pushed_at: Timestamp::now(),
        });
    }
    for report in &sealed.reports {
        let known = control.leader.list.programs.contains_key(&report.program);
        // The highest stamp wins: a server that was down does not bring back what was removed meanwhile (protocol P13).
        let kept = control.leader.list.cell(&report.program, server).and_then(|cell| cell.desired.as_ref());
        let newest = kept.into_iter().chain(&report.desired).max_by_key(|desired| &desired.stamp);
        let desired = newest.map_or(report.release.as_ref(), |desired| desired.release.as_ref());
        if let (false, Some(release)) = (known, desired) {
            let wanted = Wanted { release: Some(release.clone()), servers: Vec::new() };
            control.leader.list.programs.insert(report.program.clone(), wanted);
        }
    }
    let (run, asked) = (sealed.run, sealed.asked);
    if control.leader.sealed(server, asked, &run, sealed.reports) {
        let message = format!("{server} obeys term {}", control.leader.term());
        control.event("server_sealed", message, About { node: Some(server), ..About::default() });
    }
    control.place();
}

/// Looks for nodes that have been silent for too long.
pub fn watch(control: &mut Control, down_after: Duration) {
    forgive(control, Instant::now());
    let silent = |heard: Option<Instant>| heard.is_none_or(|heard| heard.elapsed() >= down_after);
    let gone: Vec<(NodeRole, NodeName)> = control
        .nodes
        .iter()
        .filter(|((role, _), node)| *role != NodeRole::Management && node.up && silent(node.heard))
        .map(|(key, _)| key.clone())
        .collect();
    for (role, name) in gone {
        if let Some(node) = control.nodes.get_mut(&(role, name.clone())) {
            (node.up, node.since) = (false, Timestamp::now());
        }
        if role == NodeRole::AppServer {
            control.leader.down(&name);
        }
        let message = format!("{name} has been silent for {}", crate::domain::duration::show(down_after));
        control.event("node_down", message, About { node: Some(&name), ..About::default() });
    }
}

/// Between two looks nobody is silent for longer than this: what is more is management's own absence.
const LISTENS: Duration = Duration::from_millis(500);

/// While management itself was held up, by its disk or by a machine that is full, it heard nobody: that time counts
/// against no node.
fn forgive(control: &mut Control, now: Instant) {
    let held_up = control.watched.replace(now).map_or(Duration::ZERO, |before| now.saturating_duration_since(before));
    if held_up < LISTENS {
        return;
    }
    tracing::warn!(
        held_up_ms = held_up.as_millis() as u64,
        "management was held up; it takes nobody for silent by that"
    );
    for node in control.nodes.values_mut() {
        node.heard = node.heard.map(|heard| (heard + held_up).min(now));
    }
}

/// Any word of a node that is up shows that it lives: one whose heartbeats are late is not taken for down.
pub fn heard_of(control: &mut Control, name: &NodeName, run: &RunId) {
    let of_run = |node: &&mut Node| node.up && node.record.name == *name && node.run.as_ref() == Some(run);
    for node in control.nodes.values_mut().filter(of_run) {
        node.heard = Some(Instant::now());
    }
}
