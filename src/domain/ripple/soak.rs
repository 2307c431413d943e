//! Owns how a soak is counted: time under real traffic, after a step and before the next. Where nobody asks anything of
//! the new version, it ends all the same, later. Must not know what the new version is judged by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// Instances that ended by themselves in one soak, from which on that is no chance any more.
pub const RESTARTS_MAX: u64 = 2;
/// A soak is kept on disk as often as this, over its length.
const KEPT_TIMES: Millis = 10;

/// How far one soak is. Times are of one run of management; the next goes on with what was kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Soak {
    /// When it began: the new version was seen open, and what routers had held for it was through.
    #[serde(skip)]
    pub since: Option<Millis>,
    #[serde(skip)]
    pub under_traffic: Millis,
    /// When there was last more traffic, and how many answers there were then.
    #[serde(skip)]
    looked: Option<(Millis, u64)>,
    /// A person has seen enough.
    pub enough: bool,
    /// Each server's figures when they were first looked at.
    #[serde(with = "lists")]
    begun: BTreeMap<ServerName, Figures>,
    /// How often its server had restarted the program when the soak began.
    restarts: Option<u64>,
    /// How long it had lasted, and how much of that was under traffic, when that was last kept.
    kept: (Millis, Millis),
}

impl Soak {
    /// The soak's beginning, by this run's clock: `burst` from now, or, of one that another run began, some time ago.
    pub fn begin(&mut self, now: Millis, burst: Millis) -> Millis {
        match self.since {
            Some(since) => since,
            None => {
                self.under_traffic = self.kept.1;
                let since = if self.kept.0 > 0 { now.saturating_sub(self.kept.0) } else { now + burst };
                *self.since.insert(since)
            }
        }
    }

    /// Keeps how far it is, now and then.
    pub fn keep(&mut self, wanted: Millis, now: Millis) {
        let lasted = self.since.map_or(0, |since| now.saturating_sub(since));
        if wanted > 0 && lasted >= self.kept.0 + (wanted / KEPT_TIMES).max(1_000) {
            self.kept = (lasted, self.under_traffic);
        }
    }

    /// How often the program was restarted since the soak began. A server that counts anew takes nothing back.
    pub fn restarted(&mut self, restarts: u64) -> u64 {
        let begun = self.restarts.get_or_insert(restarts);
        *begun = (*begun).min(restarts);
        restarts - *begun
    }

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

    /// What a server had counted before the soak began.
    pub fn before(&self, server: &ServerName) -> Figures {
        self.begun.get(server).cloned().unwrap_or_default()
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

/// Figures as lists: what is kept in a tagged value has only text for its keys.
mod lists {
    use serde::{Deserializer, Serializer};

    use super::*;

    type Listed = Vec<(ServerName, u64, u64, Vec<(u8, u64)>)>;

    pub fn serialize<S: Serializer>(begun: &BTreeMap<ServerName, Figures>, serializer: S) -> Result<S::Ok, S::Error> {
        let list = |(server, figures): (&ServerName, &Figures)| {
            let latency = figures.latency.iter().map(|(bucket, count)| (*bucket, *count)).collect();
            (server.clone(), figures.answers, figures.errors, latency)
        };
        begun.iter().map(list).collect::<Listed>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<ServerName, Figures>, D::Error> {
        let read = |(server, answers, errors, latency): (ServerName, u64, u64, Vec<(u8, u64)>)| {
            (server, Figures { answers, errors, latency: latency.into_iter().collect() })
        };
        Ok(Listed::deserialize(from)?.into_iter().map(read).collect())
    }
}

/// How long a look at the counters is good for.
pub fn look_every(wanted: Millis) -> Millis {
    (wanted / 10).clamp(*LOOK_EVERY_MS.start(), *LOOK_EVERY_MS.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ripple::StepPhase;

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
    fn another_run_of_management_goes_on_with_what_was_kept() {
        let mut soak = Soak::default();
        assert_eq!(soak.begin(50_000, 0), 50_000);
        soak.look(50_000, 0);
        (1..=5).for_each(|second| soak.look(50_000 + second * 1_000, second));
        soak.keep(10_000, 55_000);
        let figures = Figures { answers: 3, errors: 1, latency: [(10, 2), (40, 1)].into() };
        soak.since_begun(&ServerName::new("a").unwrap(), figures);
        // As it is kept: in a step.
        let text = serde_json::to_string(&StepPhase::Soaking { soak: soak.clone() }).unwrap();
        let kept = || match serde_json::from_str(&text).unwrap() {
            StepPhase::Soaking { soak } => soak,
            other => panic!("{other:?}"),
        };
        assert_eq!(kept().begun, soak.begun);
        let mut soak = kept();
        assert_eq!((soak.begin(200, 2_000), soak.under_traffic), (0, 5_000));
        let mut soak = kept();
        assert_eq!(soak.begin(9_000, 2_000), 4_000);
        assert!(soak.wait(10_000, 13_000).is_some());
    }

    #[test]
    fn what_was_held_comes_before_the_soak_begins() {
        let mut soak = Soak::default();
        assert_eq!(soak.begin(1_000, 2_000), 3_000);
        assert_eq!(soak.begin(1_500, 2_000), 3_000);
        assert_eq!(soak.wait(200, 3_100).map(|(_, until)| until), Some(3_800));
        assert_eq!(soak.wait(200, 3_800), None);
    }

    #[test]
    fn instances_that_end_by_themselves_are_counted_from_the_soaks_beginning() {
        let mut soak = Soak::default();
        assert_eq!((soak.restarted(7), soak.restarted(8), soak.restarted(0), soak.restarted(1)), (0, 1, 0, 1));
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
