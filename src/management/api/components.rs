//! Owns the routes about components. Must not know how anything is found out.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query};
use serde::Deserialize;

use super::nodes::ask_servers;
use super::{Answer, Desk, Paging, gone};
use crate::management::component_views;
use crate::management::components::Scanned;
use crate::wire::api;
use crate::wire::messages::{ToServer, ToldComponents};

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

/// Has every server that is up look again, and answers once what it found is kept.
pub async fn scan(desk: Data<Desk>) -> Answer {
    let message = ToServer::Components { have: BTreeMap::new(), scan: true };
    let (heard, unanswered) = ask_servers::<ToldComponents>(&desk, message, None).await?;
    let mut servers = Vec::new();
    for (server, told) in heard {
        desk.list.send(Scanned { server: server.clone(), told }).await.map_err(gone)??;
        servers.push(desk.look(move |control| component_views::scanned(&control.components, &server)).await?);
    }
    Ok(HttpResponse::Ok().json(api::ScanView { servers, unanswered }))
}
