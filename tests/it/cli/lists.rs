//! What is shown of the cluster: tables, JSON, lines of JSON, and who cannot be asked.

use std::io::Write as _;

use serde_json::{Value, json};

use super::management::Management;
use super::{at, canned, finished, neap, ran};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn management_that_is_not_there_is_exit_code_6_with_what_to_check() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = ran(neap(&["status", "--address", &format!("http://{free}")]));
    assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{ran:?}");
    assert!(ran.err.contains(&free.to_string()) && ran.err.contains("NEAP_ADDRESS"), "{}", ran.err);
}

#[test]
fn management_that_never_answers_is_exit_code_4_when_the_clients_wait_runs_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let ran = ran(neap(&["status", "--address", &address, "--timeout", "200ms"]));
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("--timeout 200ms"), "{}", ran.err);
}

#[test]
fn a_missing_or_wrong_token_is_exit_code_6() {
    let answer = (401, canned::problem(401, "unauthorized", "a token is needed"));
    let management = Management::reciting(&[("GET /api/v1/nodes", &[answer])]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "secret").unwrap();
    let ran = ran(at(&management, &["node", "ls", "--token-file", file.path().to_str().unwrap()]));
    assert_eq!((ran.code, ran.err.as_str()), (6, "error: a token is needed\n  the cure\n"));
    assert_eq!(management.asked()[0].authorization.as_deref(), Some("Bearer secret"));
}

#[test]
fn a_list_in_json_is_items_and_next_over_all_its_pages() {
    let management = Management::reciting(&[
        ("GET /api/v1/ripples", &[(200, json!({"items": [canned::ripple("running")], "next": "c 1"}))]),
        ("GET /api/v1/ripples?cursor=c%201", &[(200, json!({"items": [canned::ripple("upgraded")], "next": null}))]),
    ]);
    let whole = parsed(&ran(at(&management, &["ripple", "ls", "-o", "json"])).out);
    assert_eq!((whole["items"].as_array().unwrap().len(), &whole["next"]), (2, &Value::Null));
    let lines = ran(at(&management, &["ripple", "ls", "-o", "ndjson"])).out;
    let states: Vec<Value> = lines.lines().map(|line| parsed(line)["state"].clone()).collect();
    assert_eq!(states, ["running", "upgraded"]);
    let table = ran(at(&management, &["ripple", "ls"])).out;
    assert!(table.starts_with("RIPPLE  PROGRAM  KIND") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn status_shows_servers_by_programs_and_what_ripples_wait_for() {
    let mut behind = canned::node("router-1", "router", "up");
    behind["revision"] = json!(6);
    let status = json!({
        "at": "2026-01-01T00:00:00Z", "term": {"number": 3, "management": "m1"}, "revision": 7,
        "nodes": [canned::node("server-1", "app-server", "up"), canned::node("server-2", "app-server", "down"), behind],
        "programs": [{"name": "shop", "desired_version": "1.0.0"}],
        "placements": [canned::placement("server-1", "1.0.0")], "ripples": [canned::waiting()],
    });
    let management = Management::reciting(&[("GET /api/v1/status", &[(200, status.clone())])]);
    let ran_table = ran(at(&management, &["status"]));
    assert_eq!(ran_table.code, 0, "{ran_table:?}");
    for expected in [
        "SERVER    STATE  shop (1.0.0)\nserver-1  up     1.0.0 open, 2 active\nserver-2  down   -\n",
        "router router-1 at 127.0.0.1:7420: up, holds revision 6 of 7",
        "waiting for 2 active requests, oldest 41s, GET /export (until 2026-01-01T00:00:30Z)",
        "next: stop shop 1.0.0 on server-1",
    ] {
        assert!(ran_table.out.contains(expected), "{expected}\n--\n{}", ran_table.out);
    }
    assert_eq!(parsed(&ran(at(&management, &["status", "-o", "json"])).out)["revision"], 7);
}

#[test]
fn a_program_is_shown_with_its_requests_and_logs() {
    let requests = json!({
        "items": [{"id": "q1", "method": "GET", "path": "/a\u{1b}[2J", "server": "server-1", "age_ms": 41000}],
        "next": null, "unanswered": ["server-2"],
    });
    let logs = json!({"items": [{"server": "server-1", "version": "1.0.0", "line": "hello"}], "next": null});
    let management = Management::reciting(&[
        ("GET /api/v1/programs/shop", &[(200, canned::program(["1.0.0"; 3]))]),
        ("GET /api/v1/programs/shop/requests", &[(200, requests)]),
        ("GET /api/v1/programs/shop/logs?lines=5&server=server-1", &[(200, logs)]),
    ]);
    let shown = ran(at(&management, &["program", "show", "shop"])).out;
    assert!(shown.contains("server-1  1.0.0 open, 2 active") && shown.contains("41s GET /export"), "{shown}");
    let listed = ran(at(&management, &["program", "requests", "shop"]));
    assert!(listed.out.contains("41s") && !listed.out.contains('\u{1b}'), "{}", listed.out);
    assert!(listed.err.contains("1 server did not answer: server-2"), "{}", listed.err);
    let logs = ran(at(&management, &["program", "logs", "shop", "-n", "5", "--server", "server-1"]));
    assert_eq!((logs.code, logs.out.as_str()), (0, "server-1 1.0.0 | hello\n"), "{}", logs.err);
}

#[test]
fn logs_are_followed_from_where_they_ended() {
    const LOGS: &str = "GET /api/v1/programs/shop/logs?lines=1000";
    let lines = |lines: &[&str], next: Value| {
        let items: Vec<Value> =
            lines.iter().map(|line| json!({"server": "server-1", "version": null, "line": line})).collect();
        (200, json!({"items": items, "next": next}))
    };
    let gone = (404, canned::problem(404, "unknown_program", "there is no program shop"));
    let expected = "server-1 | two\nserver-1 | three\nserver-1 | four\n";
    // By what both looks have in common, where management knows no cursors.
    let tails =
        [lines(&["one", "two", "three"], Value::Null), lines(&["two", "three", "four"], Value::Null), gone.clone()];
    let management = Management::reciting(&[(LOGS, &tails)]);
    let followed = ran(at(&management, &["program", "logs", "shop", "-f", "-n", "2"]));
    assert_eq!((followed.code, followed.out.as_str()), (2, expected), "{}", followed.err);
    // By the cursor, where it does.
    let management = Management::reciting(&[
        (LOGS, &[lines(&["one", "two", "three"], json!("5"))]),
        (&format!("{LOGS}&cursor=5"), &[lines(&["four"], json!("9"))]),
        (&format!("{LOGS}&cursor=9"), &[gone]),
    ]);
    let followed = ran(at(&management, &["program", "logs", "shop", "-f", "-n", "2"]));
    assert_eq!((followed.code, followed.out.as_str()), (2, expected), "{}", followed.err);
}

#[test]
fn a_route_test_tells_the_rule_the_server_and_why() {
    let candidate = |server: &str, chosen: bool, why: &str| json!({"server": server, "version": "1.0.0", "state": "open", "active_requests": 1, "chosen": chosen, "why": why});
    let test = json!({
        "url": "http://x/shop", "rule": "*/shop", "program": "shop", "path": "/shop",
        "candidates": [candidate("server-1", true, "fewest active requests"), candidate("server-2", false, "unhealthy")],
    });
    let none = json!({"url": "http://x/", "rule": null, "program": null, "path": null, "candidates": []});
    let management = Management::reciting(&[
        ("GET /api/v1/routes/test?url=http%3A%2F%2Fx%2Fshop", &[(200, test)]),
        ("GET /api/v1/routes/test?url=http%3A%2F%2Fx%2F", &[(200, none)]),
    ]);
    let led = ran(at(&management, &["route", "test", "http://x/shop"]));
    assert_eq!(led.code, 0);
    assert!(led.out.contains(">  server-1  1.0.0") && led.out.contains("fewest active requests"), "{}", led.out);
    let lost = ran(at(&management, &["route", "test", "http://x/"]));
    assert!(lost.code == 1 && lost.out.contains("no rule matches"), "{lost:?}");
}

#[test]
fn components_are_listed_and_shown_with_their_evidence() {
    let stale = json!({
        "program": "shop", "server": "server-1", "file": "/usr/lib/libssl.so.3", "why": "replaced",
        "running": {"by": "package", "text": "3.0.15"}, "on_disk": {"by": "package", "text": "3.0.16"},
    });
    let summary = json!({
        "name": "libssl3", "kind": "package", "versions": [{"by": "package", "text": "3.0.16"}], "programs": ["shop"],
        "can_load": ["mail"], "servers": ["server-1"], "stale": [stale],
    });
    let unread = json!({"program": "site", "server": "server-2", "what": "/proc/7/maps", "why": "Permission denied"});
    let shown = json!({
        "name": "/opt/acme/lib/liba.so.1", "kind": "file", "unread": [unread],
        "uses": [{
            "program": "shop", "server": "server-1", "program_version": "1.0.0", "quiesced": true, "files": ["/x"],
            "version": {"by": "build_id", "text": "0123456789abcdef"}, "stale": null,
            "evidence": [{"source": "static", "can_load": false, "chain": [],
                          "text": "shop → bin/server → liba.so.1 (runpath)"}],
        }],
    });
    let list = (200, json!({"items": [summary], "next": null}));
    let management = Management::reciting(&[
        ("GET /api/v1/components", std::slice::from_ref(&list)),
        ("GET /api/v1/components?stale=true", std::slice::from_ref(&list)),
        ("GET /api/v1/components/%2Fopt%2Facme%2Flib%2Fliba%2Eso%2E1", &[(200, shown)]),
        (
            "POST /api/v1/components/scan",
            &[(
                200,
                json!({"servers": [{
            "server": "server-2", "programs": 1, "components": 9, "stale": 0, "unread": [unread],
        }], "unanswered": ["server-1"]}),
            )],
        ),
    ]);
    let listed = ran(at(&management, &["component", "ls"])).out;
    assert!(listed.contains("libssl3    package  3.0.16   shop      mail           1        1"), "{listed}");
    let stale = ran(at(&management, &["component", "ls", "--stale"])).out;
    let row = "libssl3    shop     server-1  3.0.15  3.0.16   /usr/lib/libssl.so.3  replaced";
    assert!(stale.contains(row), "{stale}");
    let shown = ran(at(&management, &["component", "show", "/opt/acme/lib/liba.so.1"]));
    for expected in [
        "component /opt/acme/lib/liba.so.1 (file)",
        "an upgrade of it quiesces shop 1.0.0 on server-1\n  on disk   build 0123456789ab\n",
        "  static    shop → bin/server → liba.so.1 (runpath)",
        "site on server-2: /proc/7/maps could not be read: Permission denied",
    ] {
        assert!(shown.out.contains(expected), "{expected}\n--\n{shown:?}");
    }
    let scanned = ran(at(&management, &["component", "scan"]));
    assert!(scanned.code == 1 && scanned.out.contains("server-2  1         9"), "{scanned:?}");
    assert!(scanned.err.contains("Permission denied") && scanned.err.contains("server-1"), "{}", scanned.err);
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let many: Vec<Value> = (0..3_000).map(|_| canned::ripple("upgraded")).collect();
    let management = Management::reciting(&[("GET /api/v1/ripples", &[(200, json!({"items": many, "next": null}))])]);
    let mut child = at(&management, &["ripple", "ls", "-o", "ndjson"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = finished(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn what_is_not_built_says_so_and_asks_nothing() {
    let management = Management::reciting(&[]);
    for args in [&["doctor"][..], &["node", "rm", "server-1"], &["store", "backup", "--now"]] {
        let ran = ran(at(&management, args));
        assert!(ran.code == 2 && ran.err.contains("not built yet"), "{args:?}: {ran:?}");
    }
    assert_eq!(management.heard(), [""; 0]);
}

#[test]
fn usage_errors_are_exit_code_2_and_name_the_cure() {
    for (args, said) in [
        (&["program", "show", "Shop"][..], "a-z"),
        (&["upgrade", "shop"], "--to"),
        (&["status", "--timeout", "5"], "unit"),
        (&["status", "--address", "https://x"], "TLS"),
        (&["status", "--token-file", "/nonexistent"], "/nonexistent"),
        (&["upgrade", "shop", "--to", "2", "--exit-code"], "--plan"),
        (&["stats"], "status"),
    ] {
        let ran = ran(neap(args));
        assert!(ran.code == 2 && ran.err.contains(said), "{args:?}: {ran:?}");
    }
}
