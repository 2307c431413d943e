//! Owns many small entries as few records, so that a million of them are opened in seconds: pages of entries in the order of
//! their keys, and a journal of what has changed since, a record or few for each batch. Must not know what entries mean.
//!
//! When the journal has grown it is folded into the pages, a part with each batch. A page is rewritten with all that the
//! journal says of it in one save; the journal's records go when all pages are done. Whatever part of that was saved when
//! a node dies: the journal, which says what entries are and not how they change, makes the same of old pages and new ones.
//!
//! sled has ten records or so in a leaf and rewrites leaves: records of a few KiB keep those out of files of their own.

mod chunk;
mod former;
mod latest;

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Change, Store, StoreError, Tree};
use chunk::Writer;
use latest::Latest;

pub use former::Former;

const PAGES: &str = "packed/p/";
const JOURNAL: &str = "packed/j/";
/// Bytes of a page at the most; one that has grown over it is cut into pages of about so many.
const PAGE_MAX: usize = 7 << 10;
const PAGE_CUT: usize = 5 << 10;
/// Bytes of a journal's record at the most; one of fewer than that is added to by the next batch.
const RECORD_MAX: usize = 7 << 10;
const RECORD_MIN: usize = 2 << 10;

/// When and how fast the journal is folded.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes that the journal may have, or a fourth of the pages' if that is more.
    pub journal: usize,
    /// Bytes of pages that one batch rewrites, or a sixteenth of all if that is more.
    pub step: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { journal: 4 << 20, step: 1 << 20 }
    }
}

/// Records that are bytes, as a store has them.
pub trait Records {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    fn each(&self, prefix: &str, take: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError>;
}

/// Those of one tree of a store.
impl Records for (Store, Tree) {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get_bytes(self.1, key)
    }

    fn each(&self, prefix: &str, take: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        self.0.each(self.1, prefix, take)
    }
}

/// The entries of one tree. It has itself no more of them in memory than their pages' first keys.
pub struct Packed<R> {
    records: R,
    tree: Tree,
    pace: Pace,
    /// How large each page is, by the key that it begins at; it goes to where the next begins.
    pages: BTreeMap<Vec<u8>, usize>,
    pages_bytes: usize,
    /// The number of the journal's first record, and of the one that is written next.
    first: u64,
    next: u64,
    journal_bytes: usize,
    /// The journal's last record, as long as there is room in it.
    tail: Writer,
    fold: Option<Fold>,
    /// It could not be folded: the next opening looks what there is.
    stuck: bool,
}

/// A fold under way.
struct Fold {
    /// What the journal said when it began, and how much of that is in pages.
    latest: Latest,
    at: usize,
    /// The first of the journal's records that it leaves, and the bytes of those before.
    until: u64,
    bytes: usize,
}

impl<R: Records> Packed<R> {
    /// Shows every entry once, in the order of keys.
    pub fn open(records: R, tree: Tree, pace: Pace, mut take: impl FnMut(&[u8], &[u8])) -> Result<Self, StoreError> {
        let (tail, fold, stuck) = (Writer::default(), None, false);
        let (pages, pages_bytes, first, next, journal_bytes) = (BTreeMap::new(), 0, u64::MAX, 0, 0);
        let mut packed =
            Self { records, tree, pace, pages, pages_bytes, first, next, journal_bytes, tail, fold, stuck };
        let (mut latest, mut bad) = (Latest::default(), false);
        packed.records.each(JOURNAL, &mut |key, record| {
            let number = u64::from_str_radix(&key[JOURNAL.len()..], 16);
            let read = chunk::read(record, |key, value| latest.add(key, value));
            bad |= number.is_err() || read.is_none();
            let number = number.unwrap_or_default();
            (packed.first, packed.next) = (packed.first.min(number), packed.next.max(number + 1));
            packed.journal_bytes += record.len();
        })?;
        packed.first = packed.first.min(packed.next);
        latest.sort();
        let mut at = 0;
        packed.records.each(PAGES, &mut |key, page| {
            let start = unhex(&key[PAGES.len()..]);
            bad |= start.is_none() || merge(page, &latest, &mut at, &mut take).is_none();
            packed.pages.insert(start.unwrap_or_default(), page.len());
            packed.pages_bytes += page.len();
        })?;
        rest(&latest, &mut at, None, &mut take);
        if bad { Err(damaged()) } else { Ok(packed) }
    }

    /// What has to be saved, all at once, for entries to become these (`None`: removed); and some of the fold that is due.
    /// The next batch may be asked for once this one is saved, and not before.
    pub fn batch(&mut self, changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Vec<Change> {
        // First: it reads what was saved.
        let mut saves = self.fold().unwrap_or_else(|error| {
            tracing::error!(%error, "entries are not folded into pages any more: that is looked at when they are next opened");
            (self.stuck, self.fold) = (true, None);
            Vec::new()
        });
        let mut written = None;
        for (key, value) in changes {
            let length = key.len() + value.as_ref().map_or(0, Vec::len);
            if !self.tail.is_empty() && self.tail.len() + length > RECORD_MAX {
                saves.push(self.put_tail());
                self.close_tail();
            }
            let before = self.tail.len();
            self.tail.push(&key, value.as_deref());
            self.journal_bytes += self.tail.len() - before;
            written = Some(self.next);
        }
        if written == Some(self.next) {
            saves.push(self.put_tail());
            if self.tail.len() >= RECORD_MIN {
                self.close_tail();
            }
        }
        saves
    }

    fn put_tail(&self) -> Change {
        Change::bytes(self.tree, journal_key(self.next), self.tail.bytes().to_vec())
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.next += 1;
            self.tail = Writer::default();
        }
    }

    /// The next part of a fold, if one is due.
    fn fold(&mut self) -> Result<Vec<Change>, StoreError> {
        let is_due = self.journal_bytes > self.pace.journal.max(self.pages_bytes / 4);
        let mut fold = match self.fold.take() {
            Some(fold) => fold,
            None if is_due && !self.stuck => self.begin_fold()?,
            None => return Ok(Vec::new()),
        };
        let (mut saves, mut bytes) = (Vec::new(), 0);
        let step = self.pace.step.max(self.pages_bytes / 16);
        while bytes < step && fold.at < fold.latest.len() {
            bytes += self.fold_page(&mut fold, &mut saves)?;
        }
        if fold.at < fold.latest.len() {
            self.fold = Some(fold);
        } else {
            saves.extend((self.first..fold.until).map(|number| Change::remove(self.tree, journal_key(number))));
            self.first = fold.until;
            self.journal_bytes -= fold.bytes;
        }
        Ok(saves)
    }

    fn begin_fold(&mut self) -> Result<Fold, StoreError> {
        self.close_tail();
        let mut latest = Latest::default();
        for number in self.first..self.next {
            let record = self.records.read(&journal_key(number))?.ok_or_else(damaged)?;
            chunk::read(&record, |key, value| latest.add(key, value)).ok_or_else(damaged)?;
        }
        latest.sort();
        Ok(Fold { latest, at: 0, until: self.next, bytes: self.journal_bytes })
    }

    /// Rewrites the page of the next change, with those after it that are small beside it; how many bytes that is.
    fn fold_page(&mut self, fold: &mut Fold, saves: &mut Vec<Change>) -> Result<usize, StoreError> {
        let Some((key, _)) = fold.latest.get(fold.at) else { return Ok(0) };
        let found = self.pages.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        let start = found.map(|(start, _)| start.clone()).unwrap_or_default();
        let (mut entries, mut size) = (Vec::new(), 0);
        let mut here = start.clone();
        loop {
            let page = self.forget_page(&here, saves)?;
            let after = (Bound::Excluded(&here[..]), Bound::Unbounded);
            let next = self.pages.range::<[u8], _>(after).next().map(|(next, bytes)| (next.clone(), *bytes));
            let mut take = |key: &[u8], value: &[u8]| {
                size += key.len() + value.len() + 3;
                entries.push((key.to_vec(), value.to_vec()));
            };
            merge(&page, &fold.latest, &mut fold.at, &mut take).ok_or_else(damaged)?;
            rest(&fold.latest, &mut fold.at, next.as_ref().map(|(next, _)| &next[..]), &mut take);
            match next {
                Some((next, bytes)) if size + bytes < PAGE_CUT / 2 => here = next,
                _ => break,
            }
        }
        let pages = cut(&start, &entries);
        let bytes: usize = pages.iter().map(|(_, page)| page.len()).sum();
        for (start, page) in pages {
            self.pages_bytes += page.len();
            saves.push(Change::bytes(self.tree, page_key(&start), page.bytes().to_vec()));
            self.pages.insert(start, page.len());
        }
        // What has become nothing costs time, too.
        Ok(bytes + RECORD_MIN)
    }

    /// A page that is about to be rewritten.
    fn forget_page(&mut self, start: &[u8], saves: &mut Vec<Change>) -> Result<Vec<u8>, StoreError> {
        let Some(bytes) = self.pages.remove(start) else { return Ok(Vec::new()) };
        self.pages_bytes -= bytes;
        saves.push(Change::remove(self.tree, page_key(start)));
        self.records.read(&page_key(start))?.ok_or_else(damaged)
    }
}

/// Entries as pages, of which the first begins where it did.
fn cut(start: &[u8], entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Writer)> {
    let write = |entries: &[(Vec<u8>, Vec<u8>)]| {
        let mut page = Writer::default();
        entries.iter().for_each(|(key, value)| page.push(key, Some(value)));
        page
    };
    let whole = write(entries);
    if whole.len() <= PAGE_MAX {
        return if whole.is_empty() { Vec::new() } else { vec![(start.to_vec(), whole)] };
    }
    let each = entries.len().div_ceil(whole.len().div_ceil(PAGE_CUT));
    let begins =
        |number: usize, part: &[(Vec<u8>, Vec<u8>)]| if number == 0 { start.to_vec() } else { part[0].0.clone() };
    entries.chunks(each).enumerate().map(|(number, part)| (begins(number, part), write(part))).collect()
}

/// Shows a page's entries as the changes have them, with what comes before and between.
fn merge(page: &[u8], latest: &Latest, at: &mut usize, take: &mut impl FnMut(&[u8], &[u8])) -> Option<()> {
    chunk::read(page, |key, value| {
        let said = latest.until(at, key, &mut *take);
        said.unwrap_or(value).into_iter().for_each(|value| take(key, value));
    })
}

/// Shows what changes say beyond that, up to `end`.
fn rest(latest: &Latest, at: &mut usize, end: Option<&[u8]>, take: &mut impl FnMut(&[u8], &[u8])) {
    while let Some((key, value)) = latest.get(*at).filter(|(key, _)| end.is_none_or(|end| *key < end)) {
        value.into_iter().for_each(|value| take(key, value));
        *at += 1;
    }
}

fn journal_key(number: u64) -> String {
    format!("{JOURNAL}{number:016x}")
}

fn page_key(start: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = start.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    PAGES.chars().chain(digits.map(|digit| char::from(DIGITS[usize::from(digit)]))).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn damaged() -> StoreError {
    StoreError::Failed("entries are not what was written".to_owned())
}

#[cfg(test)]
mod tests;
