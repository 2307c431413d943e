//! Owns the routes about components. Must not know how anything is found out.

use std::collections::BTreeMap;

use std::time::Duration;

use actix_web::web::{Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::nodes::ask_servers;
use super::ripples::{self, Started};
use super::{Answer, Desk, Paging, asked_by, gone};
use crate::domain::names::ServerName;
use crate::management::components::Scanned;
use crate::management::{component_views, set_asks, set_views};
use crate::wire::api;
use crate::wire::messages::{ToServer, ToldComponents};
use crate::wire::problem::Problem;

#[derive(Deserialize)]
pub struct Wanted {
    #[serde(default)]
    stale: bool,
}

pub async fn list(desk: Data<Desk>, wanted: Query<Wanted>, paging: Query<Paging>) -> Answer {
    let stale = wanted.stale;
    let all = desk.look(move |control| {
        let all = component_views::components(&control.components);
        all.into_iter().filter(|one| !stale || !one.stale.is_empty()).collect::<Vec<_>>()
    });
    Ok(HttpResponse::Ok().json(paging.cut(desk.page_limit, all.await?, |one| one.name.to_string())))
}

pub async fn show(desk: Data<Desk>, component: Path<String>) -> Answer {
    let word = component.into_inner();
    let view = desk.look(move |control| component_views::component(&control.components, &word)).await??;
    Ok(HttpResponse::Ok().json(view))
}

/// How long servers may take to look again before a plan is made of what is known.
const SCAN_WITHIN: Duration = Duration::from_secs(10);

/// Has every server that is up look again, and answers once what it found is kept.
pub async fn scan(desk: Data<Desk>) -> Answer {
    let (heard, unanswered) = look_again(&desk).await?;
    let mut servers = Vec::new();
    for server in heard {
        servers.push(desk.look(move |control| component_views::scanned(&control.components, &server)).await?);
    }
    Ok(HttpResponse::Ok().json(api::ScanView { servers, unanswered }))
}

/// Those that have looked again, and those that did not answer.
async fn look_again(desk: &Desk) -> Result<(Vec<ServerName>, Vec<ServerName>), Problem> {
    let message = ToServer::Components { have: BTreeMap::new(), scan: true };
    let (heard, unanswered) = ask_servers::<ToldComponents>(desk, message, None).await?;
    let mut servers = Vec::new();
    for (server, told) in heard {
        desk.list.send(Scanned { server: server.clone(), told }).await.map_err(gone)??;
        servers.push(server);
    }
    Ok((servers, unanswered))
}

/// Plans the upgrade of a component, or starts it: by what its users are now.
pub async fn upgrade(
    desk: Data<Desk>,
    component: Path<String>,
    started: Query<Started>,
    body: Json<api::ComponentUpgradeRequest>,
    request: HttpRequest,
) -> Answer {
    let (word, ask) = (component.into_inner(), body.into_inner());
    // Who asked for a plan by its id has seen it made of what was known then.
    let unanswered = match &ask.plan {
        Some(_) => Vec::new(),
        None => match actix_rt::time::timeout(SCAN_WITHIN, look_again(&desk)).await {
            Ok(looked) => looked?.1,
            Err(_) => desk.look(super::nodes::names).await?,
        },
    };
    if started.dry_run {
        let plan = desk.look(move |control| {
            let planned = set_asks::plan(control, &word, &ask)?;
            let id = set_asks::plan_id(control, &planned);
            Ok::<_, Problem>(set_views::plan(control, &planned, id))
        });
        let plan = plan.await??;
        return Ok(HttpResponse::Ok().json(api::ComponentPlanView { unanswered, ..plan }));
    }
    let asked_by = asked_by(&request);
    let id = desk.with(move |control| set_asks::start(control, &word, &ask, asked_by)).await??;
    ripples::accepted(&desk, id).await
}
