//! Owns this router's counts of what became of requests, apart for each worker and summed when asked.
//! Must not know why a request ended as it did.
//!
//! A request is admitted once a server's answer to it begins, or it ended otherwise than for want of a server; so every
//! row balances at any instant: admitted = completed + client left + cut + failed + active.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::names::{ProgramName, RunId, ServerName, Version};
use crate::wire::messages::{Counts, LedgerCut, LedgerEntry, LedgerFailure};

/// Failures named in a cut.
pub const FAILURES_KEPT: usize = 100;
/// Versions and servers counted apart, each worker; beyond, a program's ends go to its row without them.
const MOST_ROWS: usize = 4096;
/// Upper ends of the histogram's buckets, in seconds.
pub const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How a request ended, in the ledger's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Completed { status: u16 },
    ClientLeft,
    Cut,
    Failed,
    NoServer { was_held: bool },
}

/// What is counted apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Row {
    pub program: ProgramName,
    pub version: Option<Version>,
    pub server: Option<ServerName>,
}

impl Row {
    pub fn of(program: &ProgramName) -> Self {
        Self { program: program.clone(), version: None, server: None }
    }

    pub fn at(program: &ProgramName, server: &ServerName) -> Self {
        Self { server: Some(server.clone()), ..Self::of(program) }
    }
}

/// One row's counts, with what the wire does not carry.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub counts: Counts,
    /// Of `no_server`, those that were held first.
    pub hold_expired: u64,
    /// Requests held now.
    pub held_now: u64,
    /// Ended requests by how long they took, the last of them over all buckets.
    pub took: [u64; BUCKETS.len() + 1],
    pub took_sum: Duration,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        let (to, from) = (&mut self.counts, &other.counts);
        to.admitted += from.admitted;
        to.active += from.active;
        to.completed += from.completed;
        to.completed_5xx += from.completed_5xx;
        to.client_left += from.client_left;
        to.cut += from.cut;
        to.failed += from.failed;
        to.refused += from.refused;
        to.redispatched += from.redispatched;
        to.held += from.held;
        to.no_server += from.no_server;
        self.hold_expired += other.hold_expired;
        self.held_now += other.held_now;
        self.took.iter_mut().zip(other.took).for_each(|(to, from)| *to += from);
        self.took_sum += other.took_sum;
    }

    fn end(&mut self, end: End, took: Duration) {
        let counts = &mut self.counts;
        match end {
            End::Completed { status } => {
                counts.completed += 1;
                counts.completed_5xx += u64::from(status >= 500);
            }
            End::ClientLeft => counts.client_left += 1,
            End::Cut => counts.cut += 1,
            End::Failed => counts.failed += 1,
            End::NoServer { was_held } => {
                counts.no_server += 1;
                self.hold_expired += u64::from(was_held);
            }
        }
        let bucket = BUCKETS.iter().position(|most| took.as_secs_f64() <= *most).unwrap_or(BUCKETS.len());
        self.took[bucket] += 1;
        self.took_sum += took;
    }
}

/// The counts of all workers.
#[derive(Debug)]
pub struct Ledger {
    shards: Vec<Mutex<Shard>>,
    failures: Mutex<VecDeque<LedgerFailure>>,
}

#[derive(Debug, Default)]
struct Shard {
    rows: HashMap<Row, Tally>,
}

impl Shard {
    fn row(&mut self, row: Row) -> &mut Tally {
        let row = match self.rows.len() < MOST_ROWS || self.rows.contains_key(&row) {
            true => row,
            false => Row::of(&row.program),
        };
        self.rows.entry(row).or_default()
    }
}

impl Ledger {
    pub fn new(workers: usize) -> Self {
        let shards = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Self { shards, failures: Mutex::default() }
    }

    /// A worker's part. Only that worker writes it, so nobody waits but for a cut.
    fn shard(&self, worker: usize) -> MutexGuard<'_, Shard> {
        self.shards[worker % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server's answer begins.
    pub fn answered(&self, worker: usize, row: Row) {
        let mut shard = self.shard(worker);
        let counts = &mut shard.row(row).counts;
        counts.admitted += 1;
        counts.active += 1;
    }

    pub fn refused(&self, worker: usize, row: Row) {
        self.shard(worker).row(row).counts.refused += 1;
    }

    pub fn redispatched(&self, worker: usize, program: &ProgramName) {
        self.shard(worker).row(Row::of(program)).counts.redispatched += 1;
    }

    pub fn held(&self, worker: usize, program: &ProgramName) {
        let mut shard = self.shard(worker);
        let tally = shard.row(Row::of(program));
        tally.counts.held += 1;
        tally.held_now += 1;
    }

    pub fn not_held(&self, worker: usize, program: &ProgramName) {
        self.shard(worker).row(Row::of(program)).held_now -= 1;
    }

    /// A request has ended; `answered`: its answer had begun, in this row.
    pub fn ended(&self, worker: usize, row: Row, end: End, answered: bool, took: Duration) {
        let mut shard = self.shard(worker);
        let tally = shard.row(row);
        match (answered, end) {
            (true, _) => tally.counts.active -= 1,
            (false, End::NoServer { .. }) => {}
            (false, _) => tally.counts.admitted += 1,
        }
        tally.end(end, took);
    }

    /// Names a failure; the oldest is forgotten.
    pub fn name(&self, failure: LedgerFailure) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= FAILURES_KEPT {
            failures.pop_front();
        }
        failures.push_back(failure);
    }

    /// The sum of all workers' rows.
    pub fn sum(&self) -> BTreeMap<Row, Tally> {
        let mut sum: BTreeMap<Row, Tally> = BTreeMap::new();
        for worker in 0..self.shards.len() {
            for (row, tally) in &self.shard(worker).rows {
                sum.entry(row.clone()).or_default().add(tally);
            }
        }
        sum
    }

    pub fn cut(&self, run: RunId) -> LedgerCut {
        let entry =
            |(Row { program, version, server }, Tally { counts, .. })| LedgerEntry { program, version, server, counts };
        let entries = self.sum().into_iter().map(entry).collect();
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        LedgerCut { run, entries, failures: failures.iter().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> ProgramName {
        ProgramName::new("shop").unwrap()
    }

    fn total(cut: &LedgerCut) -> Counts {
        let mut total = Tally::default();
        cut.entries.iter().for_each(|entry| total.add(&Tally { counts: entry.counts, ..Tally::default() }));
        total.counts
    }

    fn cut(ledger: &Ledger) -> LedgerCut {
        ledger.cut(RunId::new("r").unwrap())
    }

    #[test]
    fn rows_balance_across_workers_and_ends() {
        let ledger = Ledger::new(2);
        let at = Row::at(&shop(), &ServerName::new("s1").unwrap());
        let ends = [
            End::Completed { status: 200 },
            End::Completed { status: 503 },
            End::ClientLeft,
            End::Cut,
            End::Failed,
            End::NoServer { was_held: true },
        ];
        for (worker, end) in ends.into_iter().enumerate() {
            ledger.answered(worker, at.clone());
            let answered = matches!(end, End::Completed { .. } | End::Cut);
            if answered {
                ledger.answered(worker, at.clone());
            }
            ledger.ended(worker, at.clone(), end, answered, Duration::from_millis(7));
        }
        let counts = total(&cut(&ledger));
        assert_eq!((counts.admitted, counts.active, counts.completed, counts.completed_5xx), (11, 6, 2, 1));
        let ends = counts.completed + counts.client_left + counts.cut + counts.failed;
        assert_eq!((ends + counts.active, counts.no_server), (counts.admitted, 1));
        let tally = &ledger.sum()[&at];
        assert_eq!((tally.hold_expired, tally.took[3], tally.took_sum), (1, 6, Duration::from_millis(42)));
    }

    #[test]
    fn the_latest_hundred_failures_are_named() {
        let ledger = Ledger::new(1);
        for n in 0..=FAILURES_KEPT {
            ledger.name(LedgerFailure {
                request_id: n.to_string(),
                program: shop(),
                server: None,
                at: String::new(),
                method: "GET".into(),
                path: "/".into(),
                reason: String::new(),
            });
        }
        let cut = cut(&ledger);
        assert_eq!((cut.failures.len(), cut.failures[0].request_id.as_str()), (FAILURES_KEPT, "1"));
    }

    #[test]
    fn rows_are_bounded_and_the_balance_is_kept() {
        let ledger = Ledger::new(1);
        for n in 0..MOST_ROWS + 9 {
            let version = Version::new(format!("v{n}")).unwrap();
            let row = Row { version: Some(version), ..Row::of(&shop()) };
            ledger.answered(0, row.clone());
            ledger.ended(0, row, End::Completed { status: 200 }, true, Duration::ZERO);
        }
        let cut = cut(&ledger);
        assert_eq!(
            (cut.entries.len(), total(&cut).completed, total(&cut).active),
            (MOST_ROWS + 1, MOST_ROWS as u64 + 9, 0)
        );
    }
}
