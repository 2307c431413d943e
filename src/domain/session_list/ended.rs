//! Owns which sessions ended a short while ago, and how: their tags may still come, and must begin nothing. Must not know
//! how long tags are good for.

use std::collections::{HashMap, VecDeque};

use super::End;
use crate::domain::session::{AsItself, SessionId, WallMillis};

#[derive(Clone, Debug)]
pub(super) struct Ended {
    bound: usize,
    at: HashMap<SessionId, (WallMillis, End), AsItself>,
    in_order: VecDeque<(WallMillis, SessionId)>,
}

impl Ended {
    pub fn new(bound: usize) -> Self {
        Self { bound, at: HashMap::default(), in_order: VecDeque::new() }
    }

    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// Whether a tag issued at that time is of a session that ended since.
    pub fn is_of(&self, id: SessionId, issued: WallMillis) -> bool {
        self.at.get(&id).is_some_and(|(at, _)| issued <= *at)
    }

    /// When it ended because somebody said so; not when nothing was heard of it, for that may be so here alone.
    pub fn by_word(&self, id: SessionId) -> Option<WallMillis> {
        self.at.get(&id).filter(|(_, how)| *how != End::Idle).map(|(at, _)| *at)
    }

    pub fn remember(&mut self, id: SessionId, how: End, now: WallMillis) {
        if self.in_order.len() >= self.bound.max(1) {
            self.forget_first();
        }
        self.at.insert(id, (now, how));
        self.in_order.push_back((now, id));
    }

    /// Forgets those, from the first on, of which no tag can come any more.
    pub fn forget(&mut self, is_past: impl Fn(WallMillis) -> bool) {
        while self.in_order.front().is_some_and(|(at, _)| is_past(*at)) {
            self.forget_first();
        }
    }

    /// Those remembered, each once: when they ended, and how.
    pub fn all(&self) -> impl Iterator<Item = (WallMillis, SessionId, End)> {
        let last = |(at, id): &(WallMillis, SessionId)| {
            self.at.get(id).filter(|(last, _)| last == at).map(|(at, how)| (*at, *id, *how))
        };
        self.in_order.iter().filter_map(last)
    }

    fn forget_first(&mut self) {
        if let Some((at, id)) = self.in_order.pop_front()
            && self.at.get(&id).is_some_and(|(last, _)| *last == at)
        {
            self.at.remove(&id);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        assert_eq!(self.at.len(), self.in_order.len());
        self.at.len()
    }
}
