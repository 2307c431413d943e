//! Owns how a soak is counted: time under real traffic, after a step and before the next. Where nobody asks anything of
//! the new version, it ends all the same, later. Must not know what the new version is judged by.

use std::collections::BTreeMap;

use super::wait::Reason;
use crate::domain::figures::Figures;
use crate::domain::names::ServerName;
use crate::domain::placement::Millis;

/// An answer tells of traffic for as long as this.
const TRAFFIC_LASTS_MS: Millis = 5_000;
/// A soak without traffic lasts so many times as long.
pub const WITHOUT_TRAFFIC: Millis = 4;
/// How often the counters of a version are looked at: ten times a soak, within these.
const LOOK_EVERY_MS: std::ops::RangeInclusive<Millis> = 100..=1_000;

/// How far one soak is, as one run of management saw it: the next one begins it anew.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Soak {
    /// When the new version was first seen open.
    pub since: Option<Millis>,
    pub under_traffic: Millis,
    /// When there was last more traffic, and how many answers there were then.
    looked: Option<(Millis, u64)>,
    /// A person has seen enough.
    pub enough: bool,
    /// Each server's figures when they were first looked at.
    begun: BTreeMap<ServerName, Figures>,
}

impl Soak {
    /// Takes in how many answers the new version had given at a time.
    pub fn look(&mut self, at: Millis, answers: u64) {
        match self.looked {
            Some((before, seen)) if answers > seen => {
                self.under_traffic += at.saturating_sub(before).min(TRAFFIC_LASTS_MS);
                self.looked = Some((at, answers));
            }
            // Counted anew, by another run of its server.
            Some((_, seen)) if answers < seen => self.looked = Some((at, answers)),
            Some(_) => {}
            None => self.looked = Some((at, answers)),
        }
    }

    /// What a server has counted since the soak began.
    pub fn since_begun(&mut self, server: &ServerName, now: Figures) -> Figures {
        now.since(self.begun.entry(server.clone()).or_insert_with(|| now.clone()))
    }

    /// `None`: it is over. Else the reason to wait, and until when at the most.
    pub fn wait(&self, wanted: Millis, now: Millis) -> Option<(Reason, Millis)> {
        let since = self.since.unwrap_or(now);
        let last = since + wanted.saturating_mul(WITHOUT_TRAFFIC);
        if self.enough || self.under_traffic >= wanted || now >= last {
            return None;
        }
        let left = wanted - self.under_traffic;
        let flows = self.under_traffic > 0 && self.looked.is_some_and(|(at, _)| now < at + TRAFFIC_LASTS_MS);
        let until = if flows { last.min(now + left) } else { last };
        Some((Reason::Soaking { under_traffic: self.under_traffic, wanted }, until))
    }
}

/// How long a look at the counters is good for.
pub fn look_every(wanted: Millis) -> Millis {
    (wanted / 10).clamp(*LOOK_EVERY_MS.start(), *LOOK_EVERY_MS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_under_traffic_counts() {
        let mut soak = Soak { since: Some(0), ..Soak::default() };
        soak.look(0, 100);
        soak.look(1_000, 100);
        assert_eq!(soak.under_traffic, 0);
        soak.look(2_000, 130);
        soak.look(3_000, 160);
        assert_eq!(soak.under_traffic, 3_000);
        // After a long silence, one answer does not stand for all of it.
        soak.look(60_000, 161);
        assert_eq!(soak.under_traffic, 8_000);
        assert_eq!(soak.wait(8_000, 60_000), None);
    }

    #[test]
    fn without_traffic_it_ends_later_and_not_never() {
        let mut soak = Soak { since: Some(1_000), ..Soak::default() };
        soak.look(1_000, 0);
        assert!(soak.wait(10_000, 40_999).is_some());
        assert_eq!(soak.wait(10_000, 41_000), None);
        soak.enough = true;
        assert_eq!(soak.wait(10_000, 2_000), None);
    }

    #[test]
    fn a_server_that_counts_anew_takes_nothing_back() {
        let mut soak = Soak::default();
        soak.look(0, 50);
        soak.look(1_000, 60);
        soak.look(2_000, 3);
        soak.look(3_000, 9);
        assert_eq!(soak.under_traffic, 2_000);
    }
}
