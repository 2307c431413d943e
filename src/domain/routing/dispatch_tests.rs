use proptest::prelude::*;

use super::*;

fn name(n: usize) -> ServerName {
    ServerName::new(format!("s{n}")).unwrap()
}

fn run(n: u64) -> RunId {
    RunId::new(format!("r{n}")).unwrap()
}

/// A view: server, generation, standing, active.
struct View(Vec<(ServerName, u64, Standing, u64)>);

impl View {
    fn of(count: usize) -> Self {
        Self((0..count).map(|n| (name(n), 1, Standing::First, 0)).collect())
    }

    fn iter(&self) -> impl Iterator<Item = Candidate<'_>> + Clone {
        self.0.iter().map(|(server, generation, standing, active)| Candidate {
            server,
            generation: Generation(*generation),
            standing: *standing,
            fit: Fit::Any,
            active: *active,
        })
    }
}

fn dispatch(hold_ms: u64) -> Dispatch {
    Dispatch::new(Bounds::holding(Duration::from_millis(hold_ms)), 0)
}

/// Asks; the place must be `place`; and it refuses at generation `generation` of run `run`.
fn refuse(dispatch: &mut Dispatch, now: Millis, view: &View, place: usize, by: (u64, u64)) {
    assert_eq!(dispatch.next(now, view.iter()), Next::Try(place));
    dispatch.refused(&view.0[place].0, &run(by.0), Generation(by.1));
}

#[test]
fn the_least_active_placement_that_takes_requests_is_first_and_those_set_aside_last() {
    let mut view = View::of(4);
    view.0[0].2 = Standing::Aside;
    view.0[1].2 = Standing::Last;
    view.0[2].3 = 5;
    view.0[3].3 = 4;
    let mut dispatch = dispatch(0);
    for place in [3, 2, 1, 0] {
        refuse(&mut dispatch, 0, &view, place, (1, 1));
    }
}

#[test]
fn turns_spread_equally_loaded_servers() {
    let view = View::of(3);
    let first = |turn| Dispatch::new(Bounds::holding(Duration::ZERO), turn).next(0, view.iter());
    assert_eq!([0, 1, 2, 3].map(first), [0, 1, 2, 0].map(Next::Try));
}

#[test]
fn it_gives_up_once_every_server_has_refused_twice_unchanged_and_without_a_pause() {
    let view = View::of(3);
    let mut dispatch = dispatch(0);
    for place in [0, 1, 2, 0, 1, 2] {
        refuse(&mut dispatch, 7, &view, place, (1, 1));
    }
    assert_eq!(dispatch.next(7, view.iter()), Next::GiveUp(GiveUp::AllRefused));
}

#[test]
fn a_changed_generation_or_run_proves_nothing_and_later_rounds_are_paced() {
    for changed in [(1, 2), (2, 1)] {
        let view = View::of(2);
        let mut dispatch = dispatch(0);
        for (place, by) in [(0, (1, 1)), (1, (1, 1)), (0, (1, 1)), (1, changed)] {
            refuse(&mut dispatch, 0, &view, place, by);
        }
        assert_eq!(dispatch.next(0, view.iter()), Next::Wait { until: 2, held: false });
        assert_eq!(dispatch.next(1, view.iter()), Next::Wait { until: 2, held: false });
        refuse(&mut dispatch, 2, &view, 0, (1, 1));
        refuse(&mut dispatch, 2, &view, 1, changed);
        assert_eq!(dispatch.next(2, view.iter()), Next::GiveUp(GiveUp::AllRefused));
    }
}

#[test]
fn refusals_that_always_change_are_asked_again_for_ever_at_most_every_fifty_milliseconds() {
    let view = View::of(1);
    let (mut dispatch, mut now) = (dispatch(0), 0);
    for generation in 0..100 {
        let pause = match dispatch.next(now, view.iter()) {
            Next::Try(_) => 0,
            Next::Wait { until, held: false } => until - now,
            other => panic!("{other:?}"),
        };
        assert!(pause <= 50 && (generation < 10 || pause == 50), "{pause}");
        now += pause;
        refuse(&mut dispatch, now, &view, 0, (1, generation));
    }
}

#[test]
fn a_newer_generation_heard_of_reopens_a_placement_at_once() {
    let mut view = View::of(2);
    let mut dispatch = dispatch(5_000);
    for place in [0, 1, 0, 1] {
        refuse(&mut dispatch, 0, &view, place, (1, 3));
    }
    assert_eq!(dispatch.next(0, view.iter()), Next::Wait { until: 2, held: true });
    view.0[1].1 = 3;
    assert_eq!(dispatch.next(1, view.iter()), Next::Wait { until: 2, held: true }, "what refused");
    view.0[1].1 = 4;
    assert_eq!(dispatch.next(1, view.iter()), Next::Try(1));
    dispatch.refused(&name(1), &run(1), Generation(2));
    assert!(matches!(dispatch.next(1, view.iter()), Next::Wait { .. }), "a refusal behind the list reopens nothing");
}

#[test]
fn unreachable_servers_are_ended_by_time_alone_and_not_before_a_second() {
    let view = View::of(2);
    let (mut dispatch, mut now, mut asked) = (dispatch(0), 10, 0);
    let end = loop {
        match dispatch.next(now, view.iter()) {
            Next::Try(0) => dispatch.unreachable(&name(0), now),
            Next::Try(_) => dispatch.refused(&name(1), &run(1), Generation(1)),
            Next::Wait { until, held: false } => now = until,
            Next::GiveUp(why) => break why,
            other => panic!("{other:?}"),
        }
        asked += 1;
    };
    assert_eq!(end, GiveUp::Unreachable);
    assert!((1_010..1_070).contains(&now) && asked < 100, "{now} {asked}");
}

#[test]
fn a_server_that_refuses_between_two_failures_to_reach_it_starts_the_second_anew() {
    let view = View::of(1);
    let mut dispatch = dispatch(0);
    assert_eq!(dispatch.next(0, view.iter()), Next::Try(0));
    dispatch.unreachable(&name(0), 0);
    refuse(&mut dispatch, 900, &view, 0, (1, 1));
    assert_eq!(dispatch.next(1_000, view.iter()), Next::Wait { until: 1_002, held: false });
    assert_eq!(dispatch.next(1_002, view.iter()), Next::Try(0));
    dispatch.unreachable(&name(0), 1_002);
    assert!(matches!(dispatch.next(1_100, view.iter()), Next::Wait { .. }), "98 ms is not long enough");
}

#[test]
fn a_held_request_goes_on_asking_slowly_and_is_given_up_at_the_end_of_its_hold() {
    let view = View::of(1);
    let (mut dispatch, mut now, mut asked) = (dispatch(3_000), 0, 0);
    let end = loop {
        match dispatch.next(now, view.iter()) {
            Next::Try(place) => dispatch.refused(&view.0[place].0, &run(1), Generation(1)),
            Next::Wait { until, held } => {
                assert!(held && until > now);
                now = until;
            }
            Next::GiveUp(why) => break why,
        }
        asked += 1;
    };
    assert_eq!((end, now, dispatch.was_held()), (GiveUp::AllRefused, 3_000, true));
    assert!(asked < 60, "{asked}");
}

#[test]
fn a_server_that_reopens_unheard_of_takes_a_held_request() {
    let view = View::of(1);
    let mut dispatch = dispatch(3_000);
    refuse(&mut dispatch, 0, &view, 0, (1, 1));
    refuse(&mut dispatch, 0, &view, 0, (1, 1));
    let Next::Wait { until, held: true } = dispatch.next(0, view.iter()) else { panic!() };
    assert_eq!(dispatch.next(until, view.iter()), Next::Try(0));
}

#[test]
fn a_program_on_no_server_is_held_and_given_up_and_a_new_server_takes_it() {
    let none = View::of(0);
    assert_eq!(dispatch(0).next(5, none.iter()), Next::GiveUp(GiveUp::NoPlacement));
    let mut held = dispatch(1_000);
    assert!(matches!(held.next(5, none.iter()), Next::Wait { held: true, .. }));
    assert_eq!(held.next(6, View::of(1).iter()), Next::Try(0));
}

#[test]
fn a_server_that_hosts_the_program_no_more_is_not_waited_for() {
    let (both, mut one) = (View::of(2), View::of(2));
    one.0.pop();
    let mut dispatch = dispatch(0);
    for place in [0, 1, 0] {
        refuse(&mut dispatch, 0, &both, place, (1, 1));
    }
    assert_eq!(dispatch.next(0, one.iter()), Next::GiveUp(GiveUp::AllRefused));
}

/// What a server of the property below does between two asks.
#[derive(Clone, Debug)]
enum Move {
    Flip(usize),
    Tell,
    Break(usize),
}

fn moves() -> impl Strategy<Value = Vec<Vec<Move>>> {
    let one = prop_oneof![(0..3_usize).prop_map(Move::Flip), Just(Move::Tell), (0..3_usize).prop_map(Move::Break)];
    prop::collection::vec(prop::collection::vec(one, 0..3), 0..40)
}

proptest! {
    /// Gates move between any two asks (each move is a new generation); the router's view lags behind. Whenever it gives up for
    /// refusals, there was an instant at which all were closed; it never asks one server twice in a round without news,
    /// and it always comes to an end once the gates stand still.
    #[test]
    fn it_gives_up_only_on_proof_and_always_ends(
        servers in 1..4_usize,
        hold in prop_oneof![Just(0_u64), Just(40)],
        moves in moves(),
        closed in prop::collection::vec(any::<bool>(), 3),
    ) {
        let mut gates: Vec<(bool, u64, bool)> = closed.iter().take(servers).map(|c| (!c, 1, true)).collect();
        let (mut view, mut dispatch, mut now) = (View::of(servers), dispatch(hold), 0);
        let all_closed = |gates: &[(bool, u64, bool)]| gates.iter().all(|(open, _, up)| !open || !up);
        let (mut seen_all_closed, mut broken) = (all_closed(&gates), false);
        for step in 0..2_000 {
            match dispatch.next(now, view.iter()) {
                Next::Try(place) => {
                    let (open, generation, up) = gates[place];
                    if !up {
                        dispatch.unreachable(&name(place), now);
                    } else if open {
                        return Ok(());
                    } else {
                        dispatch.refused(&name(place), &run(1), Generation(generation));
                    }
                }
                Next::Wait { until, held } => {
                    prop_assert!(until > now);
                    prop_assert!(!held || hold > 0);
                    now = until;
                }
                Next::GiveUp(why) => {
                    prop_assert!(seen_all_closed || broken, "no instant at which all were closed");
                    prop_assert!(why == GiveUp::AllRefused || (broken && now >= 1_000));
                    return Ok(());
                }
            }
            for one in moves.get(step).into_iter().flatten() {
                match one {
                    Move::Flip(n) if *n < servers => {
                        gates[*n].0 = !gates[*n].0;
                        gates[*n].1 += 1;
                    }
                    Move::Break(n) if *n < servers => {
                        gates[*n].2 = !gates[*n].2;
                        broken = true;
                    }
                    Move::Tell => (0..servers).for_each(|n| {
                        view.0[n].1 = gates[n].1;
                        view.0[n].2 = if gates[n].0 { Standing::First } else { Standing::Last };
                    }),
                    Move::Flip(_) | Move::Break(_) => {}
                }
                seen_all_closed |= all_closed(&gates);
            }
        }
        prop_assert!(false, "it never ended");
    }
}
