//! Owns how much CPU each program's instances use on this machine: of an instance, all of its process tree.
//! Must not know what is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::instance::InstanceRecord;
use super::proc::{self, Times};
use crate::domain::names::ProgramName;

/// Clock ticks a second, of what the kernel tells processes (`USER_HZ`).
const TICKS: u64 = 100;
/// Shares are of at least so long a time.
const LEAST: Duration = Duration::from_millis(500);
/// How much of what was measured before stays in the figure.
const KEPT: f64 = 0.5;

/// Measures again and again.
#[derive(Debug, Default)]
pub struct Usage {
    last: Option<(Instant, BTreeMap<String, u64>)>,
    cpu_milli: BTreeMap<ProgramName, f64>,
}

impl Usage {
    /// Takes in how many ticks each instance had used by now.
    pub fn take(&mut self, at: Instant, used: Vec<(ProgramName, String, u64)>) {
        let ticks: BTreeMap<String, u64> = used.iter().map(|(_, name, ticks)| (name.clone(), *ticks)).collect();
        let Some((before, earlier)) = &self.last else {
            self.last = Some((at, ticks));
            return;
        };
        let passed = at.saturating_duration_since(*before);
        if passed < LEAST {
            return;
        }
        let mut now: BTreeMap<ProgramName, f64> = BTreeMap::new();
        for (program, name, ticks) in used {
            // One that is new has used all of it since.
            let spent = ticks.saturating_sub(earlier.get(&name).copied().unwrap_or(0));
            let milli = spent as f64 * 1_000.0 / TICKS as f64 / passed.as_secs_f64();
            *now.entry(program).or_default() += milli;
        }
        for (program, milli) in &mut now {
            if let Some(known) = self.cpu_milli.get(program) {
                *milli = known * KEPT + *milli * (1.0 - KEPT);
            }
        }
        self.cpu_milli = now;
        self.last = Some((at, ticks));
    }

    /// Thousandths of a core that each program uses; nothing before two looks.
    pub fn cpu_milli(&self) -> impl Iterator<Item = (&ProgramName, u32)> {
        self.cpu_milli.iter().map(|(program, milli)| (program, milli.round().clamp(0.0, f64::from(u32::MAX)) as u32))
    }
}

/// How many ticks each instance's process tree has used: its group, and whatever any of it started. Looks through all
/// processes: not for the thread that serves requests.
pub fn look(instances: &[InstanceRecord]) -> Vec<(ProgramName, String, u64)> {
    let all = proc::all_times();
    let tree = |record: &InstanceRecord| {
        let mut pids: BTreeSet<u32> = BTreeSet::new();
        let mut ticks = 0;
        loop {
            let own = |times: &&Times| {
                let stat = times.stat;
                let leads = stat.pid == record.pid && stat.start_time == record.start_time;
                let follows = stat.group == record.pid || pids.contains(&stat.parent);
                !pids.contains(&stat.pid) && (leads || follows)
            };
            let more: Vec<&Times> = all.iter().filter(own).collect();
            if more.is_empty() {
                return ticks;
            }
            ticks += more.iter().map(|times| times.ticks).sum::<u64>();
            pids.extend(more.iter().map(|times| times.stat.pid));
        }
    };
    instances.iter().map(|record| (record.program.clone(), record.name.clone(), tree(record))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_time_between_two_looks_and_evens_out() {
        let (shop, mut usage, begun) = (ProgramName::new("shop").unwrap(), Usage::default(), Instant::now());
        let at = |seconds: u64, ticks: u64| {
            (begun + Duration::from_secs(seconds), vec![(shop.clone(), "a".to_owned(), ticks)])
        };
        let shares = |usage: &Usage| usage.cpu_milli().map(|(_, milli)| milli).collect::<Vec<_>>();
        for (seconds, ticks, expected) in [(0, 100, vec![]), (2, 300, vec![1_000]), (4, 300, vec![500])] {
            let (at, used) = at(seconds, ticks);
            usage.take(at, used);
            assert_eq!(shares(&usage), expected);
        }
    }

    #[test]
    fn a_process_tree_is_measured_with_what_it_started() {
        // This process, as if it were an instance: it has used something, and what it starts counts too.
        let own = proc::stat(std::process::id()).unwrap();
        let record = InstanceRecord {
            name: "x".to_owned(),
            program: ProgramName::new("shop").unwrap(),
            release: crate::domain::names::Release {
                version: "1".parse().unwrap(),
                sha256: crate::domain::names::Sha256([0; 32]),
            },
            pid: own.pid,
            start_time: own.start_time,
            boot_id: String::new(),
            port: 1,
            mark: crate::programs::instance::Mark::Running,
        };
        let used = |record: &InstanceRecord| look(std::slice::from_ref(record))[0].2;
        let before = used(&record);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done; echo"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while used(&record) < before + 5 {
            assert!(began.elapsed() < Duration::from_secs(30), "its child used nothing");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
