//! Answers so large that the kernel passes them on.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::support::*;
use crate::proxy::splice::LEAST_BYTES;

/// Letters in an order that does not come again within a pipe's size, so that a piece lost, doubled or moved shows.
fn letters(size: usize) -> String {
    let mut state = 7_u64;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + ((state >> 33) % 26) as u8)
        })
        .collect()
}

fn size_asked(head: &str) -> usize {
    let path = head.split(' ').nth(1).unwrap();
    path.trim_start_matches('/').parse().unwrap()
}

#[test]
fn a_large_answer_is_the_same_byte_for_byte_and_both_connections_go_on() {
    let least = LEAST_BYTES as usize;
    let upstream = Upstream::start(|peer, _| serve_all(peer, |head, _| ok(&letters(size_asked(head)))));
    let server_hop = Proxy::start(Script::to([target(upstream.addr)]));
    let proxy = Proxy::start(Script::to([server(server_hop.addr)]));
    let mut client = proxy.connect();
    for size in [least - 1, least, least + 1, 2 * least, 9 << 20, 1, 5 << 20] {
        client.send(get(&format!("/{size}")));
        let (head, body) = client.message();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(body == letters(size).as_bytes(), "{size} bytes");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_large_answer_that_is_sent_on_by_and_by_waits_for_nothing() {
    // Each piece is asked for when those before have come: a byte that waited for later ones would never come.
    let (ask, asked) = channel();
    let asked = Mutex::new(asked);
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        let body = letters(2 << 20);
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        for piece in body.as_bytes().chunks(100_003) {
            asked.lock().unwrap().recv().unwrap();
            peer.send(piece);
        }
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    for (number, piece) in letters(2 << 20).as_bytes().chunks(100_003).enumerate() {
        ask.send(()).unwrap();
        if number == 0 {
            client.head();
        }
        assert!(client.take(piece.len()) == piece);
    }
}

#[test]
fn a_large_answer_that_breaks_off_breaks_off_for_its_client() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n");
        peer.send(letters(3_000_000));
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    client.head();
    assert!(client.rest() == letters(3_000_000));
    let log = proxy.log.wait(1);
    assert!(log.iter().any(|line| line.contains("Truncated")), "{log:?}");
}

#[test]
fn a_client_that_leaves_a_large_answer_is_known_to_have_left() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 800000000\r\n\r\n");
        while peer.try_send(&[b'a'; 65536]) {}
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    client.head();
    client.take(2_000_000);
    drop(client);
    let log = proxy.log.wait(1);
    assert!(log.iter().any(|line| line.contains("ClientLeft")), "{log:?}");
}
