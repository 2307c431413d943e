//! Clients with cookies through ripples: what is in their sessions is there after them, wherever they go, and nobody goes
//! back to an old version.

use std::time::Duration;

use neap::traffic::{Mix, Request};
use neap::wire::api::SessionView;
use neap::wire::page::Page;

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::load::{Account, Lane, Load};
use crate::support::release::{Release, cart_node, cart_python, installed};
use crate::support::{SOON, until};

const CLIENTS: usize = 1_000;

fn carts() -> Mix {
    Mix::new(vec![Request::get("/").expect_echo(), Request::post("/items", 20).expect_echo()]).unwrap()
}

/// Clients who leave, so that a drain that waits for sessions comes to its end.
fn leaving_carts() -> Mix {
    carts().leaving(8, Some("/checkout")).unwrap()
}

#[track_caller]
fn no_session_lost(account: &Account) {
    let all = &account.report.all;
    assert!(account.report.passed, "{} of {} failed: {:#?}", all.failed, all.sent, all.errors);
    let sessions = all.sessions;
    assert!(sessions.begun >= CLIENTS as u64 / 2, "{sessions:?}");
    assert_eq!((sessions.lost, sessions.mixed, sessions.regressed), (0, 0, 0), "{sessions:?}");
}

fn sessions(cluster: &Cluster, program: &str, more: &str) -> Page<SessionView> {
    cluster.ask(&format!("sessions?program={program}&limit=500{more}")).unwrap()
}

fn upgraded_with_clients(release: impl Fn(&str) -> Release, mix: Mix) -> (Cluster, Account) {
    let cluster = Cluster::start();
    let first = cluster.deploy(&release("1.0.0"));
    let name = first.program.as_ref().expect("a program").as_str().to_owned();
    let name: &'static str = Box::leak(name.into_boxed_str());
    let lane = Lane::to(name, 100.0, mix).versions(&["1.0.0", "2.0.0"]).sessions(CLIENTS);
    let load = Load::start(&cluster, vec![lane]);
    load.has_sessions(CLIENTS as u64 / 2);
    let ripple = cluster.deploy(&release("2.0.0"));
    load.answered_by("2.0.0");
    load.flows();
    assert_eq!(ripple.state.to_string(), "upgraded");
    let account = load.finish();
    (cluster, account)
}

#[test]
fn a_thousand_carts_in_shared_sessions_come_through_a_ripple_whole() {
    let (cluster, account) = upgraded_with_clients(cart_python, carts());
    no_session_lost(&account);
    let page = sessions(&cluster, "cart-python", "&version=2.0.0");
    assert!(!page.items.is_empty());
    let shown = cluster.well(&["session", "ls", "cart-python", "--limit", "5"]);
    assert_eq!(shown.out.lines().count(), 6, "{}", shown.out);
}

#[test]
fn a_thousand_carts_in_sticky_sessions_stay_until_they_end_and_are_whole() {
    let (cluster, account) = upgraded_with_clients(|version| cart_node(version, "10s"), leaving_carts());
    no_session_lost(&account);
    let sessions = cluster.receipt(&cluster.last_ripple("cart-node").id.to_string()).sessions;
    assert!(sessions.finished > 0 && sessions.cut == 0, "{sessions:?}");
}

#[test]
fn carts_are_whole_when_a_server_and_when_management_is_killed_while_they_are_written() {
    let mut cluster = Cluster::start();
    cluster.deploy(&cart_python("1.0.0"));
    let lane = Lane::to("cart-python", 60.0, carts()).sessions(200);
    let load = Load::start(&cluster, vec![lane]);
    load.has_sessions(150);
    cluster.node("server-2").kill9();
    load.flows();
    cluster.node("server-2").start();
    cluster.until_all_up();
    cluster.node(MANAGEMENT).kill9();
    load.flows();
    cluster.node(MANAGEMENT).start();
    cluster.until_all_up();
    load.flows();
    let account = load.finish();
    let sessions = account.report.all.sessions;
    assert_eq!((sessions.lost, sessions.mixed), (0, 0), "{sessions:?} {:#?}", account.report.all.errors);
}

#[test]
fn a_session_that_a_person_ends_is_over_everywhere() {
    let cluster = Cluster::start();
    cluster.deploy(&cart_python("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("cart-python", 20.0, carts()).sessions(5)]);
    load.has_sessions(5);
    let account = load.finish();
    assert!(account.report.passed, "{:#?}", account.report.all.errors);
    until("the master list knows them", SOON, || {
        let known = sessions(&cluster, "cart-python", "").items.len();
        if known == 5 { Ok(()) } else { Err(format!("{known}")) }
    });
    let one = sessions(&cluster, "cart-python", "").items.remove(0);
    let shown: SessionView = cluster.ask(&format!("sessions/cart-python/{}", one.id)).unwrap();
    assert!(shown.data.is_some_and(|data| data.bytes > 10));
    cluster.well(&["session", "end", "cart-python", &one.id.to_string()]);
    assert_eq!(sessions(&cluster, "cart-python", "").items.len(), 4);
    let again = cluster.neap(&["session", "end", "cart-python", &one.id.to_string()]);
    assert_eq!(again.code, 2, "{again:?}");
    // A second later servers have told again; it does not come back.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(sessions(&cluster, "cart-python", "").items.iter().all(|session| session.id != one.id));
}

#[test]
fn a_plan_says_how_long_sessions_may_hold_a_drain() {
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&cart_node("1.0.0", "77s"));
    let load = Load::start(&cluster, vec![Lane::to("cart-node", 20.0, carts()).sessions(6)]);
    load.has_sessions(6);
    load.finish();
    until("the master list knows them", SOON, || {
        let known = sessions(&cluster, "cart-node", "").items.len();
        if known == 6 { Ok(()) } else { Err(format!("{known}")) }
    });
    let dir = cart_node("2.0.0", "77s").write(cluster.dir());
    cluster.well(&["release", "push", dir.to_str().unwrap()]);
    let asked = cluster.post("ripples?dry_run=true", br#"{"program":"cart-node","to":"2.0.0"}"#).unwrap();
    let plan: neap::wire::api::PlanView = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(plan.steps.iter().map(|step| step.sessions).sum::<u64>(), 6, "{plan:?}");
    // None has ended: what is known is that they migrate then.
    let held = plan.steps.iter().filter(|step| step.sessions > 0);
    assert!(held.clone().count() > 0 && held.clone().all(|step| step.expected_drain_ms == Some(77_000)), "{plan:?}");
    let shown = cluster.well(&["upgrade", "cart-node", "--to", "2.0.0", "--plan"]);
    assert!(shown.out.contains("session") && shown.out.contains("1m17s"), "{}", shown.out);
}

/// A program that others wrote, with session middleware that others wrote, whose carts come through an upgrade whole.
fn middleware_upgraded(name: &'static str, settings: &[(&str, &str)]) {
    let Some(first) = installed(name, "1.0.0") else { return };
    let with = |release: Release| {
        settings.iter().fold(release, |release, (section, line)| match *section {
            "process" => release.process(line),
            _ => release.session(line),
        })
    };
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&with(first));
    let mix = vec![Request::get("/cart").weight(3).expect_echo(), Request::post("/cart/items", 20).expect_echo()];
    let mix = Mix::new(mix).unwrap().leaving(12, Some("/cart/checkout")).unwrap();
    let load = Load::start(&cluster, vec![Lane::to(name, 60.0, mix).sessions(60)]);
    load.has_sessions(40);
    let ripple = cluster.deploy(&with(installed(name, "2.0.0").unwrap()));
    load.answered_by("2.0.0");
    load.flows();
    assert_eq!(ripple.state.to_string(), "upgraded");
    let account = load.finish();
    assert!(account.report.passed, "{:?} {:#?}", account.report.all.sessions, account.report.all.errors);
    let sessions = account.report.all.sessions;
    assert_eq!((sessions.lost, sessions.mixed, sessions.regressed), (0, 0, 0), "{sessions:?}");
}

const COOKIE: (&str, &str) = ("session", r#"cookie = "sid""#);
const STICKY: (&str, &str) = ("session", r#"policy = "sticky""#);
const SHARED: (&str, &str) = ("session", r#"policy = "shared""#);
const LONG: (&str, &str) = ("session", r#"deadline = "2m""#);
const IN_NEAP: (&str, &str) = ("process", r#"env = { APP_SESSIONS = "neap" }"#);

#[test]
fn flasks_sessions_in_memory_stay_with_their_server_until_they_end() {
    middleware_upgraded("flask", &[STICKY, COOKIE, LONG]);
}

#[test]
fn flasks_sessions_in_the_session_list_are_found_by_any_server() {
    middleware_upgraded("flask", &[SHARED, COOKIE, IN_NEAP]);
}

#[test]
fn expresss_sessions_in_memory_stay_with_their_server_until_they_end() {
    middleware_upgraded("express", &[STICKY, COOKIE, LONG]);
}

#[test]
fn expresss_sessions_in_the_session_list_are_found_by_any_server() {
    middleware_upgraded("express", &[SHARED, COOKIE, IN_NEAP]);
}
