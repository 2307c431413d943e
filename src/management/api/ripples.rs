//! Owns the routes about ripples. Must not know how one is planned or driven.

use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::{Answer, Desk, Paging, asked_by, name};
use crate::domain::names::{ProgramName, RippleId, Version};
use crate::domain::ripple::Asked;
use crate::management::asks::{self, Planned};
use crate::management::control::Control;
use crate::management::{receipt, ripple_view, views};
use crate::wire::api::{PlanView, Receipt, RippleKind, RippleState, RippleView, UpgradeRequest, path};
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
            wanted.map(|record| ripple_view::ripple(control, record)).collect::<Vec<_>>()
        })
        .await?;
    ripples.sort_by_key(|ripple| std::cmp::Reverse(ripple.started_at));
    Ok(HttpResponse::Ok().json(paging.cut(desk.page_limit, ripples, |ripple| ripple.id.to_string())))
}

#[derive(Deserialize)]
pub struct Started {
    #[serde(default)]
    dry_run: bool,
}

pub async fn start(
    desk: Data<Desk>,
    started: Query<Started>,
    body: Json<UpgradeRequest>,
    request: HttpRequest,
) -> Answer {
    let ask = body.into_inner();
    if started.dry_run {
        let plan = desk.look(move |control| dry_run(control, &ask)).await??;
        return Ok(HttpResponse::Ok().json(plan));
    }
    let asked_by = asked_by(&request);
    let planned = desk
        .with(move |control| {
            unchanged(control, &ask)?;
            asks::upgrade(control, &ask.program, &ask.to, &ask.options, asked_by)
        })
        .await??;
    match planned {
        Planned::Ripple(id) => accepted(&desk, id).await,
        Planned::NothingToDo(program, version) => Ok(HttpResponse::Ok().json(nothing_to_do(program, version))),
    }
}

/// A ripple that starts from a plan which was shown fails if the cluster has changed since.
fn unchanged(control: &Control, ask: &UpgradeRequest) -> Result<(), Problem> {
    let Some(plan) = &ask.plan else { return Ok(()) };
    let revision = control.leader.mint.revision.to_string();
    if plan.rsplit_once('-').is_some_and(|(_, planned)| planned == revision) {
        return Ok(());
    }
    Err(Problem::new(Code::PreconditionFailed, "the cluster has changed since the plan was made")
        .hint("look at the new plan: the same command with --plan"))
}

fn dry_run(control: &Control, ask: &UpgradeRequest) -> Result<PlanView, Problem> {
    let hold_ms = ask.options.hold_ms.unwrap_or_else(|| {
        let release = control.releases.get(&ask.program).and_then(|all| all.get(&ask.to));
        release.map_or(0, |record| record.manifest.upgrade.hold.as_millis() as u64)
    });
    match asks::plan_upgrade(control, &ask.program, &ask.to, &ask.options) {
        Ok(plan) => Ok(views::plan(control, &plan, hold_ms, &ask.to)),
        Err(problem) if problem.code == Code::NothingToDo => Ok(PlanView {
            id: format!("none-{}", control.leader.mint.revision),
            program: ask.program.clone(),
            kind: RippleKind::Upgrade,
            from: Some(ask.to.clone()),
            to: ask.to.clone(),
            revision: control.leader.mint.revision.0,
            steps: Vec::new(),
            skipped: Vec::new(),
            batch: 1,
            min_serving: 0,
            hold_ms,
            drain_timeout_ms: 0,
            soak_ms: 0,
            force: false,
        }),
        Err(problem) => Err(problem),
    }
}

fn nothing_to_do(program: ProgramName, version: Version) -> RippleView {
    let reason = format!("nothing to do: {program} {version} runs everywhere already");
    let now = jiff::Timestamp::now();
    RippleView {
        id: RippleId::new("none").expect("a word is a ripple id"),
        program,
        kind: RippleKind::Upgrade,
        from: Some(version.clone()),
        to: Some(version),
        state: RippleState::Upgraded,
        waiting_for: None,
        next: None,
        steps: Vec::new(),
        reason: Some(reason),
        failure: None,
        asked_by: None,
        started_at: now,
        ended_at: Some(now),
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
            let record = control.ripples.get(&id).ok_or_else(|| asks::unknown(&id))?;
            let provisional = || Receipt { ended_at: None, ..receipt::make(record, &[], 0) };
            Ok(record.receipt.clone().unwrap_or_else(provisional))
        })
        .await?;
    let receipt: Result<_, Problem> = found;
    Ok(HttpResponse::Ok().json(receipt?))
}

pub async fn act(desk: Data<Desk>, at: Path<(String, String)>) -> Answer {
    let (id, action) = at.into_inner();
    let id: RippleId = name(&id, Code::UnknownRipple)?;
    let asked = match action.as_str() {
        "abort" => Asked::Abort,
        "pause" => Asked::Pause,
        "resume" => Asked::Nothing,
        other => {
            return Err(Problem::new(Code::NotBuiltYet, format!("a ripple cannot be asked to {other}"))
                .hint("it can abort, pause and resume"));
        }
    };
    let ripple = id.clone();
    desk.with(move |control| asks::ask(control, &ripple, asked)).await??;
    accepted(&desk, id).await
}
