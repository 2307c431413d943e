//! Owns the tests of where sessions go: home, forward in a ripple and never back, elsewhere when home is closed.

use super::super::list::HeldList;
use super::super::samples::{list, program};
use super::super::snapshot::{Setting, Snapshot};
use super::*;
use crate::domain::names::{Generation, ServerName};
use crate::domain::program::SessionRule;
use crate::domain::routing::dispatch::Bounds;
use crate::domain::routing::{Dispatch, Next};
use crate::domain::session::{Key, Keys, SessionId, Tag};
use crate::wire::messages::{Forward, RouterProgram};
use std::time::Duration;

fn keys() -> Keys {
    Keys::new(Key::of_secret(1, b"the secret of the cluster"), None)
}

fn version(text: &str) -> Version {
    Version::new(text).unwrap()
}

fn tag(id: u128, server: &str, at: &str) -> HeldTag {
    let (shop, server, at) = (ProgramName::new("shop").unwrap(), ServerName::new(server).unwrap(), version(at));
    let mut text = Vec::new();
    Tag::write(SessionId(id << 64), (&server, &at), 0, &shop, &keys(), &mut text);
    HeldTag::verify(&text, &shop, &keys()).unwrap()
}

/// Three servers with these versions; those in upper case take no requests.
fn shop(policy: SessionPolicy, versions: [&str; 3], forward: Option<(&str, u32)>) -> RouterProgram {
    let mut shop = program("shop", &[("s1", true), ("s2", true), ("s3", true)]);
    for (placement, at) in shop.placements.iter_mut().zip(versions) {
        placement.takes_requests = *at == at.to_lowercase();
        placement.version = Some(version(&at.to_lowercase()));
    }
    let (idle, deadline) = (Duration::from_secs(60), Duration::from_secs(60));
    shop.manifest.session = Some(SessionRule { policy, cookie: None, idle, deadline });
    shop.forward = forward.map(|(to, share_ppm)| Forward { to: version(to), share_ppm });
    shop
}

/// The order in which a request of the session asks the servers.
fn order(shop: &RouterProgram, tag: &HeldTag) -> String {
    let setting = Setting::sample(1);
    let snapshot =
        Snapshot::build(HeldList::whole(list(1, 1, std::slice::from_ref(shop))), &Snapshot::default(), &setting);
    let program = &snapshot.programs[0];
    let mut dispatch = Dispatch::new(Bounds::holding(Duration::ZERO), 0);
    let mut asked = Vec::new();
    while let Next::Try(place) = dispatch.next(0, candidates(program, tag, Instant::now())) {
        let server = &program.placements[place].server.name;
        if asked.contains(&server.to_string()) {
            break;
        }
        asked.push(server.to_string());
        dispatch.refused(server, &"r".parse().unwrap(), Generation(1));
    }
    asked.join(" ")
}

const STICKY: SessionPolicy = SessionPolicy::Sticky;
const SHARED: SessionPolicy = SessionPolicy::Shared;
/// In every share above a half, and in none below.
const MIDDLE: u128 = 1 << 63;

#[test]
fn a_session_goes_home_and_elsewhere_when_home_takes_it_no_more() {
    for policy in [STICKY, SHARED] {
        assert_eq!(order(&shop(policy, ["a", "a", "a"], None), &tag(1, "s2", "a")), "s2 s1 s3");
        assert_eq!(order(&shop(policy, ["a", "A", "a"], None), &tag(1, "s2", "a")), "s1 s3 s2", "closed");
        assert_eq!(order(&shop(policy, ["a", "a", "a"], None), &tag(1, "s9", "a")), "s1 s2 s3", "gone");
    }
}

#[test]
fn a_sticky_session_stays_at_a_server_that_takes_no_others() {
    let mut draining = shop(STICKY, ["a", "A", "a"], None);
    draining.placements[1].keeps_sessions = true;
    assert_eq!(order(&draining, &tag(1, "s2", "a")), "s2 s1 s3");
    let mut in_ripple = shop(STICKY, ["b", "A", "a"], Some(("b", 333_333)));
    in_ripple.placements[1].keeps_sessions = true;
    assert_eq!(order(&in_ripple, &tag(1, "s2", "a")), "s2 s1 s3", "whatever its share");
    draining.manifest.session.as_mut().unwrap().policy = SHARED;
    assert_eq!(order(&draining, &tag(1, "s2", "a")), "s1 s3 s2");
}

#[test]
fn in_a_ripple_a_share_of_sessions_goes_forward_and_the_others_do_not() {
    let at = |share| shop(SHARED, ["b", "a", "a"], Some(("b", share)));
    assert_eq!(order(&at(400_000), &tag(MIDDLE, "s2", "a")), "s2 s3 s1");
    assert_eq!(order(&at(600_000), &tag(MIDDLE, "s2", "a")), "s1 s2 s3");
    // Before none at all it goes forward.
    assert_eq!(order(&shop(SHARED, ["b", "A", "A"], Some(("b", 400_000))), &tag(MIDDLE, "s2", "a")), "s1 s2 s3");
}

#[test]
fn a_session_that_saw_the_new_version_asks_for_no_other_while_a_server_with_it_may_take_it() {
    for share in [0, 333_333, 900_000] {
        let in_ripple = shop(SHARED, ["B", "b", "a"], Some(("b", share)));
        assert_eq!(order(&in_ripple, &tag(u128::from(u64::MAX), "s1", "b")), "s2 s1 s3");
    }
    // On the way back, the version that the undo brings is the new one.
    let undo = shop(SHARED, ["a", "b", "b"], Some(("a", 333_333)));
    assert_eq!(order(&undo, &tag(1, "s1", "a")), "s1 s2 s3");
    assert_eq!(order(&undo, &tag(1, "s2", "b")), "s1 s2 s3", "in the share");
    assert_eq!(order(&undo, &tag(u128::from(u64::MAX), "s2", "b")), "s2 s3 s1");
    // After an abort both versions stay.
    assert_eq!(order(&shop(SHARED, ["b", "a", "a"], None), &tag(1, "s9", "b")), "s1 s2 s3");
}

#[test]
fn a_router_that_is_behind_goes_by_the_tag() {
    let behind = shop(SHARED, ["a", "a", "a"], None);
    assert_eq!(order(&behind, &tag(1, "s2", "b")), "s2 s1 s3");
    // It has heard of the ripple, and not that this server is through.
    let behind = shop(STICKY, ["a", "a", "a"], Some(("b", 0)));
    assert_eq!(order(&behind, &tag(1, "s2", "b")), "s2 s1 s3");
}
