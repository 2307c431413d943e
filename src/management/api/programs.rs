//! Owns the routes about programs. Must not know how a ripple is planned.

use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::nodes::ask_servers;
use super::ripples::accepted;
use super::{Answer, Desk, Paging, asked_by, name};
use crate::domain::names::{ProgramName, ServerName};
use crate::management::{asks, views};
use crate::wire::api::{self, RestartRequest};
use crate::wire::messages::{ActiveRequest, Lines, ToServer};
use crate::wire::problem::{Code, Problem};

/// Lines of each server's log that are shown, unless asked otherwise; and at the most.
const LINES: usize = 100;
const LINES_MOST: usize = 1_000;

pub async fn list(desk: Data<Desk>, paging: Query<Paging>) -> Answer {
    let programs = desk
        .look(|control| {
            let names = control.leader.list.programs.keys();
            names.filter_map(|name| views::program(control, name)).collect::<Vec<_>>()
        })
        .await?;
    Ok(HttpResponse::Ok().json(paging.cut(desk.page_limit, programs, |program| program.name.to_string())))
}

pub async fn show(desk: Data<Desk>, program: Path<String>) -> Answer {
    let program: ProgramName = name(&program, Code::UnknownProgram)?;
    Ok(HttpResponse::Ok().json(find(&desk, &program).await?))
}

async fn find(desk: &Desk, program: &ProgramName) -> Result<api::ProgramView, Problem> {
    let wanted = program.clone();
    let view = desk.look(move |control| views::program(control, &wanted)).await?;
    view.ok_or_else(|| {
        Problem::new(Code::UnknownProgram, format!("there is no program named {program}"))
            .hint("`neap program ls` shows what there is")
    })
}

pub async fn remove(desk: Data<Desk>, program: Path<String>, request: HttpRequest) -> Answer {
    let program: ProgramName = name(&program, Code::UnknownProgram)?;
    let asked_by = asked_by(&request);
    let id = desk.with(move |control| asks::remove(control, &program, asked_by)).await??;
    accepted(&desk, id).await
}

pub async fn restart(
    desk: Data<Desk>,
    program: Path<String>,
    body: Option<Json<RestartRequest>>,
    request: HttpRequest,
) -> Answer {
    let program: ProgramName = name(&program, Code::UnknownProgram)?;
    let options = body.map(|body| body.into_inner().options).unwrap_or_default();
    let asked_by = asked_by(&request);
    let id = desk.with(move |control| asks::restart(control, &program, &options, asked_by)).await??;
    accepted(&desk, id).await
}

pub async fn requests(desk: Data<Desk>, program: Path<String>) -> Answer {
    let program: ProgramName = name(&program, Code::UnknownProgram)?;
    find(&desk, &program).await?;
    let (heard, unanswered) = ask_servers::<Vec<ActiveRequest>>(&desk, ToServer::Requests { program }, None).await?;
    let requests = heard.into_iter().flat_map(|(_, requests)| requests);
    let mut items: Vec<api::ActiveRequest> = requests
        .map(|request| api::ActiveRequest {
            id: request.request_id,
            method: request.method,
            path: request.path,
            server: request.server,
            age_ms: request.age_ms,
        })
        .collect();
    items.sort_by_key(|request| std::cmp::Reverse(request.age_ms));
    Ok(HttpResponse::Ok().json(api::ActiveRequests { items, next: None, unanswered }))
}

#[derive(Deserialize)]
pub struct Wanted {
    server: Option<ServerName>,
    lines: Option<usize>,
}

pub async fn logs(desk: Data<Desk>, program: Path<String>, wanted: Query<Wanted>) -> Answer {
    let program: ProgramName = name(&program, Code::UnknownProgram)?;
    let view = find(&desk, &program).await?;
    let lines = wanted.lines.unwrap_or(LINES).clamp(1, LINES_MOST);
    let message = ToServer::Logs { program, lines };
    let (heard, unanswered) = ask_servers::<Lines>(&desk, message, wanted.server.as_ref()).await?;
    let version = |server: &ServerName| {
        view.placements.iter().find(|placement| placement.server == *server).and_then(|found| found.version.clone())
    };
    let lines = heard.into_iter().flat_map(|(server, lines)| {
        let version = version(&server);
        let lines = lines.lines.into_iter();
        lines.map(move |line| api::LogLine { server: server.clone(), version: version.clone(), line })
    });
    Ok(HttpResponse::Ok().json(api::Logs { items: lines.collect(), next: None, unanswered }))
}
