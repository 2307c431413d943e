//! Owns the tests of a session's part in a request: begun, known again, moved, ended, by the program's cookie or neap's own.

use super::super::session_lists::SessionLists;
use super::*;
use crate::domain::manifest;
use crate::domain::session::{Key, Keys};

struct Ground {
    sessions: Arc<Sessions>,
    most: SessionLists,
}

fn keys() -> TagKeys {
    TagKeys::of(Keys::new(Key::of_secret(1, b"the secret of the cluster"), None))
}

impl Ground {
    fn new(session: &str, most: usize, server: &str, version: &str) -> Self {
        let text = format!(
            "name = \"shop\"\nversion = \"1\"\nroutes = [\"*/shop\"]\n[static]\nroot = \"public\"\n[session]\n{session}\n"
        );
        let manifest = manifest::parse("program.toml", &text).unwrap();
        let (lists, server) = (SessionLists::new(most), ServerName::new(server).unwrap());
        let list = || lists.program(&manifest.name);
        let sessions = Sessions::of(&manifest, &server, &Version::new(version).unwrap(), &keys(), list).unwrap();
        Self { sessions, most: lists }
    }

    fn cookie() -> Self {
        Self::new("policy = \"sticky\"\ncookie = \"sid\"", 1_000, "s1", "1")
    }

    fn enter(&self, tag: Option<&str>) -> Stay {
        let tag = tag
            .map(|tag| self.sessions.check(tag.as_bytes(), &mut RememberedTags::default()).expect("an authentic tag"));
        self.sessions.enter(&Carried { tag, secure: false }).unwrap()
    }

    fn count(&self) -> usize {
        self.most.program(&ProgramName::new("shop").unwrap()).count()
    }
}

/// What is added to an answer with these `Set-Cookie`.
fn answer(stay: &mut Stay, cookies: &[&str]) -> String {
    let field = |value: &&'static str| httparse::Header { name: "set-cookie", value: value.as_bytes() };
    let owned: Vec<&'static str> =
        cookies.iter().map(|cookie| &*Box::leak(cookie.to_string().into_boxed_str())).collect();
    let headers: Vec<_> = owned.iter().map(field).collect();
    let mut out = Vec::new();
    stay.answered(&ResponseHead::of_test(200, &headers), &mut HeadWriter::new(&mut out));
    String::from_utf8(out).unwrap()
}

/// The tag in what was added.
fn tag(added: &str) -> String {
    let value = added.strip_prefix("Set-Cookie: neap_shop=").unwrap_or_else(|| panic!("{added}"));
    value.split(';').next().unwrap().to_owned()
}

#[test]
fn a_session_begins_with_the_programs_cookie_and_its_request_tells_the_program_its_id() {
    let ground = Ground::cookie();
    let mut stay = ground.enter(None);
    let mut out = Vec::new();
    stay.write_headers(&mut HeadWriter::new(&mut out));
    assert_eq!(out, format!("Neap-Session: {}\r\n", stay.id).into_bytes());
    assert_eq!((answer(&mut stay, &["other=1"]), ground.count()), (String::new(), 0));
    let added = answer(&mut stay, &["other=1", "sid=abc; Path=/"]);
    assert!(added.ends_with("; Path=/shop; HttpOnly; SameSite=Lax\r\n"), "{added}");
    assert_eq!(ground.count(), 1);
    drop(stay);
    assert_eq!(ground.count(), 1);
    stay = ground.enter(None);
    stay.secure = true;
    assert!(answer(&mut stay, &["sid=abc"]).ends_with("; SameSite=Lax; Secure\r\n"));
}

#[test]
fn a_session_that_comes_back_is_the_same_whatever_its_cookie_becomes_and_ends_with_it() {
    let ground = Ground::cookie();
    let mut first = ground.enter(None);
    let (text, id) = (tag(&answer(&mut first, &["sid=abc"])), first.id);
    drop(first);
    let mut again = ground.enter(Some(&text));
    assert_eq!((again.id, answer(&mut again, &["sid=changed"]), ground.count()), (id, String::new(), 1));
    let carried =
        Carried { tag: ground.sessions.check(text.as_bytes(), &mut RememberedTags::default()), secure: false };
    assert!(ground.sessions.knows(&carried) && !ground.sessions.knows(&Carried::default()));
    let cleared = answer(&mut again, &["sid=x", "sid=; Max-Age=0"]);
    assert!(cleared.starts_with("Set-Cookie: neap_shop=; Max-Age=0; Path=/shop;"), "{cleared}");
    drop(again);
    assert_eq!((ground.count(), ground.sessions.knows(&carried)), (0, false));
    assert_ne!(ground.enter(Some(&text)).id, id, "what has ended does not come back");
    assert_eq!(ground.count(), 0);
}

#[test]
fn a_session_that_neap_begins_counts_once_its_tag_has_come_back() {
    let ground = Ground::new("policy = \"shared\"", 1_000, "s1", "1");
    let mut robot = ground.enter(None);
    let text = tag(&answer(&mut robot, &["any=1"]));
    drop(robot);
    assert_eq!(ground.count(), 0);
    let mut again = ground.enter(Some(&text));
    assert_eq!((answer(&mut again, &[]), ground.count()), (String::new(), 1));
}

#[test]
fn a_session_from_elsewhere_is_listed_here_and_gets_a_tag_of_here() {
    let (before, here) = (Ground::cookie(), Ground::new("policy = \"sticky\"\ncookie = \"sid\"", 1_000, "s2", "2"));
    let text = tag(&answer(&mut before.enter(None), &["sid=abc"]));
    let carried = Carried { tag: here.sessions.check(text.as_bytes(), &mut RememberedTags::default()), secure: false };
    assert!(!here.sessions.knows(&carried), "it is at home elsewhere");
    let mut moved = here.enter(Some(&text));
    let new = tag(&answer(&mut moved, &[]));
    assert!(here.sessions.check(new.as_bytes(), &mut RememberedTags::default()).unwrap().is_at(&here.sessions.place));
    assert_eq!((here.count(), answer(&mut here.enter(Some(&new)), &[])), (1, String::new()));
}

#[test]
fn forged_tags_are_none_and_a_full_list_serves_without_sessions() {
    let ground = Ground::new("policy = \"sticky\"\ncookie = \"sid\"", 1, "s1", "1");
    for forged in ["", "x", &"A".repeat(90), &"A".repeat(8_000)] {
        assert!(ground.sessions.check(forged.as_bytes(), &mut RememberedTags::default()).is_none());
    }
    for _ in 0..100 {
        answer(&mut ground.enter(None), &["sid=abc"]);
    }
    // Each part of the list takes one.
    assert!(ground.count() <= 16, "{}", ground.count());
    assert!((0..100).any(|_| answer(&mut ground.enter(None), &["sid=abc"]).is_empty()));
    assert!(ground.sessions.list.without_room() > 0);
}
