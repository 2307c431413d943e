//! Sides that take little, or nothing, and clients that leave while nothing moves.

use super::support::*;
use crate::proxy::Limits;
use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const STALL: Duration = Duration::from_millis(300);

fn impatient() -> Limits {
    Limits { write_idle: STALL, ..Limits::default() }
}

/// Leaves as a process does that has died: with a reset, whatever is on its way.
fn vanish(client: Peer) {
    rustix::net::sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).unwrap();
}

/// An upstream that reads a head and then nothing until told; then to its end.
fn deaf() -> (Upstream, Sender<()>, Receiver<&'static str>) {
    let (listen, told) = channel::<()>();
    let (say, said) = channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        say.send("asked").unwrap();
        told.lock().unwrap().recv().unwrap();
        peer.rest();
        say.send("over").unwrap();
    });
    (upstream, listen, said)
}

/// Sends as much as is taken.
fn fill(client: &mut Peer) {
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while client.try_send(&[b'b'; 65536]) {}
}

#[test]
fn an_answer_that_its_client_does_not_take_fills_little_of_the_kernels_memory() {
    // Slow readers by the thousand must not take all the memory that the kernel has for connections: those of others
    // would stand still.
    let (say, said) = channel();
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        rustix::net::sockopt::set_socket_send_buffer_size(&peer.stream, 32 * 1024).unwrap();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut taken = 0;
        while let Ok(written @ 1..) = (&peer.stream).write(&[b'a'; 4096]) {
            taken += written;
        }
        say.send(taken).unwrap();
    });
    let server_hop = Proxy::with(Script::to([target(upstream.addr)]), Limits::of_data_port());
    let proxy = Proxy::start(Script::to([server(server_hop.addr)]));
    let mut client = proxy.connect();
    client.send(get("/"));
    let taken = said.recv_timeout(DEADLINE).unwrap();
    assert!(taken < 1 << 20, "{taken} bytes wait");
}

#[test]
fn a_client_that_takes_an_answer_slowly_but_steadily_gets_it() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while peer.try_send(&[b'a'; 65536]) {}
    });
    let data_port = Limits { write_idle: Duration::from_secs(60), ..Limits::of_data_port() };
    let server_hop = Proxy::with(Script::to([target(upstream.addr)]), data_port);
    let proxy = Proxy::with(Script::to([server(server_hop.addr)]), impatient());
    let mut client = proxy.connect();
    client.send(get("/"));
    client.head();
    let begin = Instant::now();
    while begin.elapsed() < 6 * STALL {
        client.take(16 * 1024);
        std::thread::sleep(STALL / 12);
    }
    assert!(proxy.log.wait(0).is_empty(), "it was not given up");
    drop(client);
    assert!(proxy.log.wait(1)[0].starts_with("ClientLeft 0 "));
    assert!(server_hop.log.wait(1)[0].starts_with("ClientLeft 0 "));
}

#[test]
fn a_client_that_vanishes_while_its_upload_stands_still_is_noticed_on_both_hops() {
    let (upstream, listen, said) = deaf();
    let server_hop = Proxy::with(Script::to([target(upstream.addr)]), Limits::of_data_port());
    let router = Proxy::start(Script::to([server(server_hop.addr)]));
    let mut client = router.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(said.recv_timeout(Duration::from_secs(5)), Ok("asked"));
    fill(&mut client);
    vanish(client);
    let left = Instant::now();
    assert!(router.log.wait(1)[0].starts_with("ClientLeft "));
    assert!(server_hop.log.wait(1)[0].starts_with("ClientLeft "));
    assert!(left.elapsed() < Duration::from_secs(4), "at once, and not when a timeout is over");
    listen.send(()).unwrap();
    assert_eq!(said.recv_timeout(Duration::from_secs(5)), Ok("over"));
}

#[test]
fn a_client_that_ended_its_side_behind_a_whole_body_is_still_served() {
    let body = "b".repeat(3_000_000);
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |peer, _| {
        let head = peer.head();
        wait.lock().unwrap().recv().unwrap();
        let length = head.to_ascii_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().len();
        assert_eq!(length, 7);
        peer.take(3_000_000);
        peer.send(ok("all of it"));
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Longer than the time between two looks at the client.
            std::thread::sleep(Duration::from_millis(1200));
            go.send(()).unwrap();
        });
        client.send(&body);
        client.stream.shutdown(Shutdown::Write).unwrap();
        let all = client.rest();
        assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("all of it"), "{all}");
    });
}

#[test]
fn a_tunnel_ends_when_either_side_takes_nothing() {
    const ASK: &str =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (client_talks, outcome) in [(false, "ClientLeft "), (true, "Failed(Truncated) ")] {
        let upstream = Upstream::start(move |peer, _| {
            peer.head();
            peer.send(ACCEPT);
            while !client_talks && peer.try_send(&[b'a'; 65536]) {}
            std::thread::sleep(Duration::from_secs(5));
        });
        let proxy = Proxy::with(Script::to([target(upstream.addr)]), impatient());
        let mut client = proxy.connect();
        client.send(ASK);
        client.until("\r\n\r\n");
        while client_talks && client.try_send(&[b'b'; 65536]) {}
        let lines = proxy.log.wait(2);
        assert!(lines[0] == "Tunnel" && lines[1].starts_with(outcome), "{lines:?}");
    }
}
