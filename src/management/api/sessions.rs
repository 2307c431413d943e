//! Owns the routes about sessions: leafed through, shown and ended by people; told of, taken and filled with data by
//! servers. Must not know how the master list is kept.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use actix_web::web::{Bytes, Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use serde::Deserialize;

use super::nodes::ask_servers;
use super::{Answer, Desk, PAGE};
use crate::domain::names::{BadName, ProgramName, ServerName, Version};
use crate::domain::session::{Place, SessionId, WallMillis};
use crate::domain::session_list::{self, Cursor, Session, Sort};
use crate::link::answer::removed;
use crate::management::component_views;
use crate::store::tagged::{Outcome, What};
use crate::wire::api::{SessionDataView, SessionView};
use crate::wire::envelope::Envelope;
use crate::wire::messages::{EndedSession, ToManagement, ToServer};
use crate::wire::page::Page;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Condition, DATA_WRITTEN, DataTag, Datum};

/// What a page is asked for with: a program, a component, or both.
#[derive(Deserialize)]
pub struct Asked {
    program: Option<ProgramName>,
    component: Option<String>,
    server: Option<ServerName>,
    version: Option<Version>,
    #[serde(default)]
    sort: Sort,
    cursor: Option<String>,
    limit: Option<usize>,
}

pub async fn list(desk: Data<Desk>, asked: Query<Asked>) -> Answer {
    let Asked { program, component, server, version, sort, cursor, limit } = asked.into_inner();
    let limit = limit.unwrap_or(PAGE).clamp(1, desk.page_limit.max(1));
    let after = cursor.as_deref().map(read_cursor).transpose()?;
    let whose = whose(&desk, program, component).await?;
    let mut sessions: Vec<(ProgramName, Session)> = Vec::new();
    for (program, servers) in whose {
        // Programs that the pages before were about.
        let begun = after.as_ref().and_then(|(begun, _)| begun.as_ref());
        if begun.is_some_and(|begun| program < *begun) {
            continue;
        }
        let is_begun = begun.is_none_or(|begun| program == *begun);
        let servers = match (&server, servers) {
            (Some(one), Some(servers)) => Some(servers.into_iter().filter(|server| server == one).collect()),
            (Some(one), None) => Some(BTreeSet::from([one.clone()])),
            (None, servers) => servers,
        };
        let after = after.as_ref().filter(|_| is_begun).map(|(_, after)| *after);
        // One more than is shown tells whether there is another page.
        let room = limit + 1 - sessions.len();
        let query = session_list::Query { servers, version: version.clone(), sort, after, limit: room };
        let found = desk.sessions.page(&program, &query).unwrap_or_default();
        sessions.extend(found.into_iter().map(|session| (program.clone(), session)));
        if sessions.len() > limit {
            break;
        }
    }
    let more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions.last().filter(|_| more).map(|(program, last)| write_cursor(program, sort.cursor(last)));
    let items = sessions.iter().map(|(program, session)| view(program, session, None)).collect();
    Ok(HttpResponse::Ok().json(Page { items, next }))
}

/// The programs whose sessions are asked for, and at which servers: where they use the component, as an upgrade of it
/// would quiesce them.
async fn whose(
    desk: &Desk,
    program: Option<ProgramName>,
    component: Option<String>,
) -> Result<BTreeMap<ProgramName, Option<BTreeSet<ServerName>>>, Problem> {
    if let Some(program) = &program
        && !desk.sessions.has(program)
    {
        desk.known(program).await?;
    }
    let Some(component) = component else {
        let nobodys = || {
            Problem::new(Code::BadRequest, "sessions are asked for by program, or by component")
                .hint("add ?program=NAME or ?component=NAME")
        };
        return Ok(BTreeMap::from([(program.ok_or_else(nobodys)?, None)]));
    };
    let view = desk.look(move |control| component_views::component(&control.components, &component)).await??;
    let mut whose: BTreeMap<ProgramName, Option<BTreeSet<ServerName>>> = BTreeMap::new();
    for one in view.uses.into_iter().filter(|one| one.quiesced) {
        if program.as_ref().is_none_or(|program| one.program == *program) {
            whose.entry(one.program).or_default().get_or_insert_default().insert(one.server);
        }
    }
    Ok(whose)
}

pub async fn show(desk: Data<Desk>, path: Path<(String, String)>) -> Answer {
    let (program, id) = named(&path)?;
    let session = desk.sessions.get(&program, id).ok_or_else(|| unknown(&program, id))?;
    let data = desk.sessions.data(&program, id)?;
    let data = data.and_then(|Datum { tag, data }| {
        data.map(|data| SessionDataView { bytes: data.len() as u64, tag: tag.to_string() })
    });
    Ok(HttpResponse::Ok().json(view(&program, &session, data)))
}

/// Ends a session at every server that is up, and then here: whoever comes with its cookie begins another.
pub async fn end(desk: Data<Desk>, path: Path<(String, String)>) -> Answer {
    let (program, id) = named(&path)?;
    let session = desk.sessions.get(&program, id).ok_or_else(|| unknown(&program, id))?;
    let message = ToServer::EndSession { program: program.clone(), id };
    let (heard, _) = ask_servers::<EndedSession>(&desk, message, None).await?;
    if !heard.iter().any(|(server, _)| *server == session.place.server) {
        let home = &session.place.server;
        let problem = format!("{home}, where session {id} of {program} is at home, does not answer");
        return Err(Problem::new(Code::Unreachable, problem)
            .hint("the session goes on there: end it when the server is back (`neap node ls`)"));
    }
    desk.sessions.end(&program, id);
    Ok(HttpResponse::NoContent().finish())
}

/// A server's word on sessions, which does not wait behind the Server List's.
pub fn message(desk: &Desk, envelope: Envelope<ToManagement>) -> Result<HttpResponse, Box<Envelope<ToManagement>>> {
    let Envelope { id, from, run, term, sent_at, body } = envelope;
    match body {
        ToManagement::Sessions(told) => Ok(HttpResponse::Ok().json(desk.sessions.told(&from, &run, *told))),
        ToManagement::TakeSession(take) => Ok(match desk.sessions.take(&take) {
            Ok(taken) => HttpResponse::Ok().json(taken),
            Err(problem) => actix_web::ResponseError::error_response(&problem),
        }),
        ToManagement::SessionsHere { after } => Ok(HttpResponse::Ok().json(desk.sessions.here(&from, after.as_ref()))),
        body => Err(Box::new(Envelope { id, from, run, term, sent_at, body })),
    }
}

/// Where a session is at home, as the server says that writes.
#[derive(Deserialize)]
pub struct Home {
    server: ServerName,
    version: Version,
}

pub async fn data(desk: Data<Desk>, path: Path<(String, String)>, request: HttpRequest) -> Answer {
    let (program, id) = named(&path)?;
    let none = || Problem::new(Code::NoSessionData, format!("session {id} of {program} has no data"));
    let Some(Datum { tag, data }) = desk.sessions.data(&program, id)? else { return Err(none()) };
    let Some(data) = data else { return Ok(removed(tag, &none())) };
    let same = field(&request, IF_NONE_MATCH.as_str()).is_some_and(|held| held.parse() == Ok(tag));
    if same {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, tag.to_string())).finish());
    }
    let mut answer = HttpResponse::Ok();
    Ok(answer.insert_header((ETAG, tag.to_string())).content_type("application/octet-stream").body(data))
}

pub async fn put_data(
    desk: Data<Desk>,
    path: Path<(String, String)>,
    home: Query<Home>,
    request: HttpRequest,
    body: Bytes,
) -> Answer {
    let written = field(&request, DATA_WRITTEN).and_then(|tag| tag.parse::<DataTag>().ok());
    let what = match written {
        Some(tag) => What::Written(Datum { tag, data: Some(body.to_vec()) }),
        None => What::Data(body.to_vec()),
    };
    write(&desk, &path, home.into_inner(), &request, what).await
}

pub async fn delete_data(
    desk: Data<Desk>,
    path: Path<(String, String)>,
    home: Query<Home>,
    request: HttpRequest,
) -> Answer {
    let written = field(&request, DATA_WRITTEN).and_then(|tag| tag.parse::<DataTag>().ok());
    let what = written.map_or(What::Remove, |tag| What::Written(Datum { tag, data: None }));
    write(&desk, &path, home.into_inner(), &request, what).await
}

async fn write(desk: &Desk, path: &(String, String), home: Home, request: &HttpRequest, what: What) -> Answer {
    let (program, id) = named(path)?;
    let Home { server, version } = home;
    let condition = Condition::read(field(request, IF_MATCH.as_str()), field(request, IF_NONE_MATCH.as_str()));
    let place = Place { server, version };
    let outcome = desk.sessions.write_data(&program, id, &place, condition, what).await?;
    let (status, tag) = match outcome {
        Outcome::Is(tag) => (StatusCode::NO_CONTENT, Some(tag)),
        Outcome::Removed(tag) => (StatusCode::NO_CONTENT, tag),
        Outcome::Stale(tag) => (StatusCode::PRECONDITION_FAILED, tag),
    };
    let mut answer = HttpResponse::build(status);
    if let Some(tag) = tag {
        answer.insert_header((ETAG, tag.to_string()));
    }
    Ok(answer.finish())
}

fn field<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn named(path: &(String, String)) -> Result<(ProgramName, SessionId), Problem> {
    let (program, id) = path;
    let program = program.parse().map_err(|error: BadName| Problem::new(Code::UnknownProgram, error.to_string()))?;
    let bad = |_| Problem::new(Code::UnknownSession, format!("\"{}\" is no session's id", short(id)));
    Ok((program, id.parse().map_err(bad)?))
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

fn unknown(program: &ProgramName, id: SessionId) -> Problem {
    Problem::new(Code::UnknownSession, format!("{program} has no session {id}"))
        .hint(format!("`neap session ls {program}` shows those that there are"))
}

fn view(program: &ProgramName, session: &Session, data: Option<SessionDataView>) -> SessionView {
    let at = |millis: WallMillis| {
        Timestamp::from_millisecond(i64::try_from(millis).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
    };
    SessionView {
        id: session.id,
        program: program.clone(),
        server: session.place.server.clone(),
        version: session.place.version.clone(),
        begun_at: at(session.begun),
        seen_at: at(session.seen),
        active_requests: session.active,
        data,
    }
}

fn write_cursor(program: &ProgramName, cursor: Cursor) -> String {
    format!("{program}.{}.{}", cursor.at, cursor.id)
}

fn read_cursor(given: &str) -> Result<(Option<ProgramName>, Cursor), Problem> {
    let read = || {
        let mut parts = given.rsplitn(3, '.');
        let (id, at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let program = parts.next().map(str::parse).transpose().ok()?;
        Some((program, Cursor { at, id }))
    };
    read().ok_or_else(|| {
        Problem::new(Code::BadRequest, format!("\"{}\" is no cursor of this list", short(given)))
            .hint("a cursor is what `next` of the page before says")
    })
}
