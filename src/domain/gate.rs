//! Owns admission to one instance: open, open to known sessions only, or closed, and how many requests it has admitted, in
//! one atomic word, so that checking and counting are one step (protocol P1) and stopping is a compare-and-set (P4).
//! Must not know what a request or an instance is.

use super::names::Generation;
use super::sync::{AtomicU64, Ordering};

const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const KNOWN: u64 = 1 << 61;
const CLOSED: u64 = 1 << 62;
const STOPPING: u64 = 1 << 63;
const GENERATION_SHIFT: u32 = COUNT_BITS;
const GENERATION: u64 = ((1 << 41) - 1) << GENERATION_SHIFT;

/// Requests that one gate admits at a time.
pub const MOST_ACTIVE: u64 = COUNT;

/// The gate's word as a value: the pure rules, which the atomic below and the model checker share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Word(u64);

impl Word {
    /// A closed gate with nothing admitted.
    pub fn closed(generation: Generation) -> Self {
        Self(CLOSED).at(generation)
    }

    fn at(self, generation: Generation) -> Self {
        Self(self.0 & !GENERATION | (generation.0 << GENERATION_SHIFT) & GENERATION)
    }

    pub fn generation(self) -> Generation {
        Generation((self.0 & GENERATION) >> GENERATION_SHIFT)
    }

    pub fn active(self) -> u64 {
        self.0 & COUNT
    }

    pub fn is_open(self) -> bool {
        self.0 & (KNOWN | CLOSED | STOPPING) == 0
    }

    /// Open to requests of known sessions only (protocol P16).
    pub fn is_known(self) -> bool {
        self.0 & (KNOWN | CLOSED | STOPPING) == KNOWN
    }

    pub fn is_stopping(self) -> bool {
        self.0 & STOPPING != 0
    }

    /// One more request admitted, if the gate is open and not full.
    pub fn claim(self) -> Option<Self> {
        (self.is_open() && self.active() < COUNT).then_some(Self(self.0 + 1))
    }

    /// One more request admitted whose session is known, if the gate is not closed to such, and not full.
    pub fn claim_known(self) -> Option<Self> {
        ((self.is_open() || self.is_known()) && self.active() < COUNT).then_some(Self(self.0 + 1))
    }

    /// One admitted request has ended.
    pub fn release(self) -> Self {
        debug_assert!(self.active() > 0);
        Self(self.0 - 1)
    }

    /// Admits requests from now on, at this generation.
    pub fn open(self, generation: Generation) -> Self {
        Self(self.0 & !(KNOWN | CLOSED | STOPPING)).at(generation)
    }

    /// Admits requests of known sessions only, at this generation.
    pub fn know(self, generation: Generation) -> Self {
        Self(self.0 & !(CLOSED | STOPPING) | KNOWN).at(generation)
    }

    /// Admits no more, at this generation; what was admitted stays.
    pub fn close(self, generation: Generation) -> Self {
        Self(self.0 | CLOSED).at(generation)
    }

    /// From closed, or known, with none admitted to stopping; otherwise how many are left (protocol P4).
    pub fn freeze(self, generation: Generation) -> Result<Self, NotDrained> {
        if self.is_open() || self.active() > 0 {
            return Err(NotDrained { open: self.is_open(), active: self.active() });
        }
        Ok(Self(self.0 | STOPPING | CLOSED).at(generation))
    }
}

/// Why an instance may not be stopped yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NotDrained {
    pub open: bool,
    pub active: u64,
}

/// The gate of one instance. All moves but claim and release come from one owner, the placement's actor.
#[derive(Debug)]
pub struct Gate(AtomicU64);

impl Gate {
    pub fn closed(generation: Generation) -> Self {
        Self(AtomicU64::new(Word::closed(generation).0))
    }

    pub fn word(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    /// Admits and counts one request in one step, or tells the closed word that it found. Whether its session is known is
    /// asked only where that matters.
    pub fn try_claim(&self, is_known: impl Fn() -> bool) -> Result<(), Word> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let word = Word(seen);
            let claimed = match word.is_known() && is_known() {
                true => word.claim_known(),
                false => word.claim(),
            };
            let claimed = claimed.ok_or(word)?;
            match self.0.compare_exchange_weak(seen, claimed.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// Gives back one claim; answers how many are left, and whether the gate is closed.
    pub fn release(&self) -> Word {
        let before = Word(self.0.fetch_sub(1, Ordering::AcqRel));
        before.release()
    }

    pub fn open(&self, generation: Generation) {
        self.update(|word| word.open(generation));
    }

    pub fn know(&self, generation: Generation) -> Word {
        self.update(|word| word.know(generation))
    }

    pub fn close(&self, generation: Generation) -> Word {
        self.update(|word| word.close(generation))
    }

    /// Closed or known, and none admitted → stopping, in one step.
    pub fn freeze(&self, generation: Generation) -> Result<(), NotDrained> {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let frozen = Word(seen).freeze(generation)?;
            match self.0.compare_exchange_weak(seen, frozen.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    fn update(&self, change: impl Fn(Word) -> Word) -> Word {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let changed = change(Word(seen));
            match self.0.compare_exchange_weak(seen, changed.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return changed,
                Err(now) => seen = now,
            }
        }
    }
}
