//! Server Lists: heard of, kept, gone on with when nobody tells any more.

use std::sync::{Arc, Mutex};

use neap::wire::messages::{Heartbeat, Held, RouteExplained, ToManagement, ToRouter};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::support::{Does, Server, Under, ask, config, get, list, stamp, until};

#[actix::test]
async fn a_router_restarts_from_disk_and_needs_no_management() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Serves).await;
    let first = Under::test(config(dir.path())).await;
    assert_eq!(first.control("/.neap/ready").await.status, 503);
    let early = get(first.http(), "/shop").await;
    assert!(early.status == 503 && early.body.contains("no_server_list"), "{early:?}");
    assert_eq!(first.tell(list(5, &[&a])).await, Held { held: Some(stamp(5)) });
    assert_eq!(first.control("/.neap/ready").await.status, 200);
    first.router.stop().await;
    let second = Under::test(config(dir.path())).await;
    assert_eq!(second.control("/.neap/ready").await.status, 200);
    assert_eq!(get(second.http(), "/shop").await.body, "a");
    assert_eq!(second.tell(list(4, &[])).await, Held { held: Some(stamp(5)) }, "older than what is on disk");
    second.router.stop().await;
}

#[actix::test]
async fn a_change_against_another_base_is_answered_with_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Server::start("a", Does::Serves).await, Server::start("b", Does::Serves).await);
    let under = Under::with(dir.path(), list(1, &[&a])).await;
    let mut change = list(3, &[&b]);
    change.since = Some(stamp(2));
    assert_eq!(under.tell(change.clone()).await.held, Some(stamp(1)));
    assert_eq!(get(under.http(), "/shop").await.body, "a");
    change.since = Some(stamp(1));
    assert_eq!(under.tell(change).await.held, Some(stamp(3)));
    assert_eq!(get(under.http(), "/shop").await.body, "b");
    under.router.stop().await;
}

#[actix::test]
async fn a_route_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Serves).await;
    let under = Under::with(dir.path(), list(1, &[&a])).await;
    let said: RouteExplained = under.post(ToRouter::Explain { url: "http://x.example.com/shop/1".into() }).await;
    assert_eq!(said.rule.as_deref(), Some("route */shop"));
    assert_eq!(said.chosen.unwrap().as_str(), "a");
    let said: RouteExplained = under.post(ToRouter::Explain { url: "http://x.example.com/other".into() }).await;
    assert_eq!((said.rule, said.program), (None, None));
    let unknown = get(under.http(), "/other").await;
    assert!(unknown.status == 404 && unknown.body.contains("unknown_program"), "{unknown:?}");
    under.router.stop().await;
}

#[actix::test]
async fn bad_messages_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let under = Under::test(config(dir.path())).await;
    let control = under.router.control();
    let body = r#"{"id":"1","from":"m1","run":"r","sent_at":"2026-01-01T00:00:00Z","body":{"type":"dance"}}"#;
    let length = body.len();
    let head = format!("POST /node/v1/messages HTTP/1.1\r\nHost: {control}\r\nConnection: close\r\n");
    let reply = ask(control, &format!("{head}Content-Length: {length}\r\n\r\n{body}")).await;
    assert!(reply.status == 400 && reply.body.contains("dance"), "{reply:?}");
    let rebound =
        "POST /node/v1/messages HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(control, rebound).await.status, 421);
    under.router.stop().await;
}

#[actix::test]
async fn a_router_registers_again_when_management_does_not_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(dir.path());
    config.management = vec!["http://127.0.0.1:1".into(), format!("http://{}", listener.local_addr().unwrap())];
    let heard = Arc::<Mutex<Vec<ToManagement>>>::default();
    actix::spawn(management(listener, heard.clone()));
    let under = Under::test(config).await;
    under.tell(list(7, &[])).await;
    let registered = |heard: &[ToManagement]| heard.iter().filter(|m| matches!(m, ToManagement::Register(_))).count();
    until("it registers, and again once it is unknown", || registered(&heard.lock().unwrap()) >= 2).await;
    let heard = heard.lock().unwrap().clone();
    assert!(
        matches!(&heard[0], ToManagement::Register(one) if one.control == under.router.control() && one.data == under.http())
    );
    assert!(
        heard.iter().any(|m| matches!(m, ToManagement::Heartbeat(beat) if beat.held == Some(stamp(7)))),
        "{heard:?}"
    );
    under.router.stop().await;
}

#[actix::test]
async fn a_router_tells_management_where_requests_of_its_own_last() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(dir.path());
    config.management = vec![format!("http://{}", listener.local_addr().unwrap())];
    let heard = Arc::<Mutex<Vec<ToManagement>>>::default();
    actix::spawn(management(listener, heard.clone()));
    let under = Under::test(config).await;
    let go = Arc::new(Notify::new());
    let a = Server::start("a", Does::Waits(go.clone())).await;
    under.tell(list(7, &[&a])).await;
    let told = |has: &str| {
        let has = has.to_owned();
        let heard = heard.clone();
        move || {
            let shown = |beat: &Heartbeat| serde_json::to_string(&beat.active).unwrap();
            let heard = heard.lock().unwrap();
            matches!(heard.last(), Some(ToManagement::Heartbeat(beat)) if shown(beat) == has)
        }
    };
    until("it tells that there are none", told("{}")).await;
    let asked = actix::spawn(get(under.http(), "/shop"));
    until("it tells of the one", told(r#"{"shop":{"a":1}}"#)).await;
    go.notify_one();
    assert_eq!(asked.await.unwrap().body, "a");
    until("it tells that there are none again", told("{}")).await;
    under.router.stop().await;
}

/// Welcomes routers, and knows them for three heartbeats.
async fn management(listener: TcpListener, heard: Arc<Mutex<Vec<ToManagement>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let heard = heard.clone();
        actix::spawn(async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
                let Ok(envelope) = serde_json::from_str::<Value>(body) else { continue };
                bytes.clear();
                let message: ToManagement = serde_json::from_value(envelope["body"].clone()).unwrap();
                let answer = match &message {
                    ToManagement::Register(_) => {
                        serde_json::json!({"management": "m1", "run": "r", "term": {"number": 1, "management": "m1"}})
                    }
                    _ => {
                        let beats = heard.lock().unwrap().len();
                        let term = serde_json::json!({"number": 1, "management": "m1"});
                        serde_json::json!({"term": term, "renewed": [], "kept_closed": [], "unknown": beats == 4})
                    }
                };
                heard.lock().unwrap().push(message);
                let answer = answer.to_string();
                let length = answer.len();
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
                if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}
