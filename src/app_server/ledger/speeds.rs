//! Owns how long answers took to begin, in buckets, by row; in memory only, so that a new process counts anew.
//! Must not know requests, nor what is made of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::figures::{BUCKETS, bucket};

/// One version's answers.
#[derive(Debug)]
pub struct Speeds([AtomicU64; BUCKETS]);

impl Default for Speeds {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Speeds {
    pub fn count(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0[usize::from(bucket(micros))].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> BTreeMap<u8, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        (0..).zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// Those of all rows. They outlive the hold on a row, for a version to be set against the one before it.
#[derive(Debug, Default)]
pub(super) struct AllSpeeds(Mutex<HashMap<usize, Arc<Speeds>>>);

impl AllSpeeds {
    pub fn of(&self, row: usize) -> Arc<Speeds> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(row).or_default().clone()
    }

    pub fn read(&self, row: usize) -> BTreeMap<u8, u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&row).map(|speeds| speeds.read()).unwrap_or_default()
    }

    /// The row is another version's from now on.
    pub fn forget(&self, row: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&row);
    }
}
