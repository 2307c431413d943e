//! Owns the counters of programs' versions in their mapped file, a row each. Must not know requests.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::speeds::{AllSpeeds, Speeds};
use crate::domain::figures::Figures;
use crate::domain::ledger::Sessions;
use crate::domain::names::{ProgramName, Version};
use crate::proxy::cut;
use crate::store::StoreError;
use crate::store::mapped::Mapped;
use crate::wire::messages::Counts;

/// What the words of the file mean; raised whenever that changes.
const LAYOUT: u64 = 0x726f_7773_0002;
/// Counters are kept several times, a cache line each, so that workers do not wait for each other: a worker counts in its
/// own lane, or shares one where there are more of them, and the sum is what counts.
const LANES: usize = 8;
const LANE_WORDS: usize = 8;
/// Words of a row: when it was made (0: free), lengths, name and version; then the lanes.
const ROW_WORDS: usize = FIRST_LANE + LANES * LANE_WORDS;
const MADE: usize = 0;
const LENGTHS: usize = 1;
const NAME: std::ops::Range<usize> = 2..18;
/// What became of sessions: seldom counted, and so once for all workers.
const SESSIONS_FINISHED: usize = 18;
const SESSIONS_MIGRATED: usize = 19;
const SESSIONS_CUT: usize = 20;
const FIRST_LANE: usize = 24;
/// Words of a lane.
const COMPLETED: usize = 0;
const COMPLETED_5XX: usize = 1;
const CLIENT_LEFT: usize = 2;
const CUT: usize = 3;
const FAILED: usize = 4;
const REFUSED: usize = 5;

/// How an admitted request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Completed { server_error: bool },
    ClientLeft,
    Cut,
    Failed,
}

/// A hold on a row: it is not given to another version while it is held.
#[derive(Debug)]
pub struct Row {
    index: usize,
    speeds: Arc<Speeds>,
}

impl Row {
    pub fn index(&self) -> usize {
        self.index
    }

    /// An answer began after so long.
    pub fn answered_after(&self, took: Duration) {
        self.speeds.count(took);
    }
}

/// Every row is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the ledger's {rows} rows are all in use: raise [app_server.limits] ledger_rows")]
pub struct RowsUsedUp {
    rows: usize,
}

#[derive(Debug)]
pub(super) struct Rows {
    mapped: Mapped,
    count: usize,
    held: Mutex<HashMap<usize, Weak<Row>>>,
    speeds: AllSpeeds,
}

impl Rows {
    pub fn open(path: &Path, count: usize, stamp: &str) -> Result<Self, StoreError> {
        let count = count.max(1);
        let opened = Mapped::open(path, LAYOUT, count * ROW_WORDS, stamp)?;
        if let Some(aside) = opened.aside {
            tracing::warn!(aside = %aside.display(), "the ledger's counters did not fit and start anew");
        }
        Ok(Self { mapped: opened.mapped, count, held: Mutex::default(), speeds: AllSpeeds::default() })
    }

    fn words(&self, index: usize) -> &[AtomicU64] {
        &self.mapped.words()[index * ROW_WORDS..(index + 1) * ROW_WORDS]
    }

    fn made(&self, index: usize) -> u64 {
        self.words(index)[MADE].load(Ordering::Acquire)
    }

    pub fn name(&self, index: usize) -> Option<(ProgramName, Version)> {
        if index >= self.count || self.made(index) == 0 {
            return None;
        }
        let lengths = self.words(index)[LENGTHS].load(Ordering::Relaxed);
        let (program, version) = ((lengths & 0xff) as usize, (lengths >> 8 & 0xff) as usize);
        let text = read_text(&self.words(index)[NAME], program + version);
        let (program, version) = text.split_at_checked(program)?;
        Some((ProgramName::new(program).ok()?, Version::new(version).ok()?))
    }

    /// The rows of all versions of a program.
    pub fn of(&self, program: &ProgramName) -> Vec<usize> {
        (0..self.count).filter(|index| self.name(*index).is_some_and(|(name, _)| name == *program)).collect()
    }

    /// The row of a version; a new one takes the place of the oldest that nobody holds where none is free.
    pub fn row(&self, program: &ProgramName, version: &Version) -> Result<Arc<Row>, RowsUsedUp> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |index: &usize| self.name(*index).is_some_and(|(name, of)| name == *program && of == *version);
        let index = match (0..self.count).find(same) {
            Some(index) => index,
            None => self.make(program, version, &held)?,
        };
        if let Some(row) = held.get(&index).and_then(Weak::upgrade) {
            return Ok(row);
        }
        let row = Arc::new(Row { index, speeds: self.speeds.of(index) });
        held.insert(index, Arc::downgrade(&row));
        Ok(row)
    }

    fn make(
        &self,
        program: &ProgramName,
        version: &Version,
        held: &HashMap<usize, Weak<Row>>,
    ) -> Result<usize, RowsUsedUp> {
        let is_held = |index: &usize| held.get(index).is_some_and(|row| row.strong_count() > 0);
        let unheld = (0..self.count).filter(|index| !is_held(index));
        let index = unheld.min_by_key(|index| self.made(*index)).ok_or(RowsUsedUp { rows: self.count })?;
        let newest = (0..self.count).map(|index| self.made(index)).max().unwrap_or_default();
        let words = self.words(index);
        self.speeds.forget(index);
        words[MADE].store(0, Ordering::Release);
        words[LENGTHS..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        write_text(&words[NAME], format!("{program}{version}").as_bytes());
        let lengths = program.as_str().len() | version.as_str().len() << 8;
        words[LENGTHS].store(lengths as u64, Ordering::Relaxed);
        words[MADE].store(newest + 1, Ordering::Release);
        Ok(index)
    }

    pub fn count(&self, index: usize, end: End) {
        let (word, server_error) = match end {
            End::Completed { server_error } => (COMPLETED, server_error),
            End::ClientLeft => (CLIENT_LEFT, false),
            End::Cut => (CUT, false),
            End::Failed => (FAILED, false),
        };
        if index >= self.count {
            return;
        }
        let lane = self.lane(index, thread_number() % LANES);
        if server_error {
            lane[COMPLETED_5XX].fetch_add(1, Ordering::Relaxed);
        }
        lane[word].fetch_add(1, Ordering::AcqRel);
    }

    pub fn sessions(&self, index: usize, left: Sessions) {
        let words = self.words(index);
        for (word, count) in
            [(SESSIONS_FINISHED, left.finished), (SESSIONS_MIGRATED, left.migrated), (SESSIONS_CUT, left.cut)]
        {
            words[word].fetch_add(count, Ordering::Relaxed);
        }
    }

    pub fn refused(&self, index: usize) {
        self.lane(index, thread_number() % LANES)[REFUSED].fetch_add(1, Ordering::Relaxed);
    }

    fn lane(&self, index: usize, lane: usize) -> &[AtomicU64] {
        let first = FIRST_LANE + lane * LANE_WORDS;
        &self.words(index)[first..first + LANE_WORDS]
    }

    fn sum(&self, index: usize, word: usize) -> u64 {
        (0..LANES).map(|lane| self.lane(index, lane)[word].load(Ordering::Acquire)).sum()
    }

    /// What each version's answers of a program have been like.
    /// How long a row's answers took to begin.
    pub fn latency(&self, row: usize) -> BTreeMap<u8, u64> {
        self.speeds.read(row)
    }

    pub fn figures(&self, program: &ProgramName) -> Vec<(Version, Figures)> {
        let figures = |index: usize| {
            let (_, version) = self.name(index)?;
            let failed = self.sum(index, FAILED);
            let figures = Figures {
                answers: self.sum(index, COMPLETED) + failed,
                errors: self.sum(index, COMPLETED_5XX) + failed,
                latency: self.speeds.read(index),
            };
            Some((version, figures))
        };
        self.of(program).into_iter().filter_map(figures).collect()
    }

    /// All rows with their ends; `admitted` and `active` are not known here.
    pub fn counts(&self) -> Vec<(usize, ProgramName, Version, Counts)> {
        let row = |index: usize| {
            let (program, version) = self.name(index)?;
            let read = |word: usize| self.sum(index, word);
            let single = |word: usize| self.words(index)[word].load(Ordering::Relaxed);
            let counts = Counts {
                completed: read(COMPLETED),
                completed_5xx: read(COMPLETED_5XX),
                client_left: read(CLIENT_LEFT),
                cut: read(CUT),
                failed: read(FAILED),
                refused: read(REFUSED),
                sessions: Sessions {
                    finished: single(SESSIONS_FINISHED),
                    migrated: single(SESSIONS_MIGRATED),
                    cut: single(SESSIONS_CUT),
                },
                ..Counts::default()
            };
            Some((index, program, version, counts))
        };
        (0..self.count).filter_map(row).collect()
    }
}

/// This thread's number among those that count, by which they keep out of each other's way.
pub(super) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    let number = NUMBER.get();
    if number != usize::MAX {
        return number;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    NUMBER.set(number);
    number
}

/// Writes text into words, cut to their room; answers how many bytes it took.
pub(super) fn write_text(words: &[AtomicU64], text: &[u8]) -> usize {
    let text = cut(text, words.len() * 8);
    let (whole, rest) = text.as_chunks::<8>();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u64::from(*byte));
        words[whole.len()].store(last, Ordering::Relaxed);
    }
    text.len()
}

pub(super) fn read_text(words: &[AtomicU64], length: usize) -> String {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    bytes.truncate(length);
    String::from_utf8_lossy(&bytes).into_owned()
}
