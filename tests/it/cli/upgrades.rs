//! Upgrades: planned, refused, watched, detached from, failed, and checked against what runs.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Value, json};

use super::management::Management;
use super::{Ran, at, canned, ran};

const DRY: &str = "POST /api/v1/ripples?dry_run=true";
const START: &str = "POST /api/v1/ripples";
const RIPPLE: &str = "GET /api/v1/ripples/r1";
const PROGRAM: &str = "GET /api/v1/programs/shop";
const NODES: &str = "GET /api/v1/nodes";
const RECEIPT: &str = "GET /api/v1/ripples/r1/receipt";
const UPGRADE: [&str; 4] = ["upgrade", "shop", "--to", "2.0.0"];

/// A cluster where the ripple goes through `looks`, and `versions` run at its end.
fn cluster(looks: &[(u16, Value)], versions: [&str; 3]) -> Management {
    Management::reciting(&[
        (DRY, &[(200, canned::plan())]),
        (START, &[(202, canned::ripple("running"))]),
        (RIPPLE, looks),
        (PROGRAM, &[(200, canned::program(versions))]),
        (NODES, &[(200, canned::nodes())]),
        (RECEIPT, &[(200, canned::receipt())]),
    ])
}

fn upgrade(management: &Management, options: &[&str]) -> Ran {
    ran(at(management, &[&UPGRADE, options].concat()))
}

#[test]
fn an_upgrade_is_watched_to_its_end_and_tells_why_it_waits() {
    let management = cluster(
        &[(200, canned::ripple("running")), (200, canned::waiting()), (200, canned::ripple("upgraded"))],
        ["2.0.0"; 3],
    );
    let ran = upgrade(&management, &["--soak", "2s", "--min-serving", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for expected in [
        "upgrade shop 1.0.0 → 2.0.0: running",
        "waiting for 2 active requests, oldest 41s, GET /export",
        "next: stop shop 1.0.0 on server-1",
        "upgrade shop 1.0.0 → 2.0.0: upgraded on 3 servers in 12s",
    ] {
        assert!(ran.err.contains(expected), "{expected}\n--\n{}", ran.err);
    }
    assert!(!ran.err.contains('\u{1b}'));
    assert!(ran.out.starts_with("nothing lost, and the account balances: 300 admitted"), "{}", ran.out);
    let started = management.asked().into_iter().find(|asked| asked.what == START).unwrap();
    let expected = json!({"program": "shop", "to": "2.0.0", "min_serving": 2, "soak_ms": 2000, "force": false});
    assert_eq!(started.body, expected);
}

#[test]
fn an_upgrade_that_management_calls_done_fails_if_something_else_runs() {
    let management = cluster(&[(200, canned::ripple("upgraded"))], ["2.0.0", "1.0.0", "2.0.0"]);
    let ran = upgrade(&management, &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("server-2 runs 1.0.0, open"), "{}", ran.err);
}

#[test]
fn nothing_to_do_is_exit_code_0_and_starts_nothing() {
    let plan = canned::with(canned::plan(), json!({"steps": []}));
    let management = Management::reciting(&[(DRY, &[(200, plan)])]);
    let ran = upgrade(&management, &[]);
    assert!(ran.code == 0 && ran.err.contains("nothing to do"), "{ran:?}");
    assert_eq!(management.heard(), [DRY]);
}

#[test]
fn nothing_to_do_may_be_told_as_a_problem_too() {
    let problem = canned::problem(200, "nothing_to_do", "shop 2.0.0 runs everywhere");
    let management = Management::reciting(&[(DRY, &[(200, problem)])]);
    let ran = upgrade(&management, &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "shop 2.0.0 runs everywhere\n  the cure\n"));
}

#[test]
fn a_plan_is_shown_and_its_changes_are_exit_code_3_when_asked_for() {
    let management = Management::reciting(&[(DRY, &[(200, canned::plan())])]);
    let shown = upgrade(&management, &["--plan"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("1     server-1  1.0.0  2.0.0"), "{}", shown.out);
    assert!(shown.out.contains("keeps at least 2 serving"), "{}", shown.out);
    assert_eq!(upgrade(&management, &["--plan", "--exit-code"]).code, 3);
    let json: Value = serde_json::from_str(&upgrade(&management, &["--plan", "-o", "json"]).out).unwrap();
    assert_eq!(json["steps"].as_array().unwrap().len(), 3);
    assert!(management.heard().iter().all(|what| what == DRY));
}

#[test]
fn a_refusal_is_exit_code_5_with_its_reason_and_cure() {
    for code in ["busy", "min_serving"] {
        let answer = (409, canned::problem(409, code, "only 1 of 2 would serve"));
        let management = Management::reciting(&[(DRY, &[answer])]);
        let ran = upgrade(&management, &[]);
        assert_eq!((ran.code, ran.err.as_str()), (5, "error: only 1 of 2 would serve\n  the cure\n"));
    }
}

#[test]
fn a_reason_that_comes_from_three_places_is_told_once() {
    let why = "it exited with exit status 3 before it listened";
    let mut failed = canned::with(
        canned::ripple("failed"),
        json!({"reason": format!("server-1: {why}"), "failure": {"server": "server-1", "version": "2.0.0", "reason": why,
               "exit_status": "exit status 3", "log": []}}),
    );
    failed["steps"][0]["reason"] = json!(why);
    let ran = upgrade(&cluster(&[(200, failed)], ["1.0.0"; 3]), &["-q"]);
    assert_eq!(ran.err.matches(why).count(), 1, "{}", ran.err);
    assert!(ran.err.contains("it wrote nothing"), "{}", ran.err);
}

#[test]
fn a_failed_upgrade_shows_reason_exit_status_last_lines_and_the_next_command() {
    let log: Vec<String> = (1..=20).map(|n| format!("line {n}")).collect();
    let failed = canned::with(
        canned::ripple("failed"),
        json!({
            "reason": "2.0.0 did not start on server-1; 1.0.0 serves there again",
            "failure": {"server": "server-1", "version": "2.0.0", "reason": "it exited before it answered",
                        "exit_status": "exit status 3", "log": log},
        }),
    );
    let management = cluster(&[(200, canned::ripple("running")), (200, failed)], ["1.0.0"; 3]);
    let ran = upgrade(&management, &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for expected in [
        "1.0.0 serves there again",
        "shop 2.0.0 failed on server-1: it exited before it answered (exit status 3)",
        "    line 1\n",
        "    line 20\n",
        "next: neap program logs shop --server server-1",
    ] {
        assert!(ran.err.contains(expected), "{expected}\n--\n{}", ran.err);
    }
}

#[test]
fn the_clients_wait_that_runs_out_is_exit_code_4_and_says_how_to_come_back() {
    let management = cluster(&[(200, canned::waiting())], ["1.0.0"; 3]);
    let ran = upgrade(&management, &["--timeout", "1s"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("ripple r1 goes on") && ran.err.contains("neap ripple show r1 --watch"), "{}", ran.err);
    assert!(!management.heard().iter().any(|what| what.contains("abort")));
}

#[test]
fn ctrl_c_detaches_with_exit_code_130_and_says_how_to_come_back() {
    let management = cluster(&[(200, canned::waiting())], ["1.0.0"; 3]);
    let mut child = at(&management, &UPGRADE).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("waiting for") {
        assert_ne!(errors.read_line(&mut said).unwrap(), 0, "ended early: {said}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    for expected in ["detached; ripple r1 goes on", "neap ripple show r1 --watch", "neap ripple abort r1"] {
        assert!(said.contains(expected), "{expected}\n--\n{said}");
    }
    assert!(!management.heard().iter().any(|what| what.contains("abort")));
}

#[test]
fn detach_prints_the_ripples_id_and_waits_for_nothing() {
    let management = cluster(&[(200, canned::waiting())], ["1.0.0"; 3]);
    let ran = upgrade(&management, &["--detach"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "r1\n"), "{ran:?}");
    assert_eq!(management.heard(), [DRY, START]);
}

#[test]
fn watching_outlives_a_management_that_is_away_for_a_moment() {
    let away = (503, canned::problem(503, "unavailable", "starting"));
    let management =
        cluster(&[(200, canned::ripple("running")), away, (200, canned::ripple("upgraded"))], ["2.0.0"; 3]);
    let ran = upgrade(&management, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("does not answer") && ran.err.contains("answers again"), "{}", ran.err);
}

#[test]
fn json_of_a_watched_upgrade_is_the_ended_ripple_and_ndjson_every_change() {
    let looks = [(200, canned::ripple("running")), (200, canned::waiting()), (200, canned::ripple("upgraded"))];
    let json: Value = serde_json::from_str(&upgrade(&cluster(&looks, ["2.0.0"; 3]), &["-o", "json"]).out).unwrap();
    assert_eq!((&json["id"], &json["state"]), (&json!("r1"), &json!("upgraded")));
    let lines = upgrade(&cluster(&looks, ["2.0.0"; 3]), &["-o", "ndjson", "-q"]);
    assert_eq!(lines.err, "");
    let states: Vec<Value> =
        lines.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone()).collect();
    assert_eq!(states, ["running", "running", "upgraded"]);
}

#[test]
fn what_cuts_or_removes_wants_a_yes_where_nobody_can_be_asked() {
    let plan = canned::with(canned::plan(), json!({"force": true}));
    let management = Management::reciting(&[(DRY, &[(200, plan)])]);
    let forced = upgrade(&management, &["--force"]);
    assert!(forced.code == 2 && forced.err.contains("--yes"), "{forced:?}");
    let removed = ran(at(&management, &["program", "rm", "shop"]));
    assert!(removed.code == 2 && removed.err.contains("--yes"), "{removed:?}");
    assert_eq!(management.heard(), [DRY]);
}

#[test]
fn a_program_is_removed_by_a_ripple_that_is_watched() {
    let removal = |state| canned::with(canned::ripple(state), json!({"kind": "remove", "to": null}));
    let management = Management::reciting(&[
        ("DELETE /api/v1/programs/shop", &[(202, removal("running"))]),
        (RIPPLE, &[(200, removal("upgraded"))]),
        (RECEIPT, &[(200, canned::receipt())]),
    ]);
    let ran = ran(at(&management, &["program", "rm", "shop", "--yes"]));
    assert!(ran.code == 0 && ran.err.contains("remove shop 1.0.0"), "{ran:?}");
}

#[test]
fn an_abort_is_done_when_the_ripple_has_ended_aborted() {
    let at_abort = "POST /api/v1/ripples/r1/abort";
    let management = Management::reciting(&[
        (at_abort, &[(202, canned::ripple("running"))]),
        (RIPPLE, &[(200, canned::ripple("aborted"))]),
    ]);
    let aborted = ran(at(&management, &["ripple", "abort", "r1"]));
    assert!(aborted.code == 0 && aborted.out.contains("aborted"), "{aborted:?}");
    let late = Management::reciting(&[(at_abort, &[(409, canned::problem(409, "ripple_ended", "it has ended"))])]);
    assert_eq!(ran(at(&late, &["ripple", "abort", "r1"])).code, 5);
}

#[test]
fn a_receipt_that_is_not_closed_is_waited_for_before_it_is_judged() {
    let open = canned::with(canned::receipt(), json!({"ended_at": null, "balanced": false}));
    let management = Management::reciting(&[
        (RIPPLE, &[(200, canned::ripple("upgraded"))]),
        (PROGRAM, &[(200, canned::program(["2.0.0"; 3]))]),
        (NODES, &[(200, canned::nodes())]),
        (RECEIPT, &[(200, open), (200, canned::receipt())]),
    ]);
    let ran = ran(at(&management, &["ripple", "show", "r1", "--watch"]));
    assert!(ran.code == 0 && ran.out.starts_with("nothing lost"), "{ran:?}");
}

#[test]
fn a_ripple_is_paused_and_resumed() {
    let management = Management::reciting(&[
        ("POST /api/v1/ripples/r1/pause", &[(202, canned::ripple("running"))]),
        ("POST /api/v1/ripples/r1/resume", &[(202, canned::ripple("running"))]),
    ]);
    for action in ["pause", "resume"] {
        let ran = ran(at(&management, &["ripple", action, "r1"]));
        assert!(ran.code == 0 && ran.out.starts_with("ripple r1: upgrade shop"), "{ran:?}");
    }
}

#[test]
fn a_receipt_is_shown_whole_and_its_exit_code_is_whether_nothing_was_lost() {
    let mut lost = canned::receipt();
    lost["accounts"][0]["completed"] = json!(100);
    lost["accounts"][0]["failed"] = json!(1);
    lost["failures"] = json!([{"request_id": "q7", "server": "server-1", "at": "2026-01-01T00:00:05Z",
                               "reason": "server died"}]);
    let management = Management::reciting(&[
        (RIPPLE, &[(200, canned::ripple("upgraded"))]),
        (RECEIPT, &[(200, canned::receipt()), (200, canned::receipt()), (200, lost)]),
    ]);
    let shown = ran(at(&management, &["ripple", "receipt", "r1"]));
    for expected in [
        "refused 3 · re-dispatched 3 · held 0 · unaccounted 0",
        "at least 2 of 3 servers kept serving (asked for 2)",
        "routers that heard late: router-1",
        "server-1  1.3s",
        "nothing lost, and the account balances",
    ] {
        assert!(shown.out.contains(expected), "{expected}\n--\n{}", shown.out);
    }
    assert_eq!(ran(at(&management, &["ripple", "receipt", "r1", "--exit-code"])).code, 0);
    let lost = ran(at(&management, &["ripple", "receipt", "r1", "--exit-code"]));
    assert!(lost.code == 1 && lost.out.contains("q7"), "{lost:?}");
}
