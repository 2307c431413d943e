//! Framing, both ways.

use super::support::*;
use crate::proxy::Limits;
use std::time::Duration;

fn answered_with(answer: &'static str) -> (Upstream, Proxy) {
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        peer.send(answer);
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    (upstream, proxy)
}

#[test]
fn a_chunked_answer_keeps_its_data_and_its_trailers() {
    let (_upstream, proxy) = answered_with(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nHost: b\r\n\r\n",
    );
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.head().contains("Transfer-Encoding: chunked"));
    let body = client.until("\r\n\r\n");
    assert_eq!(body, "3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n");
    assert_eq!(proxy.log.wait(1), ["Completed { status: 200 } 0 5"]);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    let (_upstream, proxy) = answered_with("HTTP/1.1 200 OK\r\n\r\nall of it");
    let mut client = proxy.connect();
    client.send(get("/"));
    assert!(client.head().contains("Transfer-Encoding: chunked"));
    let body = client.until("0\r\n\r\n");
    assert!(body.contains("all of it"), "{body}");
    assert_eq!(proxy.log.wait(1), ["Completed { status: 200 } 0 9"]);
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let (_upstream, proxy) =
        answered_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head();
    assert!(head.contains("Connection: close") && !head.contains("chunked"), "{head}");
    assert_eq!(client.rest(), "abc");
}

#[test]
fn a_truncated_answer_never_ends_cleanly() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ] {
        let (_upstream, proxy) = answered_with(answer);
        let mut client = proxy.connect();
        client.send(get("/"));
        let all = client.rest();
        assert!(all.contains("abc") && !all.ends_with("0\r\n\r\n"), "{all}");
        assert_eq!(proxy.log.wait(1), ["Failed(Truncated) 0 3"]);
    }
}

#[test]
fn a_truncated_answer_that_only_its_end_delimits_is_reset() {
    let (_upstream, proxy) = answered_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.stream.set_nonblocking(false).unwrap();
    let end = std::io::Read::read_to_end(&mut client.stream, &mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let upstream = Upstream::start(|peer, _| {
        serve_all(peer, |head, _| {
            let (line, length) = match head {
                _ if head.starts_with("HEAD") => ("200 OK", "Content-Length: 1000\r\n"),
                _ if head.starts_with("GET /204") => ("204 No Content", ""),
                _ if head.starts_with("GET /304") => ("304 Not Modified", "Content-Length: 7\r\n"),
                _ => ("200 OK", "Content-Length: 0\r\n"),
            };
            format!("HTTP/1.1 {line}\r\n{length}\r\n")
        });
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    for (request, expected) in [
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("GET /204 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        client.send(request);
        assert_eq!(client.head(), expected);
    }
    assert_eq!(upstream.connections(), 1, "one connection served all");
}

#[test]
fn early_hints_are_passed_on_and_not_taken_for_the_answer() {
    let (_upstream, proxy) = answered_with(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    );
    let mut client = proxy.connect();
    client.send(get("/"));
    assert_eq!(client.head(), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 102 Processing\r\n\r\n");
    let (head, body) = client.message();
    assert!(head.starts_with("HTTP/1.1 200 OK") && body == b"hi");
}

#[test]
fn a_chunked_request_reaches_the_upstream_framed_anew() {
    let upstream = Upstream::start(|peer, _| {
        let head = peer.head();
        assert!(head.contains("Transfer-Encoding: chunked") && !head.contains("Expect"), "{head}");
        let body = peer.until("0\r\nX-T: 1\r\n\r\n");
        peer.send(ok(&body.len().to_string()));
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext\r\nabc\r\n");
    client.send("0\r\nX-T: 1\r\n\r\n");
    let (head, body) = client.message();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, b"21");
}

#[test]
fn a_large_body_streams_up_and_down() {
    let upstream = Upstream::start(|peer, _| {
        serve_all(peer, |_, body| ok(&"x".repeat(body.len())));
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    for size in [65_536, 65_537, 3_000_000] {
        client.send(post(&"y".repeat(size)));
        let (head, body) = client.message();
        assert!(head.starts_with("HTTP/1.1 200") && body.len() == size);
    }
}

#[test]
fn an_answer_before_the_requests_end_reaches_the_client() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc");
    let (head, body) = client.message();
    assert!(head.starts_with("HTTP/1.1 413") && head.contains("Connection: close") && body == b"no", "{head}");
    assert_eq!(client.rest(), "");
}

#[test]
fn a_malformed_or_too_large_body_is_the_clients_fault() {
    let upstream = Upstream::start(|peer, _| drop(peer.rest()));
    let script = Script { body_limit: 10, ..Script::to([target(upstream.addr)]) };
    let proxy = Proxy::start(script);
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, status) in
        [(format!("{chunked}zz\r\n"), 400), (format!("{chunked}b\r\nhello world\r\n"), 413), (post("hello world"), 413)]
    {
        let mut client = proxy.connect();
        client.send(request);
        assert!(client.head().starts_with(&format!("HTTP/1.1 {status} ")));
    }
    let lines = proxy.log.wait(3);
    assert!(lines[0].starts_with("Answered { status: 400 }") && lines[2].starts_with("Answered { status: 413 }"));
}

#[test]
fn a_body_that_stops_coming_is_408() {
    let upstream = Upstream::start(|peer, _| drop(peer.rest()));
    let limits = Limits { body_idle: Duration::from_millis(50), ..Limits::default() };
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    for length in [10, 100_000] {
        let mut client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabc"));
        assert!(client.head().starts_with("HTTP/1.1 408 "));
    }
}
