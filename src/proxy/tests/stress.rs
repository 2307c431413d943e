//! Many requests of many kinds through two hops, while instances close connections as they announce: nothing is lost.

use super::support::*;
use crate::proxy::Limits;

/// A small generator of numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Echoes bodies, framed in each of the ways; closes some connections, and says so.
fn instance() -> Upstream {
    Upstream::start(|peer, number| {
        let mut numbers = Numbers(number as u64);
        while let Some(head) = peer.try_until("\r\n\r\n") {
            let body = read_body(peer, &head);
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let echo = format!("{path} {}", String::from_utf8(body).unwrap());
            match numbers.below(8) {
                0 => return peer.send(format!("HTTP/1.1 200 OK\r\n\r\n{echo}")),
                1 => return peer.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{}", &ok(&echo)[17..])),
                2 | 3 => {
                    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    for part in echo.as_bytes().chunks(10_000) {
                        peer.send(format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap()));
                    }
                    peer.send("0\r\n\r\n");
                }
                _ => peer.send(ok(&echo)),
            }
        }
    })
}

fn read_body(peer: &mut Peer, head: &str) -> Vec<u8> {
    let lower = head.to_ascii_lowercase();
    if !lower.contains("transfer-encoding") {
        let length = lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next());
        return peer.take(length.map_or(0, |length| length.parse().unwrap()));
    }
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(peer.until("\r\n").trim(), 16).unwrap();
        body.extend(peer.take(size));
        peer.until("\r\n");
        if size == 0 {
            return body;
        }
    }
}

fn client(mut peer: Peer, seed: u64) {
    let mut numbers = Numbers(seed);
    for number in 0..200 {
        let size = [0, 5, 1_000, 65_536, 65_537, 150_000][numbers.below(6) as usize];
        let (path, body) = (format!("/{seed}/{number}"), "b".repeat(size));
        let host = format!("{path} HTTP/1.1\r\nHost: a\r\n");
        match numbers.below(4) {
            0 => peer.send(format!("PUT {host}Content-Length: {size}\r\n\r\n{body}")),
            1 => peer.send(format!("POST {host}Content-Length: {size}\r\n\r\n{body}")),
            2 if size > 0 => {
                peer.send(format!("POST {host}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"));
            }
            _ => {
                peer.send(format!("POST {host}Expect: 100-continue\r\nContent-Length: {size}\r\n\r\n"));
                if size > 0 {
                    assert_eq!(peer.head(), "HTTP/1.1 100 Continue\r\n\r\n");
                }
                peer.send(&body);
            }
        }
        let head = peer.head();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{number}: {head}");
        let echo = read_body(&mut peer, &head);
        assert!(echo == format!("{path} {body}").as_bytes(), "{number}: {} of {size}", echo.len());
    }
}

#[test]
fn two_hops_lose_nothing_of_many_requests() {
    let instance = instance();
    let servers: Vec<_> =
        (0..2).map(|_| Proxy::with(Script::to([target(instance.addr)]), Limits::of_data_port())).collect();
    let gone = Proxy::with(Script { refuses: true, ..Script::to([]) }, Limits::of_data_port());
    let targets = [server(gone.addr), server(servers[0].addr), server(servers[1].addr)];
    let router = Proxy::start(Script::to(targets));
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let peer = router.connect();
            scope.spawn(move || client(peer, seed));
        }
    });
    let lines = router.log.wait(2400);
    assert_eq!(lines.iter().filter(|line| line.starts_with("Completed { status: 200 }")).count(), 1200);
    assert_eq!(lines.iter().filter(|line| *line == "refused run.7").count(), 1200);
    assert_eq!(lines.len(), 2400);
    let budget = router.budget.left();
    assert_eq!(budget, 64 * 1024 * 1024, "every replay buffer was given back");
}
