//! Owns what a receiver remembers of messages, so that a repeated one is answered and not obeyed again.
//! Must not know what was asked.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::domain::names::NodeName;

/// An answer as it went out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    pub status: u16,
    pub body: Bytes,
}

/// What is known of a message that just came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum First {
    /// Never heard: obey it, then say `end`.
    New,
    /// Being obeyed right now: answer that it may be asked again (503).
    UnderWay,
    /// Obeyed; this was the answer.
    Answered(Answered),
}

/// Messages heard of late, by sender and id; the oldest are forgotten. What is forgotten is still safe: commands carry
/// generation and operation id (protocol P3), this only spares the work.
pub struct Seen {
    bound: usize,
    bytes_bound: usize,
    bytes: usize,
    order: VecDeque<(NodeName, String)>,
    answers: HashMap<(NodeName, String), Option<Answered>>,
}

impl Seen {
    /// Remembers at most `bound` messages, with answers of at most `bytes_bound` bytes in all.
    pub fn new(bound: usize, bytes_bound: usize) -> Self {
        Self { bound: bound.max(1), bytes_bound, bytes: 0, order: VecDeque::new(), answers: HashMap::new() }
    }

    /// Notes a message that came in.
    pub fn begin(&mut self, from: &NodeName, id: &str) -> First {
        let key = (from.clone(), id.to_owned());
        match self.answers.get(&key) {
            Some(Some(answer)) => First::Answered(answer.clone()),
            Some(None) => First::UnderWay,
            None => {
                self.order.push_back(key.clone());
                self.answers.insert(key, None);
                self.shrink();
                First::New
            }
        }
    }

    /// Notes the answer to it.
    pub fn end(&mut self, from: &NodeName, id: &str, answer: Answered) {
        if let Some(slot) = self.answers.get_mut(&(from.clone(), id.to_owned())) {
            self.bytes += answer.body.len();
            self.bytes -= slot.replace(answer).map_or(0, |old| old.body.len());
            self.shrink();
        }
    }

    /// Forgets it: it could not be obeyed, and a repeat may do better.
    pub fn forget(&mut self, from: &NodeName, id: &str) {
        let key = (from.clone(), id.to_owned());
        self.drop_answer(&key);
        self.order.retain(|other| *other != key);
    }

    fn shrink(&mut self) {
        while self.order.len() > self.bound || (self.bytes > self.bytes_bound && self.order.len() > 1) {
            match self.order.pop_front() {
                Some(oldest) => self.drop_answer(&oldest),
                None => break,
            }
        }
    }

    fn drop_answer(&mut self, key: &(NodeName, String)) {
        self.bytes -= self.answers.remove(key).flatten().map_or(0, |answer| answer.body.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &'static str) -> Answered {
        Answered { status: 200, body: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn a_repeat_gets_the_first_answer() {
        let (mut seen, node) = (Seen::new(10, 1000), NodeName::new("m").unwrap());
        assert_eq!(seen.begin(&node, "1"), First::New);
        assert_eq!(seen.begin(&node, "1"), First::UnderWay);
        seen.end(&node, "1", answer("yes"));
        assert_eq!(seen.begin(&node, "1"), First::Answered(answer("yes")));
        assert_eq!(seen.begin(&NodeName::new("n").unwrap(), "1"), First::New, "another sender's id is another");
        seen.forget(&node, "1");
        assert_eq!(seen.begin(&node, "1"), First::New);
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bounds() {
        let (mut seen, node) = (Seen::new(3, 8), NodeName::new("m").unwrap());
        for id in ["1", "2", "3", "4"] {
            seen.begin(&node, id);
        }
        assert_eq!(seen.begin(&node, "2"), First::UnderWay);
        seen.end(&node, "2", answer("12345"));
        seen.end(&node, "3", answer("12345"));
        assert_eq!(seen.begin(&node, "3"), First::Answered(answer("12345")));
        assert_eq!(seen.begin(&node, "2"), First::New, "bytes are bounded too");
        seen.end(&node, "gone", answer("x"));
        assert!(seen.bytes <= 8 && seen.order.len() <= 3);
    }
}
