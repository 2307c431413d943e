//! Owns what is told while a drain waits for sessions: how many, the oldest, and how long it may take.
//! Must not know how it is shown.

use serde::{Deserialize, Serialize};

use super::SessionList;
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
        let (mut figures, mut lives, mut latest) = (Figures::default(), Lives::default(), 0);
        let mut oldest: Option<(WallMillis, WallMillis, SessionId)> = None;
        for part in parts {
            lives = lives.add(part.lives);
            for (id, entry) in &part.sessions {
                figures.left += 1;
                figures.active += u64::from(entry.active > 0);
                latest = latest.max(entry.seen.saturating_add(part.bounds.idle));
                if oldest.is_none_or(|(begun, ..)| entry.begun < begun) {
                    oldest = Some((entry.begun, entry.seen, *id));
                }
            }
        }
        figures.oldest = oldest.map(|(begun, seen, id)| OldestSession {
            id,
            age_ms: now.saturating_sub(begun),
            quiet_ms: now.saturating_sub(seen),
        });
        let idle_by = latest.saturating_sub(now);
        let by_lives = lives.mean().map(|mean| last_of(figures.left, mean));
        figures.forecast_ms = (figures.left > 0).then(|| by_lives.map_or(idle_by, |by_lives| by_lives.min(idle_by)));
        figures
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
}
