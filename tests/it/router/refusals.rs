//! Requests that a server turned away or that could not be sent (protocol P2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use neap::domain::names::Generation;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::support::{Does, Reply, Server, Under, ask, busy, field, get, list, until};

fn post(body: &str) -> String {
    let length = body.len();
    format!("POST /shop/order HTTP/1.1\r\nHost: any\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn no_server(reply: &Reply) {
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(field(&reply.head, "Retry-After"), Some("1"));
    assert_eq!(field(&reply.head, "Content-Type"), Some("application/problem+json"));
    assert!(reply.body.contains("\"code\":\"no_server\""), "{reply:?}");
}

#[actix::test]
async fn a_refused_post_is_sent_to_another_server_whole_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Server::start("a", Does::Refuses(1)).await, Server::start("b", Does::Serves).await);
    // As if busy: so that the one that refuses is first.
    let mut shop = list(1, &[&a, &b]);
    busy(&mut shop.programs[0].placements[1]);
    let under = Under::with(dir.path(), shop).await;
    let small = ask(under.http(), &post("order 1")).await;
    assert_eq!((small.status, small.body.as_str()), (200, "b"));
    assert_eq!((a.seen().len(), b.seen().len()), (1, 1));
    assert_eq!(b.seen()[0].body, b"order 1");
    // Too large to be kept: it waits for the server's word before a byte of it leaves.
    a.now(Does::Serves);
    b.now(Does::Refuses(1));
    let large = "x".repeat(300_000);
    let reply = ask(under.http(), &post(&large)).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "a"));
    assert_eq!(a.seen().last().unwrap().body, large.as_bytes());
    assert!(b.seen().last().unwrap().body.is_empty(), "a byte of it reached the one that refused");
    assert_eq!(under.count(|counts| counts.refused).await, 2);
    assert_eq!(under.count(|counts| counts.redispatched).await, 2);
    assert_eq!(under.count(|counts| counts.completed).await, 2);
    under.router.stop().await;
}

#[actix::test]
async fn a_server_that_refused_though_listed_open_is_asked_last_until_something_newer_is_heard_of() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Server::start("a", Does::Refuses(2)).await, Server::start("b", Does::Serves).await);
    let mut shop = list(1, &[&a, &b]);
    busy(&mut shop.programs[0].placements[1]);
    let under = Under::with(dir.path(), shop.clone()).await;
    for _ in 0..5 {
        assert_eq!(get(under.http(), "/shop").await.body, "b");
    }
    assert_eq!(a.seen().len(), 1, "the list is stale, the refusal is not");
    a.now(Does::Serves);
    shop.stamp.revision.0 = 2;
    shop.programs[0].placements[0].generation = Generation(3);
    under.tell(shop).await;
    assert_eq!(get(under.http(), "/shop").await.body, "a");
    under.router.stop().await;
}

#[actix::test]
async fn it_gives_up_only_when_every_server_has_refused_twice_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Server::start("a", Does::Refuses(4)).await, Server::start("b", Does::Refuses(7)).await);
    let under = Under::with(dir.path(), list(1, &[&a, &b])).await;
    no_server(&get(under.http(), "/shop").await);
    assert_eq!((a.seen().len(), b.seen().len()), (2, 2));
    assert_eq!(under.count(|counts| counts.no_server).await, 1);
    assert_eq!(under.count(|counts| counts.admitted).await, 0);
    under.router.stop().await;
}

#[actix::test]
async fn a_gate_that_moves_while_it_asks_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let a = Arc::new(Server::start("a", Does::Refuses(1)).await);
    let under = Under::with(dir.path(), list(1, &[&a])).await;
    let moving = a.clone();
    let moves = actix::spawn(async move {
        for generation in 2..6 {
            moving.saw(generation as usize - 1).await;
            moving.now(Does::Refuses(generation));
        }
        moving.saw(5).await;
        moving.now(Does::Serves);
    });
    let reply = get(under.http(), "/shop").await;
    moves.abort();
    // It may give up where two answers in a row were alike, and never before.
    if reply.status != 200 {
        no_server(&reply);
        assert!(a.seen().len() >= 2);
    }
    under.router.stop().await;
}

#[actix::test]
async fn a_held_request_goes_on_as_soon_as_the_list_says_that_a_server_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Refuses(1)).await;
    let mut shop = list(1, &[&a]);
    shop.programs[0].manifest.upgrade.hold = Duration::from_secs(60);
    let under = Under::with(dir.path(), shop.clone()).await;
    let held = actix::spawn({
        let addr = under.http();
        async move { ask(addr, &post("held")).await }
    });
    a.saw(2).await;
    a.now(Does::Serves);
    shop.stamp.revision.0 = 2;
    shop.programs[0].placements[0].generation = Generation(2);
    under.tell(shop).await;
    let reply = held.await.unwrap();
    assert_eq!((reply.status, a.seen().last().unwrap().body.as_slice()), (200, &b"held"[..]));
    assert_eq!(under.count(|counts| counts.held).await, 1);
    under.router.stop().await;
}

#[actix::test]
async fn a_held_request_goes_on_when_a_server_opens_and_nobody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Refuses(1)).await;
    let mut shop = list(1, &[&a]);
    shop.programs[0].manifest.upgrade.hold = Duration::from_secs(60);
    let under = Under::with(dir.path(), shop).await;
    let held = actix::spawn({
        let addr = under.http();
        async move { get(addr, "/shop").await }
    });
    a.saw(3).await;
    a.now(Does::Serves);
    assert_eq!(held.await.unwrap().status, 200);
    under.router.stop().await;
}

#[actix::test]
async fn a_hold_ends_and_a_client_that_leaves_ends_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Refuses(1)).await;
    let mut shop = list(1, &[&a]);
    shop.programs[0].manifest.upgrade.hold = Duration::from_millis(300);
    let under = Under::with(dir.path(), shop.clone()).await;
    let began = Instant::now();
    no_server(&get(under.http(), "/shop").await);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(under.control("/metrics").await.body.contains("outcome=\"hold_expired\"} 1"));
    shop.stamp.revision.0 = 2;
    shop.programs[0].manifest.upgrade.hold = Duration::from_secs(600);
    under.tell(shop).await;
    let asked = a.seen().len();
    let mut leaves = TcpStream::connect(under.http()).await.unwrap();
    leaves.write_all(b"GET /shop HTTP/1.1\r\nHost: any\r\n\r\n").await.unwrap();
    a.saw(asked + 2).await;
    drop(leaves);
    let deadline = Instant::now() + super::support::DEADLINE;
    while under.count(|counts| counts.client_left).await == 0 {
        assert!(Instant::now() < deadline);
    }
    assert!(!under.control("/metrics").await.body.contains("neap_held_requests{"));
    under.router.stop().await;
}

#[actix::test]
async fn held_requests_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let a = Server::start("a", Does::Refuses(1)).await;
    let mut shop = list(1, &[&a]);
    shop.programs[0].manifest.upgrade.hold = Duration::from_secs(60);
    let mut config = super::support::config(dir.path());
    config.limits.held_requests = 1;
    let under = Under::test(config).await;
    under.tell(shop).await;
    let addr = under.http();
    let held = actix::spawn(async move { get(addr, "/shop").await });
    a.saw(3).await;
    let reply = get(under.http(), "/shop").await;
    assert!(reply.status == 503 && reply.body.contains("held_requests_full"), "{reply:?}");
    a.now(Does::Serves);
    assert_eq!(held.await.unwrap().status, 200);
    under.router.stop().await;
}

#[actix::test]
async fn a_server_that_cannot_be_reached_is_set_aside_probed_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Server::start("gone", Does::Serves).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap();
    drop(listener);
    let b = Server::start("b", Does::Serves).await;
    let mut shop = list(1, &[&gone, &b]);
    shop.servers[0].data = dead;
    busy(&mut shop.programs[0].placements[1]);
    let under = Under::with(dir.path(), shop).await;
    for _ in 0..3 {
        assert_eq!(get(under.http(), "/shop").await.body, "b");
    }
    let back = Server::on(tokio::net::TcpListener::bind(dead).await.unwrap(), "gone", Does::Serves);
    let deadline = Instant::now() + super::support::DEADLINE;
    while get(under.http(), "/shop").await.body != "gone" {
        assert!(Instant::now() < deadline, "never taken back");
    }
    assert_eq!(back.seen().len(), 1);
    under.router.stop().await;
}

#[actix::test]
async fn unreachable_servers_are_not_given_up_before_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (a, refusing) = (Server::start("a", Does::Serves).await, Server::start("b", Does::Refuses(1)).await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap();
    drop(listener);
    let mut shop = list(1, &[&a, &refusing]);
    shop.servers[0].data = dead;
    let under = Under::with(dir.path(), shop).await;
    let began = Instant::now();
    no_server(&get(under.http(), "/shop").await);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(refusing.seen().len() < 80, "a busy loop: {}", refusing.seen().len());
    // One that comes back within the second gets the request.
    let addr = under.http();
    let asked = refusing.seen().len();
    let waits = actix::spawn(async move { get(addr, "/shop").await });
    refusing.saw(asked + 2).await;
    let _back = Server::on(tokio::net::TcpListener::bind(dead).await.unwrap(), "a", Does::Serves);
    assert_eq!(waits.await.unwrap().body, "a");
    under.router.stop().await;
}

#[actix::test]
async fn a_request_under_way_is_not_touched_by_a_list_that_takes_its_server_away() {
    let dir = tempfile::tempdir().unwrap();
    let go = Arc::new(Notify::new());
    let (a, b) = (Server::start("a", Does::Waits(go.clone())).await, Server::start("b", Does::Serves).await);
    let under = Under::with(dir.path(), list(1, &[&a])).await;
    let addr = under.http();
    let slow = actix::spawn(async move { get(addr, "/shop").await });
    a.saw(1).await;
    under.tell(list(2, &[&b])).await;
    assert_eq!(get(under.http(), "/shop").await.body, "b");
    go.notify_one();
    assert_eq!(slow.await.unwrap().body, "a");
    under.router.stop().await;
}

#[actix::test]
async fn a_router_that_stops_lets_requests_under_way_end() {
    let dir = tempfile::tempdir().unwrap();
    let go = Arc::new(Notify::new());
    let a = Server::start("a", Does::Waits(go.clone())).await;
    let under = Under::with(dir.path(), list(1, &[&a])).await;
    let addr = under.http();
    let slow = actix::spawn(async move { get(addr, "/shop").await });
    a.saw(1).await;
    let stops = actix::spawn(under.router.stop());
    until("it takes no more", || std::net::TcpStream::connect(addr).is_err()).await;
    assert!(!slow.is_finished() && !stops.is_finished());
    go.notify_one();
    assert_eq!(slow.await.unwrap().status, 200);
    stops.await.unwrap();
}
