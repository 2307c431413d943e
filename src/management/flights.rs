//! Owns which messages are on their way to servers, and when each may be sent again.
//! Must not know what they say.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::domain::ripple::machine::Send;

/// The least time between an answer and the same message again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What makes two messages the same message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key(String);

#[derive(Default)]
struct Flight {
    in_flight: bool,
    failures: u32,
    next_at: Option<Instant>,
}

/// All messages on their way.
#[derive(Default)]
pub struct Flights(HashMap<Key, Flight>);

impl Key {
    pub fn of(send: &Send) -> Self {
        Self(serde_json::to_string(send).unwrap_or_else(|_| format!("{send:?}")))
    }
}

impl Flights {
    /// Whether this message should leave now; if so, it has.
    pub fn depart(&mut self, key: &Key, now: Instant) -> bool {
        let flight = self.0.entry(key.clone()).or_default();
        let free = !flight.in_flight && flight.next_at.is_none_or(|at| at <= now);
        flight.in_flight |= free;
        free
    }

    /// It was answered; should it still be wanted, it may leave again after a moment.
    pub fn answered(&mut self, key: &Key, now: Instant) {
        if let Some(flight) = self.0.get_mut(key) {
            *flight = Flight { next_at: Some(now + AGAIN_AFTER), ..Flight::default() };
        }
    }

    /// It was not answered: again after a pause that grows, spread by `chance` (0 to 1) so that many do not come at once.
    pub fn failed(&mut self, key: &Key, now: Instant, chance: f64) {
        if let Some(flight) = self.0.get_mut(key) {
            flight.in_flight = false;
            flight.failures = flight.failures.saturating_add(1);
            let pause = (AGAIN_AFTER * 2u32.pow(flight.failures.min(8))).min(LONGEST_PAUSE);
            flight.next_at = Some(now + pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0));
        }
    }

    /// Forgets the messages that are not wanted any more.
    pub fn keep(&mut self, wanted: &[Key]) {
        self.0.retain(|key, flight| flight.in_flight || wanted.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::ServerName;

    fn key() -> Key {
        Key::of(&Send::Seal { server: ServerName::new("app-1").unwrap(), asked: 1 })
    }

    #[test]
    fn a_message_on_its_way_does_not_leave_twice() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        assert!(flights.depart(&key(), now));
        assert!(!flights.depart(&key(), now + Duration::from_secs(60)));
        flights.answered(&key(), now);
        assert!(!flights.depart(&key(), now));
        assert!(flights.depart(&key(), now + AGAIN_AFTER));
    }

    #[test]
    fn the_pause_between_tries_grows_to_a_bound() {
        let (mut flights, mut now) = (Flights::default(), Instant::now());
        for _ in 0..20 {
            assert!(flights.depart(&key(), now));
            flights.failed(&key(), now, 1.0);
            assert!(!flights.depart(&key(), now));
            now += LONGEST_PAUSE;
        }
    }
}
