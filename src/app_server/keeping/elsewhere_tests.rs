//! Owns the tests of data that is at management, or where the session was before: which is the latest, and what is said while
//! that cannot be told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use actix_web::http::header::ETAG;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

use super::arrivals::Came;
use super::data::Written;
use super::tests::{Run, place, shop};
use crate::domain::session::{Place, SessionId};
use crate::link::answer::removed;
use crate::wire::envelope::MESSAGES_PATH;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{Condition, DATA_WRITTEN, DataTag, Datum, ServerAt};

const ID: SessionId = SessionId(1);

fn datum(number: u64, data: &str) -> Datum {
    Datum { tag: DataTag { number, chance: 7 }, data: Some(data.into()) }
}

/// A management, or a server where the session was: what it has, and what it says of servers.
#[derive(Clone)]
struct Other {
    at: SocketAddr,
    has: Arc<Mutex<Option<Datum>>>,
    servers: Arc<Mutex<Vec<ServerAt>>>,
    is_slow: Arc<Mutex<bool>>,
}

impl Other {
    fn begin(has: Option<Datum>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let other = Self { at, has: Arc::new(Mutex::new(has)), servers: Arc::default(), is_slow: Arc::default() };
        let app = {
            let other = other.clone();
            move || {
                App::new()
                    .app_data(Data::new(other.clone()))
                    .route(MESSAGES_PATH, web::post().to(Self::heard))
                    .default_service(web::to(Self::asked))
            }
        };
        actix_web::rt::spawn(HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run());
        other
    }

    fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    fn has(&self) -> Option<Datum> {
        self.has.lock().unwrap().clone()
    }

    /// What it says of the server `s2`.
    fn says(&self, control: SocketAddr, is_down: bool, only_there: Option<u64>) {
        *self.servers.lock().unwrap() = vec![ServerAt { server: "s2".parse().unwrap(), control, is_down, only_there }];
    }

    fn slow(&self, is_slow: bool) {
        *self.is_slow.lock().unwrap() = is_slow;
    }

    async fn heard(other: Data<Self>) -> HttpResponse {
        HttpResponse::Ok().json(&*other.servers.lock().unwrap())
    }

    async fn asked(other: Data<Self>, request: HttpRequest, body: Bytes) -> HttpResponse {
        if *other.is_slow.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let mut has = other.has.lock().unwrap();
        let written = request.headers().get(DATA_WRITTEN).map(|tag| tag.to_str().unwrap().parse().unwrap());
        let last = has.as_ref().map(|has| has.tag);
        let data = match request.method().as_str() {
            "GET" => {
                let none = Problem::new(Code::NoSessionData, "none");
                return match has.as_ref() {
                    Some(Datum { tag, data: Some(data) }) => {
                        HttpResponse::Ok().insert_header((ETAG, tag.to_string())).body(data.clone())
                    }
                    Some(Datum { tag, data: None }) => removed(*tag, &none),
                    None => actix_web::ResponseError::error_response(&none),
                };
            }
            "PUT" => Some(body.to_vec()),
            _ => None,
        };
        if written.is_some_and(|written| last.is_some_and(|last| last >= written)) {
            return HttpResponse::PreconditionFailed().finish();
        }
        let tag = written.unwrap_or_else(|| DataTag::after(last, 7));
        *has = Some(Datum { tag, data });
        HttpResponse::NoContent().insert_header((ETAG, tag.to_string())).finish()
    }
}

/// Nothing listens there.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A run of `s1`, to which the session has come from `s2`.
fn moved(dir: &std::path::Path, management: &Other) -> Run {
    let run = Run::below(dir, vec![management.url()]);
    run.lists.begin(1);
    let from = Place { server: "s2".parse().unwrap(), ..place() };
    run.arrivals.tell(Came { program: shop(), id: ID, from, to: place(), issued: super::now() });
    run
}

async fn loaded(run: &Run) -> Result<Option<String>, Problem> {
    let loaded = run.data.load(&shop(), ID).await?;
    Ok(loaded.map(|loaded| String::from_utf8(loaded.data).unwrap()))
}

#[actix_web::test]
async fn what_a_slow_server_may_have_is_not_made_up_for_by_an_older_state() {
    let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(Some(datum(1, "one"))));
    let before = Other::begin(Some(datum(2, "two")));
    management.says(before.at, false, Some(0));
    before.slow(true);
    let run = moved(dir.path(), &management);
    for _ in 0..2 {
        let problem = loaded(&run).await.unwrap_err();
        assert!(problem.status == 503 && problem.detail.contains("may be on s2"), "{problem:?}");
    }
    let written = run.data.write(&shop(), ID, Condition::Always, Some("over it".into())).await;
    assert_eq!(written.unwrap_err().status, 503);
    before.slow(false);
    assert_eq!(loaded(&run).await.unwrap().as_deref(), Some("two"));
    run.data.tell_management().await;
    assert_eq!(management.has(), Some(datum(2, "two")));
    // Asked once; from then on the session is here.
    before.slow(true);
    assert_eq!(loaded(&run).await.unwrap().as_deref(), Some("two"));
}

#[actix_web::test]
async fn a_server_that_is_gone_holds_nobody_up_unless_it_has_what_nobody_else_has() {
    let dead = nowhere();
    for (is_down, only_there, is_found) in [
        (false, Some(0), true),
        (false, Some(3), false),
        (false, None, false),
        (true, Some(3), true),
        (true, None, true),
    ] {
        let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(Some(datum(1, "one"))));
        management.says(dead, is_down, only_there);
        let found = loaded(&moved(dir.path(), &management)).await;
        match is_found {
            true => assert_eq!(found.unwrap().as_deref(), Some("one"), "{is_down} {only_there:?}"),
            false => assert_eq!(found.unwrap_err().status, 503, "{is_down} {only_there:?}"),
        }
    }
    // One that management does not know any more.
    let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(Some(datum(1, "one"))));
    assert_eq!(loaded(&moved(dir.path(), &management)).await.unwrap().as_deref(), Some("one"));
}

#[actix_web::test]
async fn what_management_alone_has_is_not_made_up_while_it_is_late() {
    for is_down in [false, true] {
        let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(Some(datum(1, "one"))));
        management.says(nowhere(), is_down, Some(0));
        management.slow(true);
        let run = moved(dir.path(), &management);
        let problem = loaded(&run).await.unwrap_err();
        assert!(problem.status == 503 && problem.detail.contains("management, which has its data"), "{problem:?}");
        // Nor told to the next server as all that there is.
        assert_eq!(run.data.for_peer(&shop(), ID).unwrap_err().status, 503);
    }
}

#[actix_web::test]
async fn what_was_removed_elsewhere_does_not_come_back() {
    let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(Some(datum(1, "one"))));
    let before = Other::begin(Some(Datum { data: None, ..datum(2, "") }));
    management.says(before.at, false, Some(1));
    let run = moved(dir.path(), &management);
    assert_eq!(loaded(&run).await.unwrap(), None);
    run.data.tell_management().await;
    assert_eq!(management.has(), Some(Datum { data: None, ..datum(2, "") }));
}

#[actix_web::test]
async fn of_what_was_written_here_without_management_and_there_since_the_later_counts() {
    for (there, latest) in [(1, "here, 2"), (5, "there")] {
        let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(Some(datum(there, "there"))));
        let alone = Run::below(dir.path(), Vec::new());
        for data in ["here, 1", "here, 2"] {
            alone.data.write(&shop(), ID, Condition::Always, Some(data.into())).await.unwrap();
        }
        drop(alone);
        let run = Run::below(dir.path(), vec![management.url()]);
        run.lists.begin(1);
        assert_eq!(loaded(&run).await.unwrap().as_deref(), Some(latest));
        run.data.tell_management().await;
        assert_eq!(management.has().unwrap().data.unwrap(), latest.as_bytes());
    }
}

#[actix_web::test]
async fn a_management_that_lost_its_disk_is_given_what_is_here() {
    let (dir, management) = (tempfile::tempdir().unwrap(), Other::begin(None));
    let run = Run::below(dir.path(), vec![management.url()]);
    run.lists.begin(1);
    let written = run.data.write(&shop(), ID, Condition::IsNew, Some("cart".into())).await.unwrap();
    assert!(matches!(written, Written::Is { only_here: false, .. }), "{written:?}");
    let had = management.has.lock().unwrap().take();
    assert_eq!(loaded(&run).await.unwrap().as_deref(), Some("cart"));
    run.data.tell_management().await;
    assert_eq!(management.has(), had);
}
