//! Owns where programs find the data of their sessions: a listener on loopback, GET, PUT and DELETE below a token; and what
//! other servers ask on the control port. Must not know where data is.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use actix_web::middleware::DefaultHeaders;
use actix_web::web::{self, Data, Path, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpResponseBuilder, HttpServer};
use bytes::Bytes;

use super::Lists;
use super::data::{SessionData, Written};
use crate::domain::names::ProgramName;
use crate::domain::session::SessionId;
use crate::link::answer::{not_found, removed};
use crate::link::guard::Guard;
use crate::programs::session_url::SessionUrl;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Condition, DATA_BYTES_MAX, DataTag, Datum};

/// Where data is that was written or read: at both, or at this server alone, because management did not answer.
const STORED: &str = "Neap-Session-Stored";
/// Clients that keep connections hear it with each answer, and stop using one in time: most cannot tell whether a request
/// on a connection that was just closed was obeyed.
const KEPT: (&str, &str) = ("Keep-Alive", "timeout=60");
/// Longer than that.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const WORKERS: usize = 1;
const CONNECTIONS: usize = 4_096;

type Answer = Result<HttpResponse, Problem>;

/// What the endpoint works with.
#[derive(Clone)]
pub struct Desk {
    pub urls: SessionUrl,
    pub lists: Arc<dyn Lists>,
    pub data: SessionData,
}

/// A listener on loopback: on that port, which instances of an earlier run may know, or on one that is free.
pub fn listen(wanted: Option<u16>) -> io::Result<TcpListener> {
    let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match wanted.map(at) {
        Some(Ok(listener)) => Ok(listener),
        Some(Err(error)) => {
            tracing::error!(%error, port = wanted, "instances of an earlier run do not find their session data any more");
            at(0)
        }
        None => at(0),
    }
}

/// Serves programs until its handle stops it.
pub fn serve(listener: TcpListener, desk: Desk) -> io::Result<ServerHandle> {
    let guard = Guard::new(listener.local_addr()?, None);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(guard.clone())
            .wrap(DefaultHeaders::new().add(KEPT))
            .app_data(Data::new(desk.clone()))
            .service(
                web::resource("/v1/{token}/{id}")
                    .route(web::get().to(load))
                    .route(web::put().to(put))
                    .route(web::delete().to(remove))
                    .default_service(web::to(not_that)),
            )
            .default_service(web::to(not_found))
    });
    let server = server
        .workers(WORKERS)
        .keep_alive(KEEP_ALIVE)
        .max_connections(CONNECTIONS)
        .shutdown_timeout(2)
        .disable_signals()
        .listen(listener)?
        .run();
    let handle = server.handle();
    actix_rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the port of session data ended");
        }
    });
    Ok(handle)
}

async fn not_that() -> Answer {
    Err(Problem::new(Code::MethodNotAllowed, "session data takes GET, PUT and DELETE"))
}

async fn load(desk: Data<Desk>, path: Path<(String, String)>, request: HttpRequest) -> Answer {
    let (program, id) = desk.admit(&path)?;
    let Some(loaded) = desk.data.load(&program, id).await? else {
        return Err(Problem::new(Code::NoSessionData, format!("session {id} has no data yet")));
    };
    let same = field(&request, IF_NONE_MATCH.as_str()).is_some_and(|held| held.parse() == Ok(loaded.tag));
    let status = if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut answer = stored(status, Some(loaded.tag), loaded.only_here);
    if same {
        return Ok(answer.finish());
    }
    Ok(answer.content_type("application/octet-stream").body(loaded.data))
}

async fn put(desk: Data<Desk>, path: Path<(String, String)>, request: HttpRequest, body: Payload) -> Answer {
    let (program, id) = desk.admit(&path)?;
    let too_large =
        || Problem::new(Code::PayloadTooLarge, format!("a session's data is at most {DATA_BYTES_MAX} bytes"));
    let announced = field(&request, "content-length").and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > DATA_BYTES_MAX) {
        return Err(too_large());
    }
    let read = body.to_bytes_limited(DATA_BYTES_MAX).await.map_err(|_| too_large())?;
    let bytes =
        read.map_err(|error| Problem::new(Code::BadRequest, format!("the data did not come whole: {error}")))?;
    desk.lists.keep(&program, id);
    write(&desk, &program, id, &request, Some(bytes)).await
}

async fn remove(desk: Data<Desk>, path: Path<(String, String)>, request: HttpRequest) -> Answer {
    let (program, id) = desk.admit(&path)?;
    write(&desk, &program, id, &request, None).await
}

async fn write(
    desk: &Desk,
    program: &ProgramName,
    id: SessionId,
    request: &HttpRequest,
    data: Option<Bytes>,
) -> Answer {
    let condition = Condition::read(field(request, IF_MATCH.as_str()), field(request, IF_NONE_MATCH.as_str()));
    match desk.data.write(program, id, condition, data).await? {
        Written::Is { tag, only_here } => Ok(stored(StatusCode::NO_CONTENT, Some(tag), only_here).finish()),
        Written::Removed { only_here } => Ok(stored(StatusCode::NO_CONTENT, None, only_here).finish()),
        Written::Stale(now) => {
            let now = now.map_or_else(|| "there is none".to_owned(), |tag| format!("it is at {tag}"));
            Err(Problem::new(Code::StaleData, format!("the data of session {id} is not as you saw it: {now}"))
                .hint("read it again, and write on top of that"))
        }
    }
}

impl Desk {
    /// Whose sessions may be asked for, and which one that is.
    fn admit(&self, path: &(String, String)) -> Result<(ProgramName, SessionId), Problem> {
        let (token, id) = path;
        let stranger = || Problem::new(Code::Unauthorized, "this token is not of an instance of this server");
        let program = self.urls.program(token).ok_or_else(stranger)?;
        let shown: String = id.chars().take(40).collect();
        let bad = |_| Problem::new(Code::UnknownSession, format!("\"{shown}\" is no session's id"));
        let id: SessionId = id.parse().map_err(bad)?;
        if !self.lists.knows(&program, id) {
            return Err(Problem::new(Code::SessionEnded, format!("session {id} has ended, or is not of this server")));
        }
        Ok((program, id))
    }
}

fn stored(status: StatusCode, tag: Option<DataTag>, only_here: bool) -> HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer.insert_header((STORED, if only_here { "server" } else { "server, management" }));
    if let Some(tag) = tag {
        answer.insert_header((ETAG, tag.to_string()));
    }
    answer
}

fn field<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// What another server asks, to which a session moved while management was away: what is here, and nothing else.
pub async fn for_peers(data: Data<SessionData>, path: Path<(String, String)>) -> Answer {
    let (program, id) = path.into_inner();
    let unknown = || Problem::new(Code::UnknownSession, "that is no session");
    let (program, id) = (program.parse().map_err(|_| unknown())?, id.parse().map_err(|_| unknown())?);
    let none = || Problem::new(Code::NoSessionData, format!("session {id} has no data here"));
    match data.for_peer(&program, id)? {
        Some(Datum { tag, data: Some(data) }) => {
            Ok(HttpResponse::Ok().insert_header((ETAG, tag.to_string())).body(data))
        }
        Some(Datum { tag, data: None }) => Ok(removed(tag, &none())),
        None => Err(none()),
    }
}
