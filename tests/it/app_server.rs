//! The application server as a real process with real programs: gates, drains, upgrades, deaths and adoptions.

pub mod ground;

use neap::domain::names::{Generation, RunId};
use neap::domain::placement::{Order, Outcome, Refusal, State};
use neap::wire::messages::{ActiveRequest, Lines, Prepared, Renewal, ToManagement, ToServer};

use ground::{Ground, eventually, get, shop, term};

#[actix_rt::test]
async fn an_installed_program_takes_requests_and_its_own_refusal_header_is_not_passed_on() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    let refused = node.get("/");
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains(&format!("Neap-Refused: {}.0", node.run)),
        "{refused}"
    );
    ground.install(&node, "1.0").await;
    let answer = node.get("/");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Neap-Version: 1.0"), "{answer}");
    assert!(!answer.contains("forged"), "{answer}");
    assert!(get(node.data, "/", "").starts_with("HTTP/1.1 400"));
    eventually("the upgrade is told", async || {
        ground.hears(|said| matches!(said, ToManagement::Upgraded { .. })).then_some(())
    })
    .await;
    let sealed = ground.seal(&node).await;
    assert_eq!(sealed.manifests.len(), 1);
    let cut = ground.ledger(&node).await;
    let counts = cut.entries[0].counts;
    assert_eq!((counts.admitted, counts.completed, counts.active), (1, 1, 0));
}

#[actix_rt::test]
async fn a_quiesced_program_is_drained_only_after_its_last_request_has_ended() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    let first = ground.install(&node, "1.0").await;
    let second = ground.good("2.0");
    assert_eq!(ground.prepare(&node, &second).await, Prepared::Ready);
    let slow = node.get_beside("/slow");
    ground.begun(1).await;
    let (operation, obeyed) = ground.quiesce(&node).await;
    assert_eq!(obeyed.report.active, 1);
    let active: Vec<ActiveRequest> = ground.ask(&node, ToServer::Requests { program: shop() }).await;
    assert_eq!((active[0].path.as_str(), active[0].request_id.as_str()), ("/slow", "req-of-a-test"));
    let refused = node.get("/");
    let generation = obeyed.report.generation;
    assert!(refused.contains(&format!("Neap-Refused: {}.{generation}", node.run)), "{refused}");
    let early = ground.order(&node, &operation, generation, ground.upgrade_to(&second.0, false)).await;
    assert_eq!(early.refusal, Some(Refusal::NotDrained { active: 1, orphans: 0 }));
    assert_eq!(early.report.release, Some(first));
    assert!(!ground.hears(|said| matches!(said, ToManagement::Drained { .. })));
    ground.go();
    assert!(slow.join().unwrap().ends_with(|c: char| c.is_ascii_digit()));
    eventually("drained is told", async || {
        ground.hears(|said| matches!(said, ToManagement::Drained { report } if report.active == 0)).then_some(())
    })
    .await;
    let obeyed = ground.order(&node, &operation, generation, ground.upgrade_to(&second.0, false)).await;
    assert_eq!((obeyed.refusal, obeyed.report.state), (None, State::Upgrading));
    ground.until_state(&node, State::Open).await;
    assert_eq!(node.answers().0, "2.0");
    assert_eq!(ground.executed("/slow"), 1);
    let repeat = ground.order(&node, &operation, generation, ground.upgrade_to(&second.0, false)).await;
    assert_eq!((repeat.refusal, repeat.report.state), (None, State::Open));
}

#[actix_rt::test]
async fn force_cuts_what_is_left_and_counts_it() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let second = ground.good("2.0");
    ground.prepare(&node, &second).await;
    let slow = node.get_beside("/slow");
    ground.begun(1).await;
    let (operation, obeyed) = ground.quiesce(&node).await;
    let order = ground.upgrade_to(&second.0, true);
    let forced = ground.order(&node, &operation, obeyed.report.generation, order).await;
    assert_eq!((forced.refusal, forced.report.state), (None, State::Upgrading));
    assert!(!slow.join().unwrap().contains("1.0"));
    ground.until_state(&node, State::Open).await;
    assert_eq!(node.answers().0, "2.0");
    let cut = ground.ledger(&node).await;
    let counts = |version: &str| {
        let of = |entry: &&neap::wire::messages::LedgerEntry| entry.version.as_ref().unwrap().as_str() == version;
        cut.entries.iter().find(of).unwrap().counts
    };
    assert_eq!((counts("1.0").cut, counts("1.0").admitted, counts("2.0").completed), (1, 1, 1));
}

async fn failing_upgrade(script: &str, more: &str, expected: &str) {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let bad = ground.release("2.0", script, more);
    assert_eq!(ground.prepare(&node, &bad).await, Prepared::Ready);
    let (operation, obeyed) = ground.quiesce(&node).await;
    ground.order(&node, &operation, obeyed.report.generation, ground.upgrade_to(&bad.0, false)).await;
    let report = ground.until_state(&node, State::Open).await;
    let Some(Outcome::TakenBack(reason)) = report.ended.map(|ended| ended.outcome) else { panic!("not taken back") };
    assert!(reason.contains(expected), "{reason}");
    assert_eq!(node.answers().0, "1.0");
    let lines: Lines = ground.ask(&node, ToServer::Logs { program: shop(), lines: 100 }).await;
    assert!(lines.lines.iter().any(|line| line.contains("woe")) || !script.contains("woe"), "{lines:?}");
}

#[actix_rt::test]
async fn a_version_that_exits_at_once_is_taken_back_with_its_status_and_last_lines() {
    failing_upgrade("import sys\nprint('woe is me')\nsys.exit(3)\n", "", "exit status 3").await;
    failing_upgrade("import sys\nprint('woe is me')\nsys.exit(3)\n", "", "woe is me").await;
}

#[actix_rt::test]
async fn a_version_that_never_becomes_healthy_is_taken_back() {
    let script = "import time\nprint('woe')\ntime.sleep(600)\n";
    failing_upgrade(script, "[health]\nstart_timeout = '3s'\n", "did not listen").await;
}

#[actix_rt::test]
async fn a_killed_node_adopts_its_instance_and_counts_what_died_with_it() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (_, pid) = node.answers();
    let slow = node.get_beside("/slow");
    ground.begun(1).await;
    node.kill();
    assert_eq!(slow.join().unwrap(), "");
    let node = ground.node().await;
    let report = ground.report(&node).await;
    assert!(matches!(report.state, State::Closed | State::Open), "{report:?}");
    let opened = ground.until_state(&node, State::Open).await;
    assert_eq!(node.answers(), ("1.0".to_owned(), pid), "the same process");
    let cut = ground.ledger(&node).await;
    let counts = cut.entries[0].counts;
    assert_eq!((counts.failed, counts.completed, counts.active, counts.admitted), (1, 2, 0, 3));
    assert_eq!((cut.failures[0].request_id.as_str(), cut.failures[0].path.as_str()), ("req-of-a-test", "/slow"));
    // The instance still executes the request of the dead node: an orphan, which counts against drained.
    assert_eq!(opened.orphans, 1);
    let second = ground.good("2.0");
    ground.prepare(&node, &second).await;
    let (operation, obeyed) = ground.quiesce(&node).await;
    let generation = obeyed.report.generation;
    let early = ground.order(&node, &operation, generation, ground.upgrade_to(&second.0, false)).await;
    assert_eq!(early.refusal, Some(Refusal::NotDrained { active: 0, orphans: 1 }));
    ground.go();
    ground.until(&node, "no orphan is left", |report| report.orphans == 0).await;
    assert_eq!(ground.executed("/slow"), 1);
    let done = ground.order(&node, &operation, generation, ground.upgrade_to(&second.0, false)).await;
    assert_eq!(done.refusal, None);
    ground.until_state(&node, State::Open).await;
    assert_eq!(node.answers().0, "2.0");
}

#[actix_rt::test]
async fn a_node_killed_in_any_phase_of_an_upgrade_ends_it_after_its_restart() {
    let mut ground = Ground::new();
    let mut node = ground.node().await;
    ground.install(&node, "1.0").await;
    let mut version = 1;
    for moment in 0..6_u64 {
        version += 1;
        let next = ground.good(&format!("{version}.0"));
        assert_eq!(ground.prepare(&node, &next).await, Prepared::Ready);
        let (operation, obeyed) = ground.quiesce(&node).await;
        let order = ground.upgrade_to(&next.0, false);
        let done = ground.order(&node, &operation, obeyed.report.generation, order).await;
        assert_eq!(done.refusal, None);
        // Where it dies differs by the moment; that it ends well does not.
        tokio::time::sleep(std::time::Duration::from_millis(moment * 25)).await;
        node.kill();
        node = ground.node().await;
        let report = ground.until_state(&node, State::Open).await;
        assert_eq!(report.release, Some(next.0), "at moment {moment}");
        assert_eq!(node.answers().0, format!("{version}.0"));
        let sealed = ground.seal(&node).await;
        assert_eq!(sealed.refusal, None);
    }
}

#[actix_rt::test]
async fn a_node_killed_while_quiescing_opens_again_by_itself() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (_, pid) = node.answers();
    ground.quiesce(&node).await;
    node.kill();
    let node = ground.node().await;
    let report = ground.until_state(&node, State::Open).await;
    assert_eq!(report.ended.map(|ended| ended.outcome), Some(Outcome::Lost));
    assert_eq!(node.answers(), ("1.0".to_owned(), pid));
}

#[actix_rt::test]
async fn a_booted_placement_stays_closed_while_management_says_so() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    node.kill();
    ground.desk.lock().unwrap().kept_closed = vec![shop()];
    let node = ground.node().await;
    let beats = |ground: &Ground| {
        let desk = ground.desk.lock().unwrap();
        desk.heard.iter().filter(|said| matches!(said, ToManagement::Heartbeat(_))).count()
    };
    let before = beats(&ground);
    // Twice boot_wait in heartbeats.
    eventually("heartbeats", async || (beats(&ground) > before + 12).then_some(())).await;
    assert_eq!(ground.report(&node).await.state, State::Closed);
    ground.desk.lock().unwrap().kept_closed.clear();
    ground.until_state(&node, State::Open).await;
}

#[actix_rt::test]
async fn a_lease_that_nobody_renews_opens_the_gate_again_and_one_that_is_renewed_does_not() {
    let mut ground = Ground::new();
    ground.lease = std::time::Duration::from_millis(400);
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (operation, obeyed) = ground.quiesce(&node).await;
    let generation = obeyed.report.generation;
    ground.desk.lock().unwrap().renewals = vec![Renewal { program: shop(), operation, generation }];
    let beats = || {
        let desk = ground.desk.lock().unwrap();
        desk.heard.iter().filter(|said| matches!(said, ToManagement::Heartbeat(_))).count()
    };
    let before = beats();
    eventually("heartbeats", async || (beats() > before + 16).then_some(())).await;
    assert_eq!(ground.report(&node).await.generation, generation);
    ground.desk.lock().unwrap().renewals.clear();
    let report = ground.until_state(&node, State::Open).await;
    assert_eq!(report.ended.map(|ended| ended.outcome), Some(Outcome::LeaseExpired));
    assert_eq!(report.generation, generation.next());
    assert_eq!(node.answers().0, "1.0");
}

#[actix_rt::test]
async fn stale_generations_runs_and_terms_are_refused_with_the_present_state() {
    let mut ground = Ground::new();
    let mut node = ground.node().await;
    ground.install(&node, "1.0").await;
    let report = ground.report(&node).await;
    let operation = ground.operation();
    let quiesce = Order::Quiesce { leased: true };
    let stale = ground.order(&node, &operation, Generation(0), quiesce.clone()).await;
    let (expected, present) = (Generation(0), report.generation);
    assert_eq!(stale.refusal, Some(Refusal::StaleGeneration { expected, present }));
    let run = std::mem::replace(&mut node.run, RunId::new("another").unwrap());
    let stale = ground.order(&node, &operation, present, quiesce.clone()).await;
    assert!(matches!(stale.refusal, Some(Refusal::StaleRun { .. })));
    node.run = run;
    ground.term = term(2);
    ground.seal(&node).await;
    ground.term = term(1);
    let stale = ground.order(&node, &operation, present, quiesce.clone()).await;
    assert_eq!(stale.refusal, Some(Refusal::StaleTerm { highest: term(2) }));
    assert!(matches!(ground.seal(&node).await.refusal, Some(Refusal::StaleTerm { .. })));
    node.kill();
    let node = ground.node().await;
    assert!(ground.seal(&node).await.refusal.is_some(), "the promise outlives the node");
}

#[actix_rt::test]
async fn an_instance_that_dies_is_started_again_behind_its_open_gate() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (_, pid) = node.answers();
    let before = ground.report(&node).await.generation;
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    eventually("another instance answers", async || {
        let answer = node.get("/");
        let refused = answer.contains("Neap-Refused") || answer.starts_with("HTTP/1.1 502");
        (!refused && !answer.contains(&format!(" {pid}"))).then_some(())
    })
    .await;
    let report = ground.until(&node, "healthy again", |report| report.healthy).await;
    assert_eq!((report.state, report.generation), (State::Open, before), "no health check moves a gate");
    assert!(ground.hears(|said| matches!(said, ToManagement::Failed { .. })));
}

#[actix_rt::test]
async fn a_release_that_cannot_be_fetched_is_a_reason_and_changes_nothing() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (mut release, manifest) = ground.good("2.0");
    release.sha256.0[0] ^= 1;
    let Prepared::Failed { reason } = ground.prepare(&node, &(release.clone(), manifest)).await else { panic!() };
    assert!(reason.contains("404"), "{reason}");
    let (operation, obeyed) = ground.quiesce(&node).await;
    let order = ground.upgrade_to(&release, false);
    let command = neap::domain::placement::Command {
        term: ground.term.clone(),
        operation: operation.clone(),
        run: node.run.clone(),
        expected: obeyed.report.generation,
        order,
    };
    let problem = ground.try_ask::<serde_json::Value>(&node, ToServer::Command { program: shop(), command }).await;
    assert!(problem.unwrap_err().detail.contains("not prepared"));
    let back = ground.order(&node, &operation, obeyed.report.operation.unwrap().expected, Order::Reopen).await;
    assert_eq!(back.report.state, State::Open);
    assert_eq!(node.answers().0, "1.0");
}

#[actix_rt::test]
async fn a_node_told_to_stop_ends_its_requests_and_leaves_its_instances_running() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (_, pid) = node.answers();
    let slow = node.get_beside("/slow");
    ground.begun(1).await;
    node.term();
    eventually("no new connections", async || node.get("/").is_empty().then_some(())).await;
    ground.go();
    assert!(slow.join().unwrap().contains(&format!("1.0 {pid}")));
    node.ended();
    let node = ground.node().await;
    ground.until_state(&node, State::Open).await;
    assert_eq!(node.answers(), ("1.0".to_owned(), pid));
    assert_eq!(ground.ledger(&node).await.entries[0].counts.failed, 0);
}

#[actix_rt::test]
async fn without_management_a_restarted_node_serves_what_it_held() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    let (_, pid) = node.answers();
    node.kill();
    // Nobody listens there.
    ground.management = "127.0.0.1:1".parse().unwrap();
    let node = ground.node().await;
    eventually("it opens by itself", async || node.get("/").contains(&format!("1.0 {pid}")).then_some(())).await;
}

#[actix_rt::test]
async fn health_and_metrics_are_told() {
    let mut ground = Ground::new();
    let node = ground.node().await;
    ground.install(&node, "1.0").await;
    node.answers();
    let client = neap::link::client::Client::new(Default::default(), None);
    let page = async |path: &str| {
        let answer = client.get(&format!("http://{}{path}", node.control)).await.unwrap();
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    assert_eq!(page("/healthz").await, "ok\n");
    let metrics = page("/metrics").await;
    for line in [
        "neap_requests_total{program=\"shop\",version=\"1.0\",server=\"s1\",outcome=\"completed\"} 1",
        "neap_gate_state{program=\"shop\",server=\"s1\"} 1",
        "neap_instance_up{program=\"shop\",server=\"s1\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
