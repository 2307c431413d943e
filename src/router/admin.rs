//! Owns the router's control listener: management's messages, readiness, health and metrics.
//! Must not know how requests are routed: it asks the actor, the snapshot and the ledger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use actix::Addr;
use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Serialize;
use tokio::sync::oneshot;

use super::actor::{ListActor, Take};
use super::explain::explain;
use super::metrics;
use super::shared::Shared;
use crate::link::answer::{not_found, payload_config};
use crate::link::guard::Guard;
use crate::programs::successor;
use crate::wire::envelope::{Envelope, MESSAGES_PATH};
use crate::wire::messages::ToRouter;
use crate::wire::problem::{Code, Problem};

/// Asked by outer load balancers, which do not know the cluster's key.
pub const READY_PATH: &str = "/.neap/ready";
const HEALTH_PATH: &str = "/healthz";
const METRICS_PATH: &str = "/metrics";
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections to the control listener at once.
const CONNECTIONS: usize = 256;

#[derive(Clone)]
struct Desk {
    shared: Arc<Shared>,
    actor: Addr<ListActor>,
}

/// Starts the control listener on this thread's runtime; the server must be spawned by the caller.
pub fn serve(
    listener: std::net::TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
    actor: Addr<ListActor>,
    message_size: usize,
) -> std::io::Result<Server> {
    let guard = Guard::new(addr, shared.rules.secret.clone()).open(READY_PATH).open(HEALTH_PATH);
    let desk = Desk { shared, actor };
    let app = move || {
        App::new()
            .app_data(web::Data::new(desk.clone()))
            .app_data(payload_config(message_size))
            .wrap(guard.clone())
            .route(MESSAGES_PATH, web::post().to(message))
            .route(READY_PATH, web::get().to(ready))
            .route(HEALTH_PATH, web::get().to(healthy))
            .route(METRICS_PATH, web::get().to(metrics))
            .default_service(web::to(not_found))
    };
    let server = HttpServer::new(app).workers(1).max_connections(CONNECTIONS).disable_signals();
    Ok(server.shutdown_timeout(1).listen(listener)?.run())
}

async fn message(desk: web::Data<Desk>, bytes: web::Bytes) -> Result<HttpResponse, Problem> {
    let envelope = Envelope::<ToRouter>::parse(&bytes)?;
    match envelope.body {
        ToRouter::ServerList(list) => {
            let (answer, heard) = oneshot::channel();
            let full = |_| Problem::new(Code::QueueFull, "this router takes no Server List now: send it again");
            desk.actor.try_send(Take { list, answer }).map_err(full)?;
            let gone = |_| Problem::new(Code::Unavailable, "this router is stopping");
            Ok(json(&heard.await.map_err(gone)?))
        }
        ToRouter::Ledger {} => Ok(json(&desk.shared.ledger.cut(desk.shared.rules.identity.run.clone()))),
        ToRouter::TakeBinary(order) => Ok(json(&successor::take(&order)?)),
        ToRouter::Explain { url } => Ok(json(&explain(&desk.shared.snapshot(), &url, Instant::now())?)),
    }
}

fn json(answer: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok().json(answer)
}

async fn ready(desk: web::Data<Desk>) -> Result<HttpResponse, Problem> {
    if desk.shared.is_ready() {
        return Ok(json(&serde_json::json!({ "ready": true })));
    }
    Err(Problem::new(Code::Unavailable, "this router has no Server List yet, or is stopping"))
}

async fn healthy() -> HttpResponse {
    json(&serde_json::json!({ "healthy": true }))
}

async fn metrics(desk: web::Data<Desk>) -> Result<HttpResponse, Problem> {
    let text = metrics::text(&desk.shared).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(HttpResponse::Ok().content_type(METRICS_TYPE).body(text))
}
