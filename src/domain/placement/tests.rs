//! Owns the tests of one placement: repeats, reordering, stale runs and generations, leases, boots, orphans.

use super::*;
use crate::domain::gate::NotDrained;
use crate::domain::names::{NodeName, Sha256, Version};

const LEASE: Duration = Duration::from_secs(60);

fn release(number: u8) -> Release {
    Release { version: Version::new(number.to_string()).unwrap(), sha256: Sha256([number; 32]) }
}

fn run() -> RunId {
    RunId::new("r1").unwrap()
}

fn term() -> Term {
    Term { number: 1, management: NodeName::new("m").unwrap() }
}

fn open() -> Placement {
    let mut placement = Placement::absent(ProgramName::new("shop").unwrap());
    (placement.state, placement.generation, placement.release) = (State::Open, Generation(5), Some(release(1)));
    placement
}

fn command(operation: &str, expected: u64, order: Order) -> Command {
    let operation = OperationId::new(operation).unwrap();
    Command { term: term(), operation, run: run(), expected: Generation(expected), order }
}

fn quiesce(expected: u64) -> Command {
    command("o1", expected, Order::Quiesce { leased: true })
}

fn upgrade(expected: u64, force: bool) -> Command {
    let desired = Desired { release: Some(release(2)), stamp: Stamp { term: term(), revision: Revision(1) } };
    command("o1", expected, Order::Upgrade { to: release(2), desired, force })
}

fn tell(placement: &mut Placement, command: &Command) -> Result<Vec<Effect>, Refusal> {
    tell_with(placement, command, 0, Ok(()))
}

fn tell_with(
    placement: &mut Placement,
    command: &Command,
    orphans: u64,
    frozen: Result<(), NotDrained>,
) -> Result<Vec<Effect>, Refusal> {
    placement.command(command, &Here { run: &run(), now: 0, lease: LEASE, orphans, sticky: None }, |_| frozen)
}

fn happens(placement: &mut Placement, event: &Event, now: Millis) -> Vec<Effect> {
    placement.event(event, &Here { run: &run(), now, lease: LEASE, orphans: 0, sticky: None })
}

fn quiescing() -> Placement {
    let mut placement = open();
    tell(&mut placement, &quiesce(5)).unwrap();
    placement
}

fn upgrading() -> Placement {
    let mut placement = quiescing();
    assert_eq!(tell(&mut placement, &upgrade(6, false)), Ok(vec![Effect::Stop]));
    placement
}

fn stands(placement: &Placement) -> (State, u64) {
    (placement.state, placement.generation.0)
}

#[test]
fn an_upgrade_goes_through_its_phases_and_opens_at_a_new_generation() {
    let mut placement = upgrading();
    assert_eq!(happens(&mut placement, &Event::Stopped, 0), vec![Effect::Start(release(2))]);
    let effects = happens(&mut placement, &Event::Started, 0);
    assert_eq!(effects, vec![Effect::OpenGate(Generation(8)), Effect::Report]);
    assert_eq!((stands(&placement), placement.release), ((State::Open, 8), Some(release(2))));
}

#[test]
fn a_repeat_changes_nothing_in_any_phase() {
    let mut placement = upgrading();
    for command in [quiesce(5), upgrade(6, false)] {
        assert_eq!(tell(&mut placement, &command), Ok(vec![]));
    }
    happens(&mut placement, &Event::Stopped, 0);
    happens(&mut placement, &Event::Started, 0);
    for command in [quiesce(5), upgrade(6, false), command("o1", 5, Order::Reopen)] {
        assert_eq!(tell(&mut placement, &command), Ok(vec![]));
        assert_eq!(stands(&placement), (State::Open, 8));
    }
}

#[test]
fn a_command_for_another_generation_run_or_operation_is_refused_and_changes_nothing() {
    let mut placement = quiescing();
    let before = placement.clone();
    let other = command("o2", 6, Order::Quiesce { leased: true });
    assert!(matches!(tell(&mut placement, &other), Err(Refusal::Busy { .. })));
    assert!(matches!(tell(&mut placement, &upgrade(5, false)), Err(Refusal::StaleGeneration { .. })));
    let stale = Command { run: RunId::new("r0").unwrap(), ..upgrade(6, false) };
    assert!(matches!(tell(&mut placement, &stale), Err(Refusal::StaleRun { .. })));
    assert_eq!(placement, before);
}

#[test]
fn a_reopen_that_overtakes_its_quiesce_makes_the_quiesce_stale() {
    let mut placement = open();
    tell(&mut placement, &command("o1", 5, Order::Reopen)).unwrap();
    assert_eq!(stands(&placement), (State::Open, 6));
    assert!(matches!(tell(&mut placement, &quiesce(5)), Err(Refusal::StaleGeneration { .. })));
}

#[test]
fn a_lease_without_word_reopens_and_a_matching_renewal_alone_prolongs_it() {
    let mut placement = quiescing();
    let renewal = |operation: &str, generation| Event::Renewed {
        term: term(),
        operation: OperationId::new(operation).unwrap(),
        generation: Generation(generation),
    };
    happens(&mut placement, &renewal("o2", 6), 50_000);
    happens(&mut placement, &renewal("o1", 5), 50_000);
    assert_eq!(placement.lease_until, Some(60_000));
    happens(&mut placement, &renewal("o1", 6), 50_000);
    assert_eq!(happens(&mut placement, &Event::Tick, 109_999), vec![]);
    let effects = happens(&mut placement, &Event::Tick, 110_000);
    assert_eq!(effects, vec![Effect::OpenGate(Generation(7)), Effect::Report]);
}

#[test]
fn a_gate_that_is_not_drained_and_orphans_refuse_the_upgrade_and_force_outlasts_orphans() {
    let mut placement = quiescing();
    let busy = Err(NotDrained { open: false, active: 2 });
    let refused = tell_with(&mut placement, &upgrade(6, false), 0, busy);
    assert_eq!(refused, Err(Refusal::NotDrained { active: 2, orphans: 0 }));
    let refused = tell_with(&mut placement, &upgrade(6, false), 1, Ok(()));
    assert_eq!(refused, Err(Refusal::NotDrained { active: 0, orphans: 1 }));
    assert_eq!(stands(&placement), (State::Quiescing, 6));
    assert_eq!(tell_with(&mut placement, &upgrade(6, true), 1, Ok(())), Ok(vec![Effect::Stop]));
}

#[test]
fn a_version_that_does_not_start_is_taken_back_and_the_old_one_opens() {
    let mut placement = upgrading();
    happens(&mut placement, &Event::Stopped, 0);
    assert_eq!(happens(&mut placement, &Event::StartFailed("exit 1".into()), 0), vec![Effect::Stop]);
    assert_eq!(happens(&mut placement, &Event::Stopped, 0), vec![Effect::Start(release(1))]);
    happens(&mut placement, &Event::Started, 0);
    assert_eq!((stands(&placement), placement.release), ((State::Open, 8), Some(release(1))));
    let outcome = placement.ended.map(|ended| ended.outcome);
    assert_eq!(outcome, Some(Outcome::TakenBack("exit 1".into())));
}

#[test]
fn a_boot_in_every_phase_goes_on_where_the_disk_says() {
    let boots = |mut placement: Placement| (placement.boot(5_000), placement.generation.0);
    assert_eq!(boots(quiescing()), (vec![Effect::CloseGate(Generation(7)), Effect::Start(release(1))], 7));
    assert_eq!(boots(upgrading()), (vec![Effect::Stop], 8));
    let mut placement = upgrading();
    happens(&mut placement, &Event::Stopped, 0);
    assert_eq!(boots(placement.clone()), (vec![Effect::Start(release(2))], 8));
    happens(&mut placement, &Event::StartFailed("exit 1".into()), 0);
    assert_eq!(boots(placement.clone()), (vec![Effect::Stop], 8));
    happens(&mut placement, &Event::Stopped, 0);
    assert_eq!(boots(placement), (vec![Effect::Start(release(1))], 8));
}

#[test]
fn a_booted_placement_opens_on_managements_word_or_after_its_wait_and_not_before_its_instance() {
    let mut placement = open();
    placement.boot(5_000);
    assert_eq!(happens(&mut placement, &Event::Tick, 5_000), vec![]);
    assert_eq!(happens(&mut placement, &Event::Started, 5_001).len(), 2);
    let mut placement = open();
    placement.boot(5_000);
    happens(&mut placement, &Event::Started, 0);
    happens(&mut placement, &Event::KeptClosed { until: 9_000 }, 0);
    assert_eq!(happens(&mut placement, &Event::Tick, 5_000), vec![]);
    assert_eq!(tell(&mut placement, &command("reconcile", 6, Order::Open)).unwrap().len(), 2);
    assert_eq!(stands(&placement), (State::Open, 7));
}

#[test]
fn a_boot_that_a_quiesce_interrupts_goes_on_when_it_is_reopened() {
    let mut placement = open();
    placement.boot(5_000);
    tell(&mut placement, &quiesce(6)).unwrap();
    assert_eq!(happens(&mut placement, &Event::Started, 0), vec![]);
    tell(&mut placement, &command("o1", 6, Order::Reopen)).unwrap();
    assert_eq!(placement.state, State::Closed);
    happens(&mut placement, &Event::Tick, 5_000);
    assert_eq!(placement.state, State::Open);
}

#[test]
fn a_boot_that_fails_under_a_quiesce_is_failed_with_its_reason_when_reopened() {
    let mut placement = open();
    placement.boot(5_000);
    tell(&mut placement, &quiesce(6)).unwrap();
    assert_eq!(happens(&mut placement, &Event::StartFailed("exit 1".into()), 0), vec![Effect::Stop]);
    tell(&mut placement, &command("o1", 6, Order::Reopen)).unwrap();
    assert_eq!((placement.state, placement.failure.as_deref()), (State::Failed, Some("exit 1")));
}

#[test]
fn a_first_install_needs_no_quiesce_and_a_removal_leaves_a_higher_generation() {
    let mut placement = Placement::absent(ProgramName::new("shop").unwrap());
    assert_eq!(tell(&mut placement, &upgrade(0, false)), Ok(vec![Effect::Stop]));
    happens(&mut placement, &Event::Stopped, 0);
    happens(&mut placement, &Event::Started, 0);
    assert_eq!(stands(&placement), (State::Open, 2));
    tell(&mut placement, &command("o2", 2, Order::Quiesce { leased: true })).unwrap();
    let desired = Desired { release: None, stamp: Stamp { term: term(), revision: Revision(2) } };
    tell(&mut placement, &command("o2", 3, Order::Remove { desired, force: false })).unwrap();
    happens(&mut placement, &Event::Stopped, 0);
    assert_eq!((stands(&placement), placement.release), ((State::Absent, 5), None));
}

fn overlap(expected: u64) -> Command {
    let desired = Desired { release: Some(release(2)), stamp: Stamp { term: term(), revision: Revision(1) } };
    command("o1", expected, Order::Overlap { to: release(2), desired })
}

fn beside() -> Placement {
    let mut placement = open();
    let effects = tell(&mut placement, &overlap(5)).unwrap();
    assert_eq!(effects, vec![Effect::OpenGate(Generation(6)), Effect::StartBeside(release(2))]);
    placement
}

fn switched() -> Placement {
    let mut placement = beside();
    assert_eq!(happens(&mut placement, &Event::Started, 0), vec![Effect::Switch(Generation(7))]);
    placement
}

#[test]
fn an_overlap_switches_when_the_new_instance_is_well_and_ends_when_the_old_one_is_gone() {
    let mut placement = switched();
    assert_eq!((stands(&placement), &placement.release), ((State::Overlapping, 7), &Some(release(2))));
    assert!(placement.state.takes_requests());
    assert_eq!(happens(&mut placement, &Event::OldDrained, 0), vec![Effect::StopOld]);
    let effects = happens(&mut placement, &Event::Stopped, 0);
    assert_eq!(effects, vec![Effect::OpenGate(Generation(8)), Effect::Report]);
    assert_eq!(placement.ended.map(|ended| ended.outcome), Some(Outcome::Upgraded));
}

#[test]
fn what_ends_an_overlap_before_its_switch_leaves_no_trace_of_it() {
    type End = fn(&mut Placement) -> Vec<Effect>;
    let ways: [(End, Outcome); 3] = [
        (|placement| tell(placement, &command("o1", 5, Order::Reopen)).unwrap(), Outcome::Reopened),
        (|placement| happens(placement, &Event::Tick, 60_000), Outcome::LeaseExpired),
        (|placement| happens(placement, &Event::StartFailed("no".into()), 0), Outcome::TakenBack("no".into())),
    ];
    for (end, outcome) in ways {
        let mut placement = beside();
        assert_eq!(end(&mut placement), vec![Effect::StopBeside]);
        assert!(placement.state.takes_requests());
        happens(&mut placement, &Event::Stopped, 0);
        assert_eq!(placement.ended.map(|ended| ended.outcome), Some(outcome));
        assert_eq!((placement.state, placement.release, placement.desired), (State::Open, Some(release(1)), None));
    }
}

#[test]
fn after_the_switch_neither_an_abort_nor_a_lease_takes_it_back_and_a_forced_end_waits_for_the_cut() {
    let mut placement = switched();
    assert_eq!(tell(&mut placement, &command("o1", 5, Order::Reopen)), Ok(vec![]));
    assert_eq!(happens(&mut placement, &Event::Tick, 90_000), vec![]);
    let busy = Err(NotDrained { open: false, active: 1 });
    let refused = tell_with(&mut placement, &upgrade(7, true), 0, busy);
    assert_eq!(refused, Err(Refusal::NotDrained { active: 1, orphans: 0 }));
    assert_eq!(tell(&mut placement, &upgrade(7, true)), Ok(vec![Effect::StopOld]));
    assert_eq!(tell(&mut placement, &upgrade(7, true)), Ok(vec![]), "a repeat");
}

#[test]
fn an_overlap_is_repeated_and_refused_as_any_command_and_only_what_is_open_overlaps() {
    let mut placement = beside();
    assert_eq!(tell(&mut placement, &overlap(5)), Ok(vec![]));
    let other = command("o2", 6, Order::Quiesce { leased: true });
    assert!(matches!(tell(&mut placement, &other), Err(Refusal::Busy { .. })));
    let mut closed = open();
    closed.state = State::Closed;
    assert!(matches!(tell(&mut closed, &overlap(5)), Err(Refusal::WrongState { .. })));
}

#[test]
fn a_boot_before_the_switch_is_on_the_old_version_and_one_after_it_on_the_new() {
    let mut placement = beside();
    assert_eq!(placement.boot(5_000), vec![Effect::CloseGate(Generation(7)), Effect::Start(release(1))]);
    assert_eq!((placement.state, placement.operation.is_none()), (State::Closed, true));
    for marked in [false, true] {
        let mut placement = switched();
        if marked {
            happens(&mut placement, &Event::OldDrained, 0);
        }
        assert_eq!(placement.boot(5_000), vec![Effect::CloseGate(Generation(8)), Effect::Start(release(2))]);
        assert_eq!(happens(&mut placement, &Event::Started, 0), vec![Effect::OpenGate(Generation(8))]);
        assert_eq!(happens(&mut placement, &Event::OldDrained, 0), vec![Effect::StopOld]);
        happens(&mut placement, &Event::Stopped, 0);
        assert_eq!((placement.state, placement.release), (State::Open, Some(release(2))));
    }
}

fn sticky(over: bool) -> Here<'static> {
    let run = Box::leak(Box::new(run()));
    Here { run, now: 0, lease: LEASE, orphans: 0, sticky: Some(Sticky { deadline: LEASE / 2, over }) }
}

fn waiting() -> Placement {
    let mut placement = open();
    let effects = placement.command(&quiesce(5), &sticky(false), |_| unreachable!()).unwrap();
    assert_eq!((effects, stands(&placement)), (vec![Effect::KnowGate(Generation(6))], (State::Quiescing, 6)));
    placement
}

#[test]
fn a_quiesce_with_sessions_waits_for_them_and_its_end_is_a_transition() {
    let closes = |mut placement: Placement, here: &Here<'_>| (placement.event(&Event::Tick, here), placement);
    assert_eq!(closes(waiting(), &sticky(false)).0, []);
    let closed = vec![Effect::CloseGate(Generation(7)), Effect::MigrateSessions];
    let at = |now| Here { now, ..sticky(false) };
    for here in [sticky(true), at(30_000)] {
        let (effects, mut placement) = closes(waiting(), &here);
        assert_eq!((&effects, stands(&placement), placement.is_known()), (&closed, (State::Quiescing, 7), false));
        assert_eq!(placement.lease_until, Some(60_000), "management's word is still needed");
        assert_eq!(tell(&mut placement, &quiesce(5)), Ok(vec![]), "a repeat");
        assert_eq!(tell(&mut placement, &upgrade(7, false)), Ok(vec![Effect::Stop]));
        assert_eq!(tell(&mut placement, &upgrade(7, false)), Ok(vec![]), "a repeat");
    }
    assert_eq!(closes(waiting(), &at(29_999)).0, []);
}

#[test]
fn a_quiesce_without_sessions_or_with_no_time_for_them_closes_at_once() {
    let mut placement = open();
    let effects = placement.command(&quiesce(5), &sticky(true), |_| unreachable!()).unwrap();
    assert_eq!((effects[0].clone(), placement.is_known()), (Effect::CloseGate(Generation(6)), false));
    let (mut placement, mut here) = (open(), sticky(false));
    here.sticky = Some(Sticky { deadline: Duration::ZERO, over: false });
    let effects = placement.command(&quiesce(5), &here, |_| unreachable!()).unwrap();
    assert_eq!(effects, vec![Effect::CloseGate(Generation(6)), Effect::MigrateSessions]);
}

#[test]
fn a_person_ends_the_wait_for_sessions_once_and_force_stops_in_spite_of_them() {
    let migrate = |expected| command("o1", expected, Order::Migrate);
    let mut placement = waiting();
    assert!(matches!(tell(&mut placement, &command("o2", 6, Order::Migrate)), Err(Refusal::Busy { .. })));
    let closed = vec![Effect::CloseGate(Generation(7)), Effect::MigrateSessions];
    assert_eq!(tell(&mut placement, &migrate(6)), Ok(closed));
    assert_eq!((tell(&mut placement, &migrate(6)), stands(&placement)), (Ok(vec![]), (State::Quiescing, 7)));
    assert!(matches!(tell(&mut open(), &migrate(5)), Err(Refusal::WrongState { .. })));
    let mut placement = waiting();
    assert!(matches!(tell(&mut placement, &upgrade(6, false)), Err(Refusal::NotDrained { .. })));
    assert_eq!(tell(&mut placement, &upgrade(6, true)), Ok(vec![Effect::MigrateSessions, Effect::Stop]));
}

#[test]
fn a_wait_for_sessions_ends_with_a_reopen_a_lease_or_a_boot() {
    let mut placement = waiting();
    tell(&mut placement, &command("o1", 5, Order::Reopen)).unwrap();
    assert_eq!((stands(&placement), placement.is_known()), ((State::Open, 7), false));
    let mut placement = waiting();
    let effects = placement.event(&Event::Tick, &Here { now: 60_000, ..sticky(false) });
    assert_eq!(effects, vec![Effect::OpenGate(Generation(7)), Effect::Report]);
    let mut placement = waiting();
    placement.boot(5_000);
    assert_eq!((stands(&placement), placement.is_known()), ((State::Closed, 7), false));
}

#[test]
fn a_member_of_a_set_that_opened_again_is_refused_and_not_taken_for_a_repeat() {
    let desired = Desired { release: Some(release(1)), stamp: Stamp { term: term(), revision: Revision(1) } };
    let set = OperationId::new("set-o1").unwrap();
    let together = command("o1", 6, Order::Together { to: release(1), desired, force: false, set });
    let mut placement = quiescing();
    happens(&mut placement, &Event::Tick, 60_000);
    assert_eq!(stands(&placement), (State::Open, 7), "its lease ran out");
    let stale = Refusal::StaleGeneration { expected: Generation(6), present: Generation(7) };
    assert_eq!(tell(&mut placement, &together), Err(stale));
    let mut placement = quiescing();
    assert_eq!(tell(&mut placement, &together), Ok(vec![Effect::Stop]));
    assert!(matches!(tell(&mut placement, &together), Err(Refusal::StaleGeneration { .. })), "its set knows a repeat");
}
