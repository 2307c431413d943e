//! Owns when each request is due and which one it is, fixed before the first is sent. Pure: must not know the clock.

use std::time::Duration;

/// The times at which requests are due, after the start: request `n` at `n / rate`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    rate: f64,
    /// `None`: without end.
    total: Option<u64>,
}

impl Schedule {
    pub fn new(rate: f64, duration: Option<Duration>) -> Self {
        // A hair less, so that 0.1 s at 30 a second is 3 requests and not, by rounding, 4.
        let total = duration.map(|duration| (rate * duration.as_secs_f64() - 1e-6).ceil().max(0.0) as u64);
        Self { rate, total }
    }

    /// When request `number` (from 0) is due; `None` at the end.
    pub fn due(&self, number: u64) -> Option<Duration> {
        let within = self.total.is_none_or(|total| number < total);
        within.then(|| Duration::from_secs_f64(number as f64 / self.rate))
    }
}

/// Chooses by weight, in turn and evenly spread, so that shares are exact and a run can be repeated.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// Weight and present credit of each.
    slots: Vec<(i64, i64)>,
    total: i64,
}

impl Wheel {
    /// `weights` is not empty, and its members are above 0.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let slots: Vec<_> = weights.into_iter().map(|weight| (i64::from(weight), 0)).collect();
        let total = slots.iter().map(|(weight, _)| weight).sum();
        Self { slots, total }
    }

    /// The index of the next choice: each slot earns its weight, the richest pays the total.
    pub fn turn(&mut self) -> usize {
        let mut best = 0;
        for index in 0..self.slots.len() {
            self.slots[index].1 += self.slots[index].0;
            if self.slots[index].1 > self.slots[best].1 {
                best = index;
            }
        }
        self.slots[best].1 -= self.total;
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_due_as_rate_times_duration() {
        for (rate, millis, total) in
            [(300.0, 2_000, 600), (30.0, 100, 3), (7.0, 1_000, 7), (3.0, 500, 2), (0.5, 3_000, 2)]
        {
            let schedule = Schedule::new(rate, Some(Duration::from_millis(millis)));
            assert_eq!((0..).take_while(|n| schedule.due(*n).is_some()).count(), total, "{rate} for {millis} ms");
        }
        assert_eq!(Schedule::new(100.0, None).due(250), Some(Duration::from_millis(2_500)));
    }

    #[test]
    fn shares_are_exact_and_spread() {
        let mut wheel = Wheel::new([5, 1, 1]);
        let turns: Vec<_> = (0..7).map(|_| wheel.turn()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
        let count = |index| turns.iter().filter(|turn| **turn == index).count();
        assert_eq!([count(0), count(1), count(2)], [5, 1, 1]);
    }
}
