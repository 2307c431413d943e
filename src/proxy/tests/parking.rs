//! Idle connections that are parked: what a client sees of it, which is nothing.

use super::support::*;
use crate::proxy::{Crowd, Limits};
use rustix::process::{Resource, Rlimit};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

fn echo() -> Upstream {
    Upstream::start(|peer, _| serve_all(peer, |head, _| ok(head.split(' ').nth(1).unwrap())))
}

/// Parks at once what is idle.
fn parking(limits: Limits) -> (Limits, Arc<Crowd>) {
    let limits = Limits { park_after: Duration::ZERO, ..limits };
    let parked = Arc::clone(&limits.crowd);
    (limits, parked)
}

fn until(crowd: &Crowd, count: usize) {
    eventually("parking", || crowd.parked() == count as u64);
}

#[test]
fn a_parked_connection_serves_its_next_request_whole_or_in_pieces() {
    let upstream = echo();
    let (limits, parked) = parking(Limits::default());
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let mut client = proxy.connect();
    for number in 0..5 {
        until(&parked, 1);
        let path = format!("/{number}");
        let request = get(&path);
        if number % 2 == 0 {
            client.send(&request);
        } else {
            client.send(&request[..1]);
            until(&parked, 0);
            client.send(&request[1..]);
        }
        assert_eq!(client.message().1, path.as_bytes());
    }
    let lines = proxy.log.wait(5);
    assert!(lines.iter().all(|line| line == "Completed { status: 200 } 0 2"), "{lines:?}");
}

#[test]
fn requests_sent_ahead_are_answered_though_the_connection_was_parked() {
    let upstream = echo();
    let (limits, parked) = parking(Limits::default());
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let mut client = proxy.connect();
    until(&parked, 1);
    client.send(format!("\r\n{}{}", get("/1"), get("/2")));
    assert_eq!((client.message().1, client.message().1), (b"/1".to_vec(), b"/2".to_vec()));
    until(&parked, 1);
}

#[test]
fn what_is_not_idle_is_not_parked() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |peer, _| {
        serve_all(peer, |_, _| {
            wait.lock().unwrap().recv().unwrap();
            ok("late")
        });
    });
    let (limits, parked) = parking(Limits::default());
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let (mut asks, mut begins, idle) = (proxy.connect(), proxy.connect(), proxy.connect());
    asks.send(get("/"));
    begins.send("\r");
    until(&parked, 1);
    assert!(asks.is_silent() && begins.is_silent());
    assert_eq!(parked.parked(), 1, "one waits for its answer, one has sent a part");
    go.send(()).unwrap();
    assert_eq!(asks.message().1, b"late");
    until(&parked, 2);
    drop(idle);
}

#[test]
fn a_parked_connection_that_the_client_closes_makes_room() {
    let upstream = echo();
    let (limits, parked) = parking(Limits { connections: 1, reuse_idle: Duration::from_secs(60), ..Limits::default() });
    let proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let first = proxy.connect();
    until(&parked, 1);
    let mut second = proxy.connect();
    second.send(get("/2"));
    assert!(second.is_silent(), "those parked count");
    drop(first);
    assert_eq!(second.message().1, b"/2");
}

#[test]
fn a_parked_connection_is_closed_when_its_time_is_up() {
    let (limits, parked) = parking(Limits { idle_timeout: Some(Duration::from_millis(1)), ..Limits::default() });
    let proxy = Proxy::with(Script::to([]), Limits { connections: 1, ..limits });
    let mut client = proxy.connect();
    until(&parked, 1);
    let mut next = proxy.connect();
    next.send(get("/none"));
    assert_eq!(client.rest(), "");
    assert!(next.head().starts_with("HTTP/1.1 404 "), "its place is free again");
}

#[test]
fn shutdown_closes_what_is_parked_and_serves_what_was_on_its_way() {
    for (limits, serves) in [(Limits::default(), false), (Limits::of_data_port(), true)] {
        let upstream = echo();
        let (limits, parked) = parking(Limits { reuse_idle: Duration::from_millis(100), ..limits });
        let mut proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
        let (mut used, mut idle) = (proxy.connect(), proxy.connect());
        until(&parked, 2);
        proxy.shutdown.begin();
        if serves {
            used.send(get("/2"));
            let all = used.rest();
            assert!(all.contains("Connection: close") && all.ends_with("/2"), "{all}");
        }
        assert_eq!(idle.rest(), "");
        proxy.join();
        assert_eq!(parked.parked(), 0);
    }
}

#[test]
fn a_retiring_worker_answers_one_more_request_on_each_connection_and_closes_none_that_is_idle() {
    let upstream = echo();
    let (limits, parked) = parking(Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() });
    let mut proxy = Proxy::with(Script::to([target(upstream.addr)]), limits);
    let (mut used, mut parked_first, mut left) = (proxy.connect(), proxy.connect(), proxy.connect());
    until(&parked, 3);
    used.send(get("/1"));
    used.message();
    proxy.shutdown.retire();
    until(&parked, 3);
    assert!(TcpStream::connect(proxy.addr).is_err(), "no new connection");
    for client in [&mut used, &mut parked_first] {
        client.send(get("/2"));
        let all = client.rest();
        assert!(all.contains("Connection: close") && all.ends_with("/2"), "{all}");
    }
    // The last that is left leaves by itself; or is closed when the worker is to end.
    proxy.shutdown.begin();
    assert_eq!(left.rest(), "");
    proxy.join();
    assert_eq!(parked.parked(), 0);
}

#[test]
fn a_worker_that_retires_ends_with_the_last_connection_that_was_idle_too_long() {
    let (limits, parked) = parking(Limits { idle_timeout: Some(Duration::from_millis(1)), ..Limits::default() });
    let mut proxy = Proxy::with(Script::to([]), limits);
    let mut idle = proxy.connect();
    until(&parked, 1);
    proxy.shutdown.retire();
    assert_eq!(idle.rest(), "");
    proxy.ended();
}

/// As many clients as the process may have, at most 2000.
fn many() -> usize {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let most = limits.maximum.unwrap_or(u64::MAX).min(1 << 20);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limits }).unwrap();
    usize::try_from(most / 3).unwrap().min(2000)
}

#[test]
fn thousands_are_parked_and_each_is_served() {
    let count = many();
    let (limits, parked) = parking(Limits::default());
    let proxy = Proxy::with(Script::to([]), limits);
    let mut clients: Vec<_> = (0..count).map(|_| proxy.connect()).collect();
    until(&parked, count);
    for _ in 0..2 {
        clients.iter_mut().for_each(|client| client.send(get("/none")));
        clients.iter_mut().for_each(|client| assert!(client.message().0.starts_with("HTTP/1.1 404 ")));
        until(&parked, count);
    }
    let left = clients.split_off(count / 2);
    drop(clients);
    until(&parked, left.len());
}
