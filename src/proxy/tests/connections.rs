//! Upstream connections: reuse, death, time (protocol P2b to P2d).

use super::support::*;
use crate::proxy::{Limits, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn a_connection_that_could_not_be_made_goes_to_the_next() {
    let upstream = Upstream::start(|peer, _| serve_all(peer, |_, body| ok(&String::from_utf8_lossy(body))));
    let proxy = Proxy::start(Script::to([target(nowhere()), target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(post("kept"));
    assert_eq!(client.message().1, b"kept");
    assert_eq!(proxy.log.wait(2), ["connect", "Completed { status: 200 } 4 4"]);
}

#[test]
fn when_no_target_is_left_the_roles_answer_is_given() {
    let proxy = Proxy::start(Script::to([target(nowhere())]));
    let mut client = proxy.connect();
    client.send(get("/"));
    let (head, body) = client.message();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 1"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("\"code\":\"no_server\""));
    assert_eq!(proxy.log.wait(2), ["connect", "Answered { status: 503 } 0 0"]);
}

/// An upstream whose first connection answers once, and dies when it gets a second request.
fn dies_when_reused() -> (Upstream, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let upstream = Upstream::start(move |peer, number| {
        if number > 0 {
            return serve_all(peer, |_, _| {
                count.fetch_add(1, Ordering::SeqCst);
                ok("again")
            });
        }
        peer.head();
        peer.send(ok("first"));
        peer.message();
        count.fetch_add(1, Ordering::SeqCst);
    });
    (upstream, served)
}

#[test]
fn an_idempotent_request_on_a_reused_connection_that_died_is_repeated_once() {
    let (upstream, _) = dies_when_reused();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert_eq!(client.message().1, b"first");
    client.send(get("/"));
    assert_eq!(client.message().1, b"again");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn another_request_on_a_reused_connection_that_died_is_502_and_never_repeated() {
    let (upstream, served) = dies_when_reused();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    client.message();
    client.send(post("once"));
    assert!(client.message().0.starts_with("HTTP/1.1 502 "));
    assert_eq!(proxy.log.wait(3)[1..], ["died", "Failed(NoResponse) 4 0"]);
    assert_eq!((served.load(Ordering::SeqCst), upstream.connections()), (1, 1));
}

#[test]
fn a_fresh_connection_that_died_is_502_whatever_the_method() {
    let upstream = Upstream::start(|peer, _| drop(peer.head()));
    let proxy = Proxy::start(Script::to([target(upstream.addr), target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.message().0.starts_with("HTTP/1.1 502 "));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_request_unsafe_to_repeat_never_travels_on_a_connection_idle_too_long() {
    let upstream = Upstream::start(|peer, number| serve_all(peer, |_, _| ok(&number.to_string())));
    let limits = Limits { reuse_idle: Duration::ZERO, ..Limits::default() };
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let mut client = proxy.connect();
    client.send(get("/"));
    assert_eq!(client.message().1, b"0");
    client.send(post("x"));
    assert_eq!(client.message().1, b"1", "a fresh one");
    client.send(get("/"));
    assert_eq!(client.message().1, b"1", "the last used");
    client.send(post("x"));
    assert_eq!(client.message().1, b"2", "a fresh one");
}

#[test]
fn a_connection_closed_while_idle_is_not_reused() {
    let (close, closed) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |peer, number| {
        peer.message();
        peer.send(ok(&number.to_string()));
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        close.send(()).unwrap();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    for number in 0..50 {
        client.send(post("x"));
        assert_eq!(client.message().1, number.to_string().as_bytes());
        closed.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn a_connection_with_surplus_bytes_is_not_reused() {
    let upstream = Upstream::start(|peer, number| {
        peer.head();
        peer.send(format!("{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", ok(&number.to_string())));
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    for number in ["0", "1"] {
        client.send(get("/"));
        assert_eq!(client.message().1, number.as_bytes());
    }
}

#[test]
fn pools_go_by_identity_and_not_by_address() {
    let upstream = Upstream::start(|peer, number| serve_all(peer, |_, _| ok(&number.to_string())));
    let old = Target { key: 1, ..target(upstream.addr) };
    let one = Proxy::start(Script::to([Target { key: 2, ..old }]));
    let mut client = one.connect();
    for _ in 0..2 {
        client.send(get("/"));
        assert_eq!(client.message().1, b"0");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_504() {
    let upstream = Upstream::start(|peer, _| drop(peer.rest()));
    let slow = Target { request_timeout: Duration::from_millis(50), ..target(upstream.addr) };
    let proxy = Proxy::start(Script::to([slow]));
    let mut client = proxy.connect();
    for request in [get("/"), post("x")] {
        client.send(request);
        assert!(client.message().0.starts_with("HTTP/1.1 504 "));
    }
    assert_eq!(proxy.log.wait(4), ["timeout", "Failed(Timeout) 0 0", "timeout", "Failed(Timeout) 1 0"]);
}

#[test]
fn an_answers_head_may_come_byte_by_byte() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        let answer = format!("HTTP/1.1 103 Early Hints\r\n\r\n{}", ok("slow"));
        answer.bytes().for_each(|byte| peer.send([byte]));
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.head().starts_with("HTTP/1.1 103 "));
    assert_eq!(client.message().1, b"slow");
}

#[test]
fn an_answer_that_breaks_off_within_its_head_is_502() {
    let upstream = Upstream::start(|peer, number| {
        if number == 0 {
            peer.head();
            peer.send(ok(""));
        }
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-");
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.message().0.starts_with("HTTP/1.1 200 "));
    client.send(get("/"));
    assert!(client.message().0.starts_with("HTTP/1.1 502 "));
    assert_eq!(upstream.connections(), 1, "never repeated after a response byte");
}

#[test]
fn an_answer_that_is_not_http_is_502() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab");
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.message().0.starts_with("HTTP/1.1 502 "));
}
