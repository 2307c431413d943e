//! Clients that others wrote, at every limit; and clients that leave.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::cluster::{Cluster, Shape};
use crate::support::kept::Kept;
use crate::support::release::installed;
use crate::support::{SOON, block_on, until};

fn cluster() -> Option<Cluster> {
    let release = installed("express", "1.0.0")?.process(r#"body_limit = "1MiB""#);
    let second = ["head_timeout", "body_timeout"].map(|key| format!("router.limits.{key}=1s"));
    let sets = second.into_iter().chain(["router.limits.head_size=12KiB".to_owned()]).collect();
    let cluster = Cluster::shaped(Shape { servers: 1, sets, ..Shape::default() });
    cluster.deploy(&release);
    Some(cluster)
}

#[test]
fn nodes_own_client_sees_every_limit_and_a_client_that_leaves_is_gone_everywhere() {
    let Some(cluster) = cluster() else { return };
    let router = cluster.router();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/e2e/clients.js");
    let ran = Command::new("node").arg(script).arg(router.ip().to_string()).arg(router.port().to_string()).output();
    let ran = ran.unwrap();
    assert!(ran.status.success(), "{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    until("what the script began has ended", SOON, || active(&cluster, 0));

    let seen = left(&cluster);
    let leaving = block_on(async {
        let mut clients = Vec::new();
        for ask in ["GET /express/slow?ms=60000", "GET /express/events", "GET /express/download?bytes=1000000000"] {
            let mut client = Kept::to(router).await;
            client.send(ask, b"").await.unwrap();
            clients.push(client);
        }
        clients
    });
    until("all are active", SOON, || active(&cluster, 3));
    drop(leaving);
    let gone = std::time::Instant::now();
    until("all are gone", SOON, || active(&cluster, 0));
    assert!(gone.elapsed() < Duration::from_secs(5), "long before a timeout");
    until("the program sees that they left", SOON, || {
        let now = left(&cluster);
        if now == seen + 3 { Ok(()) } else { Err(format!("{seen} before, {now} now")) }
    });
}

/// How many requests the program saw end before their time.
fn left(cluster: &Cluster) -> u64 {
    let counts = block_on(async { Kept::to(cluster.router()).await.ask("GET /express/counts", b"").await.unwrap() });
    serde_json::from_slice::<serde_json::Value>(&counts.body).unwrap()["left"].as_u64().unwrap()
}

fn active(cluster: &Cluster, due: u64) -> Result<(), String> {
    let active = cluster.active("server-1")?;
    if active == due { Ok(()) } else { Err(format!("{active} are active")) }
}
