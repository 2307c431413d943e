//! Owns the answers that are recited.

use serde_json::{Value, json};

pub const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];

/// `base` with some fields changed.
pub fn with(mut base: Value, changes: Value) -> Value {
    base.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    base
}

pub fn plan() -> Value {
    let steps = SERVERS.map(|server| json!({"server": server, "from": "1.0.0", "to": "2.0.0"}));
    json!({
        "id": "p1", "program": "shop", "kind": "upgrade", "from": "1.0.0", "to": "2.0.0", "revision": 7, "steps": steps,
        "batch": 1, "canary": 0, "promote": "auto", "min_serving": 2, "hold_ms": 0, "drain_timeout_ms": 30000, "soak_ms": 10000, "force": false,
    })
}

pub fn ripple(state: &str) -> Value {
    let step = match state {
        "running" => "planned",
        "aborted" => "reopened",
        state => state,
    };
    let steps = SERVERS.map(
        |server| json!({"server": server, "state": step, "from": "1.0.0", "to": "2.0.0", "times": {}, "reason": null}),
    );
    let ended = if state == "running" { Value::Null } else { json!("2026-01-01T00:00:12Z") };
    json!({
        "id": "r1", "program": "shop", "kind": "upgrade", "from": "1.0.0", "to": "2.0.0", "state": state,
        "waiting_for": null, "next": null, "steps": steps, "reason": null, "failure": null, "asked_by": null,
        "started_at": "2026-01-01T00:00:00Z", "ended_at": ended,
    })
}

pub fn waiting() -> Value {
    with(
        ripple("running"),
        json!({
            "waiting_for": {
                "reason": "active_requests", "detail": "2 active requests, oldest 41s, GET /export",
                "until": "2026-01-01T00:00:30Z", "command": "neap ripple abort r1",
            },
            "next": "stop shop 1.0.0 on server-1",
        }),
    )
}

pub fn placement(server: &str, version: &str) -> Value {
    json!({
        "program": "shop", "server": server, "state": "open", "generation": 4, "version": version,
        "desired_version": version, "healthy": true, "active_requests": 2, "drained": false,
        "oldest_request": {"age_ms": 41000, "method": "GET", "path": "/export"}, "failure": null, "operation": null,
    })
}

pub fn program(versions: [&str; 3]) -> Value {
    let placements: Vec<Value> =
        SERVERS.iter().zip(versions).map(|(server, version)| placement(server, version)).collect();
    json!({
        "name": "shop", "desired_version": versions[0], "versions": ["2.0.0", "1.0.0"], "kind": "process",
        "routes": ["*/shop"], "placements": placements, "ripple": null,
    })
}

pub fn node(name: &str, role: &str, state: &str) -> Value {
    json!({
        "name": name, "roles": [role], "address": "127.0.0.1:7420", "state": state, "since": "2026-01-01T00:00:00Z",
        "run": "run1", "sealed": true, "labels": {}, "programs": ["shop"], "revision": null,
        "load": {"cores_used": 0.5, "cores": 2, "memory_bytes": 1 << 20, "active_requests": 2},
    })
}

pub fn nodes() -> Value {
    json!({"items": SERVERS.map(|server| node(server, "app-server", "up")), "next": null})
}

pub fn receipt() -> Value {
    let accounts = SERVERS.map(|server| {
        json!({
            "server": server, "version": "1.0.0", "admitted": 100, "active_at_start": 2, "completed": 101,
            "completed_5xx": 0, "client_left": 1, "cut": 0, "failed": 0, "active_at_end": 0,
        })
    });
    json!({
        "ripple": "r1", "program": "shop", "from": "1.0.0", "to": "2.0.0", "started_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T00:00:12Z", "balanced": true, "accounts": accounts, "refused": 3, "redispatched": 3,
        "held": 0, "unaccounted": 0, "failures": [], "stale_routers": ["router-1"],
        "neighbours": [{"program": "mail", "server": "server-1", "completed": 90, "completed_5xx": 0, "refused": 0,
                        "cut": 0, "failed": 0}],
        "out_of_service": [{"server": "server-1", "drain_ms": 1200, "stop_ms": 10, "start_ms": 80}],
        "kept_serving": {"min_serving": 2, "lowest": 2, "servers": 3},
    })
}

pub fn problem(status: u16, code: &str, detail: &str) -> Value {
    json!({
        "type": format!("urn:neap:problem:{code}"), "title": "No", "status": status, "detail": detail, "code": code,
        "hint": "the cure",
    })
}
