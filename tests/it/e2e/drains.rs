//! A person takes a server out of service, and has it serve again.

use neap::wire::api::{PlacementState, StepState};

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::load::{Lane, Load, brief, letters};
use crate::support::release::{mail, shop};
use crate::support::{SOON, until};

/// No placement of the server takes requests, and it says so.
fn is_out(cluster: &Cluster, server: &str) -> Result<(), String> {
    let view = cluster.node_view(server);
    let placements = cluster.status()?.placements;
    let open = placements.iter().any(|one| one.server.as_str() == server && one.state == PlacementState::Open);
    match view.drain {
        Some(ref drain) if drain.drained && !open => Ok(()),
        _ => Err(format!("{view:?}")),
    }
}

#[test]
fn a_drained_server_stays_out_whatever_restarts_and_is_caught_up_when_it_is_resumed() {
    let mut cluster = Cluster::shaped(Shape { servers: 3, ..Shape::default() });
    cluster.deploy(&shop("1.0.0").upgrade(r#"soak = "0s""#));
    cluster.deploy(&mail("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()), Lane::to("mail", 30.0, letters())]);
    let drained = cluster.well(&["node", "drain", "server-1"]);
    assert!(drained.out.contains("drained") && drained.err.contains("neap node resume server-1"), "{drained:?}");
    is_out(&cluster, "server-1").unwrap();
    load.flows();
    let status = cluster.well(&["status"]).out;
    assert!(status.contains("up, drained"), "{status}");
    cluster.well(&["node", "drain", "server-1"]);

    let ripple = cluster.deploy(&shop("2.0.0").upgrade(r#"soak = "0s""#));
    let skipped = ripple.steps.iter().find(|step| step.server.as_str() == "server-1").unwrap();
    assert_eq!(skipped.state, StepState::Skipped, "{ripple:#?}");
    assert!(skipped.reason.as_ref().unwrap().contains("drained"), "{skipped:?}");
    load.finish().nothing_lost(&cluster);

    cluster.node("server-1").kill9();
    cluster.node(MANAGEMENT).kill9();
    cluster.node("server-1").start();
    // It has waited for management as long as it would before it opens by itself.
    until("its programs run again, behind closed gates", SOON, || {
        let metrics = cluster.metrics("server-1")?;
        let up = metrics.lines().filter(|line| line.starts_with("neap_instance_up") && line.ends_with(" 1")).count();
        if up == 2 { Ok(()) } else { Err(metrics) }
    });
    cluster.node(MANAGEMENT).start();
    cluster.until_all_up();
    until("it is still out of service", SOON, || is_out(&cluster, "server-1"));

    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()), Lane::to("mail", 30.0, letters())]);
    cluster.well(&["node", "resume", "server-1"]);
    cluster.until_serves("shop", "2.0.0", 3);
    cluster.until_serves("mail", "1.0.0", 3);
    // What the first load has posted is in the logs as well.
    let report = load.finish().report;
    assert!(report.passed, "{:#?}", report.all.errors);
    assert!(cluster.node_view("server-1").drain.is_none());
}

#[test]
fn a_drain_that_would_leave_too_few_is_refused_with_the_programs_and_can_be_forced() {
    let cluster = Cluster::shaped(Shape { servers: 1, ..Shape::default() });
    cluster.deploy(&mail("1.0.0"));
    let refused = cluster.neap(&["node", "drain", "server-1"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.err.contains("mail: 1 serving") && refused.err.contains("--force"), "{refused:?}");
    assert!(cluster.node_view("server-1").drain.is_none());
    cluster.well(&["node", "drain", "server-1", "--force"]);
    is_out(&cluster, "server-1").unwrap();
    cluster.well(&["node", "resume", "server-1"]);
    cluster.until_serves("mail", "1.0.0", 1);
    let unknown = cluster.neap(&["node", "drain", "nobody"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    let router = cluster.neap(&["node", "drain", "router-1"]);
    assert_eq!(router.code, 2, "{router:?}");
}

#[test]
fn the_scope_of_a_server_takes_all_of_its_programs_out_and_restarts_the_one_that_is_upgraded() {
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&shop("1.0.0").upgrade(r#"soak = "0s""#));
    cluster.deploy(&mail("1.0.0"));
    let before = cluster.placements("mail").unwrap();
    let instances = cluster.instances();
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()), Lane::to("mail", 30.0, letters())]);
    let release = shop("2.0.0").upgrade(r#"soak = "0s""#).write(cluster.dir());
    cluster.well(&["deploy", release.to_str().unwrap(), "--scope", "server"]);
    load.flows();
    load.finish().nothing_lost(&cluster);
    cluster.until_serves("shop", "2.0.0", 2);
    cluster.until_serves("mail", "1.0.0", 2);
    for (old, new) in before.iter().zip(cluster.placements("mail").unwrap()) {
        assert!(new.generation >= old.generation + 2, "its gate was closed and opened: {new:?}");
    }
    // Of shop two, of mail none.
    let still = instances.iter().filter(|pid| cluster.instances().contains(pid)).count();
    assert_eq!(still, 2);
    let all: neap::wire::page::Page<neap::wire::api::RippleView> = cluster.ask("ripples").unwrap();
    let whole = all.items.iter().find(|ripple| ripple.part_of.is_none() && ripple.program.is_some()).unwrap();
    cluster.well(&["ripple", "undo", whole.id.as_str()]);
    cluster.until_serves("shop", "1.0.0", 2);
}
