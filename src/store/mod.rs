//! Floor 2, the store: what a node must know after it dies. The only user of sled.
//! Must not know what the records mean.
//!
//! Everything is under one directory: `sled/` (the records), `export/NAME.json` (the control state, readable by people
//! and by a node whose records are gone), `lock` (one process at a time), `in-use` (how many
//! saves there were).
//!
//! Calls block: a save is on disk, flushed, when it returns (protocol P11), which takes about a millisecond, or ten on
//! a spinning disk. Control actors call it on their own thread; nothing on the request path calls it.

mod backup;
pub mod behind;
mod export;
pub mod mapped;
mod open;
pub mod packed;
mod sealed;
pub mod tagged;
mod tally;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::problem::{Code, Problem};
pub use open::{Opened, Options};

/// A kind of records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tree {
    /// Terms, identities, the Server List, desired versions, placements.
    Control,
    /// Manifests and releases.
    Programs,
    Ripples,
    /// Events and audit.
    History,
    /// The Session List, and sessions' data.
    Sessions,
}

impl Tree {
    pub const ALL: [Tree; 5] = [Tree::Control, Tree::Programs, Tree::Ripples, Tree::History, Tree::Sessions];

    pub const fn as_str(self) -> &'static str {
        match self {
            Tree::Control => "control",
            Tree::Programs => "programs",
            Tree::Ripples => "ripples",
            Tree::History => "history",
            Tree::Sessions => "sessions",
        }
    }
}

/// Why the store did not do it. After a failed save nothing may be said or done that depends on it (P11).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process has the store {0} open: stop it, or give this node its own [node] data_dir")]
    InUse(PathBuf),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the store failed: {0}")]
    Failed(String),
    #[error("the record {tree}/{key} cannot be read: {source}")]
    Record { tree: &'static str, key: String, source: serde_json::Error },
    #[error("the record {tree}/{key} cannot be written: {source}")]
    Write { tree: &'static str, key: String, source: serde_json::Error },
    #[error("{path} is not a backup of a store: {why}")]
    Backup { path: PathBuf, why: String },
}

impl StoreError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// Is it that the disk is full?
    pub fn is_disk_full(&self) -> bool {
        let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::File { source, .. } => full(source.kind()),
            Self::Failed(why) => why.contains("No space left"),
            _ => false,
        }
    }

    /// As it is told to people and other nodes.
    pub fn problem(&self) -> Problem {
        if self.is_disk_full() {
            return Problem::new(Code::DiskFull, self.to_string()).hint("make room on the disk, then restart the node");
        }
        let code = match self {
            Self::Backup { .. } => Code::BadRequest,
            _ => Code::StoreFailed,
        };
        Problem::new(code, self.to_string())
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One change of one record; `save` makes several at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    tree: Tree,
    key: String,
    value: Option<Vec<u8>>,
}

impl Change {
    /// Writes the record, new or not.
    pub fn put<T: Serialize + ?Sized>(tree: Tree, key: impl Into<String>, record: &T) -> Result<Self, StoreError> {
        let key = key.into();
        match serde_json::to_vec(record) {
            Ok(value) => Ok(Self { tree, key, value: Some(value) }),
            Err(source) => Err(StoreError::Write { tree: tree.as_str(), key, source }),
        }
    }

    /// Writes the record as these bytes: for those that are many. Such a one is read as bytes alone.
    pub fn bytes(tree: Tree, key: impl Into<String>, value: Vec<u8>) -> Self {
        Self { tree, key: key.into(), value: Some(sealed::seal(&value)) }
    }

    /// Removes the record, if there is one.
    pub fn remove(tree: Tree, key: impl Into<String>) -> Self {
        Self { tree, key: key.into(), value: None }
    }
}

/// The records of one node. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<open::Shared>,
}

impl Store {
    /// Makes all the changes or, should the node die meanwhile, none; they are on disk when this returns.
    pub fn save(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.save_all(&changes)
    }

    /// The same, for who may have to try again.
    pub fn save_all(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for Change { tree, key, value } in changes {
            let key = full_key(*tree, key).into_bytes();
            match value {
                Some(value) => batch.insert(key, &value[..]),
                None => batch.remove(key),
            }
        }
        self.apply(batch)
    }

    fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        guarded(|| self.shared.apply(batch))
    }

    /// Writes one record, flushed.
    pub fn put<T: Serialize + ?Sized>(&self, tree: Tree, key: impl Into<String>, record: &T) -> Result<(), StoreError> {
        self.save(vec![Change::put(tree, key, record)?])
    }

    /// Removes one record, flushed.
    pub fn remove(&self, tree: Tree, key: impl Into<String>) -> Result<(), StoreError> {
        self.save(vec![Change::remove(tree, key)])
    }

    /// Reads one record.
    pub fn get<T: DeserializeOwned>(&self, tree: Tree, key: &str) -> Result<Option<T>, StoreError> {
        match guarded(|| Ok(self.shared.records.get(full_key(tree, key))?))? {
            Some(value) => decode(tree, key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// Reads every record whose key starts with `prefix`, by key.
    pub fn scan<T: DeserializeOwned>(&self, tree: Tree, prefix: &str) -> Result<Vec<(String, T)>, StoreError> {
        let skip = tree.as_str().len() + 1;
        self.raw(&full_key(tree, prefix))?
            .into_iter()
            .map(|(key, value)| {
                let key = key[skip..].to_owned();
                let record = decode(tree, &key, &value)?;
                Ok((key, record))
            })
            .collect()
    }

    /// Keys that start with `prefix`, in order, without reading the records.
    pub fn keys(&self, tree: Tree, prefix: &str) -> Result<Vec<String>, StoreError> {
        let skip = tree.as_str().len() + 1;
        Ok(self.raw(&full_key(tree, prefix))?.into_iter().map(|(key, _)| key[skip..].to_owned()).collect())
    }

    /// So many keys that start with `prefix`, in order: from the first, or those behind one.
    pub fn some_keys(
        &self,
        tree: Tree,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let (skip, from) = (tree.as_str().len() + 1, full_key(tree, after.unwrap_or(prefix)));
        let prefix = full_key(tree, prefix);
        guarded(|| {
            let is_it =
                |key: &sled::Result<sled::IVec>| key.as_ref().map_or(true, |key| key.starts_with(prefix.as_bytes()));
            let found = self.shared.records.range(from.clone()..).keys();
            let found =
                found.filter(|key| key.as_ref().map_or(true, |key| after.is_none() || **key != *from.as_bytes()));
            let found = found.take_while(is_it).take(most);
            let text = |key: sled::IVec| String::from_utf8(key[skip..].to_vec());
            found.map(|key| text(key?).map_err(|_| StoreError::Failed("a key is not text".into()))).collect()
        })
    }

    /// Reads one record that was written as bytes. One that is not what was written counts as none, which is said: it is lost,
    /// and who has it elsewhere writes it anew.
    pub fn get_bytes(&self, tree: Tree, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = guarded(|| Ok(self.shared.records.get(full_key(tree, key))?))? else { return Ok(None) };
        let bytes = sealed::unseal(&value).map(<[u8]>::to_vec);
        if bytes.is_none() {
            tracing::error!(tree = tree.as_str(), key, "a record is not what was written, and counts as none");
        }
        Ok(bytes)
    }

    /// Shows every record whose key starts with `prefix`, by key, one after the other: they may be a million.
    pub fn each(&self, tree: Tree, prefix: &str, mut take: impl FnMut(&str, &[u8])) -> Result<(), StoreError> {
        let skip = tree.as_str().len() + 1;
        guarded(|| {
            for record in self.shared.records.scan_prefix(full_key(tree, prefix)) {
                let (key, value) = record?;
                let key = std::str::from_utf8(&key).map_err(|_| StoreError::Failed("a key is not text".into()))?;
                take(&key[skip..], sealed::unseal(&value).ok_or_else(|| damaged(key))?);
            }
            Ok(())
        })
    }

    fn raw(&self, prefix: &str) -> Result<Vec<(String, sled::IVec)>, StoreError> {
        guarded(|| {
            let mut found = Vec::new();
            for record in self.shared.records.scan_prefix(prefix) {
                let (key, value) = record?;
                let key = std::str::from_utf8(&key).map_err(|_| StoreError::Failed("a key is not text".into()))?;
                found.push((key.to_owned(), value));
            }
            Ok(found)
        })
    }

    /// Bytes that the records take on disk.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        guarded(|| Ok(self.shared.db.size_on_disk()?))
    }
}

fn damaged(key: &str) -> StoreError {
    StoreError::Failed(format!("the record {key} is not what was written"))
}

fn full_key(tree: Tree, key: &str) -> String {
    format!("{}/{key}", tree.as_str())
}

fn decode<T: DeserializeOwned>(tree: Tree, key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|source| StoreError::Record {
        tree: tree.as_str(),
        key: key.to_owned(),
        source,
    })
}

/// sled panics where its files are not what it wrote; a node must live to say so.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(StoreError::Failed(said.unwrap_or("no reason given").to_owned()))
    })
}

#[cfg(test)]
mod tests;
