//! A server's node is killed at every point of its own step; its programs live on.

use std::fs;

use jiff::Timestamp;
use neap::wire::api::{RippleState, StepState};

use crate::support::cluster::Cluster;
use crate::support::load::{Account, Lane, Load, brief, letters};
use crate::support::release::{mail, shop};
use crate::support::watch::{serves, show};
use crate::support::{SOON, until};

fn killed_while(phase: StepState) {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&mail("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()), Lane::to("mail", 30.0, letters())]);
    let held: Vec<_> = match phase {
        StepState::Quiescing => (0..6).map(|_| cluster.get_beside("/shop/slow?ms=5000")).collect(),
        _ => Vec::new(),
    };
    let id = cluster.begin(&shop("2.0.0").slowly(1.5, 1.0).upgrade(r#"soak = "2s""#), &[]);
    let server = cluster.until_step(&id, phase);
    let mails = instance(&cluster, &server, "mail");
    cluster.node(&server).kill9();
    let killed_at = Timestamp::now();
    load.flows();
    cluster.node(&server).start();
    let ended = cluster.until_ended(&id);
    settles(&cluster, ended.state);
    assert_eq!(instance(&cluster, &server, "mail"), mails, "a program beside it is adopted as it runs");
    load.flows();
    let account = load.finish();
    account.each_post_at_most_once(&cluster);
    let receipt = cluster.receipt(&id);
    only_those_in_flight_failed(&account, killed_at);
    let named =
        |id: &str| receipt.failures.iter().any(|failure| failure.request_id == id && failure.server.as_str() == server);
    for failure in account.report.targets[0].counts.errors.iter() {
        assert!(named(&failure.id), "the receipt does not name {failure:?}\n{receipt:#?}");
    }
    // Those that the test itself asked for may have been on that server, too.
    for request in held {
        let answer = request.join().unwrap();
        assert!(matches!(&answer, Ok(answer) if answer.status == 200 || answer.status == 502), "{answer:?}");
    }
    assert!(receipt.balanced, "{}\n{receipt:#?}", show(&ended));
}

/// In the end all servers serve: the new version, or, where the ripple was taken back, each a version that is whole.
fn settles(cluster: &Cluster, ended: RippleState) {
    if ended == RippleState::Upgraded {
        cluster.until_serves("shop", "2.0.0", 3);
        return;
    }
    until("every placement serves again", SOON, || {
        let placements = cluster.placements("shop")?;
        let well = |placement| serves(placement, "1.0.0") || serves(placement, "2.0.0");
        if placements.len() == 3 && placements.iter().all(well) { Ok(()) } else { Err(format!("{placements:#?}")) }
    });
}

/// What failed had begun when the node was killed, and had not ended.
fn only_those_in_flight_failed(account: &Account, killed_at: Timestamp) {
    let errors = &account.report.all.errors;
    assert_eq!(account.report.all.failed, errors.len() as u64, "more failed than were in flight: {errors:#?}");
    for failure in errors {
        let began = failure.at - jiff::SignedDuration::from_millis(failure.took_ms as i64);
        assert!(began <= killed_at, "asked after the node was gone: {failure:#?}");
    }
}

/// The process of a program on a server.
fn instance(cluster: &Cluster, server: &str, program: &str) -> Vec<i32> {
    let (node, program) = (format!("NEAP_NODE={server}\0"), format!("NEAP_PROGRAM={program}\0"));
    let mut pids = cluster.instances();
    pids.retain(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |word: &str| environ.windows(word.len()).any(|part| part == word.as_bytes());
        has(&node) && has(&program)
    });
    pids
}

#[test]
fn a_server_killed_while_it_prepares_a_release_adopts_its_programs_and_the_ripple_ends() {
    killed_while(StepState::Preparing);
}

#[test]
fn a_server_killed_while_its_gate_drains_adopts_its_programs_and_the_ripple_ends() {
    killed_while(StepState::Quiescing);
}

#[test]
fn a_server_killed_while_it_switches_adopts_its_programs_and_the_ripple_ends() {
    killed_while(StepState::Upgrading);
}

#[test]
fn a_server_killed_while_its_step_soaks_adopts_its_programs_and_the_ripple_ends() {
    killed_while(StepState::Soaking);
}

#[test]
fn a_node_that_is_killed_and_started_adopts_its_programs_with_their_processes() {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let before = instance(&cluster, "server-2", "shop");
    assert_eq!(before.len(), 1);
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief())]);
    cluster.node("server-2").kill9();
    let killed_at = Timestamp::now();
    cluster.until_placed("shop", "server-2", "known to be away", |placement| !placement.healthy);
    cluster.node("server-2").start();
    cluster.until_serves("shop", "1.0.0", 3);
    assert_eq!(instance(&cluster, "server-2", "shop"), before);
    load.flows();
    let account = load.finish();
    account.each_post_at_most_once(&cluster);
    only_those_in_flight_failed(&account, killed_at);
}

#[test]
fn a_server_that_was_down_during_a_ripple_is_caught_up_before_it_serves() {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    cluster.node("server-3").kill9();
    cluster.until_placed("shop", "server-3", "known to be away", |placement| !placement.healthy);
    let ripple = cluster.deploy(&shop("2.0.0"));
    let skipped = ripple.steps.iter().find(|step| step.server.as_str() == "server-3").unwrap();
    assert_eq!(skipped.state, StepState::Skipped, "{}", show(&ripple));
    // From here on, an answer of the old version is a failure.
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["2.0.0"])]);
    cluster.node("server-3").start();
    cluster.until_serves("shop", "2.0.0", 3);
    load.flows();
    load.finish().nothing_lost(&cluster);
    assert!(!cluster.executed("shop").is_empty());
    let served = cluster.data("server-3").join("data/shop/orders.log");
    assert!(served.exists());
}
