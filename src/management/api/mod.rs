//! Owns the public API's routes and how a handler reaches the state. Must not decide anything.

mod binaries;
mod components;
mod nodes;
mod programs;
mod releases;
mod ripples;
mod session_keys;
mod sessions;

use actix::{Addr, MailboxError};
use actix_web::web::{self, Data, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::control::Control;
use super::list_actor::{ListActor, Look, With};
use super::sessions::Sessions;
use crate::domain::names::ProgramName;
use crate::link::answer::payload_config;
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::programs::binaries::Binaries;
use crate::programs::shelf::Shelf;
use crate::wire::api::path;
use crate::wire::envelope::MESSAGES_PATH;
use crate::wire::page::Page;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{DATA_BYTES_MAX, DATA_PATH};

/// Items of a list's page, unless asked otherwise.
const PAGE: usize = 100;

/// What handlers work with.
#[derive(Clone)]
pub struct Desk {
    pub list: Addr<ListActor>,
    pub shelf: Shelf,
    /// neap's own.
    pub binaries: Binaries,
    pub client: Client,
    pub identity: Identity,
    /// Bytes of a release's archive.
    pub release_limit: u64,
    /// Items of a list's page, at the most.
    pub page_limit: usize,
    /// The master Session List.
    pub sessions: Sessions,
}

pub type Answer = Result<HttpResponse, Problem>;

impl Desk {
    /// Looks at the state.
    pub async fn look<R: Send + 'static>(
        &self,
        code: impl FnOnce(&Control) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        self.list.send(Look::new(code)).await.map_err(gone)
    }

    /// Changes the state; what it answers is saved before.
    pub async fn with<R: Send + 'static>(
        &self,
        code: impl FnOnce(&mut Control) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        self.list.send(With::new(code)).await.map_err(gone)?
    }

    /// Refuses a program that there is not.
    pub async fn known(&self, program: &ProgramName) -> Result<(), Problem> {
        let name = program.clone();
        match self.look(move |control| control.leader.list.programs.contains_key(&name)).await? {
            true => Ok(()),
            false => Err(Problem::new(Code::UnknownProgram, format!("there is no program \"{program}\""))
                .hint("`neap program ls` shows what there is")),
        }
    }
}

fn gone(_: MailboxError) -> Problem {
    Problem::new(Code::Unavailable, "management is stopping").hint("ask again when it is up")
}

/// Where a list's page begins and how long it is.
#[derive(Deserialize)]
pub struct Paging {
    cursor: Option<String>,
    limit: Option<usize>,
    pub program: Option<ProgramName>,
}

impl Paging {
    pub fn cut<T>(&self, most: usize, all: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        Page::cut(all, self.cursor.as_deref(), self.limit.unwrap_or(PAGE).clamp(1, most.max(1)), key)
    }
}

/// Reads a name out of a path.
pub fn name<T>(given: &str, unknown: Code) -> Result<T, Problem>
where
    T: std::str::FromStr<Err = crate::domain::names::BadName>,
{
    given.parse().map_err(|error: crate::domain::names::BadName| Problem::new(unknown, error.to_string()))
}

/// Whoever asked, as far as it says.
pub fn asked_by(request: &HttpRequest) -> Option<String> {
    let header = request.headers().get("user-agent")?.to_str().ok()?;
    Some(header.chars().take(80).collect())
}

async fn healthy() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

async fn ready(desk: Data<Desk>) -> Answer {
    let led = desk.look(|control| control.leader.stepped_down.clone()).await?;
    match led {
        None => Ok(HttpResponse::Ok().body("ready\n")),
        Some(term) => Err(Problem::new(Code::NotLeader, format!("a higher term leads: {term}"))),
    }
}

async fn events(desk: Data<Desk>, paging: Query<Paging>) -> Answer {
    let events = desk.look(|control| control.events.iter().rev().cloned().collect::<Vec<_>>()).await?;
    Ok(HttpResponse::Ok().json(paging.cut(desk.page_limit, events, |event| event.id.clone())))
}

async fn status(desk: Data<Desk>) -> Answer {
    Ok(HttpResponse::Ok().json(desk.look(super::views::status).await?))
}

/// Every route of management's listener.
pub fn routes(config: &mut ServiceConfig) {
    config
        .route("/healthz", web::get().to(healthy))
        .route("/readyz", web::get().to(ready))
        .route("/metrics", web::get().to(super::metrics::metrics))
        .route(MESSAGES_PATH, web::post().to(nodes::message))
        .route(path::STATUS, web::get().to(status))
        .route(path::EVENTS, web::get().to(events))
        .route(path::NODES, web::get().to(nodes::list))
        .route(path::NODE, web::get().to(nodes::show))
        .route(path::NODE_DRAIN, web::post().to(nodes::drain))
        .route(path::NODE_RESUME, web::post().to(nodes::resume))
        .route(path::COMPONENTS, web::get().to(components::list))
        .route(path::COMPONENT_SCAN, web::post().to(components::scan))
        .route(path::COMPONENT_UPGRADE, web::post().to(components::upgrade))
        .route(path::COMPONENT, web::get().to(components::show))
        .route(path::SESSION_KEYS_ROLL, web::post().to(session_keys::roll))
        .route(path::SESSIONS, web::get().to(sessions::list))
        .route(path::SESSION, web::get().to(sessions::show))
        .route(path::SESSION, web::delete().to(sessions::end))
        .service(
            web::resource(DATA_PATH)
                .app_data(payload_config(DATA_BYTES_MAX))
                .route(web::get().to(sessions::data))
                .route(web::put().to(sessions::put_data))
                .route(web::delete().to(sessions::delete_data)),
        )
        .route(path::BINARIES, web::post().to(binaries::push))
        .route(path::BINARY, web::get().to(binaries::fetch))
        .route(path::BINARY_UPGRADE, web::post().to(binaries::upgrade))
        .route(path::ROUTE_TEST, web::get().to(nodes::route_test))
        .route(path::PROGRAMS, web::get().to(programs::list))
        .route(path::PROGRAM, web::get().to(programs::show))
        .route(path::PROGRAM, web::delete().to(programs::remove))
        .route(path::PROGRAM_REQUESTS, web::get().to(programs::requests))
        .route(path::PROGRAM_LOGS, web::get().to(programs::logs))
        .route(path::PROGRAM_RESTART, web::post().to(programs::restart))
        .route(path::RELEASES, web::get().to(releases::list))
        .route(path::RELEASES, web::post().to(releases::push))
        .route(path::RELEASE, web::delete().to(releases::remove))
        .route("/api/v1/releases/{program}/{sha256}/archive", web::get().to(releases::archive))
        .route(path::RIPPLES, web::get().to(ripples::list))
        .route(path::RIPPLES, web::post().to(ripples::start))
        .route(path::RIPPLE, web::get().to(ripples::show))
        .route(path::RIPPLE_RECEIPT, web::get().to(ripples::receipt))
        .route(path::RIPPLE_ACTION, web::post().to(ripples::act));
}
