//! What people ask of a cluster beside an upgrade that goes well: restarts, removals, aborts, and what is refused.

use std::time::{Duration, Instant};

use neap::traffic::{Mix, Request};
use neap::wire::api::{PlacementState, RippleState, StepState};

use crate::support::cluster::{Cluster, Shape};
use crate::support::load::{Lane, Load, brief, letters};
use crate::support::release::{mail, shop};
use crate::support::watch::{serves, show};
use crate::support::{Answer, SOON, until};

type Asked = std::thread::JoinHandle<Result<Answer, String>>;

/// Requests of so many milliseconds, so many that each server has at least one.
fn long(cluster: &Cluster, ms: u64) -> Vec<Asked> {
    several(cluster, &format!("/shop/slow?ms={ms}"))
}

fn several(cluster: &Cluster, path: &str) -> Vec<Asked> {
    let asked: Vec<_> = (0..6).map(|_| cluster.get_beside(path)).collect();
    until("each server has a long request", SOON, || {
        let placements = cluster.placements("shop")?;
        let busy = placements.iter().all(|placement| placement.active_requests > 0);
        let over = asked.iter().filter(|request| request.is_finished()).count();
        if busy { Ok(()) } else { Err(format!("{over} of them are over; {placements:#?}")) }
    });
    asked
}

#[track_caller]
fn all_answered(asked: Vec<Asked>) {
    for request in asked {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
}

fn two() -> Cluster {
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&shop("1.0.0"));
    cluster
}

#[test]
fn a_restart_gives_every_server_a_new_process_of_the_same_version_and_loses_nothing() {
    let cluster = two();
    let before = cluster.instances();
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0"])]);
    cluster.well(&["program", "restart", "shop"]);
    let after = cluster.instances();
    assert_eq!((before.len(), after.len()), (2, 2));
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
    load.flows();
    load.finish().nothing_lost(&cluster);
}

#[test]
fn a_program_that_is_removed_drains_first_and_then_is_gone() {
    let cluster = two();
    cluster.deploy(&mail("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("mail", 30.0, letters())]);
    let asked = long(&cluster, 2_000);
    let unsaid = cluster.neap(&["program", "rm", "shop"]);
    assert_eq!(unsaid.code, 2, "{unsaid:?}");
    assert!(unsaid.err.contains("--yes"), "{unsaid:?}");
    cluster.well(&["program", "rm", "shop", "--yes"]);
    all_answered(asked);
    until("the router knows no shop", SOON, || {
        let answer = cluster.get("/shop/", SOON)?;
        if answer.status == 404 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    assert_eq!(cluster.instances().len(), 2, "only the mail's are left");
    assert_eq!(cluster.neap(&["program", "show", "shop"]).code, 2);
    load.finish().nothing_lost(&cluster);
    // It can come again.
    cluster.deploy(&shop("1.0.0"));
    assert_eq!(cluster.get("/shop/", SOON).unwrap().status, 200);
}

#[test]
fn an_abort_in_the_middle_of_a_drain_opens_the_gate_at_once() {
    let cluster = two();
    let asked = long(&cluster, 8_000);
    let since = Instant::now();
    let id = cluster.begin(&shop("2.0.0"), &[]);
    let server = cluster.until_step(&id, StepState::Quiescing);
    until("it says what it waits for", SOON, || {
        let ripple = cluster.ripple(&id)?;
        let waits = ripple.waiting_for.as_ref().is_some_and(|waiting| waiting.detail.contains("/slow"));
        if waits { Ok(()) } else { Err(show(&ripple)) }
    });
    cluster.well(&["ripple", "abort", &id]);
    let ended = cluster.until_ended(&id);
    assert_eq!(ended.state, RippleState::Aborted, "{}", show(&ended));
    cluster.until_placed("shop", &server, "open again", |placement| {
        serves(placement, "1.0.0") && placement.state == PlacementState::Open
    });
    assert!(since.elapsed() < Duration::from_secs(8), "it did not wait for the drain");
    all_answered(asked);
    let again = cluster.neap(&["ripple", "abort", &id]);
    assert_eq!(again.code, 5, "{again:?}");
    cluster.until_serves("shop", "1.0.0", 2);
}

#[test]
fn an_upgrade_to_what_runs_already_does_nothing_and_says_so() {
    let cluster = two();
    let before = cluster.last_ripple("shop").id;
    let ran = cluster.well(&["upgrade", "shop", "--to", "1.0.0"]);
    assert!(ran.err.contains("nothing to do") || ran.out.contains("nothing to do"), "{ran:?}");
    let planned = cluster.neap(&["upgrade", "shop", "--to", "1.0.0", "--plan", "--exit-code"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    assert_eq!(cluster.last_ripple("shop").id, before);
    cluster.deploy(&shop("1.0.0"));
    assert_eq!(cluster.last_ripple("shop").id, before, "the same directory is the same release");
}

#[test]
fn a_plan_shows_what_would_be_done_and_does_nothing() {
    let cluster = two();
    let ran = cluster.deploy_with(&shop("2.0.0"), &["--plan", "--exit-code"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    for word in ["server-1", "server-2", "1.0.0", "2.0.0"] {
        assert!(ran.out.contains(word), "{ran:?}");
    }
    assert_eq!(cluster.placements("shop").unwrap().iter().filter(|placement| serves(placement, "1.0.0")).count(), 2);
}

#[test]
fn a_second_operation_on_a_program_is_refused_as_busy_and_the_first_goes_on() {
    let cluster = two();
    let asked = long(&cluster, 6_000);
    let id = cluster.begin(&shop("2.0.0"), &[]);
    cluster.until_step(&id, StepState::Quiescing);
    for ran in [cluster.deploy_with(&shop("3.0.0"), &[]), cluster.neap(&["program", "restart", "shop"])] {
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.err.contains(&id) && ran.err.contains("under way"), "{ran:?}");
    }
    let removed = cluster.neap(&["release", "rm", "shop", "2.0.0"]);
    assert_eq!(removed.code, 5, "{removed:?}");
    all_answered(asked);
    cluster.until_upgraded(&id);
    cluster.until_serves("shop", "2.0.0", 2);
}

#[test]
fn a_watch_that_is_interrupted_or_out_of_time_leaves_the_ripple_going() {
    let cluster = two();
    let asked = long(&cluster, 5_000);
    let dir = shop("2.0.0").write(cluster.dir());
    let late = cluster.neap(&["deploy", dir.to_str().unwrap(), "--timeout", "3s"]);
    assert_eq!(late.code, 4, "{late:?}");
    let id = cluster.last_ripple("shop").id.to_string();
    assert!(late.err.contains(&format!("neap ripple show {id} --watch")), "{late:?}");
    let watch = cluster.spawn(&["ripple", "show", &id, "--watch"]);
    until("it watches", SOON, || if watch.has_said() { Ok(()) } else { Err(String::new()) });
    watch.interrupt();
    let detached = watch.ended();
    assert_eq!(detached.code, 130, "{detached:?}");
    all_answered(asked);
    cluster.until_upgraded(&id);
}

#[test]
fn one_server_alone_is_not_taken_out_of_service_unless_routers_may_hold() {
    let cluster = Cluster::shaped(Shape { servers: 1, ..Shape::default() });
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()).versions(&["1.0.0", "2.0.0"])]);
    let refused = cluster.deploy_with(&shop("2.0.0"), &[]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.err.contains("--hold"), "{refused:?}");
    cluster.until_serves("shop", "1.0.0", 1);
    cluster.well(&["upgrade", "shop", "--to", "2.0.0", "--hold", "20s"]);
    load.answered_by("2.0.0");
    load.finish().nothing_lost(&cluster);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    assert!(receipt.held > 0, "{receipt:#?}");
    assert!(receipt.balanced, "{receipt:#?}");
}

#[test]
fn a_drain_that_takes_too_long_opens_the_gate_and_ends_the_ripple() {
    let cluster = two();
    let asked = long(&cluster, 8_000);
    let ran = cluster.deploy_with(&shop("2.0.0"), &["--drain-timeout", "1s"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("drain"), "{ran:?}");
    cluster.until_serves("shop", "1.0.0", 2);
    all_answered(asked);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    assert_eq!(receipt.failures, []);
    assert!(receipt.balanced, "{receipt:#?}");
}

#[test]
fn what_is_cut_by_force_is_counted_and_named() {
    let cluster = two();
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief())]);
    // Their answers have begun, so that none of them is ever repeated.
    let asked = several(&cluster, "/shop/stream?bytes=300000&chunks=300&ms=100");
    let unsaid = cluster.deploy_with(&shop("2.0.0"), &["--drain-timeout", "2s", "--force"]);
    assert_eq!(unsaid.code, 2, "{unsaid:?}");
    let ran = cluster.deploy_with(&shop("2.0.0"), &["--drain-timeout", "2s", "--force", "--yes"]);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    assert_eq!(ran.code, 0, "{ran:?}\n{receipt:#?}");
    let answers: Vec<_> = asked.into_iter().map(|request| request.join().unwrap()).collect();
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    let cut: u64 = receipt.accounts.iter().map(|account| account.cut).sum();
    assert_eq!(cut, answers.len() as u64, "{receipt:#?}");
    assert_eq!(receipt.failures.len(), answers.len(), "{receipt:#?}");
    assert!(receipt.balanced, "{receipt:#?}");
    cluster.until_serves("shop", "2.0.0", 2);
    // Nobody else was hurt.
    load.finish().nothing_lost(&cluster);
}

#[test]
fn a_long_lived_connection_is_waited_for_beyond_the_drain_timeout_and_the_wait_shows_it() {
    let cluster = two();
    let sockets = Mix::new(vec![Request::websocket("/ws", Duration::from_secs(6)), Request::get("/").weight(30)]);
    let load = Load::start(&cluster, vec![Lane::to("shop", 40.0, sockets.unwrap())]);
    until("each server has a WebSocket", SOON, || {
        let placements = cluster.placements("shop")?;
        let open = |placement: &neap::wire::api::PlacementView| {
            placement.oldest_request.as_ref().is_some_and(|oldest| oldest.path.contains("/ws"))
        };
        if placements.iter().all(open) { Ok(()) } else { Err(format!("{placements:#?}")) }
    });
    let id = cluster.begin(&shop("2.0.0"), &["--drain-timeout", "1s"]);
    cluster.until_step(&id, StepState::Quiescing);
    until("the wait shows the WebSocket", SOON, || {
        let ripple = cluster.ripple(&id)?;
        let shown = ripple.waiting_for.as_ref().is_some_and(|waiting| waiting.detail.contains("/ws"));
        if shown { Ok(()) } else { Err(show(&ripple)) }
    });
    cluster.until_upgraded(&id);
    let account = load.finish();
    account.nothing_lost(&cluster);
    assert!(account.report.all.frames_echoed > 0);
    let receipt = cluster.receipt(&id);
    assert!(receipt.out_of_service.iter().any(|server| server.drain_ms > 1_000), "{receipt:#?}");
    assert!(receipt.accounts.iter().all(|account| account.cut == 0), "{receipt:#?}");
}
