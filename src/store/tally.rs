//! Owns the count of saves, kept among the records and beside them, by which records that went missing are missed:
//! sled cuts a log that it cannot read to its last good part, down to nothing, without a word.
//! Must not know what was saved.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;

/// The record's key, outside every tree, and the file's name.
pub const TALLY: &str = "in-use";

/// How many saves there were.
pub struct Tally {
    file: File,
    saves: u64,
}

impl Tally {
    /// Opens the file; one that is new counts none.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(TALLY);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::file(&path))?;
        let mut count = [0; 8];
        match file.read_exact_at(&mut count, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => count = [0; 8],
            Err(source) => return Err(StoreError::File { path, source }),
        }
        Ok(Self { file, saves: u64::from_le_bytes(count) })
    }

    /// Compares with the count among the records; answers how many saves are missing there.
    pub fn missing(&self, records: &sled::Tree) -> Result<u64, StoreError> {
        Ok(self.saves.saturating_sub(among(records)?))
    }

    /// Goes on from whichever count is higher.
    pub fn go_on(&mut self, records: &sled::Tree) -> Result<(), StoreError> {
        self.saves = self.saves.max(among(records)?);
        Ok(())
    }

    /// Adds the next count to a batch.
    pub fn count(&mut self, batch: &mut sled::Batch) {
        self.saves += 1;
        batch.insert(TALLY, self.saves.to_string().as_bytes());
    }

    /// Notes beside the records that the batch is on disk. Never before: the file's count must not lead. It is not
    /// synced, so a machine's death may leave it behind, which only makes it miss less.
    pub fn note(&self) {
        // The save itself is good, whatever becomes of this note of it.
        drop(self.file.write_all_at(&self.saves.to_le_bytes(), 0));
    }
}

fn among(records: &sled::Tree) -> Result<u64, StoreError> {
    let count = records.get(TALLY)?;
    Ok(count.and_then(|count| std::str::from_utf8(&count).ok()?.parse().ok()).unwrap_or(0))
}
