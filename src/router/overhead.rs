//! Owns how long this router has requests before it sends them on, of a sample of them. Must not know requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One request of so many is looked at: a clock read for each would cost more than what it tells.
pub const EVERY: usize = 32;
/// Upper ends of the buckets, in microseconds.
const BUCKETS_US: [u64; 10] = [5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000];

/// A histogram of all workers together: each adds to it seldom.
#[derive(Debug, Default)]
pub struct Overhead {
    took: [AtomicU64; BUCKETS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Overhead {
    pub fn took(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|most| ns <= most * 1_000).unwrap_or(BUCKETS_US.len());
        self.took[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Counts by upper ends in seconds, and the sum of all.
    pub fn read(&self) -> ([(f64, u64); BUCKETS_US.len() + 1], Duration) {
        let counts = std::array::from_fn(|at| {
            let end = BUCKETS_US.get(at).map_or(f64::INFINITY, |us| *us as f64 / 1e6);
            (end, self.took[at].load(Ordering::Relaxed))
        });
        (counts, Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_first_bucket_that_holds_it() {
        let overhead = Overhead::default();
        for us in [4, 5, 6, 1_000_000] {
            overhead.took(Duration::from_micros(us));
        }
        let (counts, sum) = overhead.read();
        assert_eq!((counts[0], counts[1].1, counts[10].1), ((5e-6, 2), 1, 1));
        assert!(counts[10].0.is_infinite() && sum == Duration::from_micros(1_000_015));
    }
}
