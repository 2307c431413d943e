//! Owns the counting of one target's answers as they end. Pure: times come in. Must not know connections.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::client::SessionCounts;
use super::report::{Counts, Failure, FailureKind, Latency, Post, Second};

/// Failures kept in full; the rest are counted.
pub const ERRORS_MAX: usize = 20;
/// Seconds kept apart; what comes later is counted in the last.
const SECONDS_MAX: usize = 86_400;
/// POSTs kept by id.
const POSTS_MAX: usize = 2_000_000;
/// Versions told apart; the rest count as "other".
const VERSIONS_MAX: usize = 100;
/// Latencies are recorded in microseconds up to an hour, to three digits.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// One target's counts, while it runs.
pub struct Tally {
    counts: Counts,
    latency: Histogram<u64>,
    posts: Vec<Post>,
}

/// How one request ended.
pub struct Ending {
    /// Since the start of the run.
    pub at: Duration,
    /// From the time it was due; for a whole answer.
    pub latency: Option<Duration>,
    pub status: Option<u16>,
    pub version: Option<String>,
    pub body_bytes_sent: u64,
    pub body_bytes_received: u64,
    pub frames_echoed: u64,
    pub post: Option<Post>,
    pub failure: Option<Failure>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3);
        // The bounds are constants that the histogram takes: see the tests.
        let latency = latency.unwrap_or_else(|_| unreachable!("constant bounds"));
        Self { counts: Counts::default(), latency, posts: Vec::new() }
    }
}

impl Tally {
    /// A request is due now, and `lag` behind.
    pub fn sent(&mut self, due: Duration, lag: Duration, post: bool) {
        self.counts.sent += 1;
        self.counts.posts_sent += u64::from(post);
        self.counts.send_lag_max_ms = self.counts.send_lag_max_ms.max(millis(lag));
        self.second(due).sent += 1;
    }

    /// So many clients hold sessions.
    pub fn clients(&mut self, count: usize) {
        self.counts.sessions.clients += count as u64;
    }

    pub fn sessions(&mut self) -> &mut SessionCounts {
        &mut self.counts.sessions
    }

    pub fn repeated(&mut self) {
        self.counts.repeated += 1;
    }

    pub fn waited_for_connection(&mut self) {
        self.counts.waited_for_connection += 1;
    }

    pub fn connection_opened(&mut self) {
        self.counts.connections_opened += 1;
    }

    /// A request has ended, one way or the other.
    pub fn ended(&mut self, ending: Ending) {
        let ok = ending.failure.is_none();
        self.counts.body_bytes_sent += ending.body_bytes_sent;
        self.counts.body_bytes_received += ending.body_bytes_received;
        self.counts.frames_echoed += ending.frames_echoed;
        if let Some(status) = ending.status {
            let version = ending.version.unwrap_or_else(|| "none".to_owned());
            *self.counts.by_status.entry(status.to_string()).or_default() += 1;
            count_version(&mut self.counts.by_version, &version);
            count_version(&mut self.second(ending.at).by_version, &version);
        }
        if let Some(latency) = ending.latency {
            self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
        if let Some(post) = ending.post {
            self.counts.posts_ok += u64::from(post.ok);
            if self.posts.len() < POSTS_MAX {
                self.posts.push(post);
            }
        }
        self.counts.ok += u64::from(ok);
        self.counts.failed += u64::from(!ok);
        let second = self.second(ending.at);
        second.ok += u64::from(ok);
        second.failed += u64::from(!ok);
        if let Some(failure) = ending.failure {
            *self.counts.by_failure.entry(failure.kind).or_default() += 1;
            if self.counts.errors.len() < ERRORS_MAX {
                self.counts.errors.push(failure);
            }
        }
    }

    /// The run is over: what has not ended has failed.
    pub fn cut_short(&mut self, at: Duration) {
        let unfinished = self.counts.sent.saturating_sub(self.counts.ok + self.counts.failed);
        if unfinished > 0 {
            self.counts.failed += unfinished;
            self.second(at).failed += unfinished;
            *self.counts.by_failure.entry(FailureKind::Unfinished).or_default() += unfinished;
        }
    }

    pub fn counts(&self) -> Counts {
        Counts { latency_ms: summary(&self.latency), ..self.counts.clone() }
    }

    pub fn posts(&self) -> &[Post] {
        &self.posts
    }

    fn second(&mut self, at: Duration) -> &mut Second {
        let index = (at.as_secs() as usize).min(SECONDS_MAX - 1);
        for second in self.counts.per_second.len()..=index {
            self.counts.per_second.push(Second { second: second as u64, ..Second::default() });
        }
        &mut self.counts.per_second[index]
    }
}

fn count_version(counts: &mut BTreeMap<String, u64>, version: &str) {
    let known = counts.len() < VERSIONS_MAX || counts.contains_key(version);
    *counts.entry(if known { version } else { "other" }.to_owned()).or_default() += 1;
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn summary(latency: &Histogram<u64>) -> Latency {
    let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    Latency {
        count: latency.len(),
        mean: (latency.mean()).round() / 1e3,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: latency.max() as f64 / 1e3,
    }
}

/// The sum over all targets.
pub fn total<'a>(tallies: impl Iterator<Item = &'a Tally> + Clone) -> Counts {
    let mut all = Tally::default();
    for tally in tallies {
        all.add(tally);
    }
    all.counts.errors.sort_by_key(|failure| failure.at);
    all.counts.errors.truncate(ERRORS_MAX);
    all.counts()
}

impl Tally {
    fn add(&mut self, other: &Self) {
        let (all, counts) = (&mut self.counts, &other.counts);
        all.sent += counts.sent;
        all.ok += counts.ok;
        all.failed += counts.failed;
        all.posts_sent += counts.posts_sent;
        all.posts_ok += counts.posts_ok;
        all.body_bytes_sent += counts.body_bytes_sent;
        all.body_bytes_received += counts.body_bytes_received;
        all.frames_echoed += counts.frames_echoed;
        all.connections_opened += counts.connections_opened;
        all.repeated += counts.repeated;
        all.waited_for_connection += counts.waited_for_connection;
        all.send_lag_max_ms = all.send_lag_max_ms.max(counts.send_lag_max_ms);
        all.sessions.add(&counts.sessions);
        all.errors.extend(counts.errors.iter().cloned());
        add_each(&mut all.by_status, &counts.by_status);
        add_each(&mut all.by_version, &counts.by_version);
        add_each(&mut all.by_failure, &counts.by_failure);
        // Both have the same bounds, so that this cannot be refused.
        self.latency.add(&other.latency).unwrap_or_else(|_| unreachable!("equal bounds"));
        for second in &other.counts.per_second {
            let mine = self.second(Duration::from_secs(second.second));
            mine.sent += second.sent;
            mine.ok += second.ok;
            mine.failed += second.failed;
            add_each(&mut mine.by_version, &second.by_version);
        }
    }
}

fn add_each<K: Ord + Clone>(all: &mut BTreeMap<K, u64>, counts: &BTreeMap<K, u64>) {
    for (key, count) in counts {
        *all.entry(key.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(at_ms: u64, version: &str, failure: Option<FailureKind>) -> Ending {
        let failure = failure.map(|kind| Failure {
            id: "a-1".to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
            after_ms: at_ms,
            took_ms: 4,
            method: "GET".to_owned(),
            url: "http://a/".to_owned(),
            kind,
            detail: "status 503".to_owned(),
            status: Some(503),
            version: None,
        });
        Ending {
            at: Duration::from_millis(at_ms),
            latency: Some(Duration::from_millis(4)),
            status: Some(if failure.is_some() { 503 } else { 200 }),
            version: Some(version.to_owned()),
            body_bytes_sent: 0,
            body_bytes_received: 10,
            frames_echoed: 0,
            post: None,
            failure,
        }
    }

    #[test]
    fn answers_are_counted_by_version_and_by_the_second_they_ended_in() {
        let mut tally = Tally::default();
        for due in [0, 500, 1_000] {
            tally.sent(Duration::from_millis(due), Duration::ZERO, false);
        }
        tally.ended(ending(100, "1", None));
        tally.ended(ending(2_100, "2", None));
        tally.ended(ending(2_200, "2", Some(FailureKind::Status)));
        let counts = total([&tally].into_iter());
        assert_eq!((counts.sent, counts.ok, counts.failed), (3, 2, 1));
        assert_eq!(counts.by_version, BTreeMap::from([("1".to_owned(), 1), ("2".to_owned(), 2)]));
        let rows: Vec<_> = counts.per_second.iter().map(|second| (second.sent, second.ok, second.failed)).collect();
        assert_eq!(rows, [(2, 1, 0), (1, 0, 0), (0, 1, 1)]);
        assert_eq!(counts.latency_ms.count, 3);
        assert!((counts.latency_ms.p99 - 4.0).abs() < 0.01, "{:?}", counts.latency_ms);
    }

    #[test]
    fn failures_beyond_the_bound_are_counted_and_not_kept() {
        let mut tally = Tally::default();
        for _ in 0..100 {
            tally.ended(ending(0, "1", Some(FailureKind::Status)));
        }
        let counts = total([&tally, &tally].into_iter());
        assert_eq!((counts.failed, counts.errors.len()), (200, ERRORS_MAX));
        assert_eq!(counts.by_failure[&FailureKind::Status], 200);
    }
}
