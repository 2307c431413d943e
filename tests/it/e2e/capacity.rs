//! Upgrades that ask how much capacity they may take: from the servers that stay, and from a server's other programs.

use neap::wire::api::{PlanView, RippleState, StepState};

use crate::support::cluster::{Cluster, Shape};
use crate::support::load::{Lane, Load, brief, letters};
use crate::support::release::{Release, mail, shop};
use crate::support::watch::show;
use crate::support::{SOON, until};

fn of_one_core(servers: u8) -> Cluster {
    Cluster::shaped(Shape { servers, sets: vec!["app_server.cores=1".to_owned()], ..Shape::default() })
}

/// A shop beside which something of its own works without end.
fn busy(version: &str) -> Release {
    let run = "exec ./shop --port {port} --log {data}/orders.log";
    shop(version)
        .process(&format!(r#"command = ["sh", "-c", "(while :; do :; done) & {run}"]"#))
        .upgrade("max_utilization = 0.05")
        .upgrade(r#"capacity_wait = "3s""#)
}

#[track_caller]
fn until_waits(cluster: &Cluster, id: &str, reason: &str) -> String {
    until(&format!("{id} waits for {reason}"), SOON, || {
        let ripple = cluster.ripple(id)?;
        assert!(!ripple.state.ended(), "{}", show(&ripple));
        let waits = ripple.waiting_for.as_ref().filter(|waiting| waiting.reason == reason);
        waits.map(|waits| waits.detail.clone()).ok_or_else(|| show(&ripple))
    })
}

#[test]
fn a_gate_does_not_close_while_the_servers_that_stay_would_carry_too_much_and_then_the_ripple_pauses() {
    let cluster = of_one_core(2);
    cluster.deploy(&busy("1.0.0"));
    let dir = busy("2.0.0").write(cluster.dir());
    cluster.well(&["release", "push", dir.to_str().unwrap()]);
    until("the plan tells what is carried", SOON, || {
        let ask = br#"{"program":"shop","to":"2.0.0"}"#;
        let answer = cluster.post("ripples?dry_run=true", ask)?;
        let plan: PlanView = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let excess = |step: &neap::wire::api::PlannedStep| {
            step.carries.as_ref().is_some_and(|carries| carries.would_milli > carries.most_milli)
        };
        if plan.steps.iter().all(excess) { Ok(()) } else { Err(format!("{plan:#?}")) }
    });
    let planned = cluster.well(&["upgrade", "shop", "--to", "2.0.0", "--plan"]);
    assert!(planned.out.contains("it would wait"), "{planned:?}");
    let id = cluster.begin(&busy("2.0.0"), &[]);
    let detail = until_waits(&cluster, &id, "capacity");
    assert!(detail.contains("max_utilization 0.05 allows 0.05"), "{detail}");
    let detail = until_waits(&cluster, &id, "paused_itself");
    assert!(detail.contains("it paused itself, having waited for room"), "{detail}");
    assert_eq!(cluster.ripple(&id).unwrap().state, RippleState::Paused);
    // Resumed, it waits anew; no gate has closed.
    cluster.well(&["ripple", "resume", &id]);
    until_waits(&cluster, &id, "capacity");
    cluster.well(&["ripple", "abort", &id]);
    let ended = cluster.until_ended(&id);
    assert_eq!(ended.state, RippleState::Aborted, "{}", show(&ended));
    assert!(ended.steps.iter().all(|step| step.times.drain_ms.is_none()), "{ended:#?}");
    // What takes nothing out of service needs no room elsewhere.
    let ran = cluster.deploy_with(&busy("2.0.0"), &["--strategy", "overlap"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    cluster.until_serves("shop", "2.0.0", 2);
}

#[test]
fn ripples_of_two_programs_take_one_of_them_at_a_time_out_of_a_server_and_both_end() {
    let cluster = of_one_core(2);
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&mail("1.0.0"));
    let lanes = vec![Lane::to("shop", 40.0, brief()), Lane::to("mail", 20.0, letters())];
    let load = Load::start(&cluster, lanes);
    let long: Vec<_> = (0..4).map(|_| cluster.get_beside("/shop/slow?ms=6000")).collect();
    until("they are active", SOON, || {
        let active = [cluster.active("server-1")?, cluster.active("server-2")?];
        if active.iter().all(|active| *active > 0) { Ok(()) } else { Err(format!("{active:?}")) }
    });
    let first = cluster.begin(&shop("2.0.0"), &[]);
    cluster.until_step(&first, StepState::Quiescing);
    let second = cluster.begin(&mail("2.0.0"), &[]);
    let detail = until_waits(&cluster, &second, "neighbour");
    assert!(detail.contains("shop, which is out of service there"), "{detail}");
    cluster.until_upgraded(&first);
    cluster.until_upgraded(&second);
    for request in long {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    load.finish().nothing_lost(&cluster);
    let receipt = cluster.receipt(&first);
    let neighbour = receipt.neighbours.iter().find(|one| one.program.as_str() == "mail").unwrap();
    assert_eq!((neighbour.errors_ppm, neighbour.p99_us.is_some()), (Some(0), true), "{receipt:#?}");
    assert!(receipt.out_of_service.iter().all(|out| out.drain_ms + out.stop_ms + out.start_ms + out.probe_ms > 0));
}
