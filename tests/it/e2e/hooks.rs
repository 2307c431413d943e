//! Commands that go with a ripple: when they run, where, how often, and what their ends decide.

use std::fs;

use neap::wire::api::{HookState, RippleState};

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::{Release, shop};
use crate::support::watch::show;
use crate::support::{SOON, until};

/// A cluster of two servers, and a shop whose hooks write into one file what they are told.
fn two() -> Cluster {
    Cluster::shaped(Shape { servers: 2, ..Shape::default() })
}

fn noted(cluster: &Cluster) -> String {
    fs::read_to_string(cluster.dir().join("hooks.txt")).unwrap_or_default()
}

fn noting(cluster: &Cluster, then: &str) -> String {
    let file = cluster.dir().join("hooks.txt");
    let line = "$NEAP_HOOK $NEAP_NODE $NEAP_RIPPLE_KIND $NEAP_FROM $NEAP_VERSION";
    format!(r#"["sh", "-c", "echo {line} >> {}; {then}"]"#, file.display())
}

fn with(cluster: &Cluster, release: Release, hooks: &[(&str, &str)]) -> Release {
    let hooks: Vec<String> = hooks
        .iter()
        .map(|(hook, then)| format!("{hook} = {}", noting(cluster, then)))
        .chain([r#"timeout = "20s""#.to_owned()])
        .collect();
    release.upgrade(&format!("hooks = {{ {} }}", hooks.join(", ")))
}

#[test]
fn hooks_run_once_each_in_their_order_and_what_they_wrote_is_shown() {
    let cluster = two();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()).versions(&["1.0.0", "2.0.0"])]);
    let hooks =
        [("before_ripple", "echo migrated 7 rows"), ("before_step", ""), ("after_step", ""), ("after_ripple", "")];
    let ripple = cluster.deploy(&with(&cluster, shop("2.0.0"), &hooks));
    load.finish().nothing_lost(&cluster);
    let expected = "before_ripple management upgrade 1.0.0 2.0.0\n\
                    before_step server-1 upgrade 1.0.0 2.0.0\nafter_step server-1 upgrade 1.0.0 2.0.0\n\
                    before_step server-2 upgrade 1.0.0 2.0.0\nafter_step server-2 upgrade 1.0.0 2.0.0\n\
                    after_ripple management upgrade 1.0.0 2.0.0\n";
    assert_eq!(noted(&cluster), expected);
    let states: Vec<HookState> = ripple_hooks(&cluster, ripple.id.as_str());
    assert_eq!(states, [HookState::Succeeded; 6]);
    let shown = cluster.well(&["ripple", "show", ripple.id.as_str()]).out;
    assert!(shown.contains("before_ripple at management succeeded") && shown.contains("migrated 7 rows"), "{shown}");
}

fn ripple_hooks(cluster: &Cluster, id: &str) -> Vec<HookState> {
    cluster.ripple(id).unwrap().hooks.iter().map(|hook| hook.state).collect()
}

#[test]
fn a_hook_that_fails_before_anything_touches_nothing_and_one_after_a_step_takes_the_step_back() {
    let cluster = two();
    cluster.deploy(&shop("1.0.0"));
    let ran =
        cluster.deploy_with(&with(&cluster, shop("2.0.0"), &[("before_ripple", "echo no table orders; exit 3")]), &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("exit status 3") && ran.err.contains("no table orders"), "{ran:?}");
    cluster.until_serves("shop", "1.0.0", 2);
    assert!(cluster.last_ripple("shop").steps.iter().all(|step| step.times.drain_ms.is_none()));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()).versions(&["1.0.0", "3.0.0"])]);
    let ran = cluster.deploy_with(&with(&cluster, shop("3.0.0"), &[("after_step", "exit 4")]), &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("after_step failed: exit status 4"), "{ran:?}");
    cluster.until_serves("shop", "1.0.0", 2);
    load.finish().nothing_lost(&cluster);
    assert_eq!(noted(&cluster).lines().filter(|line| line.starts_with("after_step")).count(), 1, "{}", noted(&cluster));
}

#[test]
fn a_hook_of_a_server_outlives_managements_restart_and_is_not_run_again() {
    let mut cluster = two();
    cluster.deploy(&shop("1.0.0"));
    let go = cluster.dir().join("go");
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let id = cluster.begin(&with(&cluster, shop("2.0.0"), &[("before_step", &waits)]), &[]);
    until("the hook runs", SOON, || if noted(&cluster).is_empty() { Err("not yet".to_owned()) } else { Ok(()) });
    cluster.node(MANAGEMENT).kill9();
    cluster.node(MANAGEMENT).start();
    fs::write(&go, "").unwrap();
    cluster.until_upgraded(&id);
    assert_eq!(noted(&cluster).lines().count(), 2, "once a server: {}", noted(&cluster));
}

#[test]
fn a_hook_that_its_node_did_not_live_to_see_the_end_of_has_failed_and_leaves_nothing() {
    let mut cluster = two();
    cluster.deploy(&shop("1.0.0"));
    for (hook, node, version) in [("before_step", "server-1", "2.0.0"), ("before_ripple", MANAGEMENT, "3.0.0")] {
        let _ = fs::remove_file(cluster.dir().join("hooks.txt"));
        let id = cluster.begin(&with(&cluster, shop(version), &[(hook, "exec sleep 1000")]), &[]);
        until("the hook runs", SOON, || if noted(&cluster).is_empty() { Err("not yet".to_owned()) } else { Ok(()) });
        cluster.node(node).kill9();
        cluster.node(node).start();
        let ended = cluster.until_ended(&id);
        assert_eq!(ended.state, RippleState::Failed, "{}", show(&ended));
        assert!(ended.reason.as_ref().is_some_and(|reason| reason.contains("stopped while it ran")), "{ended:#?}");
        until("nothing of it is left", SOON, || {
            let ps = std::process::Command::new("pgrep").args(["-fx", "sleep 1000"]).output().unwrap();
            if ps.stdout.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&ps.stdout).into_owned()) }
        });
        cluster.until_serves("shop", "1.0.0", 2);
    }
}
