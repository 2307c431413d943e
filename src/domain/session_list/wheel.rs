//! Owns when which session is to be looked at, so that no look goes over all of them: each is filed under a time, and is
//! not moved when it is heard of, but filed anew when that time has come. Must not know sessions.

use std::collections::BTreeMap;

use crate::domain::session::{SessionId, WallMillis};

/// Times that one `idle` is told apart by.
const STEPS: WallMillis = 64;
const STEP_MIN: WallMillis = 100;

#[derive(Clone, Debug)]
pub(super) struct Wheel {
    step: WallMillis,
    /// By the number of the step after which they are due.
    filed: BTreeMap<WallMillis, Vec<SessionId>>,
}

impl Wheel {
    pub fn new(idle: WallMillis) -> Self {
        Self { step: step(idle), filed: BTreeMap::new() }
    }

    /// What is filed stays where it is in time.
    pub fn set_idle(&mut self, idle: WallMillis) {
        let (old, new) = (self.step, step(idle));
        if old != new {
            self.step = new;
            for (slot, ids) in std::mem::take(&mut self.filed) {
                self.filed.entry(slot.saturating_mul(old) / new + 1).or_default().extend(ids);
            }
        }
    }

    /// To be looked at no sooner than then, and no more than a step later.
    pub fn file(&mut self, id: SessionId, due: WallMillis) {
        self.filed.entry(due / self.step + 1).or_default().push(id);
    }

    /// One that is to be looked at by now; it is filed no more.
    pub fn due(&mut self, now: WallMillis) -> Option<SessionId> {
        loop {
            let mut first = self.filed.first_entry().filter(|first| first.key().saturating_mul(self.step) <= now)?;
            match first.get_mut().pop() {
                Some(id) => return Some(id),
                None => drop(first.remove()),
            }
        }
    }
}

fn step(idle: WallMillis) -> WallMillis {
    (idle / STEPS).max(STEP_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once_at_its_time_and_no_sooner() {
        let mut wheel = Wheel::new(64_000);
        for n in 0..100 {
            wheel.file(SessionId(n), n as u64 * 500);
        }
        let mut found = Vec::new();
        for now in (0..60_000).step_by(250) {
            while let Some(id) = wheel.due(now) {
                assert!(now >= id.0 as u64 * 500 && now <= id.0 as u64 * 500 + 1_250, "{id:?} at {now}");
                found.push(id.0);
            }
        }
        found.sort_unstable();
        assert_eq!(found, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn another_idle_loses_none() {
        let mut wheel = Wheel::new(64_000);
        (0..10).for_each(|n| wheel.file(SessionId(n), n as u64 * 1_000));
        wheel.set_idle(640_000);
        wheel.set_idle(1_000);
        assert_eq!(std::iter::from_fn(|| wheel.due(100_000)).count(), 10);
    }
}
