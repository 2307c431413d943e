//! New versions that start well and answer badly: found out by their answers, and undone without a person.

use neap::traffic::{Mix, Request};
use neap::wire::api::{RippleKind, RippleState};

use crate::support::cluster::{Cluster, Ran};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::{Release, shop};
use crate::support::watch::show;

/// Deploys a version under load that answers badly; answers how the command ended, and the share of the clients'
/// requests that met it.
fn found_out(bad: Release, asked: Mix, rate: f64) -> Ran {
    let cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", rate, asked)]);
    let ran = cluster.deploy_with(&bad.upgrade(r#"soak = "20s""#), &[]);
    load.flows();
    let account = load.finish();
    assert_eq!(ran.code, 1, "{ran:?}");
    cluster.until_serves("shop", "1.0.0", 3);
    let page: neap::wire::page::Page<neap::wire::api::RippleView> = cluster.ask("ripples?program=shop").unwrap();
    let [undo, undone, _] = page.items.as_slice() else { panic!("{page:#?}") };
    assert_eq!((undone.kind, undone.state), (RippleKind::Upgrade, RippleState::Undone), "{}", show(undone));
    assert_eq!((undo.kind, undo.state), (RippleKind::Undo, RippleState::Undone), "{}", show(undo));
    assert_eq!(undone.undone_by.as_ref(), Some(&undo.id));
    assert_eq!(undo.steps.len(), 1, "only the first server was ever upgraded: {}", show(undo));
    let (sent, met) = (account.report.all.sent, account.report.all.by_version.get("2.0.0").copied().unwrap_or(0));
    println!("{met} of {sent} requests met the bad version ({:.1} %)", met as f64 * 100.0 / sent as f64);
    // The receipt of the way back tells of both ripples; what came while one ended and the other began is counted by both.
    let told = cluster.receipt(undo.id.as_str()).exposure.expect("the share is told");
    assert!(ran.err.contains(&format!("{} of {} requests met 2.0.0", told.met, told.of)), "{ran:?}");
    assert!(met > 0 && told.met >= met && told.met <= met + met / 4 + 10, "{met} were answered by it, told {told:?}");
    assert!(told.of <= sent + sent / 4, "{sent} were sent, told {told:?}");
    let share = f64::from(told.share_ppm) / 1e6;
    assert!(share < 0.45, "not even the share of one server of three met it, for a while: {told:?}");
    // Who asks now is answered well.
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()).versions(&["1.0.0"])]);
    assert!(load.finish().report.passed);
    ran
}

#[test]
fn a_version_of_whose_answers_a_fifth_are_errors_is_undone_by_itself() {
    let ran = found_out(shop("2.0.0").mode("flaky"), Mix::new(vec![Request::get("/")]).unwrap(), 90.0);
    assert!(ran.err.contains("answers were errors") && ran.err.contains("error_rate"), "{ran:?}");
}

#[test]
fn a_version_that_is_five_times_slower_is_undone_by_itself() {
    let ran = found_out(shop("2.0.0").mode("slow"), Mix::new(vec![Request::get("/slow?ms=30")]).unwrap(), 90.0);
    assert!(ran.err.contains("took longer than"), "{ran:?}");
}

#[test]
fn a_version_that_leaks_until_it_is_killed_is_undone_by_itself() {
    let ran = found_out(shop("2.0.0").mode("leak"), Mix::new(vec![Request::get("/")]).unwrap(), 90.0);
    // Whichever it shows first: what leaks is slow as well before it ends.
    let signs = ["ended by itself", "answers were errors", "took longer than"];
    assert!(signs.iter().any(|sign| ran.err.contains(sign)), "{ran:?}");
}
