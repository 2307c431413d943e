//! Programs close idle connections after times of their own. Requests that come just then are neither lost nor repeated
//! (protocol P2c).

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::block_on;
use crate::support::cluster::{Cluster, Shape};
use crate::support::kept::Kept;
use crate::support::release::{Release, installed};

/// A program and the time after which it closes idle connections; clients that ask it, each so often.
struct Case {
    release: Release,
    closes_after: Duration,
    clients: u64,
    requests: u64,
}

/// A program that others wrote, under another name and with another environment.
fn named(name: &str, of: &str, env: &str) -> Option<Release> {
    let mut release = installed(of, "1.0.0")?.process(&format!("env = {{ {env} }}"));
    name.clone_into(&mut release.name);
    Some(release)
}

fn cases() -> Option<Vec<Case>> {
    let case = |release, closes_after, clients, requests| Case {
        release,
        closes_after: Duration::from_millis(closes_after),
        clients,
        requests,
    };
    Some(vec![
        // Closes after each answer, and says so.
        case(named("sync", "flask", r#"APP_WORKERS = "sync", APP_KEEPALIVE = """#)?, 100, 20, 10),
        case(named("threads", "flask", r#"APP_KEEPALIVE = """#)?, 2_000, 60, 4),
        case(named("second", "flask", r#"APP_KEEPALIVE = "1""#)?, 1_000, 60, 8),
        case(named("node", "express", r#"KEEP_ALIVE_MS = "default""#)?, 5_000, 60, 2),
        case(named("brief", "express", r#"KEEP_ALIVE_MS = "250""#)?, 250, 100, 30),
    ])
}

/// Asks again and again, just when the program closes what was idle since. Answers with the ids of its POSTs.
async fn client(router: SocketAddr, program: String, number: u64, case: (Duration, u64)) -> Vec<String> {
    let (closes_after, requests) = case;
    let mut connection = Kept::to(router).await;
    let mut ids = Vec::new();
    for turn in 0..requests {
        let id = format!("{program}-{number}-{turn}");
        // All at once at first, so that each has a connection of its own; of those that follow, two of three are POSTs.
        let came = if (number + turn).is_multiple_of(3) && turn > 0 {
            connection.ask(&format!("GET /{program}/"), b"").await
        } else {
            ids.push(id.clone());
            let head = format!("POST /{program}/orders\r\nX-Post-Id: {id}");
            connection.ask(&head, format!("the order {id}").as_bytes()).await
        };
        let came = came.unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(came.status, 200, "{id}: {}{}", came.head, came.text());
        // From some before to some after, each time another.
        let aim = closes_after * 97 / 100 + closes_after * ((number * 7 + turn * 3) % 60) as u32 / 1000;
        tokio::time::sleep(aim).await;
    }
    ids
}

#[test]
fn requests_that_come_as_a_program_closes_idle_connections_are_carried_out_once_each() {
    let Some(cases) = cases() else { return };
    let mut cluster = Cluster::shaped(Shape { servers: 1, ..Shape::default() });
    for case in &cases {
        cluster.deploy(&case.release);
    }
    let router = cluster.router();
    let acknowledged = block_on(async {
        let clients = cases.iter().flat_map(|case| {
            let name = &case.release.name;
            let each = (case.closes_after, case.requests);
            (0..case.clients).map(move |number| tokio::spawn(client(router, name.clone(), number, each)))
        });
        let mut ids = Vec::new();
        for client in clients.collect::<Vec<_>>() {
            ids.extend(client.await.unwrap());
        }
        ids
    });
    for case in &cases {
        let prefix = format!("{}-", case.release.name);
        let mut sent: Vec<_> = acknowledged.iter().filter(|id| id.starts_with(&prefix)).cloned().collect();
        sent.sort_unstable();
        assert_eq!(sent, cluster.executed(&case.release.name), "POSTs of {}", case.release.name);
    }
    let log = cluster.node("server-1").log();
    let found_closed = log.matches("an idle connection had been closed from the other side").count();
    let closed_as_reused = log.matches("closed from the other side as it was reused").count();
    eprintln!(
        "{} POSTs; connections found closed: {found_closed}, closed as reused: {closed_as_reused}",
        acknowledged.len()
    );
    assert!(found_closed + closed_as_reused >= 100, "the race was not met: {found_closed} {closed_as_reused}");
}
