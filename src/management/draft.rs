//! Owns how it is found which records differ from what is on disk. Must not know what they mean.

use std::collections::HashMap;

use serde::Serialize;
use sha2::Digest;

use super::records::RippleRecord;
use crate::domain::names::{RippleId, Sha256};
use crate::store::{Change, StoreError, Tree};

pub type Key = (Tree, String);

/// One save in the making.
pub struct Draft<'a> {
    pub saved: &'a HashMap<Key, Sha256>,
    pub seen: HashMap<Key, Sha256>,
    pub changes: Vec<Change>,
}

impl Draft<'_> {
    /// Takes in a record: written if it is another than what is on disk.
    pub fn record<T: Serialize>(&mut self, tree: Tree, key: String, record: &T) -> Result<(), StoreError> {
        let write = |source| StoreError::Write { tree: tree.as_str(), key: key.clone(), source };
        let text = serde_json::value::to_raw_value(record).map_err(write)?;
        let digest = Sha256(sha2::Sha256::digest(text.get().as_bytes()).into());
        if self.saved.get(&(tree, key.clone())) != Some(&digest) {
            self.changes.push(Change::put(tree, key.clone(), &text)?);
        }
        self.seen.insert((tree, key), digest);
        Ok(())
    }

    /// A ripple that has its receipt does not change any more. `before`: as it was saved.
    pub fn ripple(
        &mut self,
        id: &RippleId,
        record: &RippleRecord,
        before: Option<&RippleRecord>,
    ) -> Result<(), StoreError> {
        let key = (Tree::Ripples, format!("ripple/{id}"));
        match self.saved.get(&key).copied() {
            Some(digest) if digest == CLOSED || before == Some(record) => self.seen.insert(key, digest),
            _ => {
                self.record(key.0, key.1.clone(), record)?;
                record.receipt.as_ref().and_then(|_| self.seen.insert(key, CLOSED))
            }
        };
        Ok(())
    }
}

/// Stands for the digest of a record that does not change any more.
const CLOSED: Sha256 = Sha256([0; 32]);
