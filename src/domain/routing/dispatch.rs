//! Owns which server a request is sent to next, and when to give up: the router's part of protocol P2e, for one request.
//! Must not know clocks, connections or where the view comes from: time and view are passed in.
//!
//! A request asks in rounds. In a round every server is asked once; a round in which each refuses with the run and
//! generation of its refusal before proves that all were closed at the instant the round began. Nothing less ends the
//! asking, save time where servers cannot be reached. Then the request is held, still asking, before it is given up.

use std::time::Duration;

use crate::domain::names::{Generation, RunId, ServerName};
use crate::domain::placement::Millis;

/// Servers must stay unreachable for at least this long before that ends a request.
pub const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The second round starts at once; before the third there is this pause, doubled before each one after.
const FIRST_PAUSE: Millis = 2;
const LONGEST_PAUSE: Millis = 50;
/// Between rounds while held: a list change wakes at once, so this is for routers that hear of none. Not shorter: very
/// many requests may be held at a time.
const LONGEST_HELD_PAUSE: Millis = 1_000;
/// Doublings of the pause that matter.
const MOST_DOUBLINGS: u8 = 10;

/// What the router thinks of a placement. The order is that of asking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// Takes requests as far as is known.
    First,
    /// Is said not to, or refused of late.
    Last,
    /// Its server could not be reached of late.
    Aside,
}

/// How a placement fits a request's session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Fit {
    /// The request tells of no session.
    #[default]
    Any,
    /// It is at home there, and taken there although no others may be.
    Home,
    /// It is of the version that the session should see.
    Fits,
    /// The same, of a session that should see no other again.
    FitsAlone,
    /// It is of another version: only before none at all.
    Misfit,
}

/// One placement of the program, as the router's newest view has it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub server: &'a ServerName,
    pub generation: Generation,
    pub standing: Standing,
    pub fit: Fit,
    /// Active requests there.
    pub active: u64,
}

impl Candidate<'_> {
    /// The order of asking. Versions of sessions come before what is known of gates, for a gate tells for itself; a server
    /// that cannot be reached does not.
    fn rank(&self) -> u8 {
        match (self.standing, self.fit) {
            (Standing::Aside, _) => 5,
            (_, Fit::Home) => 0,
            (Standing::First, Fit::Any | Fit::Fits | Fit::FitsAlone) => 1,
            (Standing::Last, Fit::FitsAlone) => 2,
            (Standing::First, Fit::Misfit) => 3,
            (Standing::Last, Fit::Any | Fit::Fits | Fit::Misfit) => 4,
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Next {
    /// Ask the candidate at this place of the view; then say [`Dispatch::refused`] or [`Dispatch::unreachable`], or be done.
    Try(usize),
    /// Nothing before `until`, or before the view changes. `held`: it is proven that no server takes it (or none was
    /// reached for long enough), and the program wants requests kept.
    Wait { until: Millis, held: bool },
    /// Answer 503.
    GiveUp(GiveUp),
}

/// Why no server will take the request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GiveUp {
    /// All were closed at one instant.
    AllRefused,
    /// Those that did not refuse could not be reached, for as long as was to be waited.
    Unreachable,
    /// No server hosts the program.
    NoPlacement,
}

/// How long to wait, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// The program's `hold`.
    pub hold: Duration,
    /// How long servers must stay unreachable; less than [`LEAST_PATIENCE`] counts as that.
    pub patience: Duration,
}

impl Bounds {
    pub fn holding(hold: Duration) -> Self {
        Self { hold, patience: LEAST_PATIENCE }
    }
}

/// The way of one request to a server. Costs nothing until a server does not take it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Dispatch {
    bounds: Bounds,
    turn: usize,
    /// The generation that the view gave the candidate last tried.
    listed: Generation,
    heard: Vec<Heard>,
    rounds: u8,
    next_round: Option<Millis>,
    held_until: Option<Millis>,
}

/// What one server answered last.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Heard {
    server: ServerName,
    listed: Generation,
    /// In this round.
    asked: bool,
    word: Word,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Word {
    /// `again`: and so it was in its answer before.
    Refused {
        run: RunId,
        generation: Generation,
        again: bool,
    },
    Unreachable {
        since: Millis,
    },
}

impl Dispatch {
    /// `turn` says which of equally loaded servers is first: another for every request spreads them.
    pub fn new(bounds: Bounds, turn: usize) -> Self {
        let patience = bounds.patience.max(LEAST_PATIENCE);
        let bounds = Bounds { patience, ..bounds };
        let (listed, heard) = (Generation::default(), Vec::new());
        Self { bounds, turn, listed, heard, rounds: 0, next_round: None, held_until: None }
    }

    /// Decides by the newest view: every server that hosts the program, each once, in any order.
    pub fn next<'v>(&mut self, now: Millis, view: impl Iterator<Item = Candidate<'v>> + Clone) -> Next {
        self.look(view.clone());
        loop {
            if let Some((place, candidate)) = self.choose(view.clone()) {
                self.listed = candidate.generation;
                return Next::Try(place);
            }
            let next_round = *self.next_round.get_or_insert(now + pause(self.rounds, self.held_until.is_some()));
            match self.ended(now) {
                Some(why) => {
                    let until = *self.held_until.get_or_insert(now + millis(self.bounds.hold));
                    if now >= until {
                        return Next::GiveUp(why);
                    }
                    if now < next_round {
                        return Next::Wait { until: next_round.min(until), held: true };
                    }
                }
                None if now < next_round => {
                    return Next::Wait { until: next_round, held: self.held_until.is_some() };
                }
                None => {}
            }
            self.begin_round();
        }
    }

    /// The server refused, in this run and at this generation.
    pub fn refused(&mut self, server: &ServerName, run: &RunId, generation: Generation) {
        let same =
            |word: &Word| matches!(word, Word::Refused { run: r, generation: g, .. } if r == run && *g == generation);
        let again = self.heard.iter().any(|heard| heard.server == *server && same(&heard.word));
        self.hear(server, Word::Refused { run: run.clone(), generation, again });
    }

    /// No connection to the server could be made, or what it said was no refusal that can be read. Proves nothing.
    pub fn unreachable(&mut self, server: &ServerName, now: Millis) {
        let before = self.heard.iter().find(|heard| heard.server == *server).map(|heard| &heard.word);
        let since = match before {
            Some(Word::Unreachable { since }) => *since,
            Some(Word::Refused { .. }) | None => now,
        };
        self.hear(server, Word::Unreachable { since });
    }

    /// Whether the request has begun to be held.
    pub fn was_held(&self) -> bool {
        self.held_until.is_some()
    }

    fn hear(&mut self, server: &ServerName, word: Word) {
        let heard = Heard { server: server.clone(), listed: self.listed, asked: true, word };
        match self.heard.iter_mut().find(|heard| heard.server == *server) {
            Some(before) => *before = heard,
            None => self.heard.push(heard),
        }
    }

    /// Forgets servers that host the program no more, and what was heard before the view moved past it.
    fn look<'v>(&mut self, view: impl Iterator<Item = Candidate<'v>> + Clone) {
        self.heard.retain_mut(|heard| {
            let Some(now) = view.clone().find(|candidate| *candidate.server == heard.server) else { return false };
            if now.generation <= heard.listed {
                return true;
            }
            heard.listed = now.generation;
            match &heard.word {
                Word::Refused { generation, .. } => now.generation <= *generation,
                Word::Unreachable { .. } => {
                    heard.asked = false;
                    true
                }
            }
        });
    }

    /// The best candidate that this round has not asked.
    fn choose<'v>(&self, view: impl Iterator<Item = Candidate<'v>> + Clone) -> Option<(usize, Candidate<'v>)> {
        // Most views know how many they are, and need not be walked for it.
        let count = match view.size_hint() {
            (least, Some(most)) if least == most => least,
            _ => view.clone().count(),
        };
        let first = self.turn % count.max(1);
        let turn = |place: usize| if place >= first { place - first } else { place + count - first };
        let asked = |server: &ServerName| self.heard.iter().any(|heard| heard.asked && heard.server == *server);
        let left = view.enumerate().filter(|(_, candidate)| !asked(candidate.server));
        left.min_by_key(|(place, candidate)| (candidate.rank(), candidate.active, turn(*place)))
    }

    /// Whether the round that is now over ends the asking. All that is in the view was asked in it.
    fn ended(&self, now: Millis) -> Option<GiveUp> {
        let mut why = if self.heard.is_empty() { GiveUp::NoPlacement } else { GiveUp::AllRefused };
        for heard in &self.heard {
            match heard.word {
                Word::Refused { again: true, .. } => {}
                Word::Unreachable { since } if now >= since + millis(self.bounds.patience) => why = GiveUp::Unreachable,
                Word::Refused { again: false, .. } | Word::Unreachable { .. } => return None,
            }
        }
        Some(why)
    }

    fn begin_round(&mut self) {
        self.rounds = (self.rounds + 1).min(MOST_DOUBLINGS);
        self.next_round = None;
        self.heard.iter_mut().for_each(|heard| heard.asked = false);
    }
}

/// The pause after so many rounds.
fn pause(rounds: u8, held: bool) -> Millis {
    match rounds {
        0 => 0,
        rounds => (FIRST_PAUSE << (rounds - 1)).min(if held { LONGEST_HELD_PAUSE } else { LONGEST_PAUSE }),
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
