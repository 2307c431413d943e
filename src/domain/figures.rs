//! Owns what a version's answers were like on one server: how many, how many of them errors, how long they took to
//! begin. Counters only rise. Must not know where they are counted, nor what is made of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Buckets of a latency: eight an octave, from 128 µs to over half an hour.
pub const BUCKETS: usize = 200;
/// The first octave that is told apart: all that is faster is in the first bucket.
const FIRST_OCTAVE: u32 = 7;

/// One version's counters on one server, or a difference or a sum of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Answers that were completed, and those that broke.
    pub answers: u64,
    /// Of these, the ones with a status of 500 or above, and those that broke.
    pub errors: u64,
    /// Answers by the bucket of the time to their first byte; buckets without any are left out.
    pub latency: BTreeMap<u8, u64>,
}

/// The bucket of a time.
pub fn bucket(micros: u64) -> u8 {
    let octave = micros.max(1).ilog2();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let eighth = (micros >> (octave - 3)) & 0b111;
    let index = u64::from(octave - FIRST_OCTAVE) * 8 + eighth;
    index.min(BUCKETS as u64 - 1) as u8
}

/// The least time of a bucket, in microseconds.
pub fn floor_micros(bucket: u8) -> u64 {
    let octave = u32::from(bucket) / 8 + FIRST_OCTAVE;
    let eighth = u64::from(bucket) % 8;
    if bucket == 0 { 0 } else { (8 + eighth) << (octave - 3) }
}

impl Figures {
    /// What was counted after an earlier look. A counter that fell was begun anew: what it has now is new.
    pub fn since(&self, before: &Self) -> Self {
        if self.answers < before.answers || self.errors < before.errors {
            return self.clone();
        }
        let fell = self.latency.iter().any(|(at, count)| before.latency.get(at).is_some_and(|old| count < old));
        let old = |at: &u8| if fell { 0 } else { before.latency.get(at).copied().unwrap_or(0) };
        let latency = self.latency.iter().map(|(at, count)| (*at, count - old(at)));
        Self {
            answers: self.answers - before.answers,
            errors: self.errors - before.errors,
            latency: latency.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Takes in another server's.
    pub fn add(&mut self, other: &Self) {
        self.answers = self.answers.saturating_add(other.answers);
        self.errors = self.errors.saturating_add(other.errors);
        for (at, count) in &other.latency {
            let sum = self.latency.entry(*at).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// How many answers were timed.
    pub fn timed(&self) -> u64 {
        self.latency.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The bucket that a share of the answers, in thousandths, does not exceed.
    pub fn quantile(&self, thousandths: u64) -> Option<u8> {
        let rank = (u128::from(self.timed()) * u128::from(thousandths)).div_ceil(1_000).max(1);
        let mut seen = 0u128;
        self.latency.iter().find_map(|(at, count)| {
            seen += u128::from(*count);
            (seen >= rank).then_some(*at)
        })
    }

    /// The time that a share of the answers, in thousandths, does not exceed, in microseconds.
    pub fn quantile_micros(&self, thousandths: u64) -> Option<u64> {
        self.quantile(thousandths).map(|bucket| floor_micros(bucket.saturating_add(1)))
    }

    /// How many of a million answers were errors.
    pub fn errors_ppm(&self) -> u32 {
        let share = u128::from(self.errors) * 1_000_000 / u128::from(self.answers.max(1));
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// How many of the timed answers are in a bucket above this one.
    pub fn slower_than(&self, bucket: u8) -> u64 {
        self.latency.range(bucket.saturating_add(1)..).fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_rise_with_the_time_and_hold_what_their_floor_says() {
        assert_eq!((bucket(0), bucket(127)), (0, 0));
        for index in 1..BUCKETS as u8 {
            let floor = floor_micros(index);
            assert_eq!(bucket(floor), index, "{floor}");
            assert_eq!(bucket(floor - 1), index - 1, "{floor}");
        }
        assert_eq!(usize::from(bucket(u64::MAX)), BUCKETS - 1);
        assert!(floor_micros(BUCKETS as u8 - 1) > 30 * 60 * 1_000_000);
    }

    fn figures(answers: u64, errors: u64, latency: &[(u8, u64)]) -> Figures {
        Figures { answers, errors, latency: latency.iter().copied().collect() }
    }

    #[test]
    fn a_difference_is_of_what_came_between_and_a_counter_that_fell_began_anew() {
        let (before, after) = (figures(10, 1, &[(3, 10)]), figures(25, 2, &[(3, 15), (9, 10)]));
        assert_eq!(after.since(&before), figures(15, 1, &[(3, 5), (9, 10)]));
        assert_eq!(before.since(&after), before);
        // The process was started again: it has timed fewer than before.
        assert_eq!(figures(30, 2, &[(3, 2)]).since(&after).latency, figures(0, 0, &[(3, 2)]).latency);
    }

    #[test]
    fn a_quantile_is_the_bucket_that_so_many_do_not_exceed() {
        let seen = figures(100, 0, &[(2, 50), (7, 49), (20, 1)]);
        assert_eq!((seen.quantile(500), seen.quantile(510), seen.quantile(990)), (Some(2), Some(7), Some(7)));
        assert_eq!(seen.quantile(1_000), Some(20));
        assert_eq!(seen.slower_than(7), 1);
        assert_eq!(Figures::default().quantile(500), None);
    }
}
