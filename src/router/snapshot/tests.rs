use std::collections::BTreeMap;

use super::super::list::{Taken, take};
use super::super::samples::{list, program};
use super::*;
use crate::wire::messages::RouterList;

fn built(programs: &[RouterProgram], before: &Snapshot) -> Snapshot {
    built_of(list(1, 1, programs), before)
}

/// As the actor does it: from what is held.
fn built_of(came: RouterList, before: &Snapshot) -> Snapshot {
    let Taken::New(list) = take(before.list.as_ref(), came) else { panic!("not taken") };
    Snapshot::build(list, before, &Setting::sample(2))
}

fn run(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn standing(snapshot: &Snapshot, place: usize, now: Instant) -> Standing {
    snapshot.programs[0].placements[place].standing(now)
}

#[test]
fn a_refusal_closes_a_placement_in_this_routers_view_until_a_newer_generation_is_heard_of() {
    let now = Instant::now();
    let mut shop = program("shop", &[("s1", true), ("s2", false)]);
    let one = built(&[shop.clone()], &Snapshot::default());
    assert_eq!((standing(&one, 0, now), standing(&one, 1, now)), (Standing::First, Standing::Last));
    one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(2), now);
    let two = built(&[shop.clone()], &one);
    assert_eq!(standing(&two, 0, now + RECHECK * 9), Standing::Last, "the same list again is no news");
    shop.placements[0].generation = Generation(2);
    assert_eq!(standing(&built(&[shop.clone()], &two), 0, now), Standing::Last);
    shop.placements[0].generation = Generation(3);
    assert_eq!(standing(&built(&[shop], &two), 0, now), Standing::First);
}

#[test]
fn a_new_run_is_news_but_the_lists_old_run_is_not() {
    let now = Instant::now();
    let mut shop = program("shop", &[("s1", true)]);
    shop.placements[0].generation = Generation(9);
    let one = built(&[shop.clone()], &Snapshot::default());
    one.programs[0].placements[0].mark_refused(&run("r-new"), Generation(2), now);
    assert_eq!(standing(&one, 0, now), Standing::Last);
    shop.placements[0].run = Some(run("r-newer"));
    shop.placements[0].generation = Generation(1);
    assert_eq!(standing(&built(&[shop], &one), 0, now), Standing::First);
}

#[test]
fn a_placement_that_refused_though_open_at_that_generation_is_asked_first_again_after_a_while() {
    let now = Instant::now();
    let one = built(&[program("shop", &[("s1", true)])], &Snapshot::default());
    one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(1), now);
    assert_eq!(standing(&one, 0, now), Standing::Last);
    assert_eq!(standing(&one, 0, now + RECHECK), Standing::First);
}

#[test]
fn a_refusal_older_than_the_list_closes_nothing() {
    let now = Instant::now();
    let mut shop = program("shop", &[("s1", true)]);
    shop.placements[0].generation = Generation(5);
    let one = built(&[shop], &Snapshot::default());
    one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(4), now);
    assert_eq!(standing(&one, 0, now), Standing::First);
}

fn told(by: &[(&str, u64)]) -> BTreeMap<NodeName, u64> {
    by.iter().map(|(router, active)| (NodeName::new(router).unwrap(), *active)).collect()
}

#[test]
fn own_requests_count_as_they_are_now_whatever_was_told_of_them_and_a_share_of_what_others_keep_there() {
    let mut shop = program("shop", &[("s1", true)]);
    let one = built(&[shop.clone()], &Snapshot::default());
    let active = |snapshot: &Snapshot| snapshot.programs[0].placements[0].active();
    let own = &one.programs[0].placements[0].own.active;
    (0..4).for_each(|n| own.add(n % 2));
    // What is told of this router is of a moment when it had more, or fewer, than when the list comes.
    for own_told in [0, 3, 9] {
        (shop.placements[0].active, shop.placements[0].by_router) = (own_told, told(&[("r1", own_told)]));
        assert_eq!(active(&built(&[shop.clone()], &one)), 4);
    }
    shop.placements[0].by_router = told(&[("r0", 2), ("r1", 9), ("r2", 4)]);
    let two = built(&[shop], &one);
    assert_eq!((active(&two), two.active()), (4 + 6 / 3, 4));
    [0, 0, 1].into_iter().for_each(|worker| own.take(worker));
    assert_eq!(active(&two), 1 + 6 / 3);
}

#[test]
fn management_is_told_where_this_router_has_requests_and_of_many_placements_the_busiest() {
    let (shop, mail) = (program("shop", &[("s1", true), ("s2", true)]), program("mail", &[("s1", true)]));
    let one = built(&[shop, mail], &Snapshot::default());
    assert!(one.active_there(9).is_empty());
    let own = |program: usize, place: usize| &one.programs[program].placements[place].own.active;
    own(0, 0).add(0);
    (0..3).for_each(|_| own(1, 1).add(1));
    let shown = |most| {
        let told = one
            .active_there(most)
            .into_iter()
            .flat_map(|(program, at)| at.into_iter().map(move |at| (program.clone(), at)));
        told.map(|(program, (server, active))| format!("{program} {server} {active}")).collect::<Vec<_>>()
    };
    assert_eq!(shown(9), ["mail s1 1", "shop s2 3"]);
    assert_eq!(shown(1), ["shop s2 3"]);
}

#[test]
fn a_server_set_aside_stays_so_from_list_to_list_until_its_address_changes() {
    let shop = program("shop", &[("s1", true)]);
    let one = built(std::slice::from_ref(&shop), &Snapshot::default());
    let server = ServerName::new("s1").unwrap();
    assert!(one.server(&server).unwrap().set_aside() && !one.server(&server).unwrap().set_aside());
    let two = built(std::slice::from_ref(&shop), &one);
    assert_eq!(standing(&two, 0, Instant::now()), Standing::Aside);
    let mut moved = list(1, 2, &[shop]);
    moved.servers[0].data = ([127, 0, 0, 1], 99).into();
    assert_eq!(standing(&built_of(moved, &two), 0, Instant::now()), Standing::First);
}

#[test]
fn what_two_lists_have_alike_is_shared_and_what_is_loaded_or_moved_is_not() {
    let (shop, mail) = (program("shop", &[("s1", true)]), program("mail", &[("s1", true)]));
    let one = built(&[shop.clone(), mail.clone()], &Snapshot::default());
    let shared = |snapshot: &Snapshot| {
        let programs = snapshot.programs.iter().zip(&one.programs);
        let same: Vec<_> = programs.map(|(new, old)| Arc::ptr_eq(new, old)).collect();
        (same, Arc::ptr_eq(&snapshot.table, &one.table))
    };
    assert_eq!(shared(&built(&[shop.clone(), mail.clone()], &one)), (vec![true, true], true));
    let mut moved = shop.clone();
    moved.placements[0].generation = Generation(2);
    assert_eq!(shared(&built(&[moved, mail.clone()], &one)), (vec![true, false], true), "mail comes before shop");
    let mut routed = shop.clone();
    routed.manifest.routes[0].prefix = "/other".into();
    assert_eq!(shared(&built(&[routed, mail.clone()], &one)), (vec![true, false], false));
    let mut down = list(1, 1, &[shop.clone(), mail.clone()]);
    down.servers[0].up = false;
    assert_eq!(shared(&built_of(down, &one)), (vec![false, false], true));
    let mut loaded = mail.clone();
    loaded.placements[0].by_router = told(&[("r2", 3)]);
    assert_eq!(shared(&built(&[shop, loaded], &one)), (vec![false, true], true));
}

#[test]
fn programs_that_come_and_go_leave_the_others_their_marks() {
    let (a, b) = (program("a", &[("s1", true)]), program("b", &[("s1", true)]));
    let one = built(&[a.clone(), b.clone()], &Snapshot::default());
    one.programs[1].placements[0].mark_refused(&run("r-s1"), Generation(2), Instant::now());
    for programs in [&[b.clone()][..], &[program("0", &[]), a, b.clone(), program("c", &[])]] {
        let now = built(programs, &one);
        let place = now.place(&b.manifest.name).unwrap();
        assert_eq!(now.programs[place].placements[0].standing(Instant::now()), Standing::Last);
        assert_eq!(now.place(&ProgramName::new("d").unwrap()), None);
    }
}

#[test]
fn a_mark_that_a_newer_list_moved_past_is_forgotten_and_a_newer_mark_is_not() {
    let mut shop = program("shop", &[("s1", true)]);
    let one = built(&[shop.clone()], &Snapshot::default());
    let own = &one.programs[0].placements[0].own;
    one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(2), Instant::now());
    let stale = own.closed.load_full().unwrap();
    shop.placements[0].generation = Generation(3);
    built(&[shop], &one);
    assert!(own.closed.load().is_none() && !own.is_marked.load(Ordering::Acquire));
    one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(4), Instant::now());
    own.unmark(&stale);
    assert!(own.closed.load().is_some() && own.is_marked.load(Ordering::Acquire));
}

#[test]
fn only_the_server_of_this_process_by_name_and_address_is_here() {
    let setting =
        Setting { here: Some((ServerName::new("s1").unwrap(), ([127, 0, 0, 1], 1).into())), ..Setting::sample(2) };
    let held = |came| super::super::list::HeldList::whole(came);
    let here = |came| {
        let snapshot = Snapshot::build(held(came), &Snapshot::default(), &setting);
        let mut here: Vec<_> =
            snapshot.servers.values().filter(|server| server.here).map(|server| server.name.to_string()).collect();
        here.sort();
        here
    };
    assert_eq!(here(list(1, 1, &[])), ["s1"]);
    let mut moved = list(1, 1, &[]);
    moved.servers[0].data = ([127, 0, 0, 1], 9).into();
    assert_eq!(here(moved), Vec::<String>::new());
}

#[test]
fn a_placement_on_an_unknown_server_cannot_be_asked() {
    assert!(built(&[program("shop", &[("s9", true)])], &Snapshot::default()).programs[0].placements.is_empty());
}
