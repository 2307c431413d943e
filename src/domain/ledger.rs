//! Owns the ledger's arithmetic: monotone counters of what became of requests, and the account between two cuts of
//! them, which has to balance (invariant I5). Must not know where counters are kept or how a cut is fetched.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::names::{ProgramName, RunId, ServerName, Version};

/// What became of requests. Admitted + active at the start = the ends + active at the end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub admitted: u64,
    pub active: u64,
    pub completed: u64,
    /// Of the completed, those answered 5xx by the program.
    pub completed_5xx: u64,
    pub client_left: u64,
    pub cut: u64,
    pub failed: u64,
    /// Turned away before any byte reached the program: no request of this server's.
    pub refused: u64,
    /// Router: sent on to another server after a refusal.
    pub redispatched: u64,
    /// Router: kept while no server could take it.
    pub held: u64,
    /// Router: given up with 503.
    pub no_server: u64,
    /// Server: what became of sessions at home there.
    #[serde(skip_serializing_if = "Sessions::is_none")]
    pub sessions: Sessions,
}

/// How sessions left a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sessions {
    /// Cleared, idle, or ended by a person.
    pub finished: u64,
    /// Went on elsewhere when a drain waited for them no longer.
    pub migrated: u64,
    /// Their instance was stopped by force while they were still waited for.
    pub cut: u64,
}

impl Sessions {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            finished: self.finished.checked_sub(before.finished)?,
            migrated: self.migrated.checked_sub(before.migrated)?,
            cut: self.cut.checked_sub(before.cut)?,
        })
    }
}

/// One cut of a node's ledger: monotone counters of this run and, at servers, of all runs before it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LedgerCut {
    pub run: RunId,
    pub entries: Vec<LedgerEntry>,
    /// The latest failures, newest last (at most 100).
    pub failures: Vec<LedgerFailure>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub program: ProgramName,
    /// A router does not always know it.
    pub version: Option<Version>,
    pub server: Option<ServerName>,
    pub counts: Counts,
    /// At servers: how long answers took to begin, by bucket (`figures`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub latency: BTreeMap<u8, u64>,
    /// At routers, of a program as a whole: how long requests were held.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_for: BTreeMap<u8, u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerFailure {
    pub request_id: String,
    pub program: ProgramName,
    pub server: Option<ServerName>,
    /// RFC 3339.
    pub at: String,
    pub method: String,
    pub path: String,
    pub reason: String,
}

/// What became of one program's requests, at one version, on one node, between two cuts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Account {
    pub program: ProgramName,
    pub version: Option<Version>,
    pub server: Option<ServerName>,
    /// The differences; `active` is that of the later cut.
    pub counts: Counts,
    pub active_at_start: u64,
    /// A counter fell: the ledger was lost meanwhile, and with it what it had counted.
    pub fell: bool,
}

impl Account {
    /// Whether every request has an end, or is still active.
    pub fn balances(&self) -> bool {
        let begun = u128::from(self.counts.admitted) + u128::from(self.active_at_start);
        !self.fell && begun == self.counts.ends() + u128::from(self.counts.active)
    }
}

impl Counts {
    fn ends(&self) -> u128 {
        [self.completed, self.client_left, self.cut, self.failed].iter().map(|&ends| u128::from(ends)).sum()
    }

    /// The difference to an earlier cut; `None` where a counter fell, which a monotone one never does.
    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            admitted: self.admitted.checked_sub(before.admitted)?,
            active: self.active,
            completed: self.completed.checked_sub(before.completed)?,
            completed_5xx: self.completed_5xx.checked_sub(before.completed_5xx)?,
            client_left: self.client_left.checked_sub(before.client_left)?,
            cut: self.cut.checked_sub(before.cut)?,
            failed: self.failed.checked_sub(before.failed)?,
            refused: self.refused.checked_sub(before.refused)?,
            redispatched: self.redispatched.checked_sub(before.redispatched)?,
            held: self.held.checked_sub(before.held)?,
            no_server: self.no_server.checked_sub(before.no_server)?,
            sessions: self.sessions.since(&before.sessions)?,
        })
    }
}

/// What a program's answers on one node have been like up to a cut, over all its versions.
pub fn figures(cut: &LedgerCut, program: &ProgramName) -> Figures {
    let mut sum = Figures::default();
    for entry in cut.entries.iter().filter(|entry| entry.program == *program) {
        let Counts { completed, completed_5xx, failed, .. } = entry.counts;
        let (answers, errors) = (completed.saturating_add(failed), completed_5xx.saturating_add(failed));
        sum.add(&Figures { answers, errors, latency: entry.latency.clone() });
    }
    sum
}

/// How long a program's requests have been held by one router up to a cut.
pub fn held_for(cut: &LedgerCut, program: &ProgramName) -> Figures {
    let mut sum = Figures::default();
    for entry in cut.entries.iter().filter(|entry| entry.program == *program) {
        sum.add(&Figures { latency: entry.held_for.clone(), ..Figures::default() });
    }
    sum
}

type Key = (ProgramName, Option<Version>, Option<ServerName>);

/// The accounts of one node between two cuts of its ledger. A counter that fell (the ledger was lost) counts from
/// zero, and then the account does not balance, which is the truth.
pub fn accounts(before: &LedgerCut, after: &LedgerCut) -> Vec<Account> {
    let (before, after) = (by_key(before), by_key(after));
    let keys: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
    let none = Counts::default();
    keys.into_iter()
        .map(|key| {
            let start = before.get(key).unwrap_or(&none);
            let end = after.get(key).unwrap_or(&none);
            let since = end.since(start);
            let (fell, counts) = (since.is_none(), since.unwrap_or(*end));
            let (program, version, server) = key.clone();
            Account { program, version, server, counts, active_at_start: start.active, fell }
        })
        .collect()
}

fn by_key(cut: &LedgerCut) -> BTreeMap<Key, Counts> {
    let key = |entry: &LedgerEntry| (entry.program.clone(), entry.version.clone(), entry.server.clone());
    cut.entries.iter().map(|entry| (key(entry), entry.counts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(counts: Counts) -> LedgerCut {
        let (program, server) = (ProgramName::new("shop").unwrap(), ServerName::new("app-1").ok());
        let (latency, held_for) = Default::default();
        let entry = LedgerEntry { program, version: Version::new("1").ok(), server, counts, latency, held_for };
        LedgerCut { run: RunId::new("r").unwrap(), entries: vec![entry], failures: vec![] }
    }

    #[test]
    fn an_account_between_two_cuts_balances_with_requests_active_at_both() {
        let before = cut(Counts { admitted: 10, active: 3, completed: 7, ..Counts::default() });
        let after = cut(Counts { admitted: 25, active: 1, completed: 22, client_left: 1, cut: 1, ..Counts::default() });
        let accounts = accounts(&before, &after);
        assert_eq!((accounts[0].counts.admitted, accounts[0].active_at_start), (15, 3));
        assert!(accounts[0].balances());
    }

    #[test]
    fn a_request_without_an_end_unbalances_the_account() {
        let before = cut(Counts::default());
        let after = cut(Counts { admitted: 5, completed: 4, ..Counts::default() });
        assert!(!accounts(&before, &after)[0].balances());
    }

    #[test]
    fn a_ledger_that_was_lost_does_not_balance_in_silence() {
        for active in [0, 2] {
            let before = cut(Counts { admitted: 10, active, completed: 10 - active, ..Counts::default() });
            let after = cut(Counts { admitted: 1, completed: 1, ..Counts::default() });
            assert!(!accounts(&before, &after)[0].balances(), "{active}");
        }
    }
}
