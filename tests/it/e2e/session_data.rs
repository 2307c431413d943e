//! What a program keeps in sessions: whole when management, its disk or a server's list is gone; and what strangers send.

use std::fs;
use std::time::Duration;

use neap::wire::api::SessionView;
use neap::wire::page::Page;

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::http::{self, Answer};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::{cart_python, shop};
use crate::support::{SOON, until};

const PROGRAM: &str = "cart-python";
const ASK: Duration = Duration::from_secs(15);

/// A browser, as far as one cookie goes.
struct Client<'c> {
    cluster: &'c Cluster,
    cookie: Option<String>,
    put: Vec<String>,
}

impl<'c> Client<'c> {
    fn of(cluster: &'c Cluster) -> Self {
        Self { cluster, cookie: None, put: Vec::new() }
    }

    fn ask(&mut self, head: &str, fields: &[(&str, &str)]) -> Answer {
        let cookie = self.cookie.clone();
        let own = cookie.as_deref().map(|cookie| ("Cookie", cookie));
        let fields: Vec<(&str, &str)> = own.into_iter().chain(fields.iter().copied()).collect();
        let answer = http::ask_with(self.cluster.router(), head, &fields, b"", ASK).unwrap();
        if let Some(set) = answer.field("Set-Cookie") {
            self.cookie = set.split(';').next().map(str::to_owned);
        }
        answer
    }

    /// Puts something into the cart; the server that did.
    #[track_caller]
    fn put(&mut self) -> String {
        let name = format!("thing-{}", self.put.len());
        let answer = self.ask(&format!("POST /{PROGRAM}/items"), &[("X-Post-Id", &name)]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.put.push(name);
        answer.field("X-Server").unwrap().to_owned()
    }

    /// All that was put in is there; the server that said so.
    #[track_caller]
    fn whole(&mut self) -> String {
        self.looked().unwrap()
    }

    /// The same, of a server that may not be there yet: what is shown is whole, always.
    #[track_caller]
    fn looked(&mut self) -> Result<String, String> {
        let answer = self.ask(&format!("GET /{PROGRAM}/"), &[]);
        if answer.status != 200 {
            return Err(answer.text());
        }
        let cart: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(cart["items"], serde_json::json!(self.put), "from {:?}", answer.field("X-Server"));
        Ok(answer.field("X-Server").unwrap().to_owned())
    }
}

fn listed(cluster: &Cluster, program: &str) -> Vec<SessionView> {
    cluster.ask::<Page<SessionView>>(&format!("sessions?program={program}&limit=500")).unwrap().items
}

/// The one session there is, once management knows of it.
fn the_session(cluster: &Cluster) -> SessionView {
    until("the session is listed", SOON, || match listed(cluster, PROGRAM).pop() {
        Some(session) => Ok(session),
        None => Err("none yet".to_owned()),
    })
}

/// What management has of a session's data: its tag. One that was started again may not have heard of the session yet.
fn known_tag(cluster: &Cluster, session: &SessionView) -> Option<String> {
    let view = cluster.ask::<SessionView>(&format!("sessions/{PROGRAM}/{}", session.id));
    view.ok().and_then(|view| view.data).map(|data| data.tag)
}

/// Where an instance finds session data.
fn session_url(cluster: &Cluster) -> (std::net::SocketAddr, String) {
    let pid = cluster.instances()[0];
    let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
    let url = environment.split('\0').find_map(|one| one.strip_prefix("NEAP_SESSION_URL=http://")).unwrap();
    let (address, path) = url.split_once('/').unwrap();
    (address.parse().unwrap(), format!("/{path}"))
}

fn one_server() -> Cluster {
    let cluster = Cluster::shaped(Shape { servers: 1, ..Shape::default() });
    cluster.deploy(&cart_python("1.0.0"));
    cluster
}

#[test]
fn what_one_server_alone_has_is_found_by_the_next_or_not_made_up_while_management_is_away() {
    let mut cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&cart_python("1.0.0"));
    let mut client = Client::of(&cluster);
    client.put();
    let (cookie, put) = (client.cookie.take(), client.put.clone());
    let session = the_session(&cluster);
    let before = known_tag(&cluster, &session);
    cluster.node(MANAGEMENT).kill9();
    let mut client = Client { cluster: &cluster, cookie, put };
    let first = client.put();
    let (cookie, put) = (client.cookie.take(), client.put.clone());

    cluster.node(&first).stop();
    let mut client = Client { cluster: &cluster, cookie, put };
    let answer = client.ask(&format!("GET /{PROGRAM}/"), &[]);
    assert!(answer.status == 502 && answer.text().contains(&format!("may be on {first}")), "{}", answer.text());
    let (cookie, put) = (client.cookie.take(), client.put.clone());

    cluster.node(&first).start();
    let mut client = Client { cluster: &cluster, cookie, put };
    let second = until("the other server finds it", SOON, || client.looked());
    assert_ne!(second, first);
    client.put();
    client.whole();
    let (cookie, put) = (client.cookie.take(), client.put.clone());

    cluster.node(MANAGEMENT).start();
    cluster.until_all_up();
    until("management is given it", SOON, || match known_tag(&cluster, &session) {
        now if now > before => Ok(()),
        now => Err(format!("{now:?}")),
    });
    let mut client = Client { cluster: &cluster, cookie, put };
    client.put();
    client.whole();
}

#[test]
fn a_server_and_a_management_that_lose_their_lists_have_them_again_from_each_other() {
    let mut cluster = one_server();
    let mut client = Client::of(&cluster);
    client.put();
    client.put();
    let (cookie, put) = (client.cookie.take(), client.put.clone());
    let session = the_session(&cluster);
    let (server, management) = (cluster.data("server-1").to_owned(), cluster.data(MANAGEMENT).to_owned());

    cluster.node("server-1").stop();
    fs::remove_dir_all(server.join("sessions")).unwrap();
    cluster.node("server-1").start();
    cluster.until_all_up();
    let mut client = Client { cluster: &cluster, cookie, put };
    until("the server serves again", SOON, || client.looked());
    let (cookie, put) = (client.cookie.take(), client.put.clone());
    assert_eq!(the_session(&cluster).id, session.id);

    cluster.node(MANAGEMENT).stop();
    fs::remove_dir_all(management.join("session-list")).unwrap();
    cluster.node(MANAGEMENT).start();
    cluster.until_all_up();
    assert_eq!(the_session(&cluster).id, session.id);
    let mut client = Client { cluster: &cluster, cookie, put };
    client.whole();
    until("management is given the data", SOON, || known_tag(&cluster, &session).ok_or("none".to_owned()));
    client.put();
    client.whole();
}

#[test]
fn what_a_program_asks_wrongly_is_told_and_changes_nothing() {
    let cluster = one_server();
    let mut client = Client::of(&cluster);
    client.put();
    let session = the_session(&cluster);
    let (address, path) = session_url(&cluster);
    let one = format!("{path}/{}", session.id);
    let ask = |head: String, fields: &[(&str, &str)], body: &[u8]| {
        let answer = http::ask_with(address, &head, fields, body, ASK).unwrap();
        assert_eq!(answer.field("Keep-Alive"), Some("timeout=60"), "{}", answer.head);
        (answer.status, answer.text())
    };
    let tag = known_tag(&cluster, &session).unwrap();
    let bare_tag = tag.trim_matches('"');
    for (head, fields, body, status, says) in [
        (format!("PUT {one}"), &[][..], vec![b'x'; (1 << 20) + 1], 413, "1048576 bytes"),
        (format!("PUT {one}"), &[("If-Match", "\"99-00000000\"")], b"x".to_vec(), 412, "not as you saw it"),
        (format!("PUT {one}"), &[("If-None-Match", "*")], b"x".to_vec(), 412, bare_tag),
        (format!("DELETE {one}"), &[("If-Match", "\"1-0\", nonsense")], vec![], 412, "read it again"),
        (format!("POST {one}"), &[], b"x".to_vec(), 405, "GET, PUT and DELETE"),
        (format!("GET {path}/not-an-id"), &[], vec![], 404, "no session's id"),
        (format!("GET {path}/{}", "A".repeat(8_000)), &[], vec![], 404, "no session's id"),
        (format!("GET {path}/01ARZ3NDEKTSV4RRFFQ69G5FAV"), &[], vec![], 404, "has ended, or is not of this server"),
        (format!("PUT {path}/01ARZ3NDEKTSV4RRFFQ69G5FAV"), &[], b"x".to_vec(), 404, "has ended"),
        (format!("GET {path}x/{}", session.id), &[], vec![], 401, "not of an instance"),
        (format!("GET /v1/{}/{}", "0".repeat(64), session.id), &[], vec![], 401, "not of an instance"),
        ("GET /".to_owned(), &[], vec![], 404, "there is no /"),
    ] {
        let (told, text) = ask(head.clone(), fields, &body);
        assert!(told == status && text.contains(says), "{head:.80}: {told} {text}");
    }
    client.whole();
    assert_eq!(known_tag(&cluster, &session), Some(tag));

    cluster.well(&["session", "end", PROGRAM, &session.id.to_string()]);
    for head in [format!("GET {one}"), format!("PUT {one}")] {
        let (status, text) = ask(head, &[], b"");
        assert!(status == 404 && text.contains("session_ended"), "{text}");
    }
    // Whoever comes with its cookie begins another.
    client.put.clear();
    client.whole();
}

#[test]
fn what_strangers_make_up_begins_no_session_and_is_nobodys() {
    let cluster = one_server();
    let mut client = Client::of(&cluster);
    client.put();
    let session = the_session(&cluster);
    let own = client.cookie.clone().unwrap();
    let (name, tag) = own.split_once('=').unwrap();
    let mut changed = tag.to_owned().into_bytes();
    let last = changed.len() - 1;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    let mut forged = vec![format!("{name}={}", String::from_utf8(changed).unwrap()), format!("{name}=")];
    forged.push(format!("{name}={}", "A".repeat(8_000)));
    forged.extend((0..1_000).map(|number| format!("{name}={number:026}{}", &tag[26.min(tag.len())..])));
    for cookie in &forged {
        let fields = [("Cookie", cookie.as_str()), ("Neap-Session", &session.id.to_string())];
        let answer = http::ask_with(cluster.router(), &format!("GET /{PROGRAM}/"), &fields, b"", ASK).unwrap();
        assert_eq!(answer.status, 200, "{cookie:.60}: {}", answer.text());
        assert_eq!(answer.text(), r#"{"items": []}"#, "{cookie:.60}");
    }
    client.whole();
    assert_eq!(listed(&cluster, PROGRAM).len(), 1);
}

#[test]
fn a_thousand_clients_of_a_program_without_sessions_come_through_a_ripple() {
    let cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load =
        Load::start(&cluster, vec![Lane::to("shop", 100.0, brief()).versions(&["1.0.0", "2.0.0"]).sessions(1_000)]);
    load.flows();
    cluster.deploy(&shop("2.0.0"));
    load.answered_by("2.0.0");
    load.flows();
    let account = load.finish();
    assert!(account.report.passed, "{:#?}", account.report.all.errors);
    assert_eq!(listed(&cluster, "shop").len(), 0);
}

#[test]
fn the_key_of_cookies_is_rolled_under_traffic_and_sessions_are_found_by_what_they_use() {
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&cart_python("1.0.0"));
    let carts = neap::traffic::Mix::new(vec![
        neap::traffic::Request::get("/").expect_echo(),
        neap::traffic::Request::post("/items", 20).expect_echo(),
    ]);
    let load = Load::start(&cluster, vec![Lane::to(PROGRAM, 60.0, carts.unwrap()).sessions(30)]);
    load.has_sessions(30);
    cluster.well(&["session", "roll-keys"]);
    load.flows();
    let account = load.finish();
    assert!(account.report.passed, "{:#?}", account.report.all.errors);
    let sessions = account.report.all.sessions;
    assert_eq!((sessions.begun, sessions.lost, sessions.mixed), (30, 0, 0), "{sessions:?}");

    until("management knows what uses Python", SOON, || {
        let ran = cluster.neap(&["component", "show", "python3"]);
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    let by = |limit: &str, cursor: Option<&str>| {
        let args = ["session", "ls", "--component", "python3", "--limit", limit, "-o", "json"];
        let more = cursor.map(|cursor| ["--cursor", cursor]);
        let args: Vec<&str> = args.into_iter().chain(more.into_iter().flatten()).collect();
        serde_json::from_str::<Page<SessionView>>(&cluster.well(&args).out).unwrap()
    };
    until("all are listed", SOON, || match by("500", None).items.len() {
        30 => Ok(()),
        other => Err(format!("{other}")),
    });
    let first = by("20", None);
    let second = by("20", first.next.as_deref());
    let mut ids: Vec<_> = first.items.iter().chain(&second.items).map(|session| session.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), second.next), (30, None));
    let none = cluster.neap(&["session", "ls", "--component", "libnobody9"]);
    assert!(none.code == 2 && none.err.contains("no program uses a component libnobody9"), "{none:?}");
}
