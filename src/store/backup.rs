//! Owns the backup file of a store: one JSON line a record, between a first line that says what it is and a last one
//! that says how many there are, so that a file cut short is known. Must not know what the records mean.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Store, StoreError, Tree, full_key};

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    neap_store_backup: u32,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    record: Value,
}

#[derive(Serialize, Deserialize)]
struct End {
    records: usize,
}

impl Store {
    /// Writes every record to the file `to`, whole or not at all; answers how many.
    pub fn backup(&self, to: &Path) -> Result<usize, StoreError> {
        let records = self.all()?;
        let count = records.len();
        super::export::replace(to, |file| {
            writeln!(file, "{}", serde_json::to_string(&Head { neap_store_backup: FORMAT })?)?;
            for line in records {
                writeln!(file, "{}", serde_json::to_string(&line)?)?;
            }
            writeln!(file, "{}", serde_json::to_string(&End { records: count })?)
        })?;
        Ok(count)
    }

    fn all(&self) -> Result<Vec<Line>, StoreError> {
        let mut lines = Vec::new();
        for tree in Tree::ALL {
            for (key, record) in self.scan::<Value>(tree, "")? {
                lines.push(Line { key: full_key(tree, &key), record });
            }
        }
        Ok(lines)
    }

    /// Replaces every record by those of the backup `from`, all or none; answers how many there are now.
    pub fn restore(&self, from: &Path) -> Result<usize, StoreError> {
        let lines = read(from)?;
        let mut batch = sled::Batch::default();
        for line in self.all()? {
            batch.remove(line.key.as_bytes());
        }
        for Line { key, record } in &lines {
            batch.insert(key.as_bytes(), record.to_string().as_bytes());
        }
        self.apply(batch)?;
        Ok(lines.len())
    }
}

fn read(path: &Path) -> Result<Vec<Line>, StoreError> {
    let bad = |why: String| StoreError::Backup { path: path.to_owned(), why };
    let file = File::open(path).map_err(StoreError::file(path))?;
    let mut text = BufReader::new(file).lines();
    let head = text.next().transpose().map_err(StoreError::file(path))?.unwrap_or_default();
    match serde_json::from_str(&head) {
        Ok(Head { neap_store_backup: FORMAT }) => {}
        Ok(Head { neap_store_backup: other }) => return Err(bad(format!("its format is {other}, not {FORMAT}"))),
        Err(_) => return Err(bad("line 1 does not say that it is one".to_owned())),
    }
    let mut lines = Vec::new();
    for (number, line) in (2_usize..).zip(text) {
        let line = line.map_err(StoreError::file(path))?;
        if let Ok(End { records }) = serde_json::from_str(&line) {
            let whole = records == lines.len();
            return if whole { Ok(lines) } else { Err(bad(format!("it says {records} records, not {}", lines.len()))) };
        }
        let line: Line = serde_json::from_str(&line).map_err(|error| bad(format!("line {number}: {error}")))?;
        let known = Tree::ALL.iter().any(|tree| line.key.starts_with(&full_key(*tree, "")));
        if !known {
            return Err(bad(format!("line {number}: there is no tree for the key \"{}\"", line.key)));
        }
        lines.push(line);
    }
    Err(bad("it is cut short: the last line is missing".to_owned()))
}
