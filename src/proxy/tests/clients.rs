//! What clients do: pipelining, malformed heads, leaving, limits, the worker's end.

use super::support::*;
use crate::proxy::{Door, Limits, Shutdown, listen, serve};
use std::rc::Rc;
use std::time::Duration;

fn echo() -> Upstream {
    Upstream::start(|peer, _| serve_all(peer, |head, _| ok(head.split(' ').nth(1).unwrap())))
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let upstream = echo();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    let requests: String = (0..50).map(|number| get(&format!("/{number}"))).collect();
    client.send(format!("\r\n{requests}"));
    for number in 0..50 {
        assert_eq!(client.message().1, format!("/{number}").as_bytes());
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let upstream = echo();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    get("/slow").bytes().for_each(|byte| client.send([byte]));
    assert_eq!(client.message().1, b"/slow");
}

#[test]
fn a_clients_neap_and_forwarding_fields_do_not_pass() {
    let upstream = Upstream::start(|peer, _| serve_all(peer, |head, _| ok(head)));
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nNeap-Key: k\r\nneap_key: k\r\nX-Forwarded-For: 1.2.3.4\r\nA: b\r\n\r\n");
    let head = String::from_utf8(client.message().1).unwrap();
    let forwarded = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n";
    assert_eq!(head, format!("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n{forwarded}\r\n"));
}

#[test]
fn a_malformed_head_ends_its_connection() {
    let upstream = echo();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        let mut client = proxy.connect();
        client.send(request);
        let all = client.rest();
        assert!(all.starts_with("HTTP/1.1 400 ") && all.contains("Connection: close"), "{all}");
        assert_eq!(all.matches("HTTP/1.1").count(), 1);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn neaps_own_answer_keeps_the_connection_past_a_small_body() {
    let upstream = echo();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert!(client.message().0.starts_with("HTTP/1.1 404 "));
    client.send(get("/next"));
    assert_eq!(client.message().1, b"/next");
}

#[test]
fn a_client_that_leaves_ends_its_request_at_both_ends() {
    let (gone, seen) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        gone.send("asked").unwrap();
        peer.rest();
        gone.send("closed").unwrap();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    for request in [get("/"), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc".into()] {
        let mut client = proxy.connect();
        client.send(request);
        assert_eq!(seen.recv_timeout(Duration::from_secs(5)), Ok("asked"));
        drop(client);
        assert_eq!(seen.recv_timeout(Duration::from_secs(5)), Ok("closed"));
    }
    assert_eq!(proxy.log.wait(2), ["ClientLeft 0 0", "ClientLeft 3 0"]);
}

#[test]
fn a_client_that_leaves_within_a_small_body_never_reached_an_upstream() {
    let upstream = echo();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    drop(client);
    assert_eq!(proxy.log.wait(1), ["ClientLeft 0 0"]);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_client_that_leaves_while_no_server_is_chosen_is_noticed() {
    let proxy = Proxy::start(Script { never_decides: true, ..Script::to([]) });
    let mut client = proxy.connect();
    client.send(get("/"));
    drop(client);
    assert_eq!(proxy.log.wait(1), ["ClientLeft 0 0"]);
}

#[test]
fn a_client_that_said_close_may_end_its_side_early() {
    let upstream = echo();
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let mut client = proxy.connect();
    client.send("GET /half HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let all = client.rest();
    assert!(all.contains("Connection: close") && all.ends_with("/half"), "{all}");
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let upstream = Upstream::start(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while peer.try_send(&[0; 65536]) {}
    });
    let limits = Limits { write_idle: Duration::from_millis(100), ..Limits::default() };
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let mut client = proxy.connect();
    client.send(get("/"));
    let lines = proxy.log.wait(1);
    assert!(lines[0].starts_with("ClientLeft 0 "), "{lines:?}");
}

#[test]
fn a_slow_head_is_408_and_an_idle_connection_is_closed() {
    let limits = Limits {
        head_timeout: Duration::from_millis(50),
        idle_timeout: Some(Duration::from_millis(50)),
        ..Limits::default()
    };
    let proxy = Proxy::with(Script::to([]), limits);
    let mut client = proxy.connect();
    client.send("GET / HT");
    assert!(client.rest().starts_with("HTTP/1.1 408 "));
    assert_eq!(proxy.connect().rest(), "");
}

#[test]
fn connections_beyond_the_bound_wait_while_all_are_busy() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |peer, _| {
        serve_all(peer, |head, _| {
            wait.lock().unwrap().recv().unwrap();
            ok(head.split(' ').nth(1).unwrap())
        });
    });
    let limits = Limits { connections: 1, reuse_idle: Duration::ZERO, ..Limits::default() };
    let crowd = std::sync::Arc::clone(&limits.crowd);
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let mut first = proxy.connect();
    first.send(get("/1"));
    let mut second = proxy.connect();
    second.send(get("/2"));
    eventually("somebody waits", || crowd.full() > 0);
    assert!(second.is_silent() && crowd.gave_way() == 0);
    go.send(()).unwrap();
    assert_eq!(first.message().1, b"/1");
    go.send(()).unwrap();
    assert_eq!(second.message().1, b"/2");
    assert_eq!(first.rest(), "", "it gave way once it was idle");
}

#[test]
fn clients_that_are_slow_to_tell_their_requests_keep_nobody_out() {
    let upstream = echo();
    let patience = Duration::from_millis(100);
    let limits = Limits { connections: 4, reuse_idle: patience, ..Limits::default() };
    let crowd = std::sync::Arc::clone(&limits.crowd);
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let kinds = ["", "GET /slow HTTP/1.1\r\nX: ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nslow"];
    let mut slow: Vec<_> = (0..24)
        .map(|number| {
            let mut client = proxy.connect();
            client.send(kinds[number % 3]);
            client
        })
        .collect();
    for number in 0..5 {
        let mut client = proxy.connect();
        client.send(get(&format!("/{number}")));
        assert_eq!(client.message().1, format!("/{number}").as_bytes());
    }
    assert!(crowd.gave_way() >= 21, "{crowd:?}");
    let ends: Vec<_> = slow[..3].iter_mut().map(Peer::rest).collect();
    assert!(
        ends[0].is_empty() && ends[1].starts_with("HTTP/1.1 408 ") && ends[2].starts_with("HTTP/1.1 408 "),
        "{ends:?}"
    );
}

#[test]
fn on_a_data_port_only_the_other_side_closes_however_many_wait() {
    let upstream = echo();
    let limits = Limits { connections: 1, reuse_idle: Duration::ZERO, ..Limits::of_data_port() };
    let crowd = std::sync::Arc::clone(&limits.crowd);
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let mut first = proxy.connect();
    first.send(get("/1"));
    assert_eq!(first.message().1, b"/1");
    let mut second = proxy.connect();
    second.send(get("/2"));
    eventually("somebody waits", || crowd.full() > 1);
    assert!(second.is_silent() && crowd.gave_way() == 0);
    drop(first);
    assert_eq!(second.message().1, b"/2");
}

#[test]
fn a_panic_harms_its_own_request_only() {
    let proxy = Proxy::start(Script { panics: true, ..Script::to([]) });
    let mut client = proxy.connect();
    let mut other = proxy.connect();
    client.send(get("/"));
    assert_eq!(client.rest(), "");
    other.send(get("/none"));
    assert!(other.head().starts_with("HTTP/1.1 404 "));
    assert_eq!(proxy.log.wait(1), ["Failed(Panic) 0 0"]);
}

#[test]
fn a_cut_ends_a_request_in_flight_and_is_its_outcome() {
    let upstream = Upstream::start(|peer, _| {
        let head = peer.head();
        if head.starts_with("GET /begun") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        }
        peer.rest();
    });
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    for (path, sent) in [("/silent", 0), ("/begun", 3)] {
        let mut client = proxy.connect();
        client.send(get(path));
        if sent > 0 {
            client.until("abc");
        }
        eventually("a request", || !proxy.cuts.lock().unwrap().is_empty());
        proxy.cuts.lock().unwrap().drain(..).for_each(|cut| cut.cut());
        assert_eq!(client.rest(), "");
        assert_eq!(proxy.log.wait(1 + sent / 3).last().unwrap(), &format!("Cut 0 {sent}"));
    }
}

#[test]
fn shutdown_closes_idle_connections_and_lets_the_others_finish() {
    let (ask, asked) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        ask.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        peer.send(ok("done"));
        peer.rest();
    });
    let mut proxy = Proxy::start(Script::to([target(upstream.addr)]));
    let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
    idle.send(get("/none"));
    idle.message();
    busy.send(get("/"));
    asked.recv_timeout(Duration::from_secs(5)).unwrap();
    proxy.shutdown.begin();
    assert_eq!(idle.rest(), "");
    go.send(()).unwrap();
    let all = busy.rest();
    assert!(all.contains("Connection: close") && all.ends_with("done"), "{all}");
    drop((idle, busy));
    proxy.join();
}

#[test]
fn a_worker_on_an_actix_arbiter_tells_the_end_of_what_dies_with_it() {
    let (ask, asked) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |peer, _| {
        peer.head();
        ask.send(()).unwrap();
        peer.rest();
    });
    let script = Script::to([target(upstream.addr)]);
    let (log, listener) = (script.log.clone(), listen("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0));
    let addr = listener.local_addr().unwrap();
    let system = actix_rt::System::new();
    let arbiter = system.block_on(async { actix_rt::Arbiter::new() });
    arbiter.spawn_fn(move || {
        actix_rt::spawn(serve(vec![Door::plain(listener)], Rc::new(script), Limits::default(), Shutdown::new()));
    });
    let mut client = Peer::new(std::net::TcpStream::connect(addr).unwrap());
    client.send(get("/"));
    asked.recv_timeout(Duration::from_secs(5)).unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
    assert_eq!(client.rest(), "");
    assert_eq!(log.wait(1), ["Cut 0 0"]);
}

#[test]
fn a_data_port_that_ends_still_serves_what_was_on_its_way() {
    let upstream = echo();
    let limits = Limits { reuse_idle: Duration::from_millis(100), ..Limits::of_data_port() };
    let mut proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let (mut used, mut idle) = (proxy.connect(), proxy.connect());
    for client in [&mut used, &mut idle] {
        client.send(get("/1"));
        client.message();
    }
    proxy.shutdown.begin();
    used.send(get("/2"));
    let all = used.rest();
    assert!(all.contains("Connection: close") && all.ends_with("/2"), "{all}");
    assert_eq!(idle.rest(), "");
    proxy.join();
}
