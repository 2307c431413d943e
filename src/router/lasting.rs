//! Owns which of this router's requests other routers should go by: those that last. Must not know who is told of them.

use std::collections::VecDeque;

use crate::wire::messages::ActiveThere;

/// Looks, a heartbeat apart. What is told of a moment is seconds old when another router goes by it, and most requests are
/// over by then: one that sends its own where there was room a second ago sends them where there is none.
const LOOKS: usize = 5;

/// The last looks at how many requests there are at each placement.
#[derive(Default)]
pub struct Lasting {
    looks: VecDeque<ActiveThere>,
}

impl Lasting {
    /// Takes another look; answers with how many there have been at each placement all the while. None before it has been
    /// looked often enough.
    pub fn look(&mut self, now: ActiveThere) -> ActiveThere {
        self.looks.push_back(now);
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
        match self.looks.make_contiguous() {
            [first, others @ ..] if others.len() + 1 == LOOKS => least(first, others),
            _ => ActiveThere::new(),
        }
    }
}

fn least(first: &ActiveThere, others: &[ActiveThere]) -> ActiveThere {
    let mut least = first.clone();
    for look in others {
        least.retain(|program, servers| {
            let Some(there) = look.get(program) else { return false };
            servers.retain(|server, active| {
                let Some(now) = there.get(server) else { return false };
                *active = (*active).min(*now);
                true
            });
            !servers.is_empty()
        });
    }
    least
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::list::HeldList;
    use super::super::samples::{list, program};
    use super::super::snapshot::{Setting, Snapshot};
    use super::*;
    use crate::domain::routing::dispatch::Bounds;
    use crate::domain::routing::{Dispatch, Next};

    fn seen(at: &[(&str, &str, u64)]) -> ActiveThere {
        let mut there = ActiveThere::new();
        for (program, server, active) in at {
            there.entry(program.parse().unwrap()).or_default().insert(server.parse().unwrap(), *active);
        }
        there
    }

    #[test]
    fn what_comes_and_goes_is_not_told_and_what_stays_is() {
        let mut lasting = Lasting::default();
        for other in [4, 0, 2] {
            assert_eq!(lasting.look(seen(&[("chat", "s1", 9 + other), ("shop", "s1", other)])), seen(&[]), "too early");
        }
        lasting.look(seen(&[("chat", "s1", 9), ("shop", "s2", 3), ("mail", "s1", 1)]));
        assert_eq!(lasting.look(seen(&[("chat", "s1", 12), ("shop", "s1", 1)])), seen(&[("chat", "s1", 9)]));
        // Another nine have come, and are there for as long.
        for _ in 0..3 {
            assert_eq!(lasting.look(seen(&[("chat", "s1", 18)])), seen(&[("chat", "s1", 9)]));
        }
        assert_eq!(lasting.look(seen(&[("chat", "s1", 18)])), seen(&[("chat", "s1", 12)]));
        assert_eq!(lasting.look(seen(&[("chat", "s1", 18)])), seen(&[("chat", "s1", 18)]));
        assert_eq!(lasting.look(seen(&[])), seen(&[]), "they have ended");
    }

    /// A router that takes so many requests, short ones, between two looks.
    struct Busy {
        setting: Setting,
        snapshot: Snapshot,
        lasting: Lasting,
        requests: usize,
        at: Vec<usize>,
    }

    impl Busy {
        fn new(name: &str, requests: usize) -> Self {
            let setting = Setting { name: name.parse().unwrap(), ..Setting::sample(1) };
            Self { setting, snapshot: Snapshot::default(), lasting: Lasting::default(), requests, at: Vec::new() }
        }

        fn own(&self, place: usize) -> &crate::router::snapshot::PerWorker {
            &self.snapshot.programs[0].placements[place].own.active
        }

        /// All that it had are over; as many come.
        fn serve(&mut self, round: usize) {
            std::mem::take(&mut self.at).into_iter().for_each(|place| self.own(place).take(0));
            for turn in 0..self.requests {
                let mut dispatch = Dispatch::new(Bounds::holding(Duration::ZERO), round + turn);
                let next = dispatch.next(0, self.snapshot.programs[0].candidates(Instant::now()));
                let Next::Try(place) = next else { panic!("{next:?}") };
                self.own(place).add(0);
                self.at.push(place);
            }
        }
    }

    #[test]
    fn routers_that_hear_of_each_other_make_up_for_what_lasts_and_do_not_overshoot() {
        let mut shop = program("shop", &[("s1", true), ("s2", true), ("s3", true)]);
        let mut routers = vec![Busy::new("r1", 0), Busy::new("r2", 60), Busy::new("r3", 60), Busy::new("r4", 60)];
        let mut totals = Vec::new();
        for round in 0..30 {
            for router in &mut routers {
                let held = HeldList::whole(list(1, 1, std::slice::from_ref(&shop)));
                router.snapshot = Snapshot::build(held, &router.snapshot, &router.setting);
            }
            if round == 0 {
                // The first has nothing but sixty connections that stay.
                (0..60).for_each(|_| routers[0].own(0).add(0));
            }
            for router in &mut routers {
                router.serve(round);
                let told = router.lasting.look(router.snapshot.active_there(100));
                for placement in &mut shop.placements {
                    let active = told.get("shop").and_then(|at| at.get(&placement.server)).copied().unwrap_or(0);
                    placement.by_router.insert(router.setting.name.clone(), active);
                }
            }
            let total = |place| routers.iter().map(|router| router.own(place).sum()).sum::<u64>();
            totals.push([total(0), total(1), total(2)]);
        }
        assert_eq!(totals[0], [120, 60, 60], "nobody has heard of them");
        for round in totals.windows(2).skip(10) {
            let [before, now] = [round[0], round[1]];
            assert!(now.iter().zip(before).all(|(now, before)| now.abs_diff(before) <= 6), "they swing: {totals:?}");
            assert!((61..=110).contains(&now[0]), "{totals:?}");
        }
    }
}
