//! Owns the outbox's decisions, purely: what waits for whom, what may go now, and when a failed one is tried again.
//! Must not know HTTP, actors or clocks: time and chance are passed in.
//!
//! Every peer has a line of its own. One letter of a line is under way at a time, so a peer gets them in order and a
//! dead peer holds up nobody else's. A letter goes until it is answered (at least once; receivers de-duplicate by id).

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// A message on its way to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// The peer's base URL, such as "http://127.0.0.1:7400".
    pub to: String,
    /// What it tells of: a newer letter of one key takes the place of an older that waits. `None`: every one counts.
    pub key: Option<String>,
    /// The envelope's id.
    pub id: String,
    pub bytes: Bytes,
}

/// How long to wait after failures in a row: doubling from `first` to `most`, each between a half and the whole of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Backoff {
    /// The wait after the `failures`th failure in a row; `chance` is in 0..1.
    pub fn after(self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let whole = self.first.saturating_mul(1 << doublings).min(self.most);
        whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), most: Duration::from_secs(2) }
    }
}

/// What became of a letter that was put in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Put {
    Waits,
    /// It took the place of this one, which will never go.
    Replaced(Letter),
    /// The outbox, or the line of that peer, is full: it was not taken.
    Full(Letter),
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Letter>,
    under_way: Option<Letter>,
    failures: u32,
    not_before: Option<Instant>,
}

/// All lines.
pub struct Queue {
    bound: usize,
    backoff: Backoff,
    lines: BTreeMap<String, Line>,
}

impl Queue {
    /// Holds at most `bound` letters, those under way included.
    pub fn new(bound: usize, backoff: Backoff) -> Self {
        Self { bound: bound.max(1), backoff, lines: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.lines.values().map(|line| line.waiting.len() + usize::from(line.under_way.is_some())).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn put(&mut self, letter: Letter) -> Put {
        let same = |other: &&mut Letter| letter.key.is_some() && other.key == letter.key;
        let waiting = self.lines.get_mut(&letter.to).map(|line| line.waiting.iter_mut());
        if let Some(older) = waiting.into_iter().flatten().find(same) {
            return Put::Replaced(std::mem::replace(older, letter));
        }
        if self.len() >= self.bound {
            return Put::Full(letter);
        }
        self.lines.entry(letter.to.clone()).or_default().waiting.push_back(letter);
        Put::Waits
    }

    /// Takes the letters that may go now, at most one a peer; each must be given back by `answered` or `failed`.
    pub fn due(&mut self, now: Instant) -> Vec<Letter> {
        let ready = |line: &&mut Line| line.under_way.is_none() && line.not_before.is_none_or(|at| at <= now);
        let mut due = Vec::new();
        for line in self.lines.values_mut().filter(ready) {
            if let Some(letter) = line.waiting.pop_front() {
                line.under_way = Some(letter.clone());
                due.push(letter);
            }
        }
        due
    }

    /// When something may be due next; `None`: not before a letter is put in or given back.
    pub fn next_at(&self) -> Option<Instant> {
        let held = |line: &&Line| line.under_way.is_none() && !line.waiting.is_empty();
        self.lines.values().filter(held).filter_map(|line| line.not_before).min()
    }

    /// The peer answered the letter: it is done, whatever the answer says.
    pub fn answered(&mut self, to: &str, id: &str) {
        let Some(line) = self.lines.get_mut(to) else { return };
        if line.under_way.take_if(|letter| letter.id == id).is_some() {
            (line.failures, line.not_before) = (0, None);
            if line.waiting.is_empty() {
                self.lines.remove(to);
            }
        }
    }

    /// No answer came: the letter goes again after the backoff, before those behind it, unless a newer one of its key
    /// waits, which then goes in its stead. Answers with the letter that was so replaced.
    pub fn failed(&mut self, to: &str, id: &str, now: Instant, chance: f64) -> Option<Letter> {
        let line = self.lines.get_mut(to)?;
        let letter = line.under_way.take_if(|letter| letter.id == id)?;
        line.failures = line.failures.saturating_add(1);
        line.not_before = Some(now + self.backoff.after(line.failures, chance));
        if letter.key.is_some() && line.waiting.iter().any(|newer| newer.key == letter.key) {
            return Some(letter);
        }
        line.waiting.push_front(letter);
        None
    }

    /// Forgets all that waits for a peer, as when it has a new run or has left; answers with what will never go. One
    /// under way is not called back.
    pub fn forget(&mut self, to: &str) -> Vec<Letter> {
        let Some(line) = self.lines.get_mut(to) else { return Vec::new() };
        let gone = std::mem::take(&mut line.waiting).into();
        if line.under_way.is_none() {
            self.lines.remove(to);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };

    fn letter(to: &str, key: Option<&str>, id: &str) -> Letter {
        Letter { to: to.into(), key: key.map(str::to_owned), id: id.into(), bytes: Bytes::new() }
    }

    fn ids(letters: &[Letter]) -> Vec<&str> {
        letters.iter().map(|letter| letter.id.as_str()).collect()
    }

    #[test]
    fn a_peer_gets_its_letters_one_by_one_in_order_and_a_dead_peer_holds_up_nobody() {
        let (mut queue, now) = (Queue::new(10, BACKOFF), Instant::now());
        for letter in [letter("a", None, "1"), letter("a", None, "2"), letter("b", None, "3")] {
            assert_eq!(queue.put(letter), Put::Waits);
        }
        assert_eq!(ids(&queue.due(now)), ["1", "3"]);
        assert!(queue.due(now).is_empty(), "one at a time");
        queue.answered("b", "3");
        assert_eq!(queue.failed("a", "1", now, 1.0), None);
        queue.put(letter("b", None, "4"));
        assert_eq!(ids(&queue.due(now)), ["4"]);
        assert_eq!(queue.next_at(), Some(now + BACKOFF.first));
        assert_eq!(ids(&queue.due(now + BACKOFF.first)), ["1"], "the failed one before those behind it");
        queue.answered("a", "1");
        assert_eq!(ids(&queue.due(now)), ["2"]);
    }

    #[test]
    fn waits_double_up_to_the_most_and_an_answer_ends_them() {
        let waits = [1, 2, 3, 4, 5, 99].map(|failures| BACKOFF.after(failures, 1.0).as_millis());
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(BACKOFF.after(1, 0.0).as_millis(), 50);
        let (mut queue, now) = (Queue::new(10, BACKOFF), Instant::now());
        queue.put(letter("a", None, "1"));
        queue.put(letter("a", None, "2"));
        for wait in [100, 200] {
            queue.due(now + Duration::from_secs(60));
            queue.failed("a", "1", now, 1.0);
            assert_eq!(queue.next_at(), Some(now + Duration::from_millis(wait)));
        }
        queue.due(now + Duration::from_secs(60));
        queue.answered("a", "1");
        queue.due(now);
        queue.failed("a", "2", now, 1.0);
        assert_eq!(queue.next_at(), Some(now + BACKOFF.first));
    }

    #[test]
    fn the_newest_state_takes_the_place_of_the_older_of_its_key() {
        let (mut queue, now) = (Queue::new(3, BACKOFF), Instant::now());
        queue.put(letter("a", Some("shop"), "1"));
        queue.put(letter("a", Some("mail"), "2"));
        queue.put(letter("b", Some("shop"), "3"));
        assert_eq!(queue.put(letter("a", Some("shop"), "4")), Put::Replaced(letter("a", Some("shop"), "1")));
        assert_eq!(ids(&queue.due(now)), ["4", "3"]);
        // 4 is under way: 5 waits behind it, and goes in its stead when it fails.
        queue.answered("b", "3");
        assert_eq!(queue.put(letter("a", Some("shop"), "5")), Put::Waits);
        assert_eq!(queue.failed("a", "4", now, 1.0).map(|letter| letter.id), Some("4".into()));
        assert_eq!(ids(&queue.due(now + BACKOFF.first)), ["2"]);
    }

    #[test]
    fn the_outbox_is_bounded_and_says_what_it_did_not_take() {
        let mut queue = Queue::new(2, BACKOFF);
        queue.put(letter("a", Some("x"), "1"));
        queue.put(letter("b", None, "2"));
        assert_eq!(queue.put(letter("c", None, "3")), Put::Full(letter("c", None, "3")));
        assert!(matches!(queue.put(letter("a", Some("x"), "4")), Put::Replaced(_)), "a replacement takes no room");
        assert_eq!(queue.len(), 2);
        assert_eq!(ids(&queue.forget("a")), ["4"]);
        queue.due(Instant::now());
        queue.answered("b", "2");
        assert!(queue.is_empty() && queue.lines.is_empty());
    }

    #[test]
    fn an_answer_to_a_letter_that_is_not_under_way_changes_nothing() {
        let (mut queue, now) = (Queue::new(2, BACKOFF), Instant::now());
        queue.put(letter("a", None, "1"));
        queue.answered("a", "1");
        assert_eq!(queue.failed("a", "1", now, 0.5), None);
        assert_eq!(ids(&queue.due(now)), ["1"]);
        queue.answered("a", "other");
        assert_eq!(queue.len(), 1);
    }

    proptest::proptest! {
        /// Whatever happens in whatever order: bounded, nothing lost, nothing twice, and in order for each peer.
        #[test]
        fn every_letter_ends_exactly_once(events in proptest::collection::vec((0..5_u8, 0..3_u8, 0..3_u8), 1..200)) {
            let mut world = World::new();
            for event in events {
                world.happen(event);
            }
            world.settle();
        }
    }

    /// A queue, and what a bystander knows of it.
    struct World {
        queue: Queue,
        now: Instant,
        put: Vec<Letter>,
        under_way: Vec<Letter>,
        ended: Vec<Letter>,
        answered: Vec<Letter>,
    }

    impl World {
        const BOUND: usize = 8;

        fn new() -> Self {
            let (put, under_way, ended, answered) = Default::default();
            Self { queue: Queue::new(Self::BOUND, BACKOFF), now: Instant::now(), put, under_way, ended, answered }
        }

        fn happen(&mut self, (what, peer, key): (u8, u8, u8)) {
            match what {
                0 | 1 => {
                    let key = ["shop", "mail"].get(usize::from(key)).copied();
                    let letter = letter(&peer.to_string(), key, &self.put.len().to_string());
                    self.put.push(letter.clone());
                    match self.queue.put(letter) {
                        Put::Waits => {}
                        Put::Replaced(gone) | Put::Full(gone) => self.ended.push(gone),
                    }
                }
                2 => {
                    self.now += Duration::from_millis(60);
                    self.under_way.extend(self.queue.due(self.now));
                }
                _ if self.under_way.is_empty() => {}
                _ => {
                    let letter = self.under_way.remove(usize::from(peer) % self.under_way.len());
                    if what == 3 {
                        self.queue.answered(&letter.to, &letter.id);
                        self.answered.push(letter.clone());
                        self.ended.push(letter);
                    } else {
                        self.ended.extend(self.queue.failed(&letter.to, &letter.id, self.now, 0.5));
                    }
                }
            }
            assert!(self.queue.len() <= Self::BOUND);
            let peers: std::collections::BTreeSet<_> = self.under_way.iter().map(|letter| &letter.to).collect();
            assert_eq!(peers.len(), self.under_way.len(), "one under way a peer");
        }

        /// Peers that answer everything from now on empty the queue.
        fn settle(mut self) {
            for _ in 0..10 * Self::BOUND {
                self.now += BACKOFF.most;
                self.happen((3, 0, 0));
                self.happen((2, 0, 0));
            }
            assert!(self.queue.is_empty() && self.queue.lines.is_empty());
            let ids = |letters: &[Letter]| {
                let mut ids: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
                ids.sort();
                ids
            };
            assert_eq!(ids(&self.ended), ids(&self.put));
            let number = |letter: &Letter| letter.id.parse::<u32>().unwrap();
            for peer in ["0", "1", "2"] {
                let line = self.answered.iter().filter(|letter| letter.to == peer && letter.key.is_none());
                assert!(line.map(number).is_sorted(), "out of order for {peer}");
                for key in ["shop", "mail"] {
                    let states = self.answered.iter().filter(|l| l.to == peer && l.key.as_deref() == Some(key));
                    assert!(states.map(number).is_sorted(), "an older state of {key} after a newer one");
                }
            }
        }
    }
}
