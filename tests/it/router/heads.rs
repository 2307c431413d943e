//! What programs hear of clients, and clients of neap.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use neap::link::secret::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Does, Reply, Server, Under, ask, config, field, get, list};

async fn ask_with(under: &Under, fields: &str) -> Reply {
    ask(
        under.http(),
        &format!("GET /shop/cart?x=1 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n{fields}\r\n"),
    )
    .await
}

#[actix::test]
async fn a_clients_own_neap_and_forwarding_fields_reach_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Serves).await;
    let under = Under::with(dir.path(), list(1, &[&a])).await;
    let fields = "Neap-Program: mail\r\nneap_session: 1\r\nNeap-Cluster-Key: x\r\nX-Forwarded-For: 9.9.9.9\r\n\
        X-Forwarded-Prefix: /evil\r\nX-Forwarded-Host: evil\r\nX_Request_Id: y\r\nAccept: a\r\n";
    let reply = ask_with(&under, fields).await;
    assert_eq!(reply.status, 200);
    assert_eq!(field(&reply.head, "Neap-Version").or(field(&reply.head, "Neap-Secret")), None, "{reply:?}");
    let seen = &a.seen()[0];
    assert!(seen.head.starts_with("GET /shop/cart?x=1 HTTP/1.1\r\nHost: shop.example.com\r\n"), "{}", seen.head);
    assert_eq!(seen.header("Neap-Program"), Some("shop"));
    assert_eq!(seen.header("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("shop.example.com"));
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.header("Accept"), Some("a"));
    for gone in ["neap_session", "Neap-Cluster-Key", "X-Forwarded-Prefix", "X_Request_Id"] {
        assert_eq!(seen.header(gone), None, "{}", seen.head);
    }
    assert_eq!(seen.header("X-Request-Id").unwrap().len(), 26);
    assert!(seen.header("traceparent").unwrap().starts_with("00-"));
    under.router.stop().await;
}

#[actix::test]
async fn what_a_trusted_proxy_says_goes_on_and_so_do_good_names_of_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Serves).await;
    let mut config = config(dir.path());
    config.trusted = Arc::new(|ip| ip.is_loopback());
    config.expose_version = true;
    let under = Under::test(config).await;
    under.tell(list(1, &[&a])).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = format!(
        "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\ntraceparent: {trace}\r\n"
    );
    let reply = ask_with(&under, &fields).await;
    assert_eq!(field(&reply.head, "Neap-Version"), Some("1.0"));
    let seen = &a.seen()[0];
    assert_eq!(seen.header("X-Forwarded-For"), Some("9.9.9.9, 127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Proto"), Some("https"));
    assert_eq!((seen.header("X-Request-Id"), seen.header("traceparent")), (Some("mine"), Some(trace)));
    under.router.stop().await;
}

#[actix::test]
async fn a_stripped_prefix_is_told_to_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Serves).await;
    let mut shop = list(1, &[&a]);
    shop.programs[0].manifest.strip_prefix = true;
    let under = Under::with(dir.path(), shop).await;
    ask_with(&under, "").await;
    get(under.http(), "/shop").await;
    let seen = a.seen();
    assert!(seen[0].head.starts_with("GET /cart?x=1 ") && seen[1].head.starts_with("GET / "), "{seen:?}");
    assert!(seen.iter().all(|one| one.header("X-Forwarded-Prefix") == Some("/shop")));
    under.router.stop().await;
}

#[actix::test]
async fn the_clusters_key_goes_to_servers_and_is_asked_of_whoever_tells_lists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &[b's'; 40]).unwrap();
    let a = Server::start("a", Does::Serves).await;
    let mut config = config(dir.path());
    config.secret = Some(Secret::load(&path).unwrap());
    let under = Under::test(config).await;
    under.tell(list(1, &[&a])).await;
    ask_with(&under, "Neap-Cluster-Key: guess\r\n").await;
    assert_eq!(a.seen()[0].header("Neap-Cluster-Key"), Some("s".repeat(40).as_str()));
    assert_eq!(under.control("/.neap/ready").await.status, 200);
    assert_eq!(under.control("/metrics").await.status, 401);
    under.router.stop().await;
}

#[actix::test]
async fn a_body_over_the_programs_limit_is_refused_and_a_server_that_dies_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dies = listener.local_addr().unwrap();
    actix::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let a = Server::start("a", Does::Serves).await;
    let mut shop = list(1, &[&a]);
    shop.servers[0].data = dies;
    shop.programs[0].manifest.body_limit = 10;
    let under = Under::with(dir.path(), shop).await;
    let large = "POST /shop HTTP/1.1\r\nHost: any\r\nConnection: close\r\nContent-Length: 11\r\n\r\n01234567890";
    assert_eq!(ask(under.http(), large).await.status, 413);
    assert_eq!(ask_with(&under, "X-Request-Id: lost\r\n").await.status, 502);
    let cut = under.ledger().await;
    let named: Vec<_> = cut.failures.iter().map(|one| (one.request_id.as_str(), one.path.as_str())).collect();
    assert_eq!(named, [("lost", "/shop/cart")]);
    assert_eq!(cut.failures[0].server.as_ref().unwrap().as_str(), "a");
    assert_eq!(under.count(|counts| counts.failed).await, 1);
    // A connection that only opens and leaves is nobody's request.
    tokio::net::TcpStream::connect(under.http()).await.unwrap().write_all(b"GET ").await.unwrap();
    under.router.stop().await;
}

#[actix::test]
async fn metrics_tell_requests_by_program_version_server_and_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Serves).await;
    let under = Under::with(dir.path(), list(3, &[&a])).await;
    get(under.http(), "/shop").await;
    under.count(|counts| counts.completed).await;
    let text = under.control("/metrics").await.body;
    for line in [
        "neap_requests_total{program=\"shop\",version=\"1.0\",server=\"a\",outcome=\"completed\"} 1",
        "neap_request_seconds_count{program=\"shop\",version=\"1.0\"} 1",
        "neap_active_requests{program=\"shop\",server=\"a\"} 0",
        "neap_server_list_revision{node=\"router-1\"} 3",
        "neap_build_info{",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // One request in 32 of each worker is looked at.
    let sampled = |text: &str| {
        let mut counts = text.lines().filter_map(|line| line.strip_prefix("neap_router_overhead_seconds_count"));
        counts.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0_u64)
    };
    for _ in 0..128 {
        get(under.http(), "/shop").await;
    }
    let text = under.control("/metrics").await.body;
    assert!((1..=4).contains(&sampled(&text)), "{text}");
    under.router.stop().await;
}
