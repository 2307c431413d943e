//! Refusals and admission (protocol P1, P2a, P2f).

use super::support::*;
use crate::proxy::{Limits, ReplayBudget};
use std::sync::Arc;

const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nNeap-Refused: run.7\r\nContent-Length: 3\r\n\r\nno\n";

fn refuses() -> Upstream {
    Upstream::start(|peer, _| serve_all(peer, |_, _| REFUSAL.to_owned()))
}

fn echoes() -> Upstream {
    Upstream::start(|peer, _| serve_all(peer, |_, body| ok(&String::from_utf8_lossy(body))))
}

#[test]
fn a_refused_request_goes_to_the_next_server_with_its_body() {
    let (closed, open) = (refuses(), echoes());
    let proxy = Proxy::start(Script::to([server(closed.addr), server(closed.addr), server(open.addr)]));
    let mut client = proxy.connect();
    let body = "b".repeat(60_000);
    client.send(post(&body));
    assert_eq!(client.message().1, body.as_bytes());
    let lines = proxy.log.wait(3);
    assert_eq!(lines, ["refused run.7", "refused run.7", "Completed { status: 200 } 60000 60000"]);
    assert_eq!(closed.connections(), 1, "a refusal leaves its connection usable");
}

#[test]
fn a_refusal_whose_body_was_not_read_whole_leaves_no_connection() {
    let chunked = "HTTP/1.1 503 No\r\nNeap-Refused: run.7\r\nTransfer-Encoding: chunked\r\n\r\n";
    let closed = Upstream::start(move |peer, _| serve_all(peer, |_, _| chunked.to_owned()));
    let proxy = Proxy::start(Script::to([server(closed.addr), server(closed.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.message().0.starts_with("HTTP/1.1 503 "));
    assert_eq!(closed.connections(), 2);
}

#[test]
fn a_refusal_is_believed_from_a_server_only() {
    let upstream = refuses();
    let proxy = Proxy::start(Script::to([target(upstream.addr), target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    let (head, body) = client.message();
    assert!(head.starts_with("HTTP/1.1 503") && body == b"no\n");
    assert!(!head.to_lowercase().contains("neap"), "a program's Neap-* never reaches a client: {head}");
    assert_eq!(proxy.log.wait(1), ["Completed { status: 503 } 0 3"]);
}

#[test]
fn what_a_server_says_of_itself_is_heard_and_not_passed_on() {
    let upstream = Upstream::start(|peer, _| {
        serve_all(peer, |_, _| "HTTP/1.1 200 OK\r\nNeap-Version: 2\r\nContent-Length: 0\r\n\r\n".into());
    });
    let proxy = Proxy::start(Script::to([server(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    let head = client.head();
    assert!(head.contains("X-Seen-Version: 2") && !head.contains("Neap-"), "{head}");
}

/// A server that admits a body, and says what it was sent.
fn admits() -> Upstream {
    Upstream::start(|peer, _| {
        while let Some(head) = peer.try_until("\r\n\r\n") {
            assert!(head.contains("Expect: 100-continue"), "{head}");
            assert!(peer.is_silent(), "no byte of the body before its admission");
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next());
            let body = match length {
                Some(length) => peer.take(length.parse().unwrap()).len(),
                None => peer.until("0\r\n\r\n").len(),
            };
            peer.send(ok(&body.to_string()));
        }
    })
}

#[test]
fn a_large_body_waits_for_its_admission_and_a_refusal_leaves_it_unsent() {
    let (closed, open) = (refuses_waiting(), admits());
    let proxy = Proxy::start(Script::to([server(closed.addr), server(open.addr)]));
    let mut client = proxy.connect();
    client.send(post(&"b".repeat(200_000)));
    assert_eq!(client.message().1, b"200000");
    assert_eq!(proxy.log.wait(2), ["refused run.7", "Completed { status: 200 } 200000 6"]);
}

fn refuses_waiting() -> Upstream {
    Upstream::start(|peer, _| {
        let head = peer.head();
        assert!(head.contains("Expect: 100-continue"), "{head}");
        peer.send(REFUSAL);
        assert_eq!(peer.rest(), "", "the body was not sent");
    })
}

#[test]
fn a_chunked_body_and_one_beyond_the_budget_wait_for_admission_too() {
    let open = admits();
    let limits = Limits { replay_budget: Arc::new(ReplayBudget::new(2)), ..Limits::default() };
    let proxy = Proxy::with(Script::to([server(open.addr)]), limits);
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.message().1, b"13");
    client.send(post("abc"));
    assert_eq!(client.message().1, b"3");
}

#[test]
fn a_connection_lost_while_waiting_for_admission_is_502() {
    let upstream = Upstream::start(|peer, _| drop(peer.head()));
    let proxy = Proxy::start(Script::to([server(upstream.addr), server(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(post(&"b".repeat(200_000)));
    assert!(client.head().starts_with("HTTP/1.1 502 "));
    assert_eq!(proxy.log.wait(2)[0], "died");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_refusal_after_the_admission_is_not_repeated() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        peer.take(10);
        peer.send(REFUSAL);
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([server(upstream.addr), server(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(post(&"b".repeat(200_000)));
    assert!(client.head().starts_with("HTTP/1.1 503 "));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_client_that_waits_is_told_to_go_on_when_the_server_admits_it() {
    let open = admits();
    let proxy = Proxy::start(Script::to([server(open.addr)]));
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("c".repeat(70_000));
    assert_eq!(client.message().1, b"70000");
}

#[test]
fn a_client_that_waits_with_a_small_body_is_told_at_once_and_the_body_is_kept() {
    let (closed, open) = (refuses(), echoes());
    let proxy = Proxy::start(Script::to([server(closed.addr), server(open.addr)]));
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("small");
    assert_eq!(client.message().1, b"small");
}

#[test]
fn a_server_admits_only_once_its_instance_took_the_connection() {
    let instance = echoes();
    let gone = Proxy::with(Script::to([target(nowhere())]), Limits::of_data_port());
    let open = Proxy::with(Script::to([target(instance.addr)]), Limits::of_data_port());
    let request = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut client = gone.connect();
    client.send(request);
    let all = client.rest();
    assert!(all.starts_with("HTTP/1.1 503 ") && all.contains("Connection: close"), "{all}");
    let mut client = open.connect();
    client.send(request);
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.message().1, b"hello");
}

#[test]
fn two_hops_of_neap_carry_large_bodies_and_refusals() {
    let instance = echoes();
    let gone = Proxy::with(refusing(), Limits::of_data_port());
    let open = Proxy::with(Script::to([target(instance.addr)]), Limits::of_data_port());
    let router = Proxy::start(Script::to([server(gone.addr), server(open.addr)]));
    let mut client = router.connect();
    for size in [5, 70_000, 1_000_000] {
        let body = "z".repeat(size);
        client.send(post(&body));
        assert_eq!(client.message().1, body.as_bytes());
    }
}

/// A server all of whose gates are closed.
fn refusing() -> Script {
    Script { refuses: true, ..Script::to([]) }
}
