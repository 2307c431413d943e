//! Owns what those ask of a list who keep one of their own beside it. Must not know where that is.

use super::SessionList;
use crate::domain::session::SessionId;

impl SessionList {
    /// Whether it ended a short while ago.
    pub fn has_ended(&self, id: SessionId) -> bool {
        self.ended.is_of(id, 0)
    }

    /// Every session counts as changed, for who has heard nothing of them yet.
    pub fn change_all(&mut self) {
        for (id, entry) in &mut self.sessions {
            Self::mark(&mut self.changed, entry, *id);
        }
    }
}
