//! Owns the model of one request looking for an open gate while gates move (protocol P2e): it drives the router's own
//! `Dispatch`, with a Server List that nobody renews. At every instant at least one gate is open, so giving up is
//! wrong. Must not know what moves the gates.

use std::time::Duration;

use neap::domain::names::{Generation, RunId, ServerName};
use neap::domain::routing::dispatch::{Bounds, Candidate, Dispatch, Next, Standing};
use stateright::{Checker, Model, Property};

use super::explore::walk;
use super::world::server_name;

struct Moving {
    servers: usize,
    moves: u8,
    /// P2e off: so many refusals, and the router gives up.
    most_tries: u8,
    /// P2e off: refused in each of two rounds is enough, whatever run and generation say.
    forgets_generations: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Search {
    gates: Vec<(bool, u64)>,
    left: u8,
    dispatch: Dispatch,
    now: u64,
    tries: u8,
    asking: Option<usize>,
    end: Option<bool>,
}

#[derive(Clone, PartialEq, Debug)]
enum Event {
    Moves(usize),
    Decides,
    Answers,
}

fn run(server: &ServerName) -> RunId {
    RunId::new(server.as_str()).expect("a run")
}

impl Moving {
    fn next(&self, search: &mut Search) {
        let names: Vec<_> = (0..self.servers).map(server_name).collect();
        let view = names.iter().map(|server| Candidate {
            server,
            generation: Generation(0),
            fit: Default::default(),
            standing: Standing::First,
            active: 0,
        });
        match search.dispatch.next(search.now, view) {
            _ if search.tries >= self.most_tries => search.end = Some(false),
            Next::Try(server) => search.asking = Some(server),
            Next::Wait { until, .. } => search.now = until,
            Next::GiveUp(_) => search.end = Some(false),
        }
    }

    fn answer(&self, search: &mut Search) {
        let Some(server) = search.asking.take() else { return };
        let (open, generation) = search.gates[server];
        if open {
            search.end = Some(true);
            return;
        }
        let generation = if self.forgets_generations { 0 } else { generation };
        let name = server_name(server);
        search.tries = (search.tries + 1).min(self.most_tries);
        search.dispatch.refused(&name, &run(&name), Generation(generation));
    }
}

impl Model for Moving {
    type State = Search;
    type Action = Event;

    fn init_states(&self) -> Vec<Search> {
        let gates = (0..self.servers).map(|server| (server == 0, 1)).collect();
        let dispatch = Dispatch::new(Bounds::holding(Duration::ZERO), 0);
        vec![Search { gates, left: self.moves, dispatch, now: 0, tries: 0, asking: None, end: None }]
    }

    fn actions(&self, search: &Search, events: &mut Vec<Event>) {
        if search.end.is_some() {
            return;
        }
        events.push(if search.asking.is_some() { Event::Answers } else { Event::Decides });
        let open = search.gates.iter().filter(|(open, _)| *open).count();
        let may_move = |server: usize| search.left > 0 && (!search.gates[server].0 || open > 1);
        events.extend((0..self.servers).filter(|&server| may_move(server)).map(Event::Moves));
    }

    fn next_state(&self, last: &Search, event: Event) -> Option<Search> {
        let mut search = last.clone();
        match event {
            Event::Moves(server) => {
                let (open, generation) = &mut search.gates[server];
                (*open, *generation, search.left) = (!*open, *generation + 1, search.left - 1);
            }
            Event::Decides => self.next(&mut search),
            Event::Answers => self.answer(&mut search),
        }
        Some(search)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("I2: no error while some gate is open", |_, search: &Search| search.end != Some(false))]
    }
}

const TRUE_TO_P2E: Moving = Moving { servers: 3, moves: 7, most_tries: u8::MAX, forgets_generations: false };

#[test]
fn a_router_never_gives_up_while_some_gate_is_open() {
    walk(&TRUE_TO_P2E, |search| search.end == Some(true), 2_000_000).assert_sound("giving up");
}

#[test]
fn p2e_a_router_that_gives_up_after_three_tries() {
    let checker = Moving { most_tries: 3, ..TRUE_TO_P2E }.checker().spawn_bfs().join();
    println!("P2e: {:?}", checker.assert_any_discovery("I2: no error while some gate is open").into_actions());
}

#[test]
fn p2e_a_router_that_does_not_compare_generations() {
    let checker = Moving { forgets_generations: true, ..TRUE_TO_P2E }.checker().spawn_bfs().join();
    println!("P2e: {:?}", checker.assert_any_discovery("I2: no error while some gate is open").into_actions());
}
