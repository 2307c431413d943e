//! Owns one program's sessions: which there are, where each is at home, when it was last heard of, and that one of which
//! nothing is heard ends. Must not know where lists are kept, or how a request tells of a session.
//!
//! A server splits a program's list by id among several of these, so that its workers do not wait for each other; the
//! master list is one of these too. Nothing here looks at all sessions, save [`SessionList::page`] and its like.

mod changes;
mod ended;
mod figures;
mod page;
mod record;
mod strays;
mod wheel;

pub use figures::{Figures, OldestSession};
pub use page::{Cursor, Query, Sort};
pub use record::{Unpacker, session_key, session_key_of_text};
pub use strays::is_forgotten;

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use ended::Ended;
use figures::Lives;
use wheel::Wheel;

use super::session::{AsItself, Place, SessionId, WallMillis};

/// Tags tell their time to a second, and clocks differ.
const TAG_SLACK: WallMillis = 2_000;

/// One session, as lists, stores and messages tell of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    #[serde(flatten)]
    pub place: Place,
    pub begun: WallMillis,
    /// Its last request came, or ended, then.
    pub seen: WallMillis,
    /// Its requests under way, at its home.
    #[serde(default)]
    pub active: u32,
}

/// What happened to a session since changes were last taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// It began, was heard of, or moved here: how it is now.
    Is(Session),
    /// It is not in this list any more. `place`: where this list had it; a list that knows of another home keeps it.
    Gone { id: SessionId, place: Place, how: End, at: WallMillis },
}

/// How a session left a list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The program cleared its cookie, or let it expire.
    Cleared,
    /// Nothing was heard of it for `idle`.
    Idle,
    /// A person ended it.
    Ended,
    /// It goes on elsewhere: its home does not take it any more, or another server has taken it.
    Migrated,
}

/// What a request's tag met in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is listed here.
    Known,
    /// It is now: it had not been.
    Listed,
    /// It has ended, and so has what its tag says.
    Ended,
    /// The list has as many as it may have.
    Full,
}

/// Bounds of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// A session ends when nothing was heard of it for so long, in milliseconds.
    pub idle: WallMillis,
    /// Sessions at the most, and as many that ended are remembered.
    pub sessions: usize,
}

/// The list of one program, or one part of it.
#[derive(Clone, Debug)]
pub struct SessionList {
    bounds: Bounds,
    sessions: HashMap<SessionId, Entry, AsItself>,
    places: Vec<Homes>,
    wheel: Wheel,
    /// Ended a short while ago: their tags may still come, and begin nothing.
    ended: Ended,
    changed: Vec<SessionId>,
    gone: VecDeque<(SessionId, u16, End, WallMillis)>,
    lives: Lives,
    /// Ended since that was last asked.
    finished: u64,
}

/// A session in the list. Small: there may be a million.
#[derive(Clone, Copy, Debug)]
struct Entry {
    begun: WallMillis,
    seen: WallMillis,
    active: u32,
    place: u16,
    /// Among those changed since changes were last taken.
    is_changed: bool,
}

/// A place, and how many sessions are at home there.
#[derive(Clone, Debug)]
struct Homes {
    place: Place,
    count: usize,
    /// Changes not taken yet that name it.
    named: usize,
}

impl SessionList {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            sessions: HashMap::default(),
            places: Vec::new(),
            wheel: Wheel::new(bounds.idle),
            ended: Ended::new(bounds.sessions),
            changed: Vec::new(),
            gone: VecDeque::new(),
            lives: Lives::default(),
            finished: 0,
        }
    }

    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// From now on; those that are here end by the new `idle` when they are next looked at.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.wheel.set_idle(bounds.idle);
        self.ended.set_bound(bounds.sessions);
    }

    /// A session begins with an answer to a request that is under way. `false`: the list is full.
    pub fn begin(&mut self, id: SessionId, place: &Place, now: WallMillis) -> bool {
        if self.sessions.len() >= self.bounds.sessions {
            return false;
        }
        self.insert(id, place, Entry { begun: now, seen: now, active: 1, place: 0, is_changed: false });
        true
    }

    /// A request of a session comes, by a tag issued at that time; it is listed at this place. Say [`Self::finish`] when it
    /// has ended, after all but `Ended` and `Full`.
    pub fn arrive(&mut self, id: SessionId, issued: WallMillis, place: &Place, now: WallMillis) -> Arrival {
        if let Some(entry) = self.sessions.get(&id) {
            if entry.active > 0 || now < entry.seen.saturating_add(self.bounds.idle) {
                self.hear(id, place, now, 1);
                return Arrival::Known;
            }
            // The wheel has not come by yet.
            self.remove(id, End::Idle, now);
        }
        if self.ended.is_of(id, issued) || self.is_stale(issued, now) {
            return Arrival::Ended;
        }
        if self.sessions.len() >= self.bounds.sessions {
            return Arrival::Full;
        }
        // It began no later than its tag was issued.
        self.insert(id, place, Entry { begun: issued.min(now), seen: now, active: 1, place: 0, is_changed: false });
        Arrival::Listed
    }

    /// Whether a session with a tag of that time has ended, as far as is known here.
    pub fn is_over(&self, id: SessionId, issued: WallMillis, now: WallMillis) -> bool {
        match self.sessions.get(&id) {
            Some(entry) => entry.active == 0 && now >= entry.seen.saturating_add(self.bounds.idle),
            None => self.ended.is_of(id, issued) || self.is_stale(issued, now),
        }
    }

    /// Whether a tag is too old to be of a session that lives: clients get a new one at an eighth of `idle`.
    pub fn is_stale(&self, issued: WallMillis, now: WallMillis) -> bool {
        is_stale(issued, now, self.bounds.idle)
    }

    /// A request of a session has ended.
    pub fn finish(&mut self, id: SessionId, now: WallMillis) {
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.active = entry.active.saturating_sub(1);
            entry.seen = entry.seen.max(now);
            Self::mark(&mut self.changed, entry, id);
        }
    }

    /// Ends a session; `false`: it is not here. Its tags begin nothing any more, unless it only moved.
    pub fn end(&mut self, id: SessionId, how: End, now: WallMillis) -> bool {
        let was_here = self.remove(id, how, now).is_some();
        if how != End::Migrated && !was_here {
            self.ended.remember(id, how, now);
        }
        was_here
    }

    /// Ends those of which nothing was heard for `idle`, looking at `most` sessions at the most; how many it ended.
    /// Those looked at are due: never all.
    pub fn expire(&mut self, now: WallMillis, most: usize) -> usize {
        let mut expired = 0;
        for _ in 0..most {
            let Some(id) = self.wheel.due(now) else { break };
            let Some(entry) = self.sessions.get(&id) else { continue };
            let until = entry.seen.saturating_add(self.bounds.idle);
            if entry.active == 0 && until <= now {
                self.remove(id, End::Idle, now);
                expired += 1;
            } else {
                self.wheel.file(id, until.max(now + 1));
            }
        }
        let idle = self.bounds.idle;
        self.ended.forget(|at| is_stale(at, now, idle));
        expired
    }

    /// All sessions of this list go on elsewhere; how many. In one step: nobody is half gone.
    pub fn migrate_all(&mut self, now: WallMillis) -> usize {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        all.iter().filter(|id| self.remove(**id, End::Migrated, now).is_some()).count()
    }

    /// Moves a session to another home if it is where `from` says (compare-and-set, protocol P16), or was not known.
    /// `Err`: where it is at home.
    pub fn take(&mut self, id: SessionId, from: &Place, to: &Place, now: WallMillis) -> Result<(), Place> {
        match self.sessions.get(&id).map(|entry| &self.places[usize::from(entry.place)].place) {
            Some(home) if home.server != from.server && home.server != to.server => return Err(home.clone()),
            Some(_) => self.hear(id, to, now, 0),
            None => self.insert(id, to, Entry { begun: now, seen: now, active: 0, place: 0, is_changed: false }),
        }
        Ok(())
    }

    /// Puts a session back as it was kept: no request of it is under way.
    pub fn restore(&mut self, session: &Session) -> bool {
        if self.sessions.len() >= self.bounds.sessions && !self.sessions.contains_key(&session.id) {
            return false;
        }
        let Session { id, begun, seen, .. } = *session;
        self.sessions.remove(&id).inspect(|old| self.places[usize::from(old.place)].count -= 1);
        self.insert(id, &session.place, Entry { begun, seen, active: 0, place: 0, is_changed: true });
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.is_changed = false;
        }
        true
    }

    pub fn get(&self, id: SessionId) -> Option<Session> {
        self.sessions.get(&id).map(|entry| self.session(id, entry))
    }

    pub fn contains(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// How many are at home at each place.
    pub fn places(&self) -> impl Iterator<Item = (&Place, usize)> {
        self.places.iter().filter(|homes| homes.count > 0).map(|homes| (&homes.place, homes.count))
    }

    /// Every session, in no order.
    pub fn all(&self) -> impl Iterator<Item = Session> {
        self.sessions.iter().map(|(id, entry)| self.session(*id, entry))
    }

    fn session(&self, id: SessionId, entry: &Entry) -> Session {
        let place = self.places[usize::from(entry.place)].place.clone();
        Session { id, place, begun: entry.begun, seen: entry.seen, active: entry.active }
    }

    fn insert(&mut self, id: SessionId, place: &Place, mut entry: Entry) {
        entry.place = self.home(place);
        self.places[usize::from(entry.place)].count += 1;
        self.wheel.file(id, entry.seen.saturating_add(self.bounds.idle));
        Self::mark(&mut self.changed, &mut entry, id);
        self.sessions.insert(id, entry);
    }

    fn hear(&mut self, id: SessionId, place: &Place, now: WallMillis, more: u32) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        entry.active = entry.active.saturating_add(more);
        entry.seen = entry.seen.max(now);
        Self::mark(&mut self.changed, entry, id);
        let before = entry.place;
        if self.places[usize::from(before)].place != *place {
            let home = self.home(place);
            self.places[usize::from(before)].count -= 1;
            self.places[usize::from(home)].count += 1;
            self.sessions.entry(id).and_modify(|entry| entry.place = home);
        }
    }

    fn mark(changed: &mut Vec<SessionId>, entry: &mut Entry, id: SessionId) {
        if !std::mem::replace(&mut entry.is_changed, true) {
            changed.push(id);
        }
    }

    fn remove(&mut self, id: SessionId, how: End, now: WallMillis) -> Option<Entry> {
        let entry = self.sessions.remove(&id)?;
        let homes = &mut self.places[usize::from(entry.place)];
        homes.count -= 1;
        homes.named += 1;
        self.gone.push_back((id, entry.place, how, now));
        if how != End::Migrated {
            self.lives.ended(entry.begun, now);
            self.finished += 1;
            self.ended.remember(id, how, now);
        }
        Some(entry)
    }

    /// The number of a place; one that nobody names any more is used again.
    fn home(&mut self, place: &Place) -> u16 {
        if let Some(at) = self.places.iter().position(|homes| homes.place == *place) {
            return at as u16;
        }
        let fresh = Homes { place: place.clone(), count: 0, named: 0 };
        match self.places.iter().position(|homes| homes.count == 0 && homes.named == 0) {
            Some(at) => {
                self.places[at] = fresh;
                at as u16
            }
            None => {
                // More than 65,536 versions on servers at one time: then the last place stands for the rest.
                let at = self.places.len().min(usize::from(u16::MAX));
                if at == self.places.len() {
                    self.places.push(fresh);
                }
                at as u16
            }
        }
    }
}

fn is_stale(issued: WallMillis, now: WallMillis, idle: WallMillis) -> bool {
    now > issued.saturating_add(idle + idle / 8 + TAG_SLACK)
}

#[cfg(test)]
mod tests;
