//! Owns the counters of programs' versions in their mapped file, a row each. Must not know requests.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::domain::names::{ProgramName, Version};
use crate::store::StoreError;
use crate::store::mapped::Mapped;
use crate::wire::messages::Counts;

/// What the words of the file mean; raised whenever that changes.
const LAYOUT: u64 = 0x726f_7773_0001;
/// Words of a row: when it was made (0: free), lengths, name and version, counters.
const ROW_WORDS: usize = 32;
const MADE: usize = 0;
const LENGTHS: usize = 1;
const NAME: std::ops::Range<usize> = 2..18;
const COMPLETED: usize = 18;
const COMPLETED_5XX: usize = 19;
const CLIENT_LEFT: usize = 20;
const CUT: usize = 21;
const FAILED: usize = 22;
const REFUSED: usize = 23;

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
}

impl Row {
    pub fn index(&self) -> usize {
        self.index
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
}

impl Rows {
    pub fn open(path: &Path, count: usize, stamp: &str) -> Result<Self, StoreError> {
        let count = count.max(1);
        let opened = Mapped::open(path, LAYOUT, count * ROW_WORDS, stamp)?;
        if let Some(aside) = opened.aside {
            tracing::warn!(aside = %aside.display(), "the ledger's counters did not fit and start anew");
        }
        Ok(Self { mapped: opened.mapped, count, held: Mutex::default() })
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
        let row = Arc::new(Row { index });
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
        words[MADE].store(0, Ordering::Release);
        words[LENGTHS..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        write_text(&words[NAME], &format!("{program}{version}"));
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
        if server_error {
            self.words(index)[COMPLETED_5XX].fetch_add(1, Ordering::Relaxed);
        }
        self.words(index)[word].fetch_add(1, Ordering::AcqRel);
    }

    pub fn refused(&self, index: usize) {
        self.words(index)[REFUSED].fetch_add(1, Ordering::Relaxed);
    }

    /// All rows with their ends; `admitted` and `active` are not known here.
    pub fn counts(&self) -> Vec<(usize, ProgramName, Version, Counts)> {
        let row = |index: usize| {
            let (program, version) = self.name(index)?;
            let read = |word: usize| self.words(index)[word].load(Ordering::Acquire);
            let counts = Counts {
                completed: read(COMPLETED),
                completed_5xx: read(COMPLETED_5XX),
                client_left: read(CLIENT_LEFT),
                cut: read(CUT),
                failed: read(FAILED),
                refused: read(REFUSED),
                ..Counts::default()
            };
            Some((index, program, version, counts))
        };
        (0..self.count).filter_map(row).collect()
    }
}

/// Writes text into words, cut to their room; answers how many bytes it took.
pub(super) fn write_text(words: &[AtomicU64], text: &str) -> usize {
    let mut length = text.len().min(words.len() * 8);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    for (word, bytes) in words.iter().zip(text.as_bytes()[..length].chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
    }
    length
}

pub(super) fn read_text(words: &[AtomicU64], length: usize) -> String {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    bytes.truncate(length);
    String::from_utf8_lossy(&bytes).into_owned()
}
