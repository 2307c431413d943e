//! Owns the control listener: management's messages, health and metrics over HTTP. Must not know what is decided.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actix_web::dev::ServerHandle;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::claims::Claims;
use super::keeping::data::SessionData;
use super::keeping::port;
use super::ledger::Ledger;
use super::metrics;
use super::server::{Ask, Server};
use super::session_lists::SessionLists;
use crate::domain::names::NodeName;
use crate::link::answer::{not_found, payload_config};
use crate::link::guard::Guard;
use crate::link::secret::Secret;
use crate::wire::envelope::{Envelope, MESSAGES_PATH};
use crate::wire::messages::ToServer;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::DATA_PATH;

/// How long an actor may take to answer; management asks again.
const ANSWER_WAIT: Duration = Duration::from_secs(8);
const WORKERS: usize = 1;
/// For messages under way when the node stops.
const SHUTDOWN_SECONDS: u64 = 2;
/// Connections to the control port; more wait in the kernel.
const CONNECTIONS: usize = 256;
const HEALTH_PATH: &str = "/healthz";
const METRICS_PATH: &str = "/metrics";

/// What the endpoints ask.
#[derive(Clone)]
pub struct Desk {
    pub server: Addr<Server>,
    pub claims: Arc<Claims>,
    pub ledger: Arc<Ledger>,
    pub name: NodeName,
    pub sessions: Arc<SessionLists>,
    pub session_data: SessionData,
}

/// Serves the control port until its handle stops it.
pub fn serve(
    listener: TcpListener,
    listen: SocketAddr,
    secret: Option<Secret>,
    message_size: usize,
    desk: Desk,
) -> std::io::Result<ServerHandle> {
    let guard = Guard::new(listen, secret).open(HEALTH_PATH);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(guard.clone())
            .app_data(web::Data::new(desk.clone()))
            .app_data(web::Data::new(desk.session_data.clone()))
            .app_data(payload_config(message_size))
            .route(MESSAGES_PATH, web::post().to(message))
            .route(DATA_PATH, web::get().to(port::for_peers))
            .route(HEALTH_PATH, web::get().to(healthz))
            .route(METRICS_PATH, web::get().to(metrics_page))
            .default_service(web::to(not_found))
    });
    let server = server
        .workers(WORKERS)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .max_connections(CONNECTIONS)
        .disable_signals()
        .listen(listener)?
        .run();
    let handle = server.handle();
    actix_rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the control port ended");
        }
    });
    Ok(handle)
}

async fn message(desk: web::Data<Desk>, body: web::Bytes) -> Result<HttpResponse, Problem> {
    let envelope = Envelope::<ToServer>::parse(&body)?;
    let (reply, told) = oneshot::channel();
    desk.server.try_send(Ask { message: envelope.body, reply }).map_err(|error| match error {
        actix::dev::SendError::Full(_) => Problem::new(Code::QueueFull, "this server has too many messages to look at"),
        actix::dev::SendError::Closed(_) => Problem::new(Code::Unavailable, "this server is stopping"),
    })?;
    let late =
        |_| Problem::new(Code::TimedOut, format!("no answer within {}", crate::domain::duration::show(ANSWER_WAIT)));
    let lost = |_| Problem::new(Code::Unavailable, "this server is stopping");
    let answer = timeout(ANSWER_WAIT, told).await.map_err(late)?.map_err(lost)??;
    Ok(HttpResponse::Ok().json(answer))
}

async fn healthz(desk: web::Data<Desk>) -> Result<HttpResponse, Problem> {
    if desk.server.connected() {
        return Ok(HttpResponse::Ok().body("ok\n"));
    }
    Err(Problem::new(Code::Unavailable, "this server is stopping"))
}

async fn metrics_page(desk: web::Data<Desk>) -> Result<HttpResponse, Problem> {
    let text = metrics::page(&desk.claims, &desk.ledger, &desk.sessions, &desk.name)
        .map_err(|error| Problem::new(Code::Internal, format!("the metrics cannot be written: {error}")))?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, metrics::CONTENT_TYPE)).body(text))
}
