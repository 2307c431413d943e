//! New versions that do not work: refused in time, and the old one serves as if nothing had been.

use std::time::{Duration, Instant};

use neap::wire::api::{RippleState, StepState};

use crate::support::cluster::{Cluster, Ran};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::{Release, shop};

/// What a start may take, in the releases below.
const START_TIMEOUT: Duration = Duration::from_secs(4);

/// Deploys a version that does not work, under load; answers with how the command ended and how long it took.
fn refused(bad: &Release) -> (Ran, Duration) {
    let cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0", "3.0.0"])]);
    let started = Instant::now();
    let ran = cluster.deploy_with(&bad.clone().health(r#"start_timeout = "4s""#), &[]);
    let took = started.elapsed();
    assert_eq!(ran.code, 1, "{ran:?}");
    let ripple = cluster.last_ripple("shop");
    assert_eq!(ripple.state, RippleState::Failed, "{ripple:#?}");
    assert_eq!(ripple.steps.iter().filter(|step| step.state == StepState::Undone).count(), 1, "{ripple:#?}");
    cluster.until_serves("shop", "1.0.0", 3);
    // It never took a request, which is told.
    let told = cluster.receipt(ripple.id.as_str()).exposure.expect("the share is told");
    assert!(told.met == 0 && told.of > 0, "{told:?}");
    tells(&ran, &[&format!("0 of {} requests met 2.0.0", told.of)]);
    // The next one is not held up by what is left of it.
    cluster.deploy(&shop("3.0.0"));
    load.answered_by("3.0.0");
    load.finish().nothing_lost(&cluster);
    assert_eq!(cluster.instances().len(), 3, "the bad one's processes are gone");
    (ran, took)
}

#[track_caller]
fn tells(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.err.contains(word), "no \"{word}\" in\n{}", ran.err);
    }
}

#[test]
fn a_version_that_exits_at_once_is_refused_at_once_with_its_status_and_last_words() {
    let (ran, took) = refused(&shop("2.0.0").mode("exit"));
    tells(&ran, &["server-1", "exit status 3", "told to exit at once (SHOP_MODE=exit)", "neap program logs shop"]);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_version_that_never_becomes_healthy_is_refused_within_its_start_timeout() {
    let (ran, took) = refused(&shop("2.0.0").mode("hang"));
    tells(&ran, &["server-1", "shop 2.0.0 listens on", "no answer to GET /healthz", "within 4."]);
    assert!(took > START_TIMEOUT, "{took:?}");
}

#[test]
fn a_version_that_listens_on_nothing_is_refused_within_its_start_timeout() {
    let (ran, took) = refused(&shop("2.0.0").mode("deaf"));
    tells(&ran, &["server-1", "did not listen on its port", "it wrote nothing", "within 4."]);
    assert!(took > START_TIMEOUT, "{took:?}");
}

#[test]
fn a_version_that_cannot_be_prepared_is_refused_before_any_gate_closes() {
    let cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let bad = shop("2.0.0").process(r#"prepare = ["sh", "-c", "echo no flour; exit 7"]"#);
    let ran = cluster.deploy_with(&bad, &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    tells(&ran, &["exit status 7", "no flour"]);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    assert_eq!(receipt.out_of_service, []);
    cluster.until_serves("shop", "1.0.0", 3);
}
