//! What TLS changes, and what it does not: handshakes, ends in order and otherwise, bytes of every size.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::support::*;
use crate::proxy::Limits;

/// Two configurations that know each other.
static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), Arc::new(client))
});

fn secure(script: Script, limits: Limits) -> Proxy {
    Proxy::behind(script, limits, Some(Arc::clone(&CONFIGS.0)))
}

fn connect(proxy: &Proxy) -> Peer {
    let mut peer = proxy.connect();
    let name = ServerName::try_from("a").unwrap();
    peer.tls = Some(ClientConnection::new(Arc::clone(&CONFIGS.1), name).unwrap());
    peer
}

fn echo() -> Upstream {
    Upstream::start(|peer, _| serve_all(peer, |head, body| ok(&format!("{head}{}", String::from_utf8_lossy(body)))))
}

#[test]
fn requests_pass_and_the_program_is_told_of_https() {
    let upstream = echo();
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    for number in 0..3 {
        client.send(get(&format!("/{number}")));
        let body = String::from_utf8(client.message().1).unwrap();
        assert!(
            body.starts_with(&format!("GET /{number} ")) && body.contains("X-Forwarded-Proto: https\r\n"),
            "{body}"
        );
    }
    client.send(format!("{}{}", get("/ahead"), post("body")));
    assert!(client.message().1.starts_with(b"GET /ahead "));
    assert!(client.message().1.ends_with(b"\r\n\r\nbody"));
}

/// Bytes that are where they should be.
fn pattern(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|at| (at % 251) as u8).collect()
}

#[test]
fn large_bodies_pass_both_ways_whole() {
    const SIZE: u64 = 5_000_000;
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        let body = peer.take(SIZE as usize);
        assert!(body == pattern(0, SIZE));
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        peer.send(&body);
        peer.rest();
    });
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    // Pieces of odd sizes, so that records end anywhere.
    let (body, mut at) = (pattern(0, SIZE), 0);
    for size in [1, 16_383, 7, 16_385, 100_003].into_iter().cycle() {
        let end = body.len().min(at + size);
        client.send(&body[at..end]);
        at = end;
        if at == body.len() {
            break;
        }
    }
    assert!(client.message().1 == body);
    assert!(proxy.log.wait(1)[0].starts_with("Completed { status: 200 } 5000000 5000000"));
}

#[test]
fn a_slow_reader_holds_its_upstream_back_and_gets_all() {
    const SIZE: u64 = 64 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        let mut at = 0;
        while at < SIZE && peer.try_send(&pattern(at, at + 65_536)) {
            at += 65_536;
            count.store(at, Ordering::Relaxed);
        }
    });
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    client.send(get("/"));
    client.head();
    // Until it moves no more.
    let (mut before, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        let now = sent.load(Ordering::Relaxed);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // What kernels hold, of both connections; neap itself holds kilobytes.
    assert!(before < 24 << 20, "{before} bytes went ahead of a client that reads nothing");
    let mut at = 0;
    while at < SIZE {
        let bytes = client.take(65_536);
        assert!(bytes == pattern(at, at + 65_536), "at {at}");
        at += 65_536;
    }
}

#[test]
fn a_client_that_takes_a_little_at_a_time_is_not_taken_for_gone() {
    let limits = Limits { write_idle: Duration::from_millis(400), ..Limits::default() };
    const SIZE: usize = 16 << 20;
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        peer.try_send(&vec![7; SIZE]);
        peer.rest();
    });
    let proxy = secure(Script::to([target(upstream.addr)]), limits);
    let mut client = connect(&proxy);
    client.send(get("/"));
    client.head();
    let (mut left, began) = (SIZE, Instant::now());
    while left > 0 {
        if began.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let some = left.min(100_000);
        client.take(some);
        left -= some;
    }
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let limits = Limits { write_idle: Duration::from_millis(100), ..Limits::default() };
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while peer.try_send(&[7; 65_536]) {}
    });
    let proxy = secure(Script::to([target(upstream.addr)]), limits);
    let mut client = connect(&proxy);
    client.send(get("/"));
    client.head();
    assert!(proxy.log.wait(1)[0].starts_with("ClientLeft"));
}

#[test]
fn a_websocket_carries_bytes_both_ways_and_half_closes() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n");
        while let Some(line) = peer.try_until("\n") {
            peer.send(line);
        }
        peer.send("goodbye\n");
    });
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nahead\n";
    client.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.until("\n"), "hello\n");
    assert_eq!(client.until("\n"), "ahead\n");
    let large = format!("{}\n", "m".repeat(1 << 20));
    client.send(&large);
    assert!(client.until("\n") == large);
    client.tls.as_mut().unwrap().send_close_notify();
    client.send("");
    assert_eq!(client.rest(), "goodbye\n");
    assert!(matches!(client.ended, Some(Ok(()))), "{:?}", client.ended);
    assert!(proxy.log.wait(2)[1].starts_with("Completed { status: 101 }"));
}

#[test]
fn a_tunnel_whose_client_breaks_off_does_not_end_in_order() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n");
        peer.rest();
    });
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    client.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    client.until("hello\n");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(proxy.log.wait(2)[1].starts_with("ClientLeft"));
    client.rest();
    assert!(matches!(client.ended, Some(Err(_))));
}

#[test]
fn plain_http_is_told_to_come_with_tls() {
    let proxy = secure(Script::to([]), Limits::default());
    let mut client = proxy.connect();
    client.send(get("/"));
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https://"), "{answer}");
    let mut client = proxy.connect();
    client.send([22, 3, 1, 255, 255]);
    assert!(!client.rest().contains("HTTP"));
}

#[test]
fn a_client_that_does_not_finish_its_handshake_is_cut() {
    let limits = Limits { handshake_timeout: Duration::from_millis(100), ..Limits::default() };
    let proxy = secure(Script::to([]), limits);
    for bytes in [&[][..], &[22, 3, 1, 2, 0, 1], &[22]] {
        let began = Instant::now();
        let mut client = proxy.connect();
        client.send(bytes);
        assert_eq!(client.rest(), "");
        assert!(began.elapsed() >= Duration::from_millis(90));
    }
}

#[test]
fn a_handshake_that_comes_byte_by_byte_succeeds() {
    let upstream = echo();
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    let tls = client.tls.as_mut().unwrap();
    let mut records = Vec::new();
    tls.write_tls(&mut records).unwrap();
    records.iter().for_each(|byte| client.stream.write_all(&[*byte]).unwrap());
    client.send(get("/"));
    client.message();
}

#[test]
fn an_orderly_end_says_so() {
    let upstream = echo();
    let limits = Limits { idle_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let proxy = secure(Script::to([target(upstream.addr)]), limits);
    let mut client = connect(&proxy);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.message();
    assert_eq!(client.rest(), "");
    assert!(matches!(client.ended, Some(Ok(()))), "after Connection: close, {:?}", client.ended);
    let mut client = connect(&proxy);
    client.send(get("/"));
    client.message();
    assert_eq!(client.rest(), "");
    assert!(matches!(client.ended, Some(Ok(()))), "after being idle, {:?}", client.ended);
}

#[test]
fn the_workers_end_says_so_and_waits_for_no_handshake() {
    let upstream = echo();
    let mut proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let (mut client, mut unfinished) = (connect(&proxy), proxy.connect());
    unfinished.send([22]);
    client.send(get("/"));
    client.message();
    let began = Instant::now();
    proxy.join();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(client.rest(), "");
    assert!(matches!(client.ended, Some(Ok(()))), "{:?}", client.ended);
    assert_eq!(unfinished.rest(), "");
}

#[test]
fn an_answer_that_breaks_off_does_not_end_in_order() {
    let upstream = Upstream::start(|peer, number| {
        peer.head();
        let framing = ["Content-Length: 100", "Transfer-Encoding: chunked"][number % 2];
        peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n"));
    });
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    for version in ["1.1", "1.1", "1.0", "1.0"] {
        let mut client = connect(&proxy);
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        client.rest();
        assert!(matches!(client.ended, Some(Err(_))), "{version}: {:?}", client.ended);
    }
}

#[test]
fn a_broken_record_ends_the_connection_with_an_alert() {
    let upstream = echo();
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    client.send(get("/"));
    client.message();
    client.stream.write_all(&[23, 3, 3, 0, 32]).unwrap();
    client.stream.write_all(&[9; 32]).unwrap();
    client.rest();
    let Some(Err(error)) = &client.ended else { panic!("{:?}", client.ended) };
    assert!(error.kind() == ErrorKind::InvalidData && error.to_string().contains("BadRecordMac"), "{error}");
}

#[test]
fn new_keys_are_taken_and_answered_on_the_way() {
    let upstream = echo();
    let proxy = secure(Script::to([target(upstream.addr)]), Limits::default());
    let mut client = connect(&proxy);
    for _ in 0..5 {
        client.send(get("/"));
        client.message();
        client.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
    }
}

#[test]
fn a_client_that_resets_is_gone() {
    let proxy = secure(Script { never_decides: true, ..Script::to([]) }, Limits::default());
    let mut client = connect(&proxy);
    client.send(get("/"));
    eventually("the request", || !proxy.cuts.lock().unwrap().is_empty());
    drop(client);
    assert!(proxy.log.wait(1)[0].starts_with("ClientLeft"));
    let stream = TcpStream::connect(proxy.addr).unwrap();
    drop(stream);
    // The worker goes on.
    let mut client = connect(&proxy);
    client.send(get("/none"));
    assert!(client.message().0.starts_with("HTTP/1.1 404 "));
}
