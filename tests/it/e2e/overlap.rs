//! Upgrades by overlap: the new version starts beside the old one, and nothing leaves service.

use std::time::Duration;

use neap::wire::api::{PlacementState, RippleState, StepState};

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::load::{Lane, Load, everything};
use crate::support::release::{Release, shop};
use crate::support::watch::show;
use crate::support::{SOON, until};

const OVERLAP: [&str; 2] = ["--strategy", "overlap"];

fn servers(servers: u8) -> Cluster {
    let cluster = Cluster::shaped(Shape { servers, ..Shape::default() });
    cluster.deploy(&shop("1.0.0"));
    cluster
}

fn loaded(cluster: &Cluster) -> Load {
    Load::start(cluster, vec![Lane::to("shop", 60.0, everything()).versions(&["1.0.0", "2.0.0"])])
}

#[track_caller]
fn until_instances(cluster: &Cluster, count: usize) {
    until(&format!("{count} instances run"), SOON, || {
        let running = cluster.instances().len();
        if running == count { Ok(()) } else { Err(running.to_string()) }
    });
}

fn slow_to_start(version: &str) -> Release {
    shop(version).slowly(0.0, 1.5)
}

#[test]
fn one_server_is_upgraded_under_load_and_no_request_is_refused_held_or_lost() {
    let cluster = servers(1);
    let load = loaded(&cluster);
    let ran = cluster.deploy_with(&slow_to_start("2.0.0"), &OVERLAP);
    assert_eq!(ran.code, 0, "{ran:?}");
    load.answered_by("2.0.0");
    load.finish().nothing_lost(&cluster);
    cluster.until_serves("shop", "2.0.0", 1);
    until_instances(&cluster, 1);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    assert!(receipt.balanced && receipt.failures.is_empty(), "{receipt:#?}");
    assert_eq!((receipt.refused, receipt.redispatched, receipt.held), (0, 0, 0), "{receipt:#?}");
    assert!(receipt.out_of_service.is_empty(), "{receipt:#?}");
    assert_eq!(receipt.kept_serving.as_ref().unwrap().lowest, 1, "{receipt:#?}");
}

#[test]
fn a_request_that_takes_long_ends_at_the_old_version_while_the_new_one_serves() {
    let cluster = servers(1);
    let long = cluster.get_beside("/shop/slow?ms=4000");
    until("it is active", SOON, || match cluster.active("server-1")? {
        1 => Ok(()),
        other => Err(format!("{other}")),
    });
    let id = cluster.begin(&shop("2.0.0"), &OVERLAP);
    until("the new version answers", SOON, || {
        let answer = cluster.get("/shop/", Duration::from_secs(5))?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        if body.contains("2.0.0") { Ok(()) } else { Err(body) }
    });
    until("it waits for the old one's request", SOON, || {
        let ripple = cluster.ripple(&id)?;
        let waits = ripple.waiting_for.as_ref().is_some_and(|waits| waits.reason == "old_version");
        if waits { Ok(()) } else { Err(show(&ripple)) }
    });
    let answer = long.join().unwrap().unwrap();
    assert_eq!(answer.status, 200);
    cluster.until_upgraded(&id);
    until_instances(&cluster, 1);
}

#[test]
fn an_abort_before_the_switch_leaves_no_trace() {
    let cluster = servers(1);
    let before = cluster.instances();
    let load = loaded(&cluster);
    let id = cluster.begin(&shop("2.0.0").slowly(0.0, 1000.0), &OVERLAP);
    until_instances(&cluster, 2);
    cluster.well(&["ripple", "abort", &id]);
    assert_eq!(cluster.until_ended(&id).state, RippleState::Aborted);
    load.finish().nothing_lost(&cluster);
    assert_eq!(cluster.instances(), before);
    cluster.until_serves("shop", "1.0.0", 1);
}

#[test]
fn a_version_that_does_not_start_is_gone_again_and_nobody_has_noticed() {
    let cluster = servers(2);
    let load = loaded(&cluster);
    let ran = cluster.deploy_with(&shop("2.0.0").mode("exit"), &OVERLAP);
    assert_eq!(ran.code, 1, "{ran:?}");
    load.finish().nothing_lost(&cluster);
    until_instances(&cluster, 2);
    cluster.until_serves("shop", "1.0.0", 2);
}

#[test]
fn what_the_old_version_is_still_asked_is_cut_by_force_and_counted() {
    let cluster = servers(1);
    let long = cluster.get_beside("/shop/slow?ms=60000");
    until("it is active", SOON, || match cluster.active("server-1")? {
        1 => Ok(()),
        other => Err(format!("{other}")),
    });
    let options = ["--strategy", "overlap", "--force", "--yes", "--drain-timeout", "500ms"];
    let ran = cluster.deploy_with(&shop("2.0.0"), &options);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(long.join().unwrap().map(|answer| answer.status).unwrap_or(502), 502);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    assert_eq!(receipt.accounts.iter().map(|account| account.cut).sum::<u64>(), 1, "{receipt:#?}");
    until_instances(&cluster, 1);
}

#[test]
fn a_restart_overlaps_as_well() {
    let cluster = servers(1);
    let before = cluster.instances();
    let load = loaded(&cluster);
    cluster.well(&["program", "restart", "shop", "--strategy", "overlap"]);
    load.finish().nothing_lost(&cluster);
    until_instances(&cluster, 1);
    assert_ne!(cluster.instances(), before);
}

/// A node is killed at a moment of an overlap; in the end there is one instance a server, and it serves.
fn killed(node: &str, switched: bool) {
    let mut cluster = servers(1);
    let long = switched.then(|| cluster.get_beside("/shop/slow?ms=3000"));
    if switched {
        until("it is active", SOON, || match cluster.active("server-1")? {
            1 => Ok(()),
            other => Err(format!("{other}")),
        });
    }
    let release = if switched { shop("2.0.0") } else { slow_to_start("2.0.0") };
    let id = cluster.begin(&release, &OVERLAP);
    cluster.until_step(&id, StepState::Overlapping);
    if switched {
        cluster.until_placed("shop", "server-1", "switched", |placement| {
            placement.state == PlacementState::Overlapping
                && placement.version.as_ref().is_some_and(|version| version.as_str() == "2.0.0")
        });
    } else {
        until_instances(&cluster, 2);
    }
    cluster.node(node).kill9();
    cluster.node(node).start();
    let ended = cluster.until_upgraded(&id);
    assert!(ended.steps.iter().all(|step| step.state == StepState::Upgraded), "{}", show(&ended));
    cluster.until_serves("shop", "2.0.0", 1);
    until_instances(&cluster, 1);
    if let Some(long) = long {
        let answer = long.join().unwrap();
        assert!(node == "server-1" || answer.is_ok_and(|answer| answer.status == 200));
    }
}

#[test]
fn a_server_killed_while_the_new_version_starts_beside_begins_again() {
    killed("server-1", false);
}

#[test]
fn a_server_killed_after_the_switch_goes_on_with_the_new_version() {
    killed("server-1", true);
}

#[test]
fn management_killed_in_the_middle_of_an_overlap_finishes_it() {
    killed(MANAGEMENT, false);
    killed(MANAGEMENT, true);
}
