//! Owns how a set is shown: as one ripple, of a component, with its programs' below. Must not know HTTP, nor change
//! anything.

use super::control::Control;
use super::records::SetRecord;
use super::ripple_view;
use super::set_asks::PlannedSet;
use crate::domain::names::{ComponentName, ServerName};
use crate::domain::ripple::set::Subject;
use crate::wire::api::{self, RippleState, StepState};

/// A set, whole; `parts`: with its programs' ripples.
pub fn set(control: &Control, record: &SetRecord, parts: bool) -> api::RippleView {
    let set = control.leader.sets.get(&record.set.plan.id).unwrap_or(&record.set);
    let plan = &set.plan;
    let records: Vec<_> = plan.parts.iter().filter_map(|part| control.ripples.get(part)).collect();
    let views: Vec<_> = records.iter().map(|part| ripple_view::ripple(control, part)).collect();
    let accounted = set.state.is_over() && records.iter().all(|part| part.receipt.is_some());
    let own = ripple_view::word(set.state);
    let undone_by = undone_by(control, record);
    let undo_state = undone_by.filter(|_| set.undoes_itself && set.state.is_over()).map(|undo| {
        let undo = control.leader.sets.get(&undo.set.plan.id).unwrap_or(&undo.set);
        match undo.state {
            state if !state.is_over() => RippleState::Undoing,
            crate::domain::ripple::RippleState::Undone => RippleState::Undone,
            _ => RippleState::Failed,
        }
    });
    let state = if set.state.is_over() && !accounted { RippleState::Running } else { undo_state.unwrap_or(own) };
    let (component, _) = subject(&plan.subject);
    let main = views.first().filter(|_| component.is_none());
    let program = main.and_then(|main| main.program.clone());
    let wait = set.wait.as_ref().map(|wait| ripple_view::waiting(control, &plan.id, wait));
    api::RippleView {
        id: plan.id.clone(),
        program,
        component,
        part_of: None,
        kind: match &plan.subject {
            Subject::Server { .. } => api::RippleKind::Upgrade,
            Subject::Component { .. } if plan.undoes.is_some() => api::RippleKind::Undo,
            Subject::Component { .. } => api::RippleKind::Component,
        },
        from: main.and_then(|main| main.from.clone()),
        to: main.and_then(|main| main.to.clone()),
        state,
        undoes: plan.undoes.clone(),
        undone_by: undone_by.map(|undo| undo.set.plan.id.clone()),
        waiting_for: match (set.state.is_over(), wait) {
            (true, _) if !accounted => Some(ripple_view::reading_ledgers()),
            (true, _) => None,
            (false, wait) => wait.or_else(|| views.iter().find_map(|view| view.waiting_for.clone())),
        },
        next: None,
        steps: plan.servers.iter().map(|server| step(record, set, &views, server)).collect(),
        events: Vec::new(),
        hooks: Vec::new(),
        reason: set.reason.as_ref().map(|reason| ripple_view::first_line(reason).to_owned()),
        failure: views.iter().find_map(|view| view.failure.clone()),
        asked_by: record.asked_by.clone(),
        started_at: record.started_at,
        ended_at: accounted.then(|| views.iter().filter_map(|view| view.ended_at).max()).flatten(),
        parts: if parts { views } else { Vec::new() },
    }
}

fn subject(subject: &Subject) -> (Option<ComponentName>, Option<&[String]>) {
    match subject {
        Subject::Component { name, work, .. } => (Some(name.clone()), Some(&work.run)),
        Subject::Server { .. } => (None, None),
    }
}

fn undone_by<'a>(control: &'a Control, record: &SetRecord) -> Option<&'a SetRecord> {
    let undoes = control.sets.values().filter(|other| other.set.plan.undoes.as_ref() == Some(&record.set.plan.id));
    undoes.max_by_key(|other| other.started_at)
}

/// A server's step: as far as the member that is furthest behind, but for one that failed.
fn step(
    record: &SetRecord,
    set: &crate::domain::ripple::set::Set,
    parts: &[api::RippleView],
    server: &ServerName,
) -> api::StepView {
    let of_part = |part: &api::RippleView| part.steps.iter().find(|step| step.server == *server).cloned();
    let members: Vec<(api::StepView, Option<crate::domain::names::ProgramName>)> =
        parts.iter().filter_map(|part| Some((of_part(part)?, part.program.clone()))).collect();
    let states = members.iter().map(|(step, _)| step.state);
    let failed = states.clone().find(|state| matches!(state, StepState::Failed | StepState::Undone));
    let worst = failed.or_else(|| states.min_by_key(|state| progress(*state))).unwrap_or(StepState::Planned);
    let worked = set.worked.get(server);
    let reason = members.iter().find_map(|(step, _)| step.reason.clone());
    let times = members.iter().fold(api::StepTimes::default(), |all, (step, _)| longest(all, step.times));
    api::StepView {
        server: server.clone(),
        state: worst,
        from: None,
        to: None,
        times,
        reason,
        judged: None,
        programs: members.into_iter().filter_map(|(_, program)| program).collect(),
        command: worked.map(|worked| api::CommandView {
            run: match &record.set.plan.subject {
                Subject::Component { work, .. } => work.run.clone(),
                Subject::Server { .. } => Vec::new(),
            },
            failure: worked.failure.clone(),
            output: worked.lines.clone(),
            took_ms: worked.took_ms,
        }),
    }
}

fn progress(state: StepState) -> usize {
    const ORDER: [StepState; 12] = [
        StepState::Quiescing,
        StepState::Drained,
        StepState::Upgrading,
        StepState::Soaking,
        StepState::Preparing,
        StepState::Waiting,
        StepState::Planned,
        StepState::Reopened,
        StepState::Upgraded,
        StepState::Skipped,
        StepState::Undone,
        StepState::Failed,
    ];
    ORDER.iter().position(|one| *one == state).unwrap_or(ORDER.len())
}

/// Its members are out of service together: each phase lasts as long as that of the slowest.
fn longest(all: api::StepTimes, one: api::StepTimes) -> api::StepTimes {
    api::StepTimes {
        prepare_ms: all.prepare_ms.max(one.prepare_ms),
        drain_ms: all.drain_ms.max(one.drain_ms),
        stop_ms: all.stop_ms.max(one.stop_ms),
        command_ms: all.command_ms.max(one.command_ms),
        start_ms: all.start_ms.max(one.start_ms),
        probe_ms: all.probe_ms.max(one.probe_ms),
        overlap_ms: None,
        old_ms: None,
        soak_ms: all.soak_ms.max(one.soak_ms),
    }
}

/// A plan, as it is shown before it starts.
pub fn plan(control: &Control, planned: &PlannedSet, id: String) -> api::ComponentPlanView {
    let set = &planned.set;
    let (component, run) = subject(&set.subject);
    let component = component.unwrap_or_else(|| ComponentName::new("server").expect("a word is a name"));
    let undo_run = match &set.subject {
        Subject::Component { undo_work, .. } => undo_work.as_ref().map(|work| work.run.clone()),
        Subject::Server { .. } => None,
    };
    let evidence = super::set_asks::evidence(control, set);
    let programs = planned.parts.iter().map(|part| {
        let rule = control.manifest(&part.program).map(|manifest| manifest.upgrade.hold);
        api::PlannedProgram {
            program: part.program.clone(),
            version: part.to.as_ref().map(|release| release.version.clone()),
            evidence: evidence.get(&part.program).cloned().unwrap_or_default(),
            min_serving: u32::try_from(part.policy.min_serving).unwrap_or(u32::MAX),
            hold_ms: planned.hold_ms.unwrap_or_else(|| rule.map_or(0, |hold| hold.as_millis() as u64)),
            drain_timeout_ms: part.policy.drain_timeout.as_millis() as u64,
            soak_ms: part.policy.soak.as_millis() as u64,
            force: part.policy.on_drain_timeout == crate::domain::program::OnDrainTimeout::Force,
        }
    });
    let steps = set.servers.iter().map(|server| {
        let members = planned.parts.iter().filter(|part| part.steps.iter().any(|step| step.server == *server));
        let members: Vec<_> = members.map(|part| part.program.clone()).collect();
        let active = members.iter().filter_map(|program| control.leader.list.observed(program, server));
        api::PlannedSetStep {
            server: server.clone(),
            active_requests: active.map(|seen| seen.active).sum(),
            programs: members,
        }
    });
    let unread = control.components.usages().flat_map(|(server, usage)| {
        let member = planned.parts.iter().any(|part| part.program == usage.program);
        if member { Vec::new() } else { super::component_views::unread_parts(server, usage) }
    });
    api::ComponentPlanView {
        id,
        component,
        run: run.unwrap_or_default().to_vec(),
        undo_run,
        steps: steps.collect(),
        programs: programs.collect(),
        unread: unread.collect(),
        unanswered: Vec::new(),
        batch: u32::try_from(set.batch).unwrap_or(u32::MAX),
        canary: u32::try_from(set.canary).unwrap_or(u32::MAX),
        promote: set.promote,
    }
}
