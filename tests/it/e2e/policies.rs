//! How careful a ripple is: several servers at a time, canaries, and what a person says to it on the way.

use neap::wire::api::{RippleKind, RippleState, StepState};

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::shop;
use crate::support::watch::{serves, show};
use crate::support::{SOON, until};

fn loaded(cluster: &Cluster) -> Load {
    cluster.deploy(&shop("1.0.0"));
    Load::start(cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0", "2.0.0"])])
}

/// The servers on which a version serves.
fn runs(cluster: &Cluster, version: &str) -> Vec<String> {
    let placements = cluster.placements("shop").unwrap();
    placements.iter().filter(|placement| serves(placement, version)).map(|found| found.server.to_string()).collect()
}

#[track_caller]
fn until_waits_for(cluster: &Cluster, id: &str, reason: &str) {
    until(&format!("{id} waits for {reason}"), SOON, || {
        let ripple = cluster.ripple(id)?;
        assert!(!ripple.state.ended(), "{}", show(&ripple));
        let waits = ripple.waiting_for.as_ref().is_some_and(|waiting| waiting.reason == reason);
        if waits { Ok(()) } else { Err(show(&ripple)) }
    });
}

#[test]
fn a_batch_of_two_takes_two_of_four_servers_out_at_a_time_and_loses_nothing() {
    let cluster = Cluster::shaped(Shape { servers: 4, ..Shape::default() });
    let load = loaded(&cluster);
    let ran = cluster.deploy_with(&shop("2.0.0").slowly(0.0, 1.0), &["--batch", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    cluster.until_serves("shop", "2.0.0", 4);
    load.answered_by("2.0.0");
    load.finish().nothing_lost(&cluster);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    let kept = receipt.kept_serving.clone().unwrap();
    assert_eq!((kept.min_serving, kept.lowest, kept.servers), (2, 2, 4), "{receipt:#?}");
    assert!(receipt.balanced && receipt.failures.is_empty(), "{receipt:#?}");
}

#[test]
fn a_canary_goes_first_and_the_others_wait_for_a_person_even_if_management_restarts() {
    let mut cluster = Cluster::start();
    let load = loaded(&cluster);
    let id = cluster.begin(&shop("2.0.0"), &["--canary", "1", "--promote", "manual"]);
    until_waits_for(&cluster, &id, "promotion");
    let waiting = cluster.ripple(&id).unwrap().waiting_for.unwrap();
    assert_eq!(waiting.command.as_deref(), Some(format!("neap ripple promote {id}").as_str()));
    cluster.node(MANAGEMENT).kill9();
    load.flows();
    cluster.node(MANAGEMENT).start();
    until_waits_for(&cluster, &id, "promotion");
    cluster.until_all_up();
    until("the canary serves, and the others what they had", SOON, || {
        match (runs(&cluster, "2.0.0").len(), runs(&cluster, "1.0.0").len()) {
            (1, 2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster.well(&["ripple", "promote", &id]);
    cluster.until_upgraded(&id);
    cluster.until_serves("shop", "2.0.0", 3);
    load.finish().nothing_lost(&cluster);
    let over = cluster.neap(&["ripple", "promote", &id]);
    assert_eq!(over.code, 5, "{over:?}");
}

#[test]
fn a_paused_ripple_begins_nothing_until_it_is_resumed_and_an_abort_leaves_what_is_upgraded() {
    let cluster = Cluster::start();
    let load = loaded(&cluster);
    let id = cluster.begin(&shop("2.0.0").slowly(0.0, 0.5), &["--soak", "1h"]);
    cluster.until_step(&id, StepState::Soaking);
    cluster.well(&["ripple", "pause", &id]);
    assert_eq!(cluster.ripple(&id).unwrap().state, RippleState::Paused);
    load.flows();
    assert_eq!(runs(&cluster, "2.0.0").len(), 1);
    cluster.well(&["ripple", "resume", &id]);
    // Nobody waits an hour for the end of that soak.
    cluster.well(&["ripple", "abort", &id]);
    let ended = cluster.until_ended(&id);
    assert_eq!(ended.state, RippleState::Aborted, "{}", show(&ended));
    assert_eq!((runs(&cluster, "2.0.0").len(), runs(&cluster, "1.0.0").len()), (1, 2));
    load.finish().nothing_lost(&cluster);
}

#[test]
fn an_undo_takes_a_finished_ripple_back_without_a_push_and_loses_nothing() {
    let cluster = Cluster::start();
    let load = loaded(&cluster);
    let first = cluster.deploy(&shop("2.0.0")).id.to_string();
    load.answered_by("2.0.0");
    cluster.well(&["ripple", "undo", &first]);
    cluster.until_serves("shop", "1.0.0", 3);
    let undo = cluster.last_ripple("shop");
    assert_eq!((undo.kind, undo.state), (RippleKind::Undo, RippleState::Undone), "{}", show(&undo));
    assert_eq!(undo.undoes.as_ref().map(|id| id.as_str()), Some(first.as_str()));
    assert_eq!(cluster.ripple(&first).unwrap().undone_by.as_ref(), Some(&undo.id));
    load.flows();
    load.finish().nothing_lost(&cluster);
    let receipt = cluster.receipt(undo.id.as_str());
    assert!(receipt.balanced && receipt.failures.is_empty(), "{receipt:#?}");
    assert_eq!(receipt.out_of_service.len(), 3, "{receipt:#?}");
    // There is nothing left to undo, and that is said.
    let again = cluster.well(&["ripple", "undo", &first]);
    assert!(again.err.contains("nothing to undo"), "{again:?}");
}

#[test]
fn an_undo_of_a_ripple_that_drains_stops_it_at_once_and_takes_back_what_was_finished() {
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    let load = loaded(&cluster);
    let id = cluster.begin(&shop("2.0.0"), &["--soak", "1h", "--drain-timeout", "60s"]);
    let first = cluster.until_step(&id, StepState::Soaking);
    let held: Vec<_> = (0..4).map(|_| cluster.get_beside("/shop/slow?ms=9000")).collect();
    until("the other server has a long request", SOON, || {
        let placements = cluster.placements("shop")?;
        let busy = |found: &neap::wire::api::PlacementView| {
            found.server.as_str() != first && found.oldest_request.as_ref().is_some_and(|oldest| oldest.age_ms > 500)
        };
        if placements.iter().any(busy) { Ok(()) } else { Err(format!("{placements:#?}")) }
    });
    let since = std::time::Instant::now();
    cluster.well(&["ripple", "undo", &id, "--detach"]);
    let ended = cluster.until_ended(&id);
    assert_eq!(ended.state, RippleState::Aborted, "{}", show(&ended));
    assert!(since.elapsed() < std::time::Duration::from_secs(8), "it waited for the drain");
    let undo = cluster.last_ripple("shop");
    let ended = cluster.until_ended(undo.id.as_str());
    assert_eq!(ended.state, RippleState::Undone, "{}", show(&ended));
    cluster.until_serves("shop", "1.0.0", 2);
    for request in held {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    load.finish().nothing_lost(&cluster);
}

#[test]
fn a_ripple_starts_from_the_plan_that_was_shown_and_not_once_the_cluster_has_changed() {
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&shop("1.0.0"));
    let dir = shop("2.0.0").write(cluster.dir());
    cluster.well(&["release", "push", dir.to_str().unwrap()]);
    let asked = |query: &str, plan: &str| {
        let body = format!(r#"{{"program":"shop","to":"2.0.0","soak_ms":0{plan}}}"#);
        cluster.post(&format!("ripples{query}"), body.as_bytes()).unwrap()
    };
    let planned = || {
        let answer = asked("?dry_run=true", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let plan: neap::wire::api::PlanView = serde_json::from_slice(&answer.body).unwrap();
        format!(r#","plan":"{}""#, plan.id)
    };
    let plan = planned();
    assert_eq!(plan, planned(), "nothing has changed");
    cluster.well(&["program", "restart", "shop", "--soak", "0s"]);
    let refused = asked("", &plan);
    assert_eq!(refused.status, 412, "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("precondition_failed"), "{refused:?}");
    assert_eq!(asked("", &planned()).status, 202);
    let id = cluster.last_ripple("shop").id.to_string();
    cluster.until_upgraded(&id);
    let shown = cluster.well(&["ripple", "show", &id]);
    for what in ["server-1 closes its gate and drains", "server-2 is done", "ended well"] {
        assert!(shown.out.contains(what), "no {what} in\n{}", shown.out);
    }
}
