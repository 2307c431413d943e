//! Owns the active requests in their mapped file, a seat each, and beside it, in memory, what only this process can use:
//! their ages and whether they are to be cut. Must not know programs by name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::rows::{End, read_text, thread_number, write_text};
use super::{Ledger, Told};
use crate::proxy::Kept;
use crate::store::StoreError;
use crate::store::mapped::Mapped;

/// What the words of the file mean; raised whenever that changes.
const LAYOUT: u64 = 0x7365_6174_0001;
/// Words of a seat: state, row, lengths and flags, request id, method, path.
const SEAT_WORDS: usize = 32;
const STATE: usize = 0;
const ROW: usize = 1;
const LENGTHS: usize = 2;
const ID: std::ops::Range<usize> = 3..11;
const METHOD: std::ops::Range<usize> = 11..13;
const PATH: std::ops::Range<usize> = 13..32;

/// A state is how often the seat was taken, and in its lowest bits what is in it now.
const PHASE: u64 = 0b11;
const FREE: u64 = 0;
const WRITTEN: u64 = 1;
const ACTIVE: u64 = 2;
const ENDING: u64 = 3;
const TAKEN_ONCE: u64 = 4;
const LONG_LIVED: u64 = 1 << 63;
/// Words of the bits of taken seats on one cache line: each thread begins its search on one of its own.
const LINE_WORDS: usize = 8;

#[derive(Debug)]
pub(super) struct Seats {
    mapped: Mapped,
    count: usize,
    /// One bit a seat: taken.
    taken: Box<[AtomicU64]>,
    beside: Box<[Beside]>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Beside {
    /// The state of the request that is to be cut: of that one, and not of the next in its seat.
    cut: AtomicU64,
    since_ms: AtomicU64,
}

/// A seat that was taken, and the state that tells its request from others in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub index: usize,
    state: u64,
}

/// A seat's content, as it was read.
#[derive(Clone, Debug)]
pub(super) struct Occupied {
    pub index: usize,
    state: u64,
    pub row: usize,
    pub id: String,
    pub method: String,
    pub path: String,
    pub age_ms: u64,
    pub long_lived: bool,
}

impl Seats {
    pub fn open(path: &Path, count: usize, stamp: &str) -> Result<Self, StoreError> {
        let count = count.max(1);
        let opened = Mapped::open(path, LAYOUT, count * SEAT_WORDS, stamp)?;
        if let Some(aside) = opened.aside {
            tracing::warn!(aside = %aside.display(), "the ledger's active requests did not fit and start anew");
        }
        let taken: Box<[AtomicU64]> = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let beside = (0..count).map(|_| Beside::default()).collect();
        let seats = Self { mapped: opened.mapped, count, taken, beside, began: Instant::now() };
        seats.take_over();
        Ok(seats)
    }

    /// What a dead process left: its seats stay taken until they are counted; one that was half written, or that had
    /// been counted already, is free.
    fn take_over(&self) {
        for index in 0..self.count {
            let word = &self.words(index)[STATE];
            let state = word.load(Ordering::Acquire);
            match state & PHASE {
                FREE => {}
                ACTIVE => {
                    self.taken[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed);
                }
                _ => word.store(state & !PHASE, Ordering::Release),
            }
        }
        for spare in self.count..self.taken.len() * 64 {
            self.taken[spare / 64].fetch_or(1 << (spare % 64), Ordering::Relaxed);
        }
    }

    fn words(&self, index: usize) -> &[AtomicU64] {
        &self.mapped.words()[index * SEAT_WORDS..(index + 1) * SEAT_WORDS]
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64
    }

    /// Takes a free seat: each thread begins its search at a place of its own.
    pub fn occupy(&self, row: usize, told: Told<'_>, now: Instant) -> Option<Taken> {
        let index = self.take_bit()?;
        let words = self.words(index);
        let taken = (words[STATE].load(Ordering::Relaxed) & !PHASE).wrapping_add(TAKEN_ONCE);
        words[STATE].store(taken | WRITTEN, Ordering::Release);
        words[ROW].store(row as u64, Ordering::Relaxed);
        let id = write_text(&words[ID], told.id);
        let method = write_text(&words[METHOD], told.method);
        let path = write_text(&words[PATH], told.path);
        words[LENGTHS].store((id | method << 8 | path << 16) as u64, Ordering::Relaxed);
        self.beside[index].since_ms.store(self.ms(now), Ordering::Relaxed);
        words[STATE].store(taken | ACTIVE, Ordering::Release);
        Some(Taken { index, state: taken | ACTIVE })
    }

    fn take_bit(&self) -> Option<usize> {
        let words = self.taken.len();
        let first = thread_number() * LINE_WORDS % words;
        for step in 0..words {
            let at = if first + step < words { first + step } else { first + step - words };
            let word = &self.taken[at];
            let mut seen = word.load(Ordering::Relaxed);
            while seen != u64::MAX {
                let bit = (!seen).trailing_zeros();
                match word.compare_exchange_weak(seen, seen | 1 << bit, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => return Some(at * 64 + bit as usize),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    pub fn ending(&self, index: usize) {
        let word = &self.words(index)[STATE];
        word.store(word.load(Ordering::Relaxed) | ENDING, Ordering::Release);
    }

    pub fn free(&self, index: usize) {
        let word = &self.words(index)[STATE];
        word.store(word.load(Ordering::Relaxed) & !PHASE, Ordering::Release);
        self.taken[index / 64].fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
    }

    pub fn set_long_lived(&self, index: usize) {
        self.words(index)[LENGTHS].fetch_or(LONG_LIVED, Ordering::Relaxed);
    }

    /// The active requests of some rows. One that ends or begins while it is read is left out.
    pub fn occupied(&self, wanted: impl Fn(usize) -> bool) -> Vec<Occupied> {
        let row = |index: &usize| self.words(*index)[ROW].load(Ordering::Relaxed) as usize;
        self.taken_seats().filter(|index| wanted(row(index))).filter_map(|index| self.read(index)).collect()
    }

    fn taken_seats(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |(at, word): (usize, &AtomicU64)| {
            let seen = word.load(Ordering::Acquire);
            (0..64).filter(move |bit| seen & 1 << bit != 0).map(move |bit| at * 64 + bit)
        };
        self.taken.iter().enumerate().flat_map(bits).filter(|index| *index < self.count)
    }

    fn read(&self, index: usize) -> Option<Occupied> {
        let words = self.words(index);
        let state = words[STATE].load(Ordering::Acquire);
        if state & PHASE != ACTIVE {
            return None;
        }
        let lengths = words[LENGTHS].load(Ordering::Relaxed);
        let length = |shift: u32| (lengths >> shift & 0xff) as usize;
        let seat = Occupied {
            index,
            state,
            row: words[ROW].load(Ordering::Relaxed) as usize,
            id: read_text(&words[ID], length(0)),
            method: read_text(&words[METHOD], length(8)),
            path: read_text(&words[PATH], length(16)),
            age_ms: self.ms(Instant::now()).saturating_sub(self.beside[index].since_ms.load(Ordering::Relaxed)),
            long_lived: lengths & LONG_LIVED != 0,
        };
        self.is_still(index, state).then_some(seat)
    }

    fn is_still(&self, index: usize, state: u64) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        self.words(index)[STATE].load(Ordering::Acquire) == state
    }

    pub fn active_by_row(&self) -> HashMap<usize, u64> {
        let mut active = HashMap::new();
        for index in self.taken_seats() {
            let words = self.words(index);
            if words[STATE].load(Ordering::Acquire) & PHASE == ACTIVE {
                *active.entry(words[ROW].load(Ordering::Relaxed) as usize).or_default() += 1;
            }
        }
        active
    }

    /// Cuts the request that was read; not one that took its seat since. Its worker has to be told.
    pub fn cut(&self, seat: &Occupied) -> bool {
        // States rise: an older request's cut never takes the place of a newer one's.
        self.beside[seat.index].cut.fetch_max(seat.state, Ordering::AcqRel);
        self.is_still(seat.index, seat.state)
    }

    pub fn is_cut(&self, seat: Taken) -> bool {
        self.beside[seat.index].cut.load(Ordering::Acquire) == seat.state
    }

    pub fn taken(&self) -> u64 {
        let spare = (self.taken.len() * 64 - self.count) as u64;
        let all: u64 = self.taken.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum();
        all - spare
    }
}

/// One active request's place in the ledger. It ends exactly once; dropped without an end, it failed. Whoever has it holds
/// its row too, by the claim that it came with.
#[derive(Debug)]
pub struct Seat {
    ledger: Kept<Ledger>,
    row: usize,
    taken: Taken,
    over: bool,
}

impl Seat {
    pub(super) fn new(ledger: Kept<Ledger>, row: usize, taken: Taken) -> Self {
        Self { ledger, row, taken, over: false }
    }

    pub fn set_long_lived(&self) {
        self.ledger.set_long_lived(self.taken.index);
    }

    /// Whether it is to end now.
    pub fn is_cut(&self) -> bool {
        self.ledger.is_cut(self.taken)
    }

    pub fn end(mut self, end: End) {
        self.finish(Some(end));
    }

    /// No byte of it reached the program: it was refused, and never a request of this server's.
    pub fn withdraw(mut self) {
        self.finish(None);
    }

    fn finish(&mut self, end: Option<End>) {
        if !std::mem::replace(&mut self.over, true) {
            self.ledger.end(self.row, self.taken.index, end);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.finish(Some(End::Failed));
    }
}
