//! Management is killed at every point of a ripple, for a moment or for good.

use neap::wire::api::StepState;

use crate::support::cluster::{Cluster, MANAGEMENT};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::shop;
use crate::support::{SOON, until};

/// Slow enough at every phase to be met there.
fn slow(version: &str) -> crate::support::release::Release {
    shop(version).slowly(1.5, 1.0).upgrade(r#"soak = "1500ms""#)
}

fn killed_while(phase: StepState) {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief())]);
    let drains = (phase == StepState::Quiescing).then(|| busy(&cluster));
    let id = cluster.begin(&slow("2.0.0"), &[]);
    cluster.until_step(&id, phase);
    cluster.node(MANAGEMENT).kill9();
    load.flows();
    cluster.node(MANAGEMENT).start();
    cluster.until_upgraded(&id);
    cluster.until_serves("shop", "2.0.0", 3);
    load.flows();
    load.finish().nothing_lost(&cluster);
    for request in drains.into_iter().flatten() {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    let receipt = cluster.receipt(&id);
    assert_eq!(receipt.failures, [], "{receipt:#?}");
}

/// A request of some seconds on every server, so that each step has something to wait for.
fn busy(cluster: &Cluster) -> Vec<std::thread::JoinHandle<Result<crate::support::Answer, String>>> {
    let slow: Vec<_> = (0..6).map(|_| cluster.get_beside("/shop/slow?ms=6000")).collect();
    until("each server has a long request", SOON, || {
        let placements = cluster.placements("shop")?;
        let oldest = |placement: &neap::wire::api::PlacementView| {
            placement.oldest_request.as_ref().is_some_and(|oldest| oldest.age_ms > 500)
        };
        if placements.iter().all(oldest) { Ok(()) } else { Err(format!("{placements:#?}")) }
    });
    slow
}

#[test]
fn management_killed_while_a_release_is_prepared_finishes_the_ripple_when_it_is_back() {
    killed_while(StepState::Preparing);
}

#[test]
fn management_killed_while_a_gate_drains_finishes_the_ripple_when_it_is_back() {
    killed_while(StepState::Quiescing);
}

#[test]
fn management_killed_while_a_program_is_switched_finishes_the_ripple_when_it_is_back() {
    killed_while(StepState::Upgrading);
}

#[test]
fn management_killed_while_a_step_soaks_finishes_the_ripple_when_it_is_back() {
    killed_while(StepState::Soaking);
}

#[test]
fn without_management_for_good_gates_open_again_and_service_goes_on() {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0"])]);
    // Longer than the lease, so that it is the lease that opens the gate and not the end of the drain.
    let held: Vec<_> = (0..6).map(|_| cluster.get_beside("/shop/slow?ms=12000")).collect();
    let id = cluster.begin(&shop("2.0.0"), &["--drain-timeout", "60s"]);
    let server = cluster.until_step(&id, StepState::Quiescing);
    cluster.node(MANAGEMENT).kill9();
    for request in held {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    // Whoever asks the server itself is admitted again.
    until("the gate opens by its lease", SOON, || {
        let answer = cluster.metrics(&server)?;
        let of_shop = |line: &&str| line.starts_with("neap_gate_state{") && line.contains("program=\"shop\"");
        let gate = answer.lines().find(of_shop).unwrap_or_default();
        if gate.ends_with(" 1") { Ok(()) } else { Err(gate.to_owned()) }
    });
    load.flows();
    // A router that starts now has only what it kept.
    load.finish().nothing_lost(&cluster);
    let router = crate::support::cluster::ROUTER;
    cluster.node(router).kill9();
    cluster.node(router).start();
    until("the router serves on what it kept", SOON, || {
        let answer = cluster.get("/shop/", SOON)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0"])]);
    load.flows();
    let account = load.finish();
    assert!(account.report.passed, "{:#?}", account.report.all.errors);
}

#[test]
fn management_that_lost_its_disk_learns_from_the_servers_what_runs_and_nobody_notices() {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0", "2.0.0"])]);
    cluster.node(MANAGEMENT).kill9();
    std::fs::remove_dir_all(cluster.data(MANAGEMENT)).unwrap();
    cluster.node(MANAGEMENT).start();
    cluster.until_serves("shop", "1.0.0", 3);
    cluster.until_all_up();
    load.flows();
    cluster.deploy(&shop("2.0.0"));
    cluster.until_serves("shop", "2.0.0", 3);
    load.answered_by("2.0.0");
    load.finish().nothing_lost(&cluster);
}
