//! Owns the routes about ripples. Must not know how one is planned or driven.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::nodes::ask_servers;
use super::{Answer, Desk, Paging, asked_by, name};
use crate::domain::figures::floor_micros;
use crate::domain::names::{ProgramName, RippleId, Version};
use crate::domain::ripple::Asked;
use crate::management::asks::{self, Planned, Undo};
use crate::management::control::Control;
use crate::management::records::ReleaseRecord;
use crate::management::session_asks;
use crate::management::{node_asks, node_views, receipt, ripple_view, set_asks, set_views, views};
use crate::wire::api::{PlanView, Receipt, RippleKind, RippleState, RippleView, UpgradeRequest, path};
use crate::wire::messages::{ToServer, VersionFigures};
use crate::wire::problem::{Code, Problem};

pub fn location(id: &RippleId) -> String {
    path::RIPPLE.replace("{id}", id.as_str())
}

/// 202, and where to look.
pub async fn accepted(desk: &Desk, id: RippleId) -> Answer {
    let view = view(desk, id.clone()).await?;
    Ok(HttpResponse::Accepted().insert_header(("Location", location(&id))).json(view))
}

async fn view(desk: &Desk, id: RippleId) -> Result<RippleView, Problem> {
    desk.look(move |control| {
        if let Some(record) = control.node_ripples.records.get(&id) {
            return Ok(node_views::ripple(control, record, true));
        }
        if let Some(record) = control.sets.get(&id) {
            return Ok(set_views::set(control, record, true));
        }
        let record = control.ripples.get(&id).ok_or_else(|| asks::unknown(&id))?;
        Ok(ripple_view::ripple(control, record))
    })
    .await?
}

pub async fn list(desk: Data<Desk>, paging: Query<Paging>) -> Answer {
    let program = paging.program.clone();
    let mut ripples = desk
        .look(move |control| {
            let wanted =
                control.ripples.values().filter(|record| program.as_ref().is_none_or(|p| *p == record.plan.program));
            let view =
                |record| RippleView { events: Vec::new(), hooks: Vec::new(), ..ripple_view::ripple(control, record) };
            let sets = control.sets.values().filter(|_| program.is_none());
            let nodes = control.node_ripples.records.values().filter(|_| program.is_none());
            let nodes = nodes.map(|record| node_views::ripple(control, record, false));
            let sets = sets.map(|record| set_views::set(control, record, false));
            wanted.map(view).chain(sets).chain(nodes).collect::<Vec<_>>()
        })
        .await?;
    ripples.sort_by_key(|ripple| std::cmp::Reverse(ripple.started_at));
    Ok(HttpResponse::Ok().json(paging.cut(desk.page_limit, ripples, |ripple| ripple.id.to_string())))
}

#[derive(Deserialize)]
pub struct Started {
    #[serde(default)]
    pub dry_run: bool,
}

pub async fn start(
    desk: Data<Desk>,
    started: Query<Started>,
    body: Json<UpgradeRequest>,
    request: HttpRequest,
) -> Answer {
    let ask = body.into_inner();
    if started.dry_run {
        let mut plan = desk.look(move |control| dry_run(control, &ask)).await??;
        expect_drains(&desk, &mut plan).await;
        expect_sessions(&desk, &mut plan).await?;
        return Ok(HttpResponse::Ok().json(plan));
    }
    let asked_by = asked_by(&request);
    let planned = desk
        .with(move |control| asks::upgrade(control, &ask.program, &ask.to, &ask.options, asked_by, ask.plan.as_deref()))
        .await??;
    match planned {
        Planned::Ripple(id) => accepted(&desk, id).await,
        Planned::NothingToDo(program, version) => Ok(HttpResponse::Ok().json(nothing_to_do(program, version))),
    }
}

/// How long a plan may wait for servers to tell what their requests take.
const MEASURE_WITHIN: Duration = Duration::from_secs(1);

/// Says of each step how long its drain may take. What is not told in time is left open.
async fn expect_drains(desk: &Desk, plan: &mut PlanView) {
    let message = ToServer::Measure { program: plan.program.clone() };
    let asked = ask_servers::<Vec<VersionFigures>>(desk, message, None);
    let Ok(Ok((heard, _))) = actix_rt::time::timeout(MEASURE_WITHIN, asked).await else { return };
    for step in &mut plan.steps {
        let told = heard.iter().filter(|(server, _)| *server == step.server).flat_map(|(_, versions)| versions);
        let mut of_version = told.filter(|told| Some(&told.version) == step.from.as_ref());
        let slowest = of_version.find_map(|told| told.figures.quantile(990));
        step.expected_drain_ms = slowest.map(|bucket| floor_micros(bucket.saturating_add(1)).div_ceil(1_000));
    }
}

/// Says of each step how many sessions its drain lets end, and how long that may take.
async fn expect_sessions(desk: &Desk, plan: &mut PlanView) -> Result<(), Problem> {
    let program = plan.program.clone();
    let deadlines: BTreeMap<Version, u64> = desk
        .look(move |control| {
            let releases = control.releases.get(&program).into_iter().flatten();
            let deadline = |record: &ReleaseRecord| Some(record.manifest.sticky()?.deadline.as_millis() as u64);
            releases.filter_map(|(version, record)| Some((version.clone(), deadline(record)?))).collect()
        })
        .await?;
    if deadlines.is_empty() {
        return Ok(());
    }
    let (sessions, program) = (desk.sessions.clone(), plan.program.clone());
    let figures = web::block(move || sessions.figures(&program)).await;
    let figures = figures.map_err(|_| Problem::new(Code::Unavailable, "management is stopping"))?;
    for step in &mut plan.steps {
        let deadline = step.from.as_ref().and_then(|from| deadlines.get(from));
        let (Some(deadline), Some(figures)) = (deadline, figures.get(&step.server)) else { continue };
        step.sessions = figures.left;
        step.expected_drain_ms = figures.drain_ms(step.expected_drain_ms, *deadline);
    }
    Ok(())
}

fn dry_run(control: &Control, ask: &UpgradeRequest) -> Result<PlanView, Problem> {
    let view = dry_run_of_program(control, ask)?;
    match set_asks::plan_server(control, &ask.program, &ask.to, &ask.options) {
        Ok(Some(planned)) => Ok(PlanView {
            id: set_asks::plan_id(control, &planned),
            aside: planned.parts.iter().skip(1).map(|part| part.program.clone()).collect(),
            ..view
        }),
        Ok(None) => Ok(view),
        Err(problem) if problem.code == Code::NothingToDo => Ok(view),
        Err(problem) => Err(problem),
    }
}

fn dry_run_of_program(control: &Control, ask: &UpgradeRequest) -> Result<PlanView, Problem> {
    let hold_ms = ask.options.hold_ms.unwrap_or_else(|| {
        let release = control.releases.get(&ask.program).and_then(|all| all.get(&ask.to));
        release.map_or(0, |record| record.manifest.upgrade.hold.as_millis() as u64)
    });
    match asks::plan_upgrade(control, &ask.program, &ask.to, &ask.options) {
        Ok(plan) => Ok(views::plan(control, &plan, hold_ms, &ask.to)),
        Err(problem) if problem.code == Code::NothingToDo => Ok(PlanView {
            id: asks::NO_PLAN.to_owned(),
            program: ask.program.clone(),
            kind: RippleKind::Upgrade,
            from: Some(ask.to.clone()),
            to: ask.to.clone(),
            revision: control.leader.mint.revision.0,
            steps: Vec::new(),
            skipped: Vec::new(),
            strategy: Default::default(),
            batch: 1,
            canary: 0,
            promote: Default::default(),
            min_serving: 0,
            hold_ms,
            drain_timeout_ms: 0,
            soak_ms: 0,
            force: false,
            aside: Vec::new(),
        }),
        Err(problem) => Err(problem),
    }
}

fn nothing_to_do(program: ProgramName, version: Version) -> RippleView {
    let reason = format!("nothing to do: {program} {version} runs everywhere already");
    nothing_done(Some(program), RippleKind::Upgrade, RippleState::Upgraded, Some(version), reason)
}

/// A ripple that had nothing to do, and never was.
fn nothing_done(
    program: Option<ProgramName>,
    kind: RippleKind,
    state: RippleState,
    to: Option<Version>,
    reason: String,
) -> RippleView {
    let now = jiff::Timestamp::now();
    RippleView {
        id: RippleId::new("none").expect("a word is a ripple id"),
        program,
        component: None,
        part_of: None,
        kind,
        from: to.clone(),
        to,
        state,
        undoes: None,
        undone_by: None,
        waiting_for: None,
        next: None,
        steps: Vec::new(),
        hooks: Vec::new(),
        events: Vec::new(),
        reason: Some(reason),
        failure: None,
        asked_by: None,
        started_at: now,
        ended_at: Some(now),
        parts: Vec::new(),
    }
}

pub async fn show(desk: Data<Desk>, id: Path<String>) -> Answer {
    let id: RippleId = name(&id, Code::UnknownRipple)?;
    Ok(HttpResponse::Ok().json(view(&desk, id).await?))
}

pub async fn receipt(desk: Data<Desk>, id: Path<String>) -> Answer {
    let id: RippleId = name(&id, Code::UnknownRipple)?;
    let found = desk
        .look(move |control| {
            if node_asks::is_one(control, &id) {
                return Err(Problem::new(
                    Code::NotFound,
                    format!("ripple {id} has a receipt for each program that left service with its servers"),
                )
                .hint(format!("`neap ripple show {id}` names them, and tells of each node how long it took")));
            }
            if let Some(record) = control.sets.get(&id) {
                let parts: Vec<&str> = record.set.plan.parts.iter().map(RippleId::as_str).collect();
                return Err(Problem::new(
                    Code::NotFound,
                    format!("ripple {id} has a receipt for each of its programs"),
                )
                .hint(format!("`neap ripple receipt` of {}", parts.join(", "))));
            }
            let record = control.ripples.get(&id).ok_or_else(|| asks::unknown(&id))?;
            let provisional = || Receipt { ended_at: None, ..receipt::make(record, &[], 0) };
            Ok(record.receipt.clone().unwrap_or_else(provisional))
        })
        .await?;
    let receipt: Result<_, Problem> = found;
    Ok(HttpResponse::Ok().json(receipt?))
}

async fn undo(desk: &Desk, id: RippleId, asked_by: Option<String>) -> Answer {
    let undone = id.clone();
    let undo = move |control: &mut Control| match node_asks::undo(control, &undone, asked_by.clone()) {
        Some(undo) => undo.map(Undo::Ripple),
        None => asks::undo(control, &undone, asked_by),
    };
    match desk.with(undo).await?? {
        Undo::Ripple(undo) => accepted(desk, undo).await,
        Undo::Nothing(program, to) => {
            let reason = format!("nothing to undo: ripple {id} has changed nothing that is not back already");
            let nothing = nothing_done(Some(program), RippleKind::Undo, RippleState::Undone, to, reason);
            Ok(HttpResponse::Ok().json(nothing))
        }
        Undo::NothingOfSet(set) => {
            let running = view(desk, set.clone()).await?;
            if !running.state.ended() {
                return Ok(HttpResponse::Accepted().insert_header(("Location", location(&set))).json(running));
            }
            let reason = format!("nothing to undo: ripple {set} has changed nothing");
            let nothing = nothing_done(None, RippleKind::Undo, RippleState::Undone, None, reason);
            Ok(HttpResponse::Ok().json(nothing))
        }
    }
}

pub async fn act(desk: Data<Desk>, at: Path<(String, String)>, request: HttpRequest) -> Answer {
    let (id, action) = at.into_inner();
    let id: RippleId = name(&id, Code::UnknownRipple)?;
    let (ripple, looked) = (id.clone(), id.clone());
    let of_nodes = desk.look(move |control| node_asks::is_one(control, &looked)).await?;
    let asked = match action.as_str() {
        "promote" | "migrate" if of_nodes => {
            return Err(Problem::new(
                Code::NothingToPromote,
                format!("ripple {id} is of the nodes' binary: it has no canaries"),
            )
            .hint(format!("`neap ripple show {id}` tells what it waits for")));
        }
        "undo" => return undo(&desk, id, asked_by(&request)).await,
        "promote" => {
            let asked_by = asked_by(&request);
            desk.with(move |control| asks::promote(control, &ripple, asked_by)).await??;
            return accepted(&desk, id).await;
        }
        "migrate" => {
            let asked_by = asked_by(&request);
            desk.with(move |control| session_asks::migrate(control, &ripple, asked_by)).await??;
            return accepted(&desk, id).await;
        }
        "abort" => Asked::Abort,
        "pause" => Asked::Pause,
        "resume" => Asked::Nothing,
        other => {
            return Err(Problem::new(Code::NotBuiltYet, format!("a ripple cannot be asked to {other}"))
                .hint("it can abort, pause, resume, promote, migrate and undo"));
        }
    };
    let asked_by = asked_by(&request);
    let ask = move |control: &mut Control| match node_asks::ask(control, &ripple, asked, asked_by.as_deref()) {
        Some(asked) => asked,
        None => asks::ask(control, &ripple, asked, asked_by),
    };
    desk.with(ask).await??;
    accepted(&desk, id).await
}
