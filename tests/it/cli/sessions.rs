//! What is shown of sessions, page by page, and how one is ended.

use serde_json::{Value, json};

use super::management::Management;
use super::{at, canned, ran};

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn session() -> Value {
    json!({
        "id": ID, "program": "shop", "server": "app-2", "version": "1.4.2", "begun_at": "2026-01-01T00:00:00Z",
        "seen_at": "2026-01-01T00:00:41Z", "active_requests": 1,
    })
}

#[test]
fn a_page_of_sessions_is_shown_and_the_next_is_a_cursor_away() {
    let asked = "GET /api/v1/sessions?limit=50&program=shop&sort=age&server=app-2&version=1.4.2";
    let page = (200, json!({"items": [session()], "next": "17.01AR"}));
    let management = Management::reciting(&[(asked, std::slice::from_ref(&page))]);
    let args = ["session", "ls", "shop", "--on", "app-2", "--version", "1.4.2"];
    let shown = ran(at(&management, &args));
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.starts_with("SESSION                     PROGRAM  SERVER  VERSION  BEGUN"), "{}", shown.out);
    assert!(shown.out.contains(ID) && shown.err.contains("--cursor 17.01AR"), "{shown:?}");
    let whole = ran(at(&management, &[&args[..], &["-o", "json"]].concat()));
    assert_eq!(serde_json::from_str::<Value>(&whole.out).unwrap(), page.1);
}

#[test]
fn sessions_are_found_by_a_component_too_and_by_nothing_at_all_they_are_not() {
    let page = (200, json!({"items": [session()], "next": null}));
    let asked = "GET /api/v1/sessions?limit=50&component=libssl3&sort=age";
    let management = Management::reciting(&[(asked, std::slice::from_ref(&page))]);
    let shown = ran(at(&management, &["session", "ls", "--component", "libssl3"]));
    assert!(shown.code == 0 && shown.out.contains("shop"), "{shown:?}");
    let bare = ran(at(&management, &["session", "ls"]));
    assert!(bare.code == 2 && bare.err.contains("PROGRAM"), "{bare:?}");
}

#[test]
fn a_session_is_shown_with_what_is_kept_in_it() {
    let asked = format!("GET /api/v1/sessions/shop/{ID}");
    let mut one = session();
    one["data"] = json!({"bytes": 1536, "tag": "\"3-0000002a\""});
    let management = Management::reciting(&[(asked.as_str(), &[(200, one)])]);
    let shown = ran(at(&management, &["session", "show", "shop", ID])).out;
    for expected in [ID, "on app-2, version 1.4.2", "1.5 KiB"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn ending_a_session_says_so_and_what_is_no_session_is_refused() {
    let asked = format!("DELETE /api/v1/sessions/shop/{ID}");
    let gone = (404, canned::problem(404, "unknown_session", "shop has no such session"));
    let management = Management::reciting(&[(asked.as_str(), &[(204, Value::Null), gone])]);
    let ended = ran(at(&management, &["session", "end", "shop", ID]));
    assert!(ended.code == 0 && ended.err.contains("has ended"), "{ended:?}");
    let again = ran(at(&management, &["session", "end", "shop", ID]));
    assert!(again.code == 2 && again.err.contains("no such session"), "{again:?}");
    let bad = ran(at(&management, &["session", "end", "shop", "sid-1"]));
    assert_eq!(bad.code, 2, "{bad:?}");
}
