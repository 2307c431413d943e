//! Owns a ripple's receipt: the ledgers' difference, set beside what was noted meanwhile.
//! Must not know how ledgers are read.

use jiff::Timestamp;

use super::control::Control;
use super::records::{NodeCut, RippleRecord};
use crate::domain::ledger::{self, Account, LedgerCut, LedgerFailure};
use crate::domain::names::{NodeName, RippleId, ServerName, Version};
use crate::wire::api;
use crate::wire::messages::NodeRole;

/// The ripple is over and the ledgers are read: the receipt is made, and kept.
pub fn close(control: &mut Control, id: &RippleId, after: Vec<NodeCut>) {
    let Some(record) = control.ripples.get(id) else { return };
    let receipt = make(record, &after, control.bounds.failures);
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
            }
            _ => add_router(&mut receipt, record, pair),
        }
    }
    // What a server that died cannot tell of, the routers can.
    for pair in pairs.iter().filter(|pair| pair.role != NodeRole::AppServer) {
        name_failures(&mut receipt, record, pair, named);
    }
    receipt.unaccounted = unaccounted(record, &pairs);
    receipt.balanced = receipt.unaccounted == 0 && receipt.accounts.iter().all(api::Account::balances);
    receipt
}

/// One node's two cuts; `None`: it did not answer one of the times.
struct Pair<'a> {
    node: &'a NodeName,
    role: NodeRole,
    before: Option<&'a LedgerCut>,
    after: Option<&'a LedgerCut>,
}

fn pairs<'a>(before: &'a [NodeCut], after: &'a [NodeCut]) -> Vec<Pair<'a>> {
    let earlier = |cut: &NodeCut| before.iter().find(|other| other.node == cut.node && other.role == cut.role);
    after
        .iter()
        .map(|cut| {
            let before = earlier(cut).and_then(|earlier| earlier.cut.as_ref());
            Pair { node: &cut.node, role: cut.role, before, after: cut.cut.as_ref() }
        })
        .collect()
}

impl Pair<'_> {
    fn accounts(&self) -> Vec<Account> {
        let none = |cut: &LedgerCut| LedgerCut { run: cut.run.clone(), entries: Vec::new(), failures: Vec::new() };
        match (self.before, self.after) {
            (Some(before), Some(after)) => ledger::accounts(before, after),
            // A node that joined during the ripple counts from zero.
            (None, Some(after)) => ledger::accounts(&none(after), after),
            (_, None) => Vec::new(),
        }
    }

    /// Failures that the earlier cut did not name.
    fn new_failures(&self) -> impl Iterator<Item = &LedgerFailure> {
        let old = self.before.map(|cut| cut.failures.as_slice()).unwrap_or_default();
        self.after.into_iter().flat_map(|cut| &cut.failures).filter(move |failure| !old.contains(failure))
    }
}

fn add_server(receipt: &mut api::Receipt, record: &RippleRecord, pair: &Pair<'_>, touched: bool) {
    for account in pair.accounts() {
        let counts = account.counts;
        if account.program == record.plan.program {
            receipt.refused += counts.refused;
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

fn add_router(receipt: &mut api::Receipt, record: &RippleRecord, pair: &Pair<'_>) {
    for account in pair.accounts().iter().filter(|account| account.program == record.plan.program) {
        receipt.redispatched += account.counts.redispatched;
        receipt.held += account.counts.held;
    }
}

/// Requests that a server of the ripple had when its ledger was last read and that nobody can account for now: the
/// server does not answer, and no router does (protocol, "The ledger and the receipt").
fn unaccounted(record: &RippleRecord, pairs: &[Pair<'_>]) -> u64 {
    let hosts = |pair: &&Pair<'_>| pair.role == NodeRole::AppServer && pair.before.is_some() && pair.after.is_none();
    let routers = pairs.iter().any(|pair| pair.role == NodeRole::Router && pair.after.is_some());
    let of_program = |pair: &Pair<'_>| {
        let entries = pair.before.into_iter().flat_map(|cut| &cut.entries);
        let active = entries.filter(|entry| entry.program == record.plan.program).map(|entry| entry.counts.active);
        active.sum::<u64>().max(u64::from(!routers))
    };
    pairs.iter().filter(hosts).map(of_program).sum()
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
        unaccounted: 0,
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
        let parts = [times.drain_ms, times.stop_ms, times.start_ms];
        parts.iter().any(Option::is_some)
    });
    let times = closed.map(|(server, times)| api::OutOfService {
        server: server.clone(),
        drain_ms: times.drain_ms.unwrap_or(0),
        stop_ms: times.stop_ms.unwrap_or(0),
        start_ms: times.start_ms.unwrap_or(0),
    });
    times.collect()
}
