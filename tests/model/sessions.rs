//! Owns the model of one sticky program's drain on one server (protocol P16): clients with sessions, requests that begin
//! and end them, a crash that loses entries of the list, the quiesce, its deadline and the stop. It drives `Placement`, the
//! gate's `Word` and `SessionList`. Must not know routers: a client asks its server whenever it likes.

use std::time::Duration;

use neap::domain::gate::Word;
use neap::domain::names::{Generation, NodeName, OperationId, ProgramName, Release, RunId, Sha256, Term, Version};
use neap::domain::names::{Revision, ServerName};
use neap::domain::placement::{Command, Desired, Effect, Event, Here, Order, Placement, Stamp, State, Sticky};
use neap::domain::session::{Place, SessionId};
use neap::domain::session_list::{Bounds, End, SessionList};
use stateright::{Checker, Model, Property};

use super::explore::walk;

const DEADLINE: u64 = 900_000;
const ENOUGH: usize = 400_000;

/// A clause of P16 left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Off {
    Nothing,
    /// A session is listed after its request's claim was released.
    ListedBeforeReleased,
    /// "None is left" is judged by the list first and by the requests under way after it.
    RequestsFirst,
    /// Requests under way do not matter to "none is left".
    RequestsCount,
    /// A session is known by its entry in the list.
    KnownByTag,
    /// After a crash the list is believed.
    OnlyTheDeadline,
    /// The gate closes at once.
    Known,
}

struct Drain {
    off: Off,
    clients: usize,
    crashes: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    placement: Placement,
    word: Word,
    /// The sessions that the instance has in its memory.
    memory: Vec<bool>,
    listed: Vec<bool>,
    /// The client has a tag, of a session that has not ended.
    tagged: Vec<bool>,
    requests: Vec<Option<Stage>>,
    /// Half of a look at whether any is left.
    looked: Option<bool>,
    certain: bool,
    past_deadline: bool,
    crashes: u8,
    broken: Option<&'static str>,
}

/// How far a client's request is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    Claimed,
    /// The program has made a session, or has gone on with one.
    Answered,
    /// Its claim is released; what it began is not listed yet.
    Released,
}

#[derive(Clone, PartialEq, Debug)]
enum Move {
    Asks(usize),
    Answers(usize),
    /// The program's answer ends the session.
    Ends(usize),
    Lists(usize),
    Quiesces,
    Looks,
    Ticks,
    Deadline,
    Stops,
    Crashes,
    Opens,
}

fn run() -> RunId {
    RunId::new("r").expect("a run")
}

fn release(number: u8) -> Release {
    Release { version: Version::new(number.to_string()).expect("a version"), sha256: Sha256([number; 32]) }
}

fn term() -> Term {
    Term { number: 1, management: NodeName::new("m").expect("a name") }
}

impl Drain {
    fn here<'a>(&self, run: &'a RunId, world: &World, over: bool) -> Here<'a> {
        let deadline = if self.off == Off::Known { Duration::ZERO } else { Duration::from_millis(DEADLINE) };
        let now = if world.past_deadline { DEADLINE } else { 0 };
        let sticky = Some(Sticky { deadline, over: over && world.certain });
        Here { run, now, lease: Duration::from_secs(3600), orphans: 0, sticky }
    }

    fn command(&self, world: &World, order: Order) -> Command {
        let operation = OperationId::new("o").expect("an operation");
        Command { term: term(), operation, run: run(), expected: world.placement.generation, order }
    }

    fn obey(&self, world: &mut World, order: Order, over: bool) {
        let command = self.command(world, order);
        let (run, word) = (run(), world.word);
        let here = self.here(&run, world, over);
        let mut frozen = None;
        let freeze = |generation| {
            frozen = Some(word.freeze(generation)?);
            Ok(())
        };
        let Ok(effects) = world.placement.command(&command, &here, freeze) else { return };
        if let Some(frozen) = frozen {
            world.word = frozen;
        }
        perform(world, effects);
    }

    fn happens(&self, world: &mut World, event: &Event, over: bool) {
        let run = run();
        let here = self.here(&run, world, over);
        let effects = world.placement.event(event, &here);
        perform(world, effects);
    }

    fn asks(&self, world: &mut World, client: usize) {
        let is_known = match self.off {
            Off::KnownByTag => world.listed[client],
            _ => world.tagged[client],
        };
        let claimed = match world.word.is_known() && is_known {
            true => world.word.claim_known(),
            false => world.word.claim(),
        };
        match claimed {
            Some(word) => {
                world.word = word;
                world.requests[client] = Some(Stage::Claimed);
                world.listed[client] |= world.tagged[client];
            }
            None if world.placement.state == State::Quiescing
                && (world.memory[client] && world.tagged[client])
                && !world.past_deadline =>
            {
                world.broken = Some("a session was turned away from its home before the deadline");
            }
            None => {}
        }
    }

    /// The answer leaves: what it began is listed, the client has its tag, the claim is released.
    fn leaves(&self, world: &mut World, client: usize, lists: bool) {
        world.listed[client] |= lists;
        world.tagged[client] = true;
        world.word = world.word.release();
    }

    fn none_left(&self, world: &World) -> (bool, bool) {
        let idle = world.word.active() == 0 || self.off == Off::RequestsCount;
        (idle, world.listed.iter().all(|listed| !listed))
    }
}

fn perform(world: &mut World, effects: Vec<Effect>) {
    for effect in effects {
        match effect {
            Effect::OpenGate(generation) => world.word = world.word.open(generation),
            Effect::KnowGate(generation) => world.word = world.word.know(generation),
            Effect::CloseGate(generation) => world.word = world.word.close(generation),
            Effect::MigrateSessions => world.listed.fill(false),
            Effect::Stop => {
                let lives = world.memory.iter().zip(&world.tagged).any(|(memory, tagged)| *memory && *tagged);
                if lives && !world.past_deadline {
                    world.broken = Some("an instance was stopped with a session before the deadline");
                }
                if world.word.active() > 0 {
                    world.broken = Some("an instance was stopped under a request");
                }
                world.memory.fill(false);
            }
            Effect::Start(_) | Effect::Report => {}
            Effect::StartBeside(_) | Effect::Switch(_) | Effect::StopBeside | Effect::StopOld | Effect::Await(_) => {
                world.broken = Some("a drain does what is no part of it");
            }
        }
    }
}

impl Model for Drain {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let mut placement = Placement::absent(ProgramName::new("shop").expect("a name"));
        (placement.state, placement.generation, placement.release) = (State::Open, Generation(5), Some(release(1)));
        let none = vec![false; self.clients];
        vec![World {
            placement,
            word: Word::closed(Generation(5)).open(Generation(5)),
            memory: none.clone(),
            listed: none.clone(),
            tagged: none,
            requests: vec![None; self.clients],
            looked: None,
            certain: true,
            past_deadline: false,
            crashes: 0,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for (client, request) in world.requests.iter().enumerate() {
            match request {
                None => moves.push(Move::Asks(client)),
                Some(Stage::Claimed) => moves.push(Move::Answers(client)),
                Some(Stage::Answered) => moves.extend([Move::Lists(client), Move::Ends(client)]),
                Some(Stage::Released) => moves.push(Move::Lists(client)),
            }
        }
        match world.placement.state {
            State::Open => moves.push(Move::Quiesces),
            State::Quiescing => moves.extend([Move::Looks, Move::Ticks, Move::Deadline, Move::Stops]),
            State::Closed => moves.push(Move::Opens),
            State::Absent | State::Upgrading | State::Overlapping | State::Failed => {}
        }
        if world.crashes < self.crashes && world.placement.state != State::Upgrading {
            moves.push(Move::Crashes);
        }
    }

    fn next_state(&self, world: &World, action: Move) -> Option<World> {
        let mut next = world.clone();
        match action {
            Move::Asks(client) => self.asks(&mut next, client),
            Move::Answers(client) => {
                next.memory[client] = true;
                next.requests[client] = Some(Stage::Answered);
            }
            Move::Lists(client) => match next.requests[client] {
                Some(Stage::Answered) if self.off == Off::ListedBeforeReleased => {
                    self.leaves(&mut next, client, false);
                    next.requests[client] = Some(Stage::Released);
                }
                Some(Stage::Answered) => {
                    self.leaves(&mut next, client, true);
                    next.requests[client] = None;
                }
                _ => {
                    next.listed[client] = true;
                    next.requests[client] = None;
                }
            },
            Move::Ends(client) => {
                self.leaves(&mut next, client, false);
                (next.memory[client], next.listed[client], next.tagged[client]) = (false, false, false);
                next.requests[client] = None;
            }
            Move::Quiesces => {
                next.past_deadline = false;
                self.obey(&mut next, Order::Quiesce { leased: true }, false);
            }
            Move::Looks => {
                let (idle, empty) = self.none_left(world);
                next.looked = Some(if self.off == Off::RequestsFirst { empty } else { idle });
            }
            Move::Ticks => {
                let (idle, empty) = self.none_left(world);
                let second = if self.off == Off::RequestsFirst { idle } else { empty };
                let over = next.looked.take()? && second;
                self.happens(&mut next, &Event::Tick, over);
            }
            Move::Deadline => {
                next.past_deadline = true;
                self.happens(&mut next, &Event::Tick, false);
            }
            Move::Stops => {
                let desired =
                    Desired { release: Some(release(2)), stamp: Stamp { term: term(), revision: Revision(1) } };
                self.obey(&mut next, Order::Upgrade { to: release(2), desired, force: false }, false);
            }
            Move::Crashes => {
                next.crashes += 1;
                // The instance lives on. What was not on disk is lost, and so are the requests under way.
                next.listed.fill(false);
                next.requests.fill(None);
                next.looked = None;
                next.certain = self.off == Off::OnlyTheDeadline;
                let effects = next.placement.boot(0);
                next.word = Word::closed(next.placement.generation);
                perform(&mut next, effects);
            }
            Move::Opens => {
                self.happens(&mut next, &Event::Started, false);
                self.happens(&mut next, &Event::Tick, false);
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("sessions stay at home until they end or the deadline", |_, world: &World| {
            world.broken.is_none()
        })]
    }
}

fn drain(off: Off, clients: usize, crashes: u8) -> Drain {
    Drain { off, clients, crashes }
}

#[test]
fn p16_a_drain_waits_for_sessions_and_ends_by_itself_or_at_the_deadline() {
    for (clients, crashes) in [(2, 0), (2, 1)] {
        let stopped = |world: &World| world.placement.state == State::Upgrading;
        walk(&drain(Off::Nothing, clients, crashes), stopped, ENOUGH).assert_sound("P16");
    }
}

#[test]
fn p16_a_drain_without_a_deadline_ends_when_its_sessions_do() {
    let checker = drain(Off::Nothing, 1, 0).checker().spawn_bfs().join();
    checker.assert_properties();
    // The same walk, in which the deadline never comes.
    let ended = |world: &World| world.placement.state == State::Upgrading && !world.past_deadline;
    let walk = walk(&drain(Off::Nothing, 1, 0), |world| ended(world) || world.past_deadline, ENOUGH);
    walk.assert_sound("P16 without its deadline");
}

fn breaks(off: Off, crashes: u8) {
    let walk = walk(&drain(off, 2, crashes), |world| world.placement.state == State::Upgrading, ENOUGH);
    let (property, way) = walk.broken.unwrap_or_else(|| panic!("{off:?}: nothing found in {} states", walk.states));
    println!("{off:?}: {property}, after {} states: {way:?}", walk.states);
}

#[test]
fn p16_a_session_that_is_listed_after_its_claim_was_released() {
    breaks(Off::ListedBeforeReleased, 0);
}

#[test]
fn p16_a_list_that_is_looked_at_before_the_requests_under_way() {
    breaks(Off::RequestsFirst, 0);
}

#[test]
fn p16_requests_under_way_that_may_begin_a_session() {
    breaks(Off::RequestsCount, 0);
}

#[test]
fn p16_a_session_known_by_its_entry_alone() {
    breaks(Off::KnownByTag, 1);
}

#[test]
fn p16_a_list_that_is_believed_after_a_crash() {
    breaks(Off::OnlyTheDeadline, 1);
}

#[test]
fn p16_a_gate_that_knows_nobody() {
    breaks(Off::Known, 0);
}

/// What the model takes for granted of lists: a session that ended is begun by no tag of before it.
#[test]
fn p16_a_tag_of_a_session_that_ended_is_not_known() {
    let mut list = SessionList::new(Bounds { idle: 60_000, sessions: 9 });
    let place =
        Place { server: ServerName::new("s1").expect("a name"), version: Version::new("1").expect("a version") };
    assert!(list.begin(SessionId(1), &place, 5) && !list.is_over(SessionId(1), 5, 6));
    list.end(SessionId(1), End::Cleared, 7);
    assert!(list.is_over(SessionId(1), 5, 8) && !list.is_over(SessionId(1), 9, 9));
}
