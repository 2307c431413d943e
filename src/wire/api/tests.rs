//! Tests of the API's JSON: its shapes are a contract.

use serde_json::{Value, json};

use super::*;

#[test]
fn an_upgrade_request_is_flat_and_leaves_out_what_was_not_asked() {
    let request = UpgradeRequest {
        program: "shop".parse().unwrap(),
        to: "2.0.0".parse().unwrap(),
        options: RippleOptions { hold_ms: Some(5_000), ..RippleOptions::default() },
        plan: None,
    };
    let written = serde_json::to_value(&request).unwrap();
    assert_eq!(written, json!({"program": "shop", "to": "2.0.0", "hold_ms": 5000, "force": false}));
    assert_eq!(serde_json::from_value::<UpgradeRequest>(written).unwrap(), request);
}

#[test]
fn a_request_with_an_unknown_field_is_refused() {
    for body in [
        json!({"program": "shop", "to": "2.0.0", "min_servings": 2}),
        json!({"program": "shop", "to": "2.0.0", "min_serving": "two"}),
        json!({"program": "Shop", "to": "2.0.0"}),
        json!({"program": "shop"}),
    ] {
        assert!(serde_json::from_value::<UpgradeRequest>(body.clone()).is_err(), "{body}");
    }
    let error = serde_json::from_value::<RestartRequest>(json!({"soak": 1})).unwrap_err().to_string();
    assert!(error.contains("soak"), "{error}");
    assert!(serde_json::from_value::<RestartRequest>(json!({})).is_ok());
}

#[test]
fn a_view_with_a_field_of_the_future_is_read() {
    let view: PlacementView = serde_json::from_value(json!({
        "program": "shop", "server": "server-1", "state": "quiescing", "generation": 4, "version": "1.0.0",
        "desired_version": null, "healthy": true, "active_requests": 2, "drained": false,
        "oldest_request": {"age_ms": 41000, "method": "GET", "path": "/export"},
        "failure": null, "operation": null, "mood": "good",
    }))
    .unwrap();
    assert_eq!(view.state, PlacementState::Quiescing);
    assert_eq!(view.oldest_request.unwrap().age_ms, 41_000);
}

#[test]
fn a_ripple_writes_null_for_what_is_not_there_and_times_as_rfc_3339() {
    let ripple = RippleView {
        id: "r1".parse().unwrap(),
        program: Some("shop".parse().unwrap()),
        component: None,
        part_of: None,
        parts: Vec::new(),
        kind: RippleKind::Upgrade,
        from: None,
        to: Some("2.0.0".parse().unwrap()),
        state: RippleState::Running,
        undoes: None,
        undone_by: None,
        waiting_for: None,
        next: None,
        steps: vec![],
        hooks: vec![],
        events: vec![],
        reason: None,
        failure: None,
        asked_by: None,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        ended_at: None,
    };
    let written = serde_json::to_value(&ripple).unwrap();
    assert_eq!(written["waiting_for"], Value::Null);
    assert_eq!(written["state"], "running");
    assert_eq!(written["started_at"], "1970-01-01T00:00:00Z");
    assert_eq!(serde_json::from_value::<RippleView>(written).unwrap(), ripple);
}

#[test]
fn an_account_balances_only_when_every_request_has_an_end() {
    let mut account = Account {
        server: "server-1".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        admitted: 10,
        active_at_start: 2,
        completed: 8,
        completed_5xx: 1,
        client_left: 1,
        cut: 1,
        failed: 1,
        active_at_end: 1,
    };
    assert!(account.balances());
    account.completed -= 1;
    assert!(!account.balances());
}

#[test]
fn words_are_written_as_the_lexicon_has_them() {
    assert_eq!(serde_json::to_value(Role::AppServer).unwrap(), "app-server");
    assert_eq!(RippleState::Undoing.to_string(), "undoing");
    assert!(RippleState::Aborted.ended() && !RippleState::Paused.ended());
    assert!(serde_json::from_value::<NodeState>(json!("asleep")).is_err());
}
