//! Owns what is told while a drain waits for sessions: how many, the oldest, and how long it may take.
//! Must not know how it is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Entry, SessionList};
use crate::domain::names::ServerName;
use crate::domain::session::{SessionId, WallMillis};

/// Ends that are remembered one by one at the most: then older ones count half.
const ENDS_REMEMBERED: u64 = 4_096;

/// The sessions that are left.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub left: u64,
    /// With requests under way.
    pub active: u64,
    pub oldest: Option<OldestSession>,
    /// The last one may have ended after so many milliseconds more, by the lives of those that ended; never after the last
    /// can have become idle by.
    pub forecast_ms: Option<u64>,
}

impl Figures {
    /// How long a drain may take that waits for them, given how long its requests may and when it ends at the latest: the
    /// longer of both counts. `None`: nothing tells.
    pub fn drain_ms(&self, requests_ms: Option<u64>, deadline_ms: u64) -> Option<u64> {
        requests_ms.max(self.forecast_ms.map(|forecast| forecast.min(deadline_ms)))
    }
}

/// The session that has lasted longest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct OldestSession {
    pub id: SessionId,
    pub age_ms: u64,
    /// Since its last request.
    pub quiet_ms: u64,
}

/// How long sessions have lived that ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lives {
    pub count: u64,
    pub total: u64,
}

impl Lives {
    pub fn ended(&mut self, begun: WallMillis, now: WallMillis) {
        self.count += 1;
        self.total = self.total.saturating_add(now.saturating_sub(begun));
        if self.count >= ENDS_REMEMBERED {
            (self.count, self.total) = (self.count / 2, self.total / 2);
        }
    }

    pub fn add(self, other: Self) -> Self {
        Self { count: self.count + other.count, total: self.total.saturating_add(other.total) }
    }

    fn mean(self) -> Option<u64> {
        self.total.checked_div(self.count)
    }
}

impl SessionList {
    /// Of the parts of one program's list together. Looks at all sessions: for who waits for them, at a heartbeat's pace.
    pub fn figures<'a>(parts: impl Iterator<Item = &'a SessionList>, now: WallMillis) -> Figures {
        let (mut sum, mut lives) = (Sum::default(), Lives::default());
        for part in parts {
            lives = lives.add(part.lives);
            part.sessions.iter().for_each(|(id, entry)| sum.add(*id, entry, part.bounds.idle));
        }
        sum.figures(lives, now)
    }

    /// Of each server that has any, by the lives of all. Looks at all sessions: for a person who asks.
    pub fn figures_by_server(&self, now: WallMillis) -> BTreeMap<ServerName, Figures> {
        let mut sums: BTreeMap<&ServerName, Sum> = BTreeMap::new();
        for (id, entry) in &self.sessions {
            let server = &self.places[usize::from(entry.place)].place.server;
            sums.entry(server).or_default().add(*id, entry, self.bounds.idle);
        }
        sums.into_iter().map(|(server, sum)| (server.clone(), sum.figures(self.lives, now))).collect()
    }
}

/// Sessions, as they are looked at one by one.
#[derive(Default)]
struct Sum {
    left: u64,
    active: u64,
    /// When the last of them has become idle, if nothing more is heard of it.
    idle_at: WallMillis,
    oldest: Option<(WallMillis, WallMillis, SessionId)>,
}

impl Sum {
    fn add(&mut self, id: SessionId, entry: &Entry, idle: WallMillis) {
        self.left += 1;
        self.active += u64::from(entry.active > 0);
        self.idle_at = self.idle_at.max(entry.seen.saturating_add(idle));
        if self.oldest.is_none_or(|(begun, ..)| entry.begun < begun) {
            self.oldest = Some((entry.begun, entry.seen, id));
        }
    }

    fn figures(self, lives: Lives, now: WallMillis) -> Figures {
        let oldest = self.oldest.map(|(begun, seen, id)| OldestSession {
            id,
            age_ms: now.saturating_sub(begun),
            quiet_ms: now.saturating_sub(seen),
        });
        let idle_by = self.idle_at.saturating_sub(now);
        let by_lives = lives.mean().map(|mean| last_of(self.left, mean));
        let forecast = by_lives.map_or(idle_by, |by_lives| by_lives.min(idle_by));
        let forecast_ms = (self.left > 0).then_some(forecast);
        Figures { left: self.left, active: self.active, oldest, forecast_ms }
    }
}

/// When the last of so many has ended, if each may end at any time with that mean: the mean times 1 + 1/2 + … + 1/n.
fn last_of(count: u64, mean: u64) -> u64 {
    let harmonic = (count.max(1) as f64).ln() + 0.577 + 0.5 / count.max(1) as f64;
    (mean as f64 * harmonic) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_many_takes_longer_than_one_but_not_as_much_longer_as_they_are_more() {
        let (one, thousand) = (last_of(1, 1_000), last_of(1_000, 1_000));
        assert!((1_000..1_100).contains(&one) && (7_400..7_600).contains(&thousand), "{one} {thousand}");
    }

    #[test]
    fn a_drain_takes_as_long_as_its_requests_and_its_sessions_and_never_longer_for_them_than_the_deadline() {
        let with = |forecast_ms| Figures { forecast_ms, ..Figures::default() };
        assert_eq!(with(None).drain_ms(None, 500), None);
        assert_eq!(with(None).drain_ms(Some(40), 500), Some(40));
        assert_eq!(with(Some(300)).drain_ms(Some(40), 500), Some(300));
        assert_eq!(with(Some(900)).drain_ms(None, 500), Some(500));
        // The deadline is of sessions: requests are waited for beyond it.
        assert_eq!(with(Some(900)).drain_ms(Some(700), 500), Some(700));
    }
}
