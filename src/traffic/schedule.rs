//! Owns when each request is due and which one it is, fixed before the first is sent. Pure: must not know the clock.

use std::time::Duration;

use super::mix::Mix;

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

/// Who sends what next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The mix's number of the request.
    pub entry: usize,
    /// With sessions.
    pub client: Option<usize>,
    /// The client leaves after it.
    pub last: bool,
}

/// The turns of all clients, one after the other; without sessions, of nobody in particular.
pub struct Turns {
    /// A client's choice, and how often it has asked in its present life.
    clients: Vec<(Wheel, u32)>,
    sessions: bool,
    life: Option<u32>,
    end: Option<usize>,
    next: usize,
}

impl Turns {
    /// Clients begin at different places of the mix and of their lives, as they would be found at any other moment.
    pub fn new(mix: &Mix, sessions: usize) -> Self {
        let life = mix.life();
        let wheel = Wheel::new(mix.requests().iter().map(|request| request.weight));
        let client = |(wheel, number): (&mut Wheel, usize)| {
            let begun = (wheel.clone(), life.map_or(0, |life| (number % life as usize) as u32));
            wheel.turn();
            begun
        };
        let clients = (0..sessions.max(1)).scan(wheel, |wheel, number| Some(client((wheel, number)))).collect();
        Self { clients, sessions: sessions > 0, life: life.filter(|_| sessions > 0), end: mix.end(), next: 0 }
    }

    pub fn next(&mut self) -> Turn {
        let number = self.next;
        self.next = (self.next + 1) % self.clients.len();
        let (wheel, asked) = &mut self.clients[number];
        *asked += 1;
        let last = self.life.is_some_and(|life| *asked >= life);
        if last {
            *asked = 0;
        }
        let entry = self.end.filter(|_| last).unwrap_or_else(|| wheel.turn());
        Turn { entry, client: self.sessions.then_some(number), last }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mix::Request;
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

    #[test]
    fn every_client_has_its_turn_goes_through_the_mix_and_leaves_after_its_life() {
        let mix = Mix::new(vec![Request::get("/"), Request::get("/a")]).unwrap();
        let mut turns = Turns::new(&mix.leaving(3, Some("/bye")).unwrap(), 2);
        let seen: Vec<_> = (0..8).map(|_| turns.next()).map(|turn| (turn.client, turn.entry, turn.last)).collect();
        let (a, b) = (Some(0), Some(1));
        let (bye, no, yes) = (2, false, true);
        assert_eq!(
            seen,
            [(a, 0, no), (b, 1, no), (a, 1, no), (b, bye, yes), (a, bye, yes), (b, 0, no), (a, 0, no), (b, 1, no)]
        );
        let mut nobody = Turns::new(&mix, 0);
        assert_eq!(nobody.next(), Turn { entry: 0, client: None, last: false });
        assert_eq!(nobody.next(), Turn { entry: 1, client: None, last: false });
    }
}
