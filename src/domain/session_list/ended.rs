//! Owns which sessions ended a short while ago: their tags may still come, and must begin nothing. Must not know how long
//! tags are good for.

use std::collections::{HashMap, VecDeque};

use crate::domain::session::{AsItself, SessionId, WallMillis};

#[derive(Clone, Debug)]
pub(super) struct Ended {
    bound: usize,
    at: HashMap<SessionId, WallMillis, AsItself>,
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
        self.at.get(&id).is_some_and(|at| issued <= *at)
    }

    pub fn remember(&mut self, id: SessionId, now: WallMillis) {
        if self.in_order.len() >= self.bound.max(1) {
            self.forget_first();
        }
        self.at.insert(id, now);
        self.in_order.push_back((now, id));
    }

    /// Forgets those, from the first on, of which no tag can come any more.
    pub fn forget(&mut self, is_past: impl Fn(WallMillis) -> bool) {
        while self.in_order.front().is_some_and(|(at, _)| is_past(*at)) {
            self.forget_first();
        }
    }

    /// Those remembered, and when they ended.
    pub fn all(&self) -> impl Iterator<Item = (WallMillis, SessionId)> {
        self.in_order.iter().copied()
    }

    fn forget_first(&mut self) {
        if let Some((at, id)) = self.in_order.pop_front()
            && self.at.get(&id) == Some(&at)
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
