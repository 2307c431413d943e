//! Owns a ripple's receipt: the ledgers' difference, set beside what was noted meanwhile.
//! Must not know how ledgers are read.

use jiff::Timestamp;

use super::control::Control;
use super::records::{NodeCut, RippleRecord};
use crate::domain::figures::Figures;
use crate::domain::ledger::{self, Account, LedgerCut, LedgerFailure};
use crate::domain::names::{NodeName, RippleId, ServerName, Version};
use crate::wire::api;
use crate::wire::messages::NodeRole;

/// The ripple is over and the ledgers are read: the receipt is made, and kept.
pub fn close(control: &mut Control, id: &RippleId, after: Vec<NodeCut>) {
    let Some(record) = control.ripples.get(id) else { return };
    let mut receipt = make(record, &after, control.bounds.failures);
    let undone = record.plan.undoes.as_ref().and_then(|undone| control.ripples.get(undone)?.receipt.as_ref());
    receipt.exposure = exposure(record, &receipt, undone);
    if let Some(record) = control.ripples.get_mut(id) {
        record.receipt = Some(receipt);
        // The cuts are in the receipt now.
        record.before = Vec::new();
    }
}

/// The account of a ripple between the cuts before it and these.
pub fn make(record: &RippleRecord, after: &[NodeCut], named: usize) -> api::Receipt {
    let touched: Vec<&ServerName> = record.plan.steps.iter().map(|step| &step.server).collect();
    let pairs = pairs(&record.before, after);
    let mut receipt = empty(record);
    for pair in &pairs {
        match pair.role {
            NodeRole::AppServer => {
                add_server(&mut receipt, record, pair, touched.contains(&pair.node));
                name_failures(&mut receipt, record, pair, named);
                feel(&mut receipt, pair);
            }
            _ => add_router(&mut receipt, record, pair),
        }
    }
    // What a server that died cannot tell of, the routers can.
    for pair in pairs.iter().filter(|pair| pair.role != NodeRole::AppServer) {
        name_failures(&mut receipt, record, pair, named);
    }
    for pair in pairs.iter().filter(|pair| pair.role == NodeRole::AppServer && pair.is_silent()) {
        receipt.unaccounted += add_silent_server(&mut receipt, record, pair, &pairs);
    }
    receipt.balanced = receipt.unaccounted == 0 && receipt.accounts.iter().all(api::Account::balances);
    receipt
}

/// One node's two cuts; `None`: it did not answer that time, or, the first, was not there yet.
struct Pair<'a> {
    node: &'a NodeName,
    role: NodeRole,
    /// It was there at the first cut.
    was_there: bool,
    before: Option<&'a LedgerCut>,
    after: Option<&'a LedgerCut>,
}

fn pairs<'a>(before: &'a [NodeCut], after: &'a [NodeCut]) -> Vec<Pair<'a>> {
    let earlier = |cut: &NodeCut| before.iter().find(|other| other.node == cut.node && other.role == cut.role);
    after
        .iter()
        .map(|cut| {
            // Without any cut before, nobody's counters tell what was new.
            let was_there = before.is_empty() || earlier(cut).is_some();
            let before = earlier(cut).and_then(|earlier| earlier.cut.as_ref());
            Pair { node: &cut.node, role: cut.role, was_there, before, after: cut.cut.as_ref() }
        })
        .collect()
}

impl Pair<'_> {
    fn accounts(&self) -> Vec<Account> {
        let none = |cut: &LedgerCut| LedgerCut { run: cut.run.clone(), entries: Vec::new(), failures: Vec::new() };
        match (self.before, self.after) {
            (Some(before), Some(after)) => ledger::accounts(before, after),
            // A node that joined during the ripple counts from zero.
            (None, Some(after)) if !self.was_there => ledger::accounts(&none(after), after),
            (_, Some(_) | None) => Vec::new(),
        }
    }

    /// Whether it cannot tell what became of its requests between the cuts.
    fn is_silent(&self) -> bool {
        self.after.is_none() || (self.was_there && self.before.is_none())
    }

    /// Whether it tells all of it: a router counts from zero in each of its runs.
    fn tells_all(&self) -> bool {
        !self.is_silent() && self.before.is_none_or(|before| self.after.is_some_and(|after| after.run == before.run))
    }

    /// Failures that the earlier cut did not name.
    fn new_failures(&self) -> impl Iterator<Item = &LedgerFailure> {
        let old = self.before.map(|cut| cut.failures.as_slice()).unwrap_or_default();
        let after = self.after.filter(|_| !self.is_silent());
        after.into_iter().flat_map(|cut| &cut.failures).filter(move |failure| !old.contains(failure))
    }
}

fn add_server(receipt: &mut api::Receipt, record: &RippleRecord, pair: &Pair<'_>, touched: bool) {
    for account in pair.accounts() {
        let counts = account.counts;
        if account.program == record.plan.program {
            receipt.refused += counts.refused;
            receipt.sessions.finished += counts.sessions.finished;
            receipt.sessions.migrated += counts.sessions.migrated;
            receipt.sessions.cut += counts.sessions.cut;
            // A ledger that was lost: at least what was active then has no end.
            receipt.unaccounted += if account.fell { account.active_at_start.max(1) } else { 0 };
            let moved = counts.admitted + account.active_at_start + counts.active + counts.failed > 0;
            if moved {
                receipt.accounts.push(view(&account, pair.node));
            }
        } else if touched {
            add_neighbour(receipt, &account, pair.node);
        }
    }
}

fn name_failures(receipt: &mut api::Receipt, record: &RippleRecord, pair: &Pair<'_>, named: usize) {
    let of_program = pair.new_failures().filter(|failure| failure.program == record.plan.program);
    let known: Vec<String> = receipt.failures.iter().map(|failure| failure.request_id.clone()).collect();
    let new = of_program.filter(|failure| !known.contains(&failure.request_id));
    for failure in new.take(named.saturating_sub(receipt.failures.len())) {
        receipt.failures.push(api::Failure {
            request_id: failure.request_id.clone(),
            server: failure.server.clone().unwrap_or_else(|| pair.node.clone()),
            at: failure.at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
            reason: format!("{} {}: {}", failure.method, failure.path, failure.reason),
        });
    }
}

fn view(account: &Account, server: &ServerName) -> api::Account {
    let counts = account.counts;
    api::Account {
        server: server.clone(),
        version: account.version.clone().or_else(|| Version::new("unknown").ok()).unwrap_or_else(unknown),
        admitted: counts.admitted,
        active_at_start: account.active_at_start,
        completed: counts.completed,
        completed_5xx: counts.completed_5xx,
        client_left: counts.client_left,
        cut: counts.cut,
        failed: counts.failed,
        active_at_end: counts.active,
    }
}

/// How many of the program's requests met the version that came; or, of an undo, that goes, in both ripples together.
fn exposure(record: &RippleRecord, own: &api::Receipt, undone: Option<&api::Receipt>) -> Option<api::Exposure> {
    let (from, to) = (own.from.as_ref(), own.to.as_ref());
    // What an undo goes back from is what the ripple was for that it undoes.
    let brought = record.plan.was.as_ref().map(|release| &release.version);
    let version = match record.plan.undoes {
        Some(_) => brought.filter(|brought| Some(*brought) != to)?,
        None => to.filter(|_| from.is_some() && from != to)?,
    };
    let admitted = |accounts: &[&api::Account]| accounts.iter().map(|account| account.admitted).sum::<u64>();
    let accounts: Vec<&api::Account> = own.accounts.iter().collect();
    let met: Vec<&api::Account> = own.accounts.iter().filter(|account| account.version == *version).collect();
    let before = undone.and_then(|receipt| receipt.exposure.as_ref()).filter(|before| before.version == *version);
    let (met_before, of_before) = before.map_or((0, 0), |before| (before.met, before.of));
    Some(api::Exposure::new(version.clone(), admitted(&met) + met_before, admitted(&accounts) + of_before))
}

fn unknown() -> Version {
    Version::new("0").expect("a digit is a version")
}

fn add_neighbour(receipt: &mut api::Receipt, account: &Account, server: &ServerName) {
    let known = receipt.neighbours.iter_mut().find(|n| n.program == account.program && n.server == *server);
    let neighbour = match known {
        Some(neighbour) => neighbour,
        None => {
            receipt.neighbours.push(api::Neighbour {
                program: account.program.clone(),
                server: server.clone(),
                completed: 0,
                completed_5xx: 0,
                refused: 0,
                cut: 0,
                failed: 0,
                errors_before_ppm: None,
                errors_ppm: None,
                p99_before_us: None,
                p99_us: None,
            });
            let last = receipt.neighbours.len() - 1;
            &mut receipt.neighbours[last]
        }
    };
    neighbour.completed += account.counts.completed;
    neighbour.completed_5xx += account.counts.completed_5xx;
    neighbour.refused += account.counts.refused;
    neighbour.cut += account.counts.cut;
    neighbour.failed += account.counts.failed;
}

/// What neighbours felt: their errors and their slowest hundredth, in all the time before the ripple and during it.
fn feel(receipt: &mut api::Receipt, pair: &Pair<'_>) {
    let (Some(before), Some(after)) = (pair.before, pair.after) else { return };
    for neighbour in receipt.neighbours.iter_mut().filter(|neighbour| neighbour.server == *pair.node) {
        let earlier = ledger::figures(before, &neighbour.program);
        let during = ledger::figures(after, &neighbour.program).since(&earlier);
        let errors = |figures: &Figures| Some(figures.errors_ppm()).filter(|_| figures.answers > 0);
        (neighbour.errors_before_ppm, neighbour.errors_ppm) = (errors(&earlier), errors(&during));
        (neighbour.p99_before_us, neighbour.p99_us) = (earlier.quantile_micros(990), during.quantile_micros(990));
    }
}

fn add_router(receipt: &mut api::Receipt, record: &RippleRecord, pair: &Pair<'_>) {
    if let Some(after) = pair.after {
        let program = &record.plan.program;
        let held = |cut: &LedgerCut| ledger::held_for(cut, program);
        let earlier = pair.before.map(held).unwrap_or_default();
        let longest = held(after).since(&earlier).quantile_micros(1_000).map(|micros| micros.div_ceil(1_000));
        receipt.held_longest_ms = receipt.held_longest_ms.max(longest);
    }
    for account in pair.accounts().iter().filter(|account| account.program == record.plan.program) {
        receipt.redispatched += account.counts.redispatched;
        receipt.held += account.counts.held;
    }
}

/// The part of a server that cannot tell it comes from the routers. Answers how many of its requests are unaccounted, as
/// far as is known: none, if every router tells all of it (protocol, "The ledger and the receipt").
fn add_silent_server(receipt: &mut api::Receipt, record: &RippleRecord, silent: &Pair<'_>, pairs: &[Pair<'_>]) -> u64 {
    let program = &record.plan.program;
    let routers: Vec<&Pair<'_>> = pairs.iter().filter(|pair| pair.role == NodeRole::Router).collect();
    let of_server = |account: &Account| account.program == *program && account.server.as_ref() == Some(silent.node);
    for account in routers.iter().flat_map(|router| router.accounts()).filter(of_server) {
        let counts = account.counts;
        if counts.admitted + account.active_at_start + counts.active + counts.failed > 0 {
            receipt.accounts.push(view(&account, silent.node));
        }
    }
    if !routers.is_empty() && routers.iter().all(|router| router.tells_all()) {
        return 0;
    }
    let entries = silent.before.into_iter().flat_map(|cut| &cut.entries);
    let of_program: Vec<u64> =
        entries.filter(|entry| entry.program == *program).map(|entry| entry.counts.active).collect();
    let touched = record.plan.steps.iter().any(|step| step.server == *silent.node);
    // One that was silent both times was down throughout, as far as anyone knows.
    let had_any = silent.before.is_some() || silent.after.is_some();
    match had_any && (touched || !of_program.is_empty()) {
        true => of_program.iter().sum::<u64>().max(1),
        false => 0,
    }
}

fn empty(record: &RippleRecord) -> api::Receipt {
    let plan = &record.plan;
    let from = plan.steps.iter().find_map(|step| step.from.as_ref()).map(|release| release.version.clone());
    api::Receipt {
        ripple: plan.id.clone(),
        program: plan.program.clone(),
        from,
        to: plan.to.as_ref().map(|release| release.version.clone()),
        started_at: record.started_at,
        ended_at: record.ended_at,
        balanced: false,
        accounts: Vec::new(),
        refused: 0,
        redispatched: 0,
        held: 0,
        held_longest_ms: None,
        sessions: Default::default(),
        unaccounted: 0,
        exposure: None,
        failures: Vec::new(),
        neighbours: Vec::new(),
        out_of_service: out_of_service(record),
        kept_serving: record.lowest.map(|lowest| api::KeptServing {
            min_serving: plan.policy.min_serving as u32,
            lowest: lowest as u32,
            servers: plan.steps.len() as u32,
        }),
        stale_routers: record.stale_routers.clone(),
    }
}

fn out_of_service(record: &RippleRecord) -> Vec<api::OutOfService> {
    let closed = record.times.iter().filter(|(_, times)| {
        let parts = [times.drain_ms, times.stop_ms, times.start_ms, times.probe_ms];
        parts.iter().any(Option::is_some)
    });
    let times = closed.map(|(server, times)| api::OutOfService {
        server: server.clone(),
        drain_ms: times.drain_ms.unwrap_or(0),
        stop_ms: times.stop_ms.unwrap_or(0),
        command_ms: times.command_ms.unwrap_or(0),
        start_ms: times.start_ms.unwrap_or(0),
        probe_ms: times.probe_ms.unwrap_or(0),
    });
    times.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::ledger::LedgerEntry;
    use crate::domain::names::{ProgramName, Release, RunId, Sha256};
    use crate::domain::program::{LongLived, OnDrainTimeout};
    use crate::domain::ripple::plan::{Plan, PlannedStep, Policy, RippleKind};
    use crate::wire::messages::Counts;

    fn app() -> ServerName {
        ServerName::new("app-1").unwrap()
    }

    fn record(before: Vec<NodeCut>) -> RippleRecord {
        let policy = Policy {
            strategy: Default::default(),
            batch: 1,
            canary: 0,
            promote: Default::default(),
            rollback_on: None,
            hooks: Vec::new(),
            max_utilization_milli: 0,
            capacity_wait: Duration::ZERO,
            min_serving: 1,
            drain_timeout: Duration::ZERO,
            on_drain_timeout: OnDrainTimeout::Abort,
            long_lived: LongLived::Wait,
            soak: Duration::ZERO,
            unhealthy_limit: Duration::ZERO,
        };
        let (id, program) = (RippleId::new("r1").unwrap(), ProgramName::new("shop").unwrap());
        let steps = vec![PlannedStep { server: app(), from: None, back_to: None }];
        let (was, undoes) = (None, None);
        let plan = Plan { id, kind: RippleKind::Upgrade, program, to: None, steps, policy, was, undoes, set: None };
        RippleRecord { before, ..RippleRecord::planned(plan, None, None) }
    }

    /// A cut in which so many requests were completed and failed, by router or server; `None`: no answer.
    fn cut(role: NodeRole, told: Option<(&str, u64, u64)>) -> NodeCut {
        let name = if role == NodeRole::Router { "router-1" } else { "app-1" };
        let cut = told.map(|(run, completed, failed)| {
            let counts = Counts { admitted: completed + failed, completed, failed, ..Counts::default() };
            let (program, server) = (ProgramName::new("shop").unwrap(), Some(app()));
            let (latency, held_for) = Default::default();
            let entry = LedgerEntry { program, version: Version::new("1").ok(), server, counts, latency, held_for };
            LedgerCut { run: RunId::new(run).unwrap(), entries: vec![entry], failures: Vec::new() }
        });
        NodeCut { node: NodeName::new(name).unwrap(), role, cut }
    }

    fn server(told: Option<(&str, u64, u64)>) -> NodeCut {
        cut(NodeRole::AppServer, told)
    }

    fn router(told: Option<(&str, u64, u64)>) -> NodeCut {
        cut(NodeRole::Router, told)
    }

    #[test]
    fn a_server_restarted_in_between_goes_on_counting() {
        let before = vec![server(Some(("run-1", 5, 0)))];
        let receipt = make(&record(before), &[server(Some(("run-2", 8, 1)))], 100);
        assert_eq!((receipt.accounts[0].admitted, receipt.accounts[0].failed), (4, 1));
        assert!(receipt.balanced);
    }

    #[test]
    fn a_dead_servers_part_comes_from_the_routers() {
        let before = vec![server(Some(("s", 5, 0))), router(Some(("r", 5, 0)))];
        let receipt = make(&record(before), &[server(None), router(Some(("r", 7, 2)))], 100);
        assert_eq!((receipt.accounts.len(), receipt.unaccounted), (1, 0));
        assert_eq!((receipt.accounts[0].admitted, receipt.accounts[0].failed), (4, 2));
        assert!(receipt.balanced);
    }

    #[test]
    fn a_receipt_does_not_balance_where_neither_the_server_nor_every_router_tells() {
        let routers = [None, Some(("another-run", 9, 0))];
        for told in routers {
            let before = vec![server(Some(("s", 5, 0))), router(Some(("r", 5, 0)))];
            let receipt = make(&record(before), &[server(None), router(told)], 100);
            assert!(!receipt.balanced && receipt.unaccounted > 0, "{told:?}");
        }
    }

    #[test]
    fn a_server_whose_first_cut_is_missing_is_not_counted_from_zero() {
        for before in [vec![], vec![server(None)]] {
            let receipt = make(&record(before), &[server(Some(("s", 900, 3)))], 100);
            assert_eq!(receipt.accounts, []);
            assert!(!receipt.balanced && receipt.unaccounted > 0);
        }
    }

    #[test]
    fn of_a_version_that_is_taken_back_all_requests_that_met_it_are_told() {
        let version = |name: &str| Version::new(name).unwrap();
        let account = |of: &str, admitted| api::Account {
            server: app(),
            version: version(of),
            admitted,
            active_at_start: 3,
            completed: admitted + 3,
            completed_5xx: 0,
            client_left: 0,
            cut: 0,
            failed: 0,
            active_at_end: 0,
        };
        let receipt = |from, to, accounts| {
            let (from, to) = (Some(version(from)), Some(version(to)));
            api::Receipt { from, to, accounts, ..make(&record(vec![]), &[], 100) }
        };
        let mut upgrade = receipt("1", "2", vec![account("1", 90), account("2", 10)]);
        upgrade.exposure = exposure(&record(vec![]), &upgrade, None);
        assert_eq!(upgrade.exposure, Some(api::Exposure::new(version("2"), 10, 100)));
        // By then the old version is what is wanted there.
        let undo = receipt("1", "1", vec![account("1", 45), account("2", 5)]);
        let mut of_undo = record(vec![]);
        of_undo.plan.undoes = RippleId::new("r0").ok();
        of_undo.plan.was = Some(Release { version: version("2"), sha256: Sha256([0; 32]) });
        let told = exposure(&of_undo, &undo, Some(&upgrade)).unwrap();
        assert_eq!((told.version, told.met, told.of, told.share_ppm), (version("2"), 15, 150, 100_000));
        let restart = receipt("1", "1", vec![account("1", 90)]);
        assert_eq!(exposure(&record(vec![]), &restart, None), None);
    }

    #[test]
    fn a_ledger_that_was_lost_does_not_balance() {
        let before = vec![server(Some(("s", 5, 0)))];
        assert!(!make(&record(before), &[server(Some(("s", 2, 0)))], 100).balanced);
    }
}
