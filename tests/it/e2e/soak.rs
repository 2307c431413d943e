//! Ripples without end under traffic of every kind: the short form of `scripts/soak`.

use std::time::{Duration, Instant};

use neap::traffic::{Mix, Request};

use crate::support::cluster::Cluster;
use crate::support::load::{Lane, Load};
use crate::support::release::{Release, shop};

/// How long upgrades follow upon each other.
const SOAK: Duration = Duration::from_secs(10);

fn till(version: &str) -> Release {
    let mut till = shop(version);
    "till".clone_into(&mut till.name);
    till
}

/// What goes on connections that are kept: every size of body that is handled in its own way.
fn kept() -> Mix {
    let mix = vec![
        Request::get("/").weight(70).expect_echo(),
        Request::get("/stream?bytes=300000&chunks=5&ms=5").weight(3).expect_bytes(300_000).expect_echo(),
        Request::get("/slow?ms=300").weight(2).expect_echo(),
        Request::post("/orders", 200).weight(10).expect_echo(),
        Request::post("/orders", 65_536).weight(2).expect_echo(),
        Request::post("/orders", 65_537).weight(2).expect_echo(),
        Request::post("/orders", 200_000).weight(1).expect_echo(),
    ];
    Mix::new(mix).unwrap()
}

fn unkept() -> Mix {
    Mix::new(vec![Request::get("/").weight(4).expect_echo(), Request::post("/orders", 3_000).expect_echo()]).unwrap()
}

#[test]
fn ripples_that_follow_upon_each_other_lose_nothing() {
    let cluster = Cluster::start();
    for release in [shop("2.0.0"), shop("1.0.0"), till("2.0.0"), till("1.0.0")] {
        cluster.deploy(&release);
    }
    let versions = ["1.0.0", "2.0.0"];
    let sockets = Mix::new(vec![Request::websocket("/ws", Duration::from_secs(2))]).unwrap();
    let lanes = ["shop", "till"].into_iter().flat_map(|program| {
        [
            Lane::to(program, 80.0, kept()).versions(&versions),
            Lane::to(program, 20.0, unkept()).unkept().versions(&versions),
        ]
    });
    let load = Load::start(&cluster, lanes.chain([Lane::to("shop", 0.5, sockets)]).collect());
    let (begin, mut ripples) = (Instant::now(), 0);
    while begin.elapsed() < SOAK || ripples < 4 {
        let version = versions[(ripples / 2 + 1) % 2];
        for program in ["shop", "till"] {
            cluster.well(&["upgrade", program, "--to", version]);
            let receipt = cluster.receipt(cluster.last_ripple(program).id.as_str());
            let lost = receipt.accounts.iter().map(|account| account.cut + account.failed).sum::<u64>();
            assert!(receipt.balanced && receipt.failures.is_empty() && lost == 0, "{receipt:#?}");
            ripples += 1;
        }
    }
    load.flows();
    let account = load.finish();
    eprintln!("{ripples} ripples, {} requests", account.report.all.sent);
    account.nothing_lost(&cluster);
    assert!(account.report.all.frames_echoed > 0);
}
