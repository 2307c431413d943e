//! Owns the test of a step that waits for sessions: it drives a leadership and a placement, and hears reports by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::Send;
use super::wait::Reason;
use crate::domain::leader::Leader;
use crate::domain::names::{Generation, NodeName, ProgramName, Release, Revision, RunId, ServerName, Sha256};
use crate::domain::names::{Term, Version};
use crate::domain::placement::{Command, Desired, Here, Order, Placement, Stamp, State, Sticky};
use crate::domain::server_list::{Report, Server, ServerList, SessionsLeft};
use crate::domain::session_list::Figures;

fn shop() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

fn app() -> ServerName {
    ServerName::new("app-1").unwrap()
}

fn run() -> RunId {
    RunId::new("r").unwrap()
}

/// A leadership that takes a program away from its server, and the placement there, open.
fn removing() -> (Leader, Placement) {
    let term = |number| Term { number, management: NodeName::new("m").unwrap() };
    let desired = |number, release| Desired { release, stamp: Stamp { term: term(number), revision: Revision(1) } };
    let release = Release { version: Version::new("1").unwrap(), sha256: Sha256([1; 32]) };
    let mut list = ServerList::default();
    list.servers.insert(app(), Server::default());
    list.cell_mut(&shop(), &app()).desired = Some(desired(2, None));
    let mut leader = Leader::new(term(3), Revision(0), list, BTreeMap::new());
    leader.up(&app(), &run(), 0);
    let mut placement = Placement::absent(shop());
    (placement.state, placement.generation) = (State::Open, Generation(5));
    (placement.release, placement.desired) = (Some(release.clone()), Some(desired(1, Some(release))));
    let asked = leader.list.servers[&app()].asked;
    assert!(leader.sealed(&app(), asked, &run(), vec![Report::of(&placement, true, 0, 0)]));
    (leader, placement)
}

fn ordered(leader: &mut Leader, now: u64) -> Command {
    match leader.decide(now).as_slice() {
        [Send::Command { command, .. }] => command.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_step_waits_for_sessions_as_long_as_its_server_does_and_a_person_ends_the_wait() {
    let (mut leader, mut placement) = removing();
    let sticky = Some(Sticky { deadline: Duration::from_secs(3_600), over: false });
    let run = run();
    let here = Here { run: &run, now: 0, lease: Duration::from_secs(60), orphans: 0, sticky };
    placement.command(&ordered(&mut leader, 0), &here, |_| unreachable!()).unwrap();
    let mut report = Report::of(&placement, true, 0, 0);
    let left = SessionsLeft { figures: Figures { left: 2, ..Figures::default() }, deadline_in_ms: 3_000_000 };
    report.sessions = Some(left.clone());
    leader.heard(&app(), &run, report);
    // Long past any drain_timeout, which begins when the gate is closed to all.
    assert_eq!(leader.decide(600_000), []);
    let wait = leader.under_way(&shop()).and_then(|ripple| ripple.wait.clone()).unwrap();
    assert_eq!((&wait.reason, wait.until), (&Reason::Sessions { left }, Some(3_600_000)));
    assert!(wait.reason.to_string().starts_with("2 sessions to end, 0 active"), "{}", wait.reason);
    leader.ripples.values_mut().for_each(|ripple| ripple.migrates = true);
    let migrate = ordered(&mut leader, 600_001);
    assert_eq!((&migrate.order, migrate.expected), (&Order::Migrate, Generation(6)));
    placement.command(&migrate, &here, |_| unreachable!()).unwrap();
    leader.heard(&app(), &run, Report::of(&placement, true, 0, 0));
    let remove = ordered(&mut leader, 600_002);
    assert!(matches!(remove.order, Order::Remove { force: false, .. }), "{remove:?}");
    assert_eq!(remove.expected, Generation(7), "the gate closed a generation after the quiesce");
}
