//! Owns what people ask of servers: to leave service, and to come back. From a request to a decision, or to the problem
//! with its cure. Must not know HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use super::asks::leads;
use super::control::{About, Control};
use super::ripple_view;
use crate::domain::leader::Drain;
use crate::domain::names::{NodeName, OperationId, ProgramName, RippleId, ServerName};
use crate::domain::placement::State;
use crate::domain::program::MinServing;
use crate::domain::ripple::wait::Wait;
use crate::wire::api::{self, DrainRequest};
use crate::wire::messages::NodeRole;
use crate::wire::problem::{Code, Problem};

/// Takes a server out of service, or says which programs would miss it. Of one that is out already, nothing changes.
pub fn drain(
    control: &mut Control,
    server: &ServerName,
    request: &DrainRequest,
    asked_by: Option<String>,
) -> Result<(), Problem> {
    leads(control)?;
    is_server(control, server)?;
    if control.leader.is_drained(server) {
        return Ok(());
    }
    let number = control.leader.mint.operation();
    let operation = number.and_then(|number| OperationId::new(format!("drain-{number}")).ok());
    let operation = operation.ok_or_else(|| Problem::new(Code::Internal, "no name for the operation"))?;
    let drain = Drain { asked_by, ..Drain::new(operation, margins(control), request.force) };
    let short = control.leader.short_without(server, &drain);
    if !short.is_empty() {
        let said: Vec<String> = short
            .iter()
            .map(|(program, serving, least)| format!("{program}: {serving} serving, and {least} have to stay"))
            .collect();
        return Err(Problem::new(
            Code::MinServing,
            format!("draining {server} would leave too few servers: {}", said.join("; ")),
        )
        .hint("add a server first; or `neap node drain --force`, which closes these gates all the same"));
    }
    control.leader.drain(server.clone(), drain);
    let message = format!("{server} is drained, until somebody resumes it");
    control.event("node_drain", message, About { node: Some(server), ..About::default() });
    Ok(())
}

/// Has a drained server serve again. Of one that serves, nothing changes.
pub fn resume(control: &mut Control, server: &ServerName) -> Result<(), Problem> {
    leads(control)?;
    is_server(control, server)?;
    if control.leader.resume(server) {
        let message = format!("{server} is to serve again");
        control.event("node_resume", message, About { node: Some(server), ..About::default() });
    }
    Ok(())
}

fn is_server(control: &Control, server: &ServerName) -> Result<(), Problem> {
    let known = |role: NodeRole| control.nodes.contains_key(&(role, server.clone()));
    if known(NodeRole::AppServer) {
        return Ok(());
    }
    if known(NodeRole::Router) || known(NodeRole::Management) {
        return Err(Problem::new(Code::BadRequest, format!("{server} is no app-server: it has no gates to close"))
            .hint("`neap node ls` shows the roles"));
    }
    Err(Problem::new(Code::UnknownNode, format!("there is no node {server}"))
        .hint("`neap node ls` shows what there is"))
}

/// What has to go on serving elsewhere, by each program's own manifest.
pub(super) fn margins(control: &Control) -> BTreeMap<ProgramName, usize> {
    let programs = control.leader.list.programs.keys();
    let margin = |program: &ProgramName| {
        let rule = control.manifest(program).map(|manifest| &manifest.upgrade)?;
        let serving = control.leader.list.serving(program).count();
        Some(match rule.min_serving {
            MinServing::AtLeast(least) => least as usize,
            MinServing::Auto if rule.hold > Duration::ZERO => 0,
            MinServing::Auto => serving.saturating_sub(1).max(1),
        })
    };
    programs.filter_map(|program| Some((program.clone(), margin(program)?))).collect()
}

/// How far a drain is; `None`: the server is in service.
pub fn view(control: &Control, server: &NodeName) -> Option<api::DrainView> {
    let drain = control.leader.drains.get(server)?;
    let here = control.leader.list.cells.keys().filter_map(|program| {
        let seen = control.leader.list.observed(program, server)?;
        (!matches!(seen.state, State::Absent | State::Failed)).then_some((program, seen))
    });
    let here: Vec<_> = here.collect();
    let programs = here.iter().map(|(program, seen)| api::DrainingProgram {
        program: (*program).clone(),
        state: super::views::state(seen.state),
        active_requests: seen.active,
        drained: seen.is_drained(),
    });
    let wait = drain.wait.as_ref().map(|(program, reason)| {
        let wait = Wait { server: Some(server.clone()), reason: reason.clone().of(program), until: None };
        let id = RippleId::new("none").expect("a word is a ripple id");
        api::WaitingFor { command: None, ..ripple_view::waiting(control, &id, &wait) }
    });
    Some(api::DrainView {
        drained: !drain.resumed && here.iter().all(|(_, seen)| seen.is_drained()),
        resumed: drain.resumed,
        asked_by: drain.asked_by.clone(),
        programs: programs.collect(),
        waiting_for: wait,
    })
}
