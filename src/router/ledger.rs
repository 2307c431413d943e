//! Owns this router's counts of what became of requests, apart for each worker and summed when asked.
//! Must not know why a request ended as it did.
//!
//! A request is admitted once a server's answer to it begins, or it ended otherwise than for want of a server. What is
//! active is not stored: it is the admitted less the ended, the ended being read first. So every row balances at any
//! instant, without a lock between who counts and who reads: admitted = completed + client left + cut + failed + active.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::figures::bucket;
use crate::domain::names::{ProgramName, RunId, ServerName, Version};
use crate::wire::messages::{Counts, LedgerCut, LedgerEntry, LedgerFailure};

/// Failures named in a cut.
pub const FAILURES_KEPT: usize = 100;
/// Versions and servers counted apart, each worker; beyond, a program's ends go to its row without them.
const MOST_ROWS: usize = 4096;
/// Upper ends of the histogram's buckets, in seconds.
pub const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same in microseconds.
const BUCKETS_US: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

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
}

/// One worker's counts of one row. Only that worker writes them, so a count is a load and a store; others may read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counter {
    admitted: Cell,
    completed: Cell,
    completed_5xx: Cell,
    client_left: Cell,
    cut: Cell,
    failed: Cell,
    refused: Cell,
    redispatched: Cell,
    held: Cell,
    not_held: Cell,
    no_server: Cell,
    hold_expired: Cell,
    took: [Cell; BUCKETS.len() + 1],
    took_us: Cell,
}

#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Release);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Counter {
    /// A server's answer begins.
    pub fn answered(&self) {
        self.admitted.add(1);
    }

    pub fn refused(&self) {
        self.refused.add(1);
    }

    pub fn redispatched(&self) {
        self.redispatched.add(1);
    }

    pub fn held(&self) {
        self.held.add(1);
    }

    pub fn not_held(&self) {
        self.not_held.add(1);
    }

    /// A request has ended; `answered`: its answer had begun, in this row.
    pub fn ended(&self, end: End, answered: bool, took: Duration) {
        if !(answered || matches!(end, End::NoServer { .. })) {
            self.admitted.add(1);
        }
        match end {
            End::Completed { status } => {
                self.completed.add(1);
                if status >= 500 {
                    self.completed_5xx.add(1);
                }
            }
            End::ClientLeft => self.client_left.add(1),
            End::Cut => self.cut.add(1),
            End::Failed => self.failed.add(1),
            End::NoServer { was_held } => {
                self.no_server.add(1);
                self.hold_expired.add(u64::from(was_held));
            }
        }
        let us = took.as_secs() * 1_000_000 + u64::from(took.subsec_micros());
        let bucket = BUCKETS_US.iter().position(|most| us <= *most).unwrap_or(BUCKETS.len());
        self.took[bucket].add(1);
        self.took_us.add(us);
    }

    /// As it is now. A part is read before the whole that it is a part of, so that it is never more.
    fn read(&self) -> Tally {
        let completed_5xx = self.completed_5xx.get();
        let (completed, client_left) = (self.completed.get(), self.client_left.get());
        let (cut, failed) = (self.cut.get(), self.failed.get());
        let (hold_expired, not_held) = (self.hold_expired.get(), self.not_held.get());
        let admitted = self.admitted.get();
        let held = self.held.get();
        let counts = Counts {
            admitted,
            active: admitted - (completed + client_left + cut + failed),
            completed,
            completed_5xx,
            client_left,
            cut,
            failed,
            refused: self.refused.get(),
            redispatched: self.redispatched.get(),
            held,
            no_server: self.no_server.get(),
            sessions: Default::default(),
        };
        let (took, took_sum) = (self.took.each_ref().map(Cell::get), Duration::from_micros(self.took_us.get()));
        Tally { counts, hold_expired, held_now: held - not_held, took, took_sum }
    }
}

/// The counts of all workers.
#[derive(Debug)]
pub struct Ledger {
    workers: Vec<Mutex<Rows>>,
    failures: Mutex<VecDeque<LedgerFailure>>,
    /// How long requests were held, by program.
    held_for: Mutex<BTreeMap<ProgramName, BTreeMap<u8, u64>>>,
}

type Rows = HashMap<Row, Arc<Counter>>;

impl Ledger {
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Self { workers, failures: Mutex::default(), held_for: Mutex::default() }
    }

    /// A worker's counter of a row, for that worker alone to count with; it keeps it for the next request of its kind.
    pub fn counter(&self, worker: usize, row: Row) -> Arc<Counter> {
        let rows = &self.workers[worker % self.workers.len()];
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = match rows.len() < MOST_ROWS || rows.contains_key(&row) {
            true => row,
            false => Row::of(&row.program),
        };
        Arc::clone(rows.entry(row).or_default())
    }

    /// Names a failure; the oldest is forgotten.
    pub fn name(&self, failure: LedgerFailure) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= FAILURES_KEPT {
            failures.pop_front();
        }
        failures.push_back(failure);
    }

    /// A hold has ended.
    pub fn held_for(&self, program: &ProgramName, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut held_for = self.held_for.lock().unwrap_or_else(PoisonError::into_inner);
        if !held_for.contains_key(program) {
            held_for.insert(program.clone(), BTreeMap::new());
        }
        if let Some(buckets) = held_for.get_mut(program) {
            *buckets.entry(bucket(micros)).or_default() += 1;
        }
    }

    /// The sum of all workers' rows.
    pub fn sum(&self) -> BTreeMap<Row, Tally> {
        let mut sum: BTreeMap<Row, Tally> = BTreeMap::new();
        for rows in &self.workers {
            for (row, counter) in &*rows.lock().unwrap_or_else(PoisonError::into_inner) {
                sum.entry(row.clone()).or_default().add(&counter.read());
            }
        }
        sum
    }

    pub fn cut(&self, run: RunId) -> LedgerCut {
        let held = self.held_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let entry = |(Row { program, version, server }, Tally { counts, .. })| {
            let whole = version.is_none() && server.is_none();
            let held_for = held.get(&program).filter(|_| whole).cloned().unwrap_or_default();
            LedgerEntry { program, version, server, counts, latency: BTreeMap::new(), held_for }
        };
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
        let at = Row { server: ServerName::new("s1").ok(), ..Row::of(&shop()) };
        let ends = [
            End::Completed { status: 200 },
            End::Completed { status: 503 },
            End::ClientLeft,
            End::Cut,
            End::Failed,
            End::NoServer { was_held: true },
        ];
        for (worker, end) in ends.into_iter().enumerate() {
            let counter = ledger.counter(worker, at.clone());
            counter.answered();
            let answered = matches!(end, End::Completed { .. } | End::Cut);
            if answered {
                counter.answered();
            }
            counter.ended(end, answered, Duration::from_millis(7));
        }
        let counts = total(&cut(&ledger));
        assert_eq!((counts.admitted, counts.active, counts.completed, counts.completed_5xx), (11, 6, 2, 1));
        let ends = counts.completed + counts.client_left + counts.cut + counts.failed;
        assert_eq!((ends + counts.active, counts.no_server), (counts.admitted, 1));
        let tally = &ledger.sum()[&at];
        assert_eq!((tally.hold_expired, tally.took[3], tally.took_sum), (1, 6, Duration::from_millis(42)));
    }

    #[test]
    fn a_cut_taken_while_requests_begin_and_end_balances() {
        let ledger = Ledger::new(1);
        let counter = ledger.counter(0, Row::of(&shop()));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000_u64 {
                    counter.answered();
                    counter.ended(End::Completed { status: 200 + (n % 2) as u16 * 300 }, true, Duration::ZERO);
                    counter.ended(End::NoServer { was_held: true }, false, Duration::ZERO);
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let tally = counter.read();
                let counts = tally.counts;
                // One at a time: more active would be an end that was counted before its beginning.
                assert!(
                    counts.admitted == counts.completed + counts.active && counts.completed_5xx <= counts.completed
                );
                assert!(tally.hold_expired <= counts.no_server);
            }
        });
        assert_eq!((total(&cut(&ledger)).completed, total(&cut(&ledger)).active), (200_000, 0));
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
            let counter = ledger.counter(0, row);
            counter.answered();
            counter.ended(End::Completed { status: 200 }, true, Duration::ZERO);
        }
        let cut = cut(&ledger);
        assert_eq!(
            (cut.entries.len(), total(&cut).completed, total(&cut).active),
            (MOST_ROWS + 1, MOST_ROWS as u64 + 9, 0)
        );
    }
}
