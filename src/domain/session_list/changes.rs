//! Owns what those ask of a list who keep one of their own beside it. Must not know where that is.

use super::{Change, End, Entry, SessionList};
use crate::domain::session::{SessionId, WallMillis};

/// An end is told within a second; said later than this, much may have happened elsewhere that is still to be told.
const TOLD_LATE: WallMillis = 5_000;

impl Change {
    /// Whether it says no more than that nothing was heard of a session at its home.
    pub fn is_silence(&self) -> bool {
        matches!(self, Change::Gone { how: End::Idle, .. })
    }

    /// Whether a list takes it in that others tell too. What its home has not heard of for long, and could not say in time, may
    /// live elsewhere: it ends by itself. Until `patient_until` nobody could tell of it, and no silence counts.
    pub fn counts(&self, now: WallMillis, patient_until: WallMillis) -> bool {
        !(self.is_late_silence(now) || (now < patient_until && self.is_silence()))
    }

    /// Whether it says so long after: the session may have gone on elsewhere, which nobody could say meanwhile either.
    pub fn is_late_silence(&self, now: WallMillis) -> bool {
        matches!(self, Change::Gone { how: End::Idle, at, .. } if now > at.saturating_add(TOLD_LATE))
    }
}

impl SessionList {
    /// Whether there is anything for [`Self::take_changes`].
    pub fn has_changes(&self) -> bool {
        !(self.changed.is_empty() && self.gone.is_empty())
    }

    /// What happened since it was last asked, at most so many; each session once, as it is now.
    pub fn take_changes(&mut self, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some((id, place, how, at)) = self.gone.pop_front()
        {
            let homes = &mut self.places[usize::from(place)];
            homes.named -= 1;
            changes.push(Change::Gone { id, place: homes.place.clone(), how, at });
        }
        while changes.len() < most
            && let Some(id) = self.changed.pop()
        {
            let Some(entry) = self.sessions.get_mut(&id) else { continue };
            if !std::mem::take(&mut entry.is_changed) {
                continue;
            }
            let entry = *entry;
            changes.push(Change::Is(self.session(id, &entry)));
        }
        changes
    }

    /// How many have ended since it was last asked; those that only moved have not.
    pub fn take_finished(&mut self) -> u64 {
        std::mem::take(&mut self.finished)
    }

    /// Takes in what another list tells of a session; the later word counts, and a `Gone` of another home does not. One of
    /// which nothing was heard here goes on where it is heard of; one that was ended does so only by a later request.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Is(session) => {
                let later = |entry: &Entry| entry.seen <= session.seen;
                let is_known = self.contains(session.id);
                if !is_known && self.ended.by_word(session.id).is_some_and(|at| session.seen <= at) {
                    return;
                }
                if self.sessions.get(&session.id).is_none_or(later) && self.restore(session) {
                    let active = session.active;
                    self.sessions.entry(session.id).and_modify(|entry| entry.active = active);
                }
            }
            Change::Gone { id, place, how, at } => {
                let home = self.get(*id).map(|session| session.place);
                // One that goes on elsewhere is taken from here by its new home.
                if *how != End::Migrated && home.is_some_and(|home| home.server == place.server) {
                    self.end(*id, *how, *at);
                }
            }
        }
    }

    /// Whether a tag issued at that time is of a session that ended a short while ago.
    pub fn has_ended(&self, id: SessionId, issued: WallMillis) -> bool {
        !self.contains(id) && self.ended.is_of(id, issued)
    }

    /// Whether its program or a person ended it a short while ago: it goes on nowhere.
    pub fn was_ended(&self, id: SessionId) -> bool {
        !self.contains(id) && self.ended.by_word(id).is_some()
    }

    /// Every session counts as changed, and those that were ended a short while ago as ended then, for who has heard nothing
    /// of them yet. Of which nothing was heard are not named: they may have gone on elsewhere, and who lists them ends them.
    pub fn change_all(&mut self) {
        if let Some(home) = self.places.first_mut() {
            let ended = self.ended.all().filter(|(_, id, how)| *how != End::Idle && !self.sessions.contains_key(id));
            let before = self.gone.len();
            self.gone.extend(ended.map(|(at, id, how)| (id, 0, how, at)));
            home.named += self.gone.len() - before;
        }
        for (id, entry) in &mut self.sessions {
            Self::mark(&mut self.changed, entry, *id);
        }
    }
}
