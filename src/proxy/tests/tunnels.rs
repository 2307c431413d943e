//! What lives long: WebSockets and event streams.

use super::support::*;
use crate::proxy::Limits;
use std::net::Shutdown;

const ASK: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// An upstream that echoes lines after 101, until its client's end, then says goodbye.
fn talker() -> Upstream {
    Upstream::start(|peer, _| {
        let head = peer.head();
        assert!(
            head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n") && head.contains("Sec-WebSocket-Key: k")
        );
        peer.send(format!("{ACCEPT}hello\n"));
        while let Some(line) = peer.try_until("\n") {
            peer.send(line);
        }
        peer.send("goodbye\n");
    })
}

#[test]
fn a_websocket_carries_bytes_both_ways_and_half_closes() {
    let upstream = talker();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(format!("{ASK}ahead\n"));
    assert_eq!(client.head(), ACCEPT);
    assert_eq!(client.until("\n"), "hello\n");
    assert_eq!(client.until("\n"), "ahead\n");
    client.send("again\n");
    assert_eq!(client.until("\n"), "again\n");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "goodbye\n");
    assert_eq!(proxy.log.wait(2), ["Tunnel", "Completed { status: 101 } 12 26"]);
}

#[test]
fn a_websocket_passes_two_hops() {
    let upstream = talker();
    let data_port = Proxy::with(Script::to([target(upstream.addr)]), Limits::of_data_port());
    let router = Proxy::start(Script::to([server(data_port.addr)]));
    let mut client = router.connect();
    client.send(ASK);
    client.until("hello\n");
    let large = format!("{}\n", "m".repeat(1 << 20));
    client.send(&large);
    assert!(client.until("\n") == large);
    drop(client);
    assert!(router.log.wait(2)[1].starts_with("Completed { status: 101 }"));
    assert!(data_port.log.wait(2)[1].starts_with("Completed { status: 101 }"));
}

#[test]
fn a_cut_ends_a_tunnel() {
    let upstream = talker();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(ASK);
    client.until("hello\n");
    proxy.cuts.lock().unwrap()[0].cut();
    assert_eq!(client.rest(), "");
    assert_eq!(proxy.log.wait(2)[1], "Cut 0 6");
}

#[test]
fn a_tunnel_that_was_not_asked_for_is_502() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send(ACCEPT);
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.head().starts_with("HTTP/1.1 502 "));
}

#[test]
fn a_websocket_that_is_declined_is_an_ordinary_answer() {
    let upstream = Upstream::start(|peer, _| serve_all(peer, |_, _| ok("no")));
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(ASK);
        assert_eq!(client.message().1, b"no");
    }
}

#[test]
fn each_event_of_a_stream_is_passed_on_at_once() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for number in 0..3 {
            peer.send(format!("data: {number}\n\n"));
            wait.lock().unwrap().recv().unwrap();
        }
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    client.head();
    for number in 0..3 {
        assert!(client.until("\n\n").contains(&format!("data: {number}")));
        if number < 2 {
            go.send(()).unwrap();
        }
    }
    drop(client);
    assert_eq!(proxy.log.wait(2), ["EventStream", "ClientLeft 0 27"]);
}
