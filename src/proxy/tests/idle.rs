//! Upstreams that close idle connections as they please (protocol P2c).

use super::support::*;
use crate::proxy::Limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// An upstream that closes a connection idle for so long, which is below a second, as it announces; and how many requests
/// it carried out.
fn closes_after(idle: Duration) -> (Upstream, Arc<AtomicUsize>) {
    let done = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&done);
    let upstream = Upstream::start(move |peer, _| {
        peer.stream.set_read_timeout(Some(idle)).unwrap();
        // Its own reading, for the time between two requests is over without an error.
        let mut bytes = vec![0; 4096];
        let mut have = 0;
        while let Ok(read @ 1..) = std::io::Read::read(&mut peer.stream, &mut bytes[have..]) {
            have += read;
            if bytes[..have].ends_with(b"\r\n\r\nx") || bytes[..have].starts_with(b"GET") {
                have = 0;
                count.fetch_add(1, Ordering::SeqCst);
                peer.send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 4\r\n\r\ndone");
            }
        }
    });
    (upstream, done)
}

#[test]
fn posts_sent_as_the_upstream_closes_idle_connections_are_carried_out_once_each() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 25;
    let idle = Duration::from_millis(100);
    let (upstream, done) = closes_after(idle);
    let proxy = Proxy::start(Script::to([target(upstream.addr)]));
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let mut client = proxy.connect();
            scope.spawn(move || {
                for number in 0..EACH {
                    let request = if (seed + number) % 3 == 0 { get("/") } else { post("x") };
                    client.send(request);
                    let (head, _) = client.message();
                    assert!(head.starts_with("HTTP/1.1 200 "), "{seed} {number}: {head}");
                    // About when it closes.
                    std::thread::sleep(
                        idle - Duration::from_millis(2) + Duration::from_micros(number * 150 + seed * 37),
                    );
                }
            });
        }
    });
    assert_eq!(done.load(Ordering::SeqCst) as u64, CLIENTS * EACH);
}

#[test]
fn a_connection_whose_answer_waited_for_its_client_counts_as_idle_since() {
    let large = 16 << 20;
    let upstream = Upstream::start(move |peer, number| {
        serve_all(
            peer,
            |head, _| if head.starts_with("GET") { ok(&"l".repeat(large)) } else { ok(&number.to_string()) },
        )
    });
    let limits = Limits { reuse_idle: Duration::from_secs(1), ..Limits::default() };
    let proxy = Proxy::with(Script::to([server(upstream.addr)]), limits);
    let mut client = proxy.connect();
    for (pause, connection) in [(Duration::ZERO, b"0"), (Duration::from_millis(1100), b"1")] {
        client.send(get("/"));
        client.head();
        std::thread::sleep(pause);
        client.take(large);
        client.send(post("x"));
        assert_eq!(client.message().1, connection);
    }
}
