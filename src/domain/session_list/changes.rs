//! Owns what those ask of a list who keep one of their own beside it. Must not know where that is.

use super::{Change, End, Entry, SessionList};
use crate::domain::session::SessionId;

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

    /// Takes in what another list tells of a session; the later word counts, and a `Gone` of another home does not.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Is(session) => {
                let later = |entry: &Entry| entry.seen <= session.seen;
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

    /// Whether it ended a short while ago.
    pub fn has_ended(&self, id: SessionId) -> bool {
        self.ended.is_of(id, 0)
    }

    /// Every session counts as changed, and those that ended a short while ago as ended just now, for who has heard nothing
    /// of them yet.
    pub fn change_all(&mut self) {
        if let Some(home) = self.places.first_mut() {
            let ended = self.ended.all().map(|(at, id)| (id, 0, End::Ended, at));
            let before = self.gone.len();
            self.gone.extend(ended);
            home.named += self.gone.len() - before;
        }
        for (id, entry) in &mut self.sessions {
            Self::mark(&mut self.changed, entry, *id);
        }
    }
}
