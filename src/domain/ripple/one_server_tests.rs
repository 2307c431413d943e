//! Owns the tests of steps of one server: of a gate that closes beside others, and of a soak after one that was closed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::judge::Verdict;
use super::machine::Send;
use super::plan::{Ask, Policy, RippleKind, plan};
use super::wait::Reason;
use crate::domain::figures::{Figures, bucket};
use crate::domain::leader::Leader;
use crate::domain::names::{Generation, NodeName, ProgramName, Release, Revision, RippleId, RunId, ServerName, Sha256};
use crate::domain::names::{Term, Version};
use crate::domain::placement::{Ended, Outcome, Placement, State};
use crate::domain::program::{LongLived, MinServing, OnDrainTimeout, RollbackOn};
use crate::domain::server_list::{Measured, Report, ServerList, Took, Wanted};

const PROGRAMS: [&str; 2] = ["mail", "shop"];

fn program(name: &str) -> ProgramName {
    ProgramName::new(name).unwrap()
}

fn app() -> ServerName {
    ServerName::new("app-1").unwrap()
}

fn run() -> RunId {
    RunId::new("r").unwrap()
}

fn release(number: u8) -> Release {
    Release { version: Version::new(number.to_string()).unwrap(), sha256: Sha256([number; 32]) }
}

fn report(name: &str, generation: u64, healthy: bool) -> Report {
    let mut placement = Placement::absent(program(name));
    (placement.state, placement.generation, placement.release) =
        (State::Open, Generation(generation), Some(release(1)));
    Report::of(&placement, healthy, 0, 0)
}

/// A server on which both programs serve, each of which may be out of service everywhere.
fn leader() -> Leader {
    let wanted = || Wanted { release: Some(release(1)), servers: vec![app()] };
    let programs = PROGRAMS.map(|name| (program(name), wanted())).into();
    let list = ServerList { programs, ..ServerList::default() };
    let term = Term { number: 1, management: NodeName::new("m").unwrap() };
    let mut leader = Leader::new(term, Revision(0), list, BTreeMap::new());
    leader.up(&app(), &run(), 0);
    leader.sealed(&app(), 0, &run(), PROGRAMS.map(|name| report(name, 1, true)).into());
    leader
}

fn upgrade(leader: &mut Leader, name: &str, soak_ms: u64) {
    let policy = Policy {
        strategy: Default::default(),
        batch: 1,
        canary: 0,
        promote: Default::default(),
        rollback_on: Some(RollbackOn::default()),
        hooks: Vec::new(),
        max_utilization_milli: 800,
        capacity_wait: Duration::from_secs(600),
        min_serving: 0,
        drain_timeout: Duration::from_secs(30),
        on_drain_timeout: OnDrainTimeout::Abort,
        long_lived: LongLived::Wait,
        soak: Duration::from_millis(soak_ms),
        unhealthy_limit: Duration::from_secs(60),
    };
    let ask = Ask {
        id: RippleId::new(name).unwrap(),
        kind: RippleKind::Upgrade,
        program: program(name),
        to: Some(release(2)),
        servers: vec![app()],
        min_serving: MinServing::AtLeast(0),
        holds: false,
        hooks: Default::default(),
        policy,
    };
    leader.start(plan(ask, &leader.list).unwrap());
    leader.decide(0);
    leader.prepared(&app(), &program(name), &release(2), Ok(()));
}

/// The programs whose gates are being closed.
fn closing(leader: &mut Leader) -> Vec<String> {
    let sends = leader.decide(0);
    let programs = sends.into_iter().filter_map(|send| match send {
        Send::Command { program, .. } => Some(program.to_string()),
        _ => None,
    });
    programs.collect()
}

#[test]
fn a_program_that_is_not_well_waits_for_its_neighbour_too_since_it_may_be_well_when_its_gate_closes() {
    let mut leader = leader();
    upgrade(&mut leader, "mail", 0);
    assert_eq!(closing(&mut leader), ["mail"]);
    leader.heard(&app(), &run(), report("shop", 1, false));
    upgrade(&mut leader, "shop", 0);
    assert_eq!(closing(&mut leader), ["mail"]);
    let wait = leader.under_way(&program("shop")).and_then(|ripple| ripple.wait.clone()).unwrap();
    assert_eq!(wait.reason, Reason::Neighbour { program: program("mail") });
    // The neighbour is back.
    leader.heard(&app(), &run(), report("mail", 3, true));
    let again = closing(&mut leader);
    assert!(again.contains(&"mail".to_owned()) != again.contains(&"shop".to_owned()), "{again:?}");
}

/// What the server has counted at a time: of the old version, and of the new one's answers those of each latency.
fn measure(leader: &mut Leader, at: u64, new: &[(u64, u64)]) {
    let of = |latency: &[(u64, u64)]| Figures {
        answers: latency.iter().map(|(_, count)| count).sum(),
        errors: 0,
        latency: latency.iter().map(|(micros, count)| (bucket(*micros), *count)).collect(),
    };
    let versions = [(release(1).version, of(&[(20_000, 100)])), (release(2).version, of(new))].into();
    leader.measured(&app(), &program("shop"), Measured { at, versions });
    leader.decide(at);
}

#[test]
fn what_was_held_while_the_only_server_was_out_of_service_is_neither_judged_nor_a_part_of_the_soak() {
    let mut leader = leader();
    upgrade(&mut leader, "shop", 200);
    let sends = leader.decide(0);
    let [Send::Command { command, .. }] = sends.as_slice() else { panic!("{sends:?}") };
    let ended = Ended { operation: command.operation.clone(), outcome: Outcome::Upgraded };
    let took = Took { drain_ms: 500, stop_ms: 100, start_ms: 2_000, probe_ms: 500 };
    let back = report("shop", 4, true);
    leader.heard(&app(), &run(), Report { release: Some(release(2)), ended: Some(ended), took: Some(took), ..back });
    (0..2).for_each(|_| drop(leader.decide(1_000)));
    // The soak begins as long after the opening as it was closed.
    for (at, held) in [(1_100, 50), (2_000, 400), (4_099, 500)] {
        measure(&mut leader, at, &[(900_000, held)]);
        let ripple = leader.under_way(&program("shop")).unwrap();
        assert!(matches!(
            ripple.wait.as_ref().map(|wait| &wait.reason),
            Some(Reason::Soaking { under_traffic: 0, .. })
        ));
    }
    for (at, well) in [(4_100, 0), (4_200, 10), (4_300, 30)] {
        measure(&mut leader, at, &[(900_000, 500), (20_000, well)]);
    }
    let ripple = leader.ripples.values().next().unwrap();
    assert!(ripple.state.is_over(), "{ripple:?}");
    assert_eq!(ripple.verdicts.values().collect::<Vec<_>>(), [&Verdict::Well { new: 30, old: 100 }]);
}
