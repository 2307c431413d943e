//! Owns the routes about nodes: their messages, what they are, and which of them a URL would reach.
//! Must not know what a message leads to.

use actix_web::web::{Bytes, Data, Json, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Answer, Desk, Paging, asked_by, gone, name, sessions};
use crate::domain::names::{NodeName, ServerName};
use crate::management::control::Control;
use crate::management::nodes::FromNode;
use crate::management::{drain_asks, views};
use crate::wire::api;
use crate::wire::envelope::Envelope;
use crate::wire::messages::{NodeRole, RouteExplained, ToManagement, ToRouter, ToServer};
use crate::wire::problem::{Code, Problem};

pub async fn message(desk: Data<Desk>, body: Bytes) -> Answer {
    let envelope = match sessions::message(&desk, Envelope::<ToManagement>::parse(&body)?) {
        Ok(answered) => return Ok(answered),
        Err(other) => other,
    };
    Ok(HttpResponse::Ok().json(desk.list.send(FromNode(*envelope)).await.map_err(gone)??))
}

pub async fn list(desk: Data<Desk>, paging: Query<Paging>) -> Answer {
    let nodes = desk.look(views::nodes).await?;
    Ok(HttpResponse::Ok().json(paging.cut(desk.page_limit, nodes, |node| node.name.to_string())))
}

pub async fn show(desk: Data<Desk>, node: Path<String>) -> Answer {
    let node: NodeName = name(&node, Code::UnknownNode)?;
    let shown = node.clone();
    let view = desk.look(move |control| views::node(control, &node)).await?;
    let unknown = || {
        Problem::new(Code::UnknownNode, format!("there is no node {shown}")).hint("`neap node ls` shows what there is")
    };
    Ok(HttpResponse::Ok().json(view.ok_or_else(unknown)?))
}

pub async fn drain(
    desk: Data<Desk>,
    node: Path<String>,
    body: Json<api::DrainRequest>,
    request: HttpRequest,
) -> Answer {
    let node: NodeName = name(&node, Code::UnknownNode)?;
    let (server, asked_by, ask) = (node.clone(), asked_by(&request), body.into_inner());
    desk.with(move |control| drain_asks::drain(control, &server, &ask, asked_by)).await??;
    changed(&desk, node).await
}

pub async fn resume(desk: Data<Desk>, node: Path<String>) -> Answer {
    let node: NodeName = name(&node, Code::UnknownNode)?;
    let server = node.clone();
    desk.with(move |control| drain_asks::resume(control, &server)).await??;
    changed(&desk, node).await
}

async fn changed(desk: &Desk, node: NodeName) -> Answer {
    let view = desk.look(move |control| views::node(control, &node)).await?;
    Ok(HttpResponse::Accepted().json(view))
}

#[derive(Deserialize)]
pub struct Tested {
    url: String,
}

/// Asks a router, since it is the router that chooses.
pub async fn route_test(desk: Data<Desk>, tested: Query<Tested>) -> Answer {
    let routers = desk.look(|control| urls(control, NodeRole::Router)).await?;
    let no_router =
        || Problem::new(Code::Unavailable, "no router answers").hint("`neap node ls` shows the routers: is one up?");
    let (_, url) = routers.into_iter().next().ok_or_else(no_router)?;
    let explained: RouteExplained = ask(&desk, &url, ToRouter::Explain { url: tested.url.clone() }).await?;
    let url = tested.url.clone();
    Ok(HttpResponse::Ok().json(desk.look(move |control| route_view(control, url, explained)).await?))
}

fn route_view(control: &Control, url: String, explained: RouteExplained) -> api::RouteTest {
    let program = explained.program.clone();
    let path = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let path = path.find('/').map_or("/", |at| &path[at..]).to_owned();
    let candidates = explained.candidates.into_iter().map(|candidate| {
        let program = program.as_ref();
        let seen = program.and_then(|program| control.leader.list.observed(program, &candidate.server));
        api::Candidate {
            chosen: explained.chosen.as_ref() == Some(&candidate.server),
            version: seen.and_then(|seen| seen.release.as_ref()).map(|release| release.version.clone()),
            state: seen.map_or(api::PlacementState::Absent, |seen| views::state(seen.state)),
            active_requests: candidate.active,
            why: candidate.why,
            server: candidate.server,
        }
    });
    let candidates = candidates.collect();
    api::RouteTest { url, rule: explained.rule, path: program.as_ref().map(|_| path), program, candidates }
}

/// The nodes of a role that are up, with where their messages go.
pub fn urls(control: &Control, role: NodeRole) -> Vec<(NodeName, String)> {
    let nodes = control.nodes.iter().filter(|((other, _), node)| *other == role && node.up);
    nodes.map(|((_, name), node)| (name.clone(), node.messages_url())).collect()
}

/// The servers that are up.
pub fn names(control: &Control) -> Vec<ServerName> {
    urls(control, NodeRole::AppServer).into_iter().map(|(name, _)| name).collect()
}

/// Asks one node something.
pub async fn ask<B: serde::Serialize, R: DeserializeOwned>(desk: &Desk, url: &str, body: B) -> Result<R, Problem> {
    let envelope = desk.identity.envelope(None, body);
    let body = serde_json::to_vec(&envelope).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    desk.client.post(url, body).await.map_err(|error| error.problem())?.json()
}

/// Asks every server that is up the same; those that did not answer are named.
pub async fn ask_servers<R: DeserializeOwned>(
    desk: &Desk,
    message: ToServer,
    only: Option<&ServerName>,
) -> Result<(Vec<(ServerName, R)>, Vec<ServerName>), Problem> {
    let servers = desk.look(|control| urls(control, NodeRole::AppServer)).await?;
    let asked = servers.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name));
    let answers = join_all(asked.map(|(name, url)| {
        let message = message.clone();
        async move { (name, ask::<_, R>(desk, &url, message).await) }
    }));
    let (mut heard, mut silent) = (Vec::new(), Vec::new());
    for (name, answer) in answers.await {
        match answer {
            Ok(answer) => heard.push((name, answer)),
            Err(_) => silent.push(name),
        }
    }
    Ok((heard, silent))
}
