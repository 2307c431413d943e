//! TLS at the router: which certificate, changed under open connections, and which plain requests are sent there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use neap::router::{Https, RouterConfig};
use neap::tls::{Files as Pair, Source};
use neap::traffic::{self, Plan, Target, Trust};
use rustls::HandshakeKind;

use super::support::*;
use crate::support::tls::{Client, Files, both, config as client};

fn source(files: &Files) -> Source {
    Source::Files(Pair { cert: files.cert.clone(), key: files.key.clone() })
}

fn https(files: &[&Files]) -> Https {
    Https {
        listen: "127.0.0.1:0".parse().unwrap(),
        sources: files.iter().map(|files| source(files)).collect(),
        redirect: true,
        redirect_port: None,
        check_every: Duration::from_millis(10),
    }
}

fn with(dir: &Path, https: Https) -> RouterConfig {
    RouterConfig { https: Some(https), ..config(dir) }
}

/// A router that serves the shop on one server, and where it speaks TLS.
async fn serving(dir: &Path, https: Https) -> (Under, SocketAddr, Server) {
    let server = Server::start("s1", Does::Serves).await;
    let under = Under::test(with(dir, https)).await;
    under.tell(list(1, &[&server])).await;
    let at = under.router.https().unwrap();
    (under, at, server)
}

/// Runs a client that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[actix::test]
async fn a_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let first = Files::write(dir.path(), "first", &["first.example"]);
    let shop = Files::write(dir.path(), "shop", &["shop.example.com"]);
    let wild = Files::write(dir.path(), "wild", &["*.example.com"]);
    let (_under, at, server) = serving(dir.path(), https(&[&first, &shop, &wild])).await;
    blocking(move || {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13], rustls::ALL_VERSIONS] {
            for (name, files) in [
                ("shop.example.com", &shop),
                ("SHOP.example.com", &shop),
                ("mail.example.com", &wild),
                ("a.b.example.com", &first),
                ("nobody.example", &first),
                ("127.0.0.1", &first),
            ] {
                let mut client = Client::connect(at, name, &client(versions)).unwrap();
                assert!(client.shown(files), "{name}");
                assert_eq!(client.get(name, "/shop"), 200);
            }
        }
    })
    .await;
    let seen = server.seen();
    assert_eq!(seen.len(), 18);
    assert!(seen.iter().all(|seen| seen.header("X-Forwarded-Proto") == Some("https")));
}

#[actix::test]
async fn sessions_are_resumed_whichever_worker_takes_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let (_under, at, _server) = serving(dir.path(), https(&[&files])).await;
    blocking(move || {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let kept = client(versions);
            for number in 0..12 {
                let mut client = Client::connect(at, "a.example", &kept).unwrap();
                assert_eq!(client.get("a.example", "/shop"), 200);
                let kind = client.stream.conn.handshake_kind().unwrap();
                assert_eq!(kind == HandshakeKind::Resumed, number > 0, "{kind:?}");
                client.stream.conn.send_close_notify();
            }
        }
    })
    .await;
}

#[actix::test]
async fn only_http_1_1_is_agreed_on() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let (_under, at, _server) = serving(dir.path(), https(&[&files])).await;
    blocking(move || {
        let offer = |protocols: &[&[u8]]| {
            let mut config = (*both()).clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Client::connect(at, "a.example", &Arc::new(config))
        };
        let both = offer(&[b"h2", b"http/1.1"]).unwrap();
        assert_eq!(both.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert!(offer(&[b"h2"]).is_err());
    })
    .await;
}

#[actix::test]
async fn certificates_change_under_open_connections_and_broken_ones_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let old = Files::write(dir.path(), "site", &["a.example"]);
    let (under, at, _server) = serving(dir.path(), https(&[&old])).await;
    let path = dir.path().to_owned();
    let (mut open, old, new) = blocking(move || {
        let mut open: Vec<_> = (0..20).map(|_| Client::connect(at, "a.example", &both()).unwrap()).collect();
        open.iter_mut().for_each(|client| assert_eq!(client.get("a.example", "/shop"), 200));
        let new = Files::write(&path, "site", &["a.example"]);
        let until_new = || {
            let began = std::time::Instant::now();
            while !Client::connect(at, "a.example", &both()).unwrap().shown(&new) {
                assert!(began.elapsed() < DEADLINE, "the new one is not shown");
            }
        };
        until_new();
        open.iter_mut().for_each(|client| assert_eq!(client.get("a.example", "/shop"), 200));
        (open, old, new)
    })
    .await;
    assert!(!open[0].shown(&new) && open[0].shown(&old));
    std::fs::write(&new.cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let broken = "neap_tls_certificate_broken{certificate=\"a.example\"";
    let value = |text: &str| text.lines().find(|line| line.starts_with(broken)).map(|line| line.ends_with(" 1"));
    let began = std::time::Instant::now();
    while value(&under.control("/metrics").await.body) != Some(true) {
        assert!(began.elapsed() < DEADLINE, "{}", under.control("/metrics").await.body);
    }
    let metrics = under.control("/metrics").await.body;
    assert!(metrics.contains("neap_tls_certificate_expiry_seconds{certificate=\"a.example\""), "{metrics}");
    blocking(move || {
        assert!(Client::connect(at, "a.example", &both()).unwrap().shown(&new), "the one before is served on");
        open.iter_mut().for_each(|client| assert_eq!(client.get("a.example", "/shop"), 200));
    })
    .await;
}

async fn plain(under: &Under, request: &str) -> Reply {
    ask(under.http(), &format!("{request}\r\nConnection: close\r\n\r\n")).await
}

#[actix::test]
async fn plain_requests_are_sent_to_https_where_a_certificate_names_their_host() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example", "*.b.example", "127.0.0.1"]);
    let (under, at, server) = serving(dir.path(), https(&[&files])).await;
    let port = at.port();
    for (request, location) in [
        ("GET /shop?x=1&y=a%20b HTTP/1.1\r\nHost: a.example", format!("https://a.example:{port}/shop?x=1&y=a%20b")),
        ("POST /shop HTTP/1.1\r\nHost: A.Example:8080\r\nContent-Length: 0", format!("https://a.example:{port}/shop")),
        ("GET /shop HTTP/1.1\r\nHost: x.b.example", format!("https://x.b.example:{port}/shop")),
        ("GET //c.example/ HTTP/1.1\r\nHost: 127.0.0.1", format!("https://127.0.0.1:{port}//c.example/")),
        ("GET http://a.example/shop HTTP/1.1\r\nHost: a.example", format!("https://a.example:{port}/shop")),
    ] {
        let reply = plain(&under, request).await;
        assert_eq!(reply.status, 308, "{request}");
        assert_eq!(field(&reply.head, "Location"), Some(location.as_str()));
    }
    assert_eq!(server.seen().len(), 0);
    // Hosts that no certificate is for are served as before; also those that look as if.
    for host in ["other.example", "a.example.evil", "evil/x.b.example", "evil@a.example", "x.y.b.example", "::1"] {
        let reply = plain(&under, &format!("GET /shop HTTP/1.1\r\nHost: {host}")).await;
        assert!(matches!(reply.status, 200 | 400), "{host}: {}", reply.status);
        assert_eq!(field(&reply.head, "Location"), None);
    }
    let challenge = plain(&under, "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.example").await;
    assert_eq!(challenge.status, 404, "routed as any other");
    let reply = plain(&under, "GET /shop HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https").await;
    assert_eq!(reply.status, 308, "anybody can say so");
}

#[actix::test]
async fn a_trusted_proxy_that_spoke_tls_itself_is_not_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let server = Server::start("s1", Does::Serves).await;
    let https = Https { redirect_port: Some(443), ..https(&[&files]) };
    let under = Under::test(RouterConfig { trusted: Arc::new(|_| true), ..with(dir.path(), https) }).await;
    under.tell(list(1, &[&server])).await;
    let reply = plain(&under, "GET /shop HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https").await;
    assert_eq!(reply.status, 200);
    let reply = plain(&under, "GET /shop HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: http").await;
    assert_eq!(field(&reply.head, "Location"), Some("https://a.example/shop"), "443 needs no mention");
}

#[actix::test]
async fn without_redirect_plain_requests_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let (under, _, _server) = serving(dir.path(), Https { redirect: false, ..https(&[&files]) }).await;
    let reply = plain(&under, "GET /shop HTTP/1.1\r\nHost: a.example").await;
    assert_eq!(reply.status, 200);
}

#[actix::test]
async fn a_router_that_stops_ends_idle_connections_in_order_and_answers_what_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let (under, at, server) = serving(dir.path(), https(&[&files])).await;
    let go = Arc::new(tokio::sync::Notify::new());
    let (mut idle, mut busy) = blocking(move || {
        let mut idle = Client::connect(at, "a.example", &both()).unwrap();
        idle.get("a.example", "/shop");
        (idle, Client::connect(at, "a.example", &both()).unwrap())
    })
    .await;
    server.now(Does::Waits(Arc::clone(&go)));
    busy.send("GET /shop HTTP/1.1\r\nHost: a.example\r\n\r\n");
    server.saw(2).await;
    let stopping = actix::spawn(under.router.stop());
    assert!(blocking(move || idle.ends_in_order()).await);
    go.notify_one();
    blocking(move || {
        assert_eq!(busy.status(), 200);
        assert!(busy.ends_in_order());
    })
    .await;
    stopping.await.unwrap();
}

#[actix::test]
async fn traffic_by_https_checks_every_answer_and_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["localhost"]);
    let (_under, at, _server) = serving(dir.path(), https(&[&files])).await;
    let run = |trust: Trust| {
        let url = format!("https://localhost:{}/shop", at.port()).parse().unwrap();
        traffic::run(Plan { trust, ..Plan::new(vec![Target::new(url, 200.0)]).duration(Duration::from_millis(500)) })
    };
    for trust in [Trust::Only(files.cert.clone()), Trust::Everyone] {
        let report = run(trust).await.unwrap();
        assert!(report.passed && report.all.ok > 50, "{:?}", report.all);
    }
    let report = run(Trust::Only(Files::write(dir.path(), "other", &["localhost"]).cert)).await.unwrap();
    assert_eq!(report.all.ok, 0, "signed by somebody else");
}
