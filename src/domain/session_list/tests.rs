//! Owns the tests of one program's sessions: begun, heard of, ended, expired, moved, told of.

use super::*;
use crate::domain::names::{ServerName, Version};

const MINUTE: WallMillis = 60_000;
const T: WallMillis = 1_764_000_000_000;

fn place(server: &str, version: &str) -> Place {
    Place { server: ServerName::new(server).unwrap(), version: Version::new(version).unwrap() }
}

fn list() -> SessionList {
    SessionList::new(Bounds { idle: 30 * MINUTE, sessions: 1_000 })
}

fn begun(count: u128) -> SessionList {
    let mut list = list();
    (1..=count).for_each(|n| {
        assert!(list.begin(SessionId(n), &place("s1", "1"), T + n as u64));
        list.finish(SessionId(n), T + n as u64);
    });
    list
}

#[test]
fn a_session_lives_while_it_is_heard_of_and_ends_when_it_was_idle() {
    let mut list = begun(2);
    assert_eq!(list.expire(T + 29 * MINUTE, 100), 0);
    assert_eq!(list.arrive(SessionId(1), T, &place("s1", "1"), T + 29 * MINUTE), Arrival::Known);
    assert_eq!(list.expire(T + 31 * MINUTE, 100), 1, "the other one");
    assert_eq!(list.expire(T + 90 * MINUTE, 100), 0, "a request of it is under way");
    list.finish(SessionId(1), T + 90 * MINUTE);
    assert_eq!((list.expire(T + 119 * MINUTE, 100), list.count()), (0, 1));
    assert_eq!((list.expire(T + 121 * MINUTE, 100), list.count()), (1, 0));
}

#[test]
fn an_idle_session_that_no_look_has_found_yet_is_over_all_the_same() {
    let mut list = begun(1);
    assert_eq!(list.arrive(SessionId(1), T, &place("s1", "1"), T + 31 * MINUTE), Arrival::Ended);
    assert_eq!(list.count(), 0);
}

#[test]
fn expiry_looks_at_those_that_are_due_and_at_no_more_than_it_is_told_to() {
    let mut list = begun(100);
    assert_eq!(list.expire(T + 31 * MINUTE, 30), 30);
    assert_eq!(list.expire(T + 31 * MINUTE, 1_000), 70);
}

#[test]
fn what_has_ended_is_begun_by_no_tag_of_before_but_by_a_later_one() {
    let mut list = begun(3);
    for (id, how) in [(1, End::Cleared), (2, End::Ended)] {
        assert!(list.end(SessionId(id), how, T + MINUTE));
        assert_eq!(list.arrive(SessionId(id), T, &place("s1", "1"), T + MINUTE), Arrival::Ended);
    }
    // It was ended by a person before this server had heard of it.
    assert!(!list.end(SessionId(9), End::Ended, T + MINUTE));
    assert_eq!(list.arrive(SessionId(9), T, &place("s1", "1"), T + MINUTE), Arrival::Ended);
    // It idled here while it lived on another server, which gave it a new tag.
    assert_eq!(list.arrive(SessionId(1), T + 2 * MINUTE, &place("s1", "1"), T + 3 * MINUTE), Arrival::Listed);
    assert_eq!(list.arrive(SessionId(5), T, &place("s1", "1"), T + 40 * MINUTE), Arrival::Ended, "an old tag");
    assert_eq!(list.arrive(SessionId(6), T + 20 * MINUTE, &place("s1", "1"), T + 40 * MINUTE), Arrival::Listed);
}

#[test]
fn ends_are_forgotten_when_no_tag_of_before_can_come_and_are_never_more_than_sessions() {
    let mut list = SessionList::new(Bounds { idle: 30 * MINUTE, sessions: 10 });
    for n in 1..=50 {
        list.end(SessionId(n), End::Ended, T);
    }
    assert_eq!(list.ended.count(), 10);
    list.expire(T + 60 * MINUTE, 10);
    assert_eq!(list.ended.count(), 0);
}

#[test]
fn a_full_list_takes_no_more() {
    let mut list = SessionList::new(Bounds { idle: MINUTE, sessions: 1 });
    assert!(list.begin(SessionId(1), &place("s1", "1"), T) && !list.begin(SessionId(2), &place("s1", "1"), T));
    assert_eq!(list.arrive(SessionId(3), T, &place("s1", "1"), T), Arrival::Full);
    assert_eq!(list.arrive(SessionId(1), T, &place("s1", "1"), T), Arrival::Known);
}

#[test]
fn changes_are_told_once_each_as_it_is_now() {
    let mut list = begun(2);
    list.arrive(SessionId(1), T, &place("s1", "2"), T + MINUTE);
    list.end(SessionId(2), End::Cleared, T + MINUTE);
    let changes = list.take_changes(100);
    let gone = Change::Gone { id: SessionId(2), place: place("s1", "1"), how: End::Cleared, at: T + MINUTE };
    assert_eq!(changes[0], gone);
    let [Change::Is(session)] = &changes[1..] else { panic!("{changes:?}") };
    assert_eq!((session.id, session.seen, session.active), (SessionId(1), T + MINUTE, 1));
    assert_eq!((&session.place, list.take_changes(100)), (&place("s1", "2"), vec![]));
    list.finish(SessionId(1), T + MINUTE);
    assert!(list.has_changes());
    assert_eq!((list.take_changes(1).len(), list.has_changes()), (1, false));
}

#[test]
fn all_counts_as_changed_and_what_has_ended_as_ended_just_now() {
    let mut list = begun(3);
    list.end(SessionId(2), End::Cleared, T + MINUTE);
    list.migrate_all(T + MINUTE);
    list.begin(SessionId(4), &place("s1", "1"), T + MINUTE);
    list.take_changes(9);
    list.change_all();
    let mut copy = self::list();
    for id in [2, 3, 4] {
        copy.begin(SessionId(id), &place("s1", "1"), T);
    }
    list.take_changes(9).iter().for_each(|change| copy.apply(change));
    let mut left: Vec<_> = copy.all().map(|session| session.id.0).collect();
    left.sort_unstable();
    assert_eq!((left, list.has_changes(), list.places().count()), (vec![3, 4], false, 1));
}

#[test]
fn ends_told_again_say_how_and_when_and_what_fell_silent_is_not_named() {
    let mut list = begun(4);
    list.end(SessionId(1), End::Cleared, T + MINUTE);
    list.end(SessionId(2), End::Ended, T + 2 * MINUTE);
    // The third has ended twice, and was begun again in between.
    list.end(SessionId(3), End::Cleared, T + MINUTE);
    assert_eq!(list.arrive(SessionId(3), T + 2 * MINUTE, &place("s1", "1"), T + 3 * MINUTE), Arrival::Listed);
    list.finish(SessionId(3), T + 3 * MINUTE);
    assert_eq!(list.expire(T + 31 * MINUTE, 9), 1, "the fourth");
    list.take_changes(99);
    list.change_all();
    let gone = |id, how, at| Change::Gone { id: SessionId(id), place: place("s1", "1"), how, at };
    let told = list.take_changes(99);
    assert_eq!(told[..2], [gone(1, End::Cleared, T + MINUTE), gone(2, End::Ended, T + 2 * MINUTE)]);
    assert!(matches!(&told[2..], [Change::Is(session)] if session.id == SessionId(3)), "{told:?}");
    assert_eq!(list.places().count(), 1);
}

#[test]
fn what_fell_silent_here_goes_on_where_it_is_heard_of_and_what_was_ended_only_by_a_later_request() {
    let at_two =
        |id, seen| Change::Is(Session { id: SessionId(id), place: place("s2", "2"), begun: T, seen, active: 0 });
    let mut master = begun(2);
    assert_eq!(master.expire(T + 31 * MINUTE, 9), 2);
    assert!(master.has_ended(SessionId(1), T) && !master.was_ended(SessionId(1)));
    assert!(!master.has_ended(SessionId(1), T + 32 * MINUTE), "a tag made since then");
    master.apply(&at_two(1, T + 30 * MINUTE));
    assert!(master.contains(SessionId(1)) && !master.has_ended(SessionId(1), T), "it lived there all the time");
    let mut master = begun(2);
    master.end(SessionId(1), End::Ended, T + MINUTE);
    master.apply(&at_two(1, T + MINUTE));
    assert!(!master.contains(SessionId(1)) && master.was_ended(SessionId(1)));
    master.apply(&at_two(1, T + 2 * MINUTE));
    assert!(master.contains(SessionId(1)) && !master.was_ended(SessionId(1)), "who has it did not hear of the end");
}

#[test]
fn an_end_by_silence_that_is_told_late_is_known_as_such() {
    let gone = |how| Change::Gone { id: SessionId(1), place: place("s1", "1"), how, at: T };
    assert!(gone(End::Idle).is_silence() && !gone(End::Cleared).is_silence());
    assert!(!gone(End::Idle).is_late_silence(T + 1_000) && gone(End::Idle).is_late_silence(T + MINUTE));
    assert!(!gone(End::Cleared).is_late_silence(T + MINUTE));
    let (patient, over) = (T + MINUTE, T);
    assert!(gone(End::Idle).counts(T + 1_000, over) && !gone(End::Idle).counts(T + 1_000, patient));
    assert!(!gone(End::Idle).counts(T + MINUTE, over));
    assert!(gone(End::Cleared).counts(T + 1_000, patient) && gone(End::Cleared).counts(T + MINUTE, over));
}

#[test]
fn changes_taken_in_parts_make_the_same_list_elsewhere() {
    let (mut list, mut copy) = (begun(50), self::list());
    list.take_changes(7).iter().for_each(|change| copy.apply(change));
    (1..20).for_each(|n| assert!(list.end(SessionId(n), End::Cleared, T + MINUTE)));
    list.arrive(SessionId(30), T, &place("s1", "2"), T + MINUTE);
    while list.has_changes() {
        list.take_changes(7).iter().for_each(|change| copy.apply(change));
    }
    let sorted = |list: &SessionList| {
        let mut all: Vec<_> = list.all().collect();
        all.sort_by_key(|session| session.id);
        all
    };
    assert_eq!((sorted(&list), copy.count()), (sorted(&copy), 31));
}

#[test]
fn what_a_former_home_says_of_a_session_does_not_end_it() {
    let mut master = list();
    let mut moved = begun(1);
    moved.take_changes(9).iter().for_each(|change| master.apply(change));
    assert_eq!(moved.migrate_all(T + MINUTE), 1);
    moved.take_changes(9).iter().for_each(|change| master.apply(change));
    assert_eq!(master.count(), 1, "it goes on elsewhere");
    let (old, new) = (place("s1", "1"), place("s2", "2"));
    assert_eq!(master.take(SessionId(1), &old, &new, T + MINUTE), Ok(()));
    assert_eq!(master.take(SessionId(1), &old, &place("s3", "2"), T + MINUTE), Err(new.clone()), "the loser");
    assert_eq!(master.take(SessionId(1), &old, &new, T + MINUTE), Ok(()), "said twice");
    master.apply(&Change::Gone { id: SessionId(1), place: old, how: End::Idle, at: T + 2 * MINUTE });
    assert_eq!(master.get(SessionId(1)).map(|session| session.place), Some(new));
}

#[test]
fn places_are_counted_and_those_of_nobody_are_used_again() {
    let mut list = begun(3);
    list.arrive(SessionId(3), T, &place("s1", "2"), T + MINUTE);
    let places: Vec<_> = list.places().map(|(place, count)| (place.version.to_string(), count)).collect();
    assert_eq!(places, [("1".to_owned(), 2), ("2".to_owned(), 1)]);
    (1..=3).for_each(|n| assert!(list.end(SessionId(n), End::Cleared, T)));
    list.take_changes(9);
    list.begin(SessionId(9), &place("s1", "3"), T);
    assert_eq!((list.places.len(), list.places().count()), (2, 1));
}

#[test]
fn pages_follow_each_other_newest_first_without_gap_or_repeat() {
    let mut list = begun(100);
    list.arrive(SessionId(1), T, &place("s1", "2"), T + MINUTE);
    for sort in [Sort::Age, Sort::Seen] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = list.page(&Query { servers: None, version: None, sort, after, limit: 7 });
            let Some(last) = page.last() else { break };
            after = Some(sort.cursor(last));
            seen.extend(page.iter().map(|session| session.id.0));
        }
        let mut expected: Vec<u128> = (1..=100).rev().collect();
        if sort == Sort::Seen {
            expected.rotate_right(1);
        }
        assert_eq!(seen, expected);
    }
    let only = Query { servers: None, version: Version::new("2").ok(), sort: Sort::Age, after: None, limit: 7 };
    assert_eq!(list.page(&only).len(), 1);
    let nobody = Query { servers: Some(ServerName::new("s9").into_iter().collect()), ..only };
    assert_eq!(list.page(&nobody), []);
}

#[test]
fn who_waits_is_told_how_many_the_oldest_and_a_forecast() {
    let mut list = begun(3);
    list.arrive(SessionId(2), T, &place("s1", "1"), T + MINUTE);
    let figures = SessionList::figures([&list].into_iter(), T + MINUTE);
    assert_eq!((figures.left, figures.active), (3, 1));
    let oldest = figures.oldest.unwrap();
    assert_eq!((oldest.id, oldest.age_ms, oldest.quiet_ms), (SessionId(1), MINUTE - 1, MINUTE - 1));
    assert_eq!(figures.forecast_ms, Some(30 * MINUTE), "nothing is known but that idle ones end");
    list.end(SessionId(3), End::Cleared, T + MINUTE);
    let forecast = SessionList::figures([&list].into_iter(), T + MINUTE).forecast_ms.unwrap();
    assert!((MINUTE..3 * MINUTE).contains(&forecast), "{forecast}");
    assert_eq!(SessionList::figures([&self::list()].into_iter(), T).forecast_ms, None);
}

#[test]
fn a_plan_is_told_of_each_servers_sessions() {
    let mut list = begun(3);
    list.begin(SessionId(9), &place("s2", "1"), T + MINUTE);
    list.begin(SessionId(10), &place("s2", "2"), T);
    let figures = list.figures_by_server(T + MINUTE);
    let left: Vec<_> = figures.iter().map(|(server, figures)| (server.as_str(), figures.left)).collect();
    assert_eq!(left, [("s1", 3), ("s2", 2)]);
    let other = &figures[&ServerName::new("s2").unwrap()];
    assert_eq!((other.oldest.unwrap().id, other.forecast_ms), (SessionId(10), Some(30 * MINUTE)));
}

#[test]
fn a_session_takes_little_memory() {
    assert!(size_of::<(SessionId, Entry)>() <= 48);
}
