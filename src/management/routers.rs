//! Owns what routers are told: the Server List as they need it, its revisions, and who holds which.
//! Must not know how a router chooses.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use crate::domain::names::{Generation, NodeName, OperationId, ProgramName, ServerName};
use crate::domain::placement::State;
use crate::domain::program::Manifest;
use crate::domain::server_list::ServerList;
use crate::wire::messages::{
    Forward, Held, ListStamp, NodeRole, RouterList, RouterPlacement, RouterProgram, RouterServer,
};

/// How often routers hear of load alone; all else they hear of at once.
const LOAD_EVERY: Duration = Duration::from_secs(1);

/// What was published, and what each router has acknowledged.
#[derive(Default)]
pub struct Routers {
    published: Option<Arc<RouterList>>,
    published_at: Option<Instant>,
    pushes: HashMap<NodeName, Push>,
    /// When a quiesce was first meant, and under which list.
    meant: HashMap<OperationId, (ListStamp, Instant)>,
}

#[derive(Default)]
struct Push {
    acknowledged: Option<Arc<RouterList>>,
    in_flight: Option<Arc<RouterList>>,
    failures: u32,
    next_at: Option<Instant>,
}

/// Whether the routers know that a gate is about to close.
#[derive(PartialEq, Eq, Debug)]
pub enum Told {
    NotYet,
    All,
    /// These have not acknowledged it in time.
    Stale(Vec<NodeName>),
}

impl Routers {
    /// Publishes the Server List as it is now; a change gets a new revision.
    pub fn publish(&mut self, control: &mut Control, now: Instant) {
        let term = control.leader.term().clone();
        let stamp = ListStamp { term, revision: control.leader.mint.revision };
        let mut list = build(control, stamp);
        let lately = self.published_at.is_some_and(|at| now.duration_since(at) < LOAD_EVERY);
        if self.published.as_ref().is_some_and(|held| **held == list || (lately && same(held, &list))) {
            return;
        }
        control.leader.mint.revision = control.leader.mint.revision.next();
        list.stamp.revision = control.leader.mint.revision;
        control.published = Some(list.stamp.clone());
        (self.published, self.published_at) = (Some(Arc::new(list)), Some(now));
    }

    /// What should be sent to which router now. A router that holds an earlier leadership's list keeps it until this
    /// one has heard of the servers, or has waited for them: what it holds may be more than what is known here.
    pub fn due(&mut self, control: &Control, now: Instant) -> Vec<(NodeName, String, RouterList)> {
        let Some(published) = self.published.clone() else { return Vec::new() };
        let settled = control.is_settled();
        let mut due = Vec::new();
        for ((role, name), node) in &control.nodes {
            let current = node.held.as_ref() == Some(&published.stamp);
            let earlier = node.held.as_ref().is_some_and(|held| held.term != published.stamp.term);
            let knows_more = (earlier || !node.told_held) && !settled;
            if *role != NodeRole::Router || !node.up || current || knows_more {
                continue;
            }
            let push = self.pushes.entry(name.clone()).or_default();
            if push.in_flight.is_some() || push.next_at.is_some_and(|at| at > now) {
                continue;
            }
            push.in_flight = Some(published.clone());
            let base = push.acknowledged.as_ref().filter(|base| node.held.as_ref() == Some(&base.stamp));
            let list = base.map_or_else(|| (*published).clone(), |base| difference(base, &published));
            due.push((name.clone(), node.messages_url(), list));
        }
        due
    }

    /// A router's answer to a push, or none.
    pub fn answered(&mut self, control: &mut Control, router: &NodeName, held: Option<Held>, now: Instant) {
        let push = self.pushes.entry(router.clone()).or_default();
        let sent = push.in_flight.take();
        match held {
            Some(Held { held }) => {
                (push.failures, push.next_at) = (0, None);
                push.acknowledged = sent.filter(|sent| held.as_ref() == Some(&sent.stamp));
                if let Some(node) = control.nodes.get_mut(&(NodeRole::Router, router.clone())) {
                    node.held = held;
                }
            }
            None => {
                push.failures = push.failures.saturating_add(1);
                push.next_at = Some(now + Duration::from_millis(100) * 2u32.pow(push.failures.min(5)));
            }
        }
    }

    /// Whether the routers have heard that this quiesce is meant.
    pub fn told(&mut self, control: &Control, operation: &OperationId, now: Instant) -> Told {
        let Some(published) = &self.published else { return Told::All };
        let (stamp, since) = self.meant.entry(operation.clone()).or_insert_with(|| (published.stamp.clone(), now));
        let behind: Vec<NodeName> = control
            .nodes
            .iter()
            .filter(|((role, _), node)| *role == NodeRole::Router && node.up)
            .filter(|(_, node)| node.held.as_ref().is_none_or(|held| held < stamp))
            .map(|((_, name), _)| name.clone())
            .collect();
        match behind.is_empty() {
            true => Told::All,
            false if now.duration_since(*since) >= control.bounds.router_wait => Told::Stale(behind),
            false => Told::NotYet,
        }
    }

    /// Forgets the quiesces that are not meant any more.
    pub fn forget(&mut self, still_meant: impl Fn(&OperationId) -> bool) {
        self.meant.retain(|operation, _| still_meant(operation));
    }
}

fn build(control: &Control, stamp: ListStamp) -> RouterList {
    let list = &control.leader.list;
    let mut through = through(control);
    let servers =
        control.nodes.iter().filter(|((role, _), _)| *role == NodeRole::AppServer).map(|((_, name), node)| {
            RouterServer { name: name.clone(), data: node.record.registration.data, up: node.up }
        });
    let programs = list.programs.keys().filter_map(|program| {
        let mut through = through.remove(program).unwrap_or_default();
        let mut manifest = control.manifest(program)?.clone();
        let ripple = control.leader.under_way(program).and_then(|ripple| control.ripples.get(&ripple.plan.id));
        if let Some(hold) = ripple.and_then(|record| record.hold_ms) {
            manifest.upgrade.hold = Duration::from_millis(hold);
        }
        let sticky = manifest.sticky().is_some();
        let forward = forward(control, program, &manifest);
        let placements = list.cells.get(program).into_iter().flatten().filter_map(|(server, cell)| {
            let run = list.servers.get(server)?.sealed.clone();
            // Of a server that has not been heard in this term it is only known what was wanted there: routers ask it
            // last, rather than not at all.
            let wanted = cell.desired.as_ref().and_then(|desired| desired.release.as_ref());
            let (generation, release) = match &cell.observed {
                Some(seen) => (seen.generation, seen.release.as_ref()),
                None if run.is_none() && wanted.is_some() => (Generation::default(), wanted),
                None => return None,
            };
            let by_router = through.remove(server).unwrap_or_default();
            Some(RouterPlacement {
                server: server.clone(),
                run,
                generation,
                version: release.map(|release| release.version.clone()),
                takes_requests: list.serves(program, server),
                keeps_sessions: sticky && keeps_sessions(list, program, server),
                active: by_router.values().sum(),
                by_router,
            })
        });
        Some(RouterProgram { manifest, placements: placements.collect(), forward })
    });
    let (servers, programs) = (servers.collect(), programs.collect());
    RouterList { stamp, since: None, servers, programs, removed: Vec::new() }
}

/// Of each placement the active requests by the router that they came through. Nothing while there is one router: it knows
/// of its own, and need not hear of them each second.
fn through(control: &Control) -> HashMap<&ProgramName, HashMap<&ServerName, BTreeMap<NodeName, u64>>> {
    let routers = control.nodes.iter().filter(|((role, _), node)| *role == NodeRole::Router && node.up);
    let mut through: HashMap<_, HashMap<_, BTreeMap<_, _>>> = HashMap::new();
    if routers.clone().count() < 2 {
        return through;
    }
    for ((_, router), node) in routers {
        for (program, active) in &node.active {
            let of = through.entry(program).or_default();
            for (server, active) in active {
                of.entry(server).or_default().insert(router.clone(), *active);
            }
        }
    }
    through
}

/// Whether sessions that are at home there are taken: it serves, although it may be about to close, or it drains and
/// waits for them.
fn keeps_sessions(list: &ServerList, program: &ProgramName, server: &ServerName) -> bool {
    let seen = list.observed(program, server);
    seen.is_some_and(|seen| seen.healthy && (seen.state == State::Open || seen.sessions.is_some()))
}

/// How many of a program's servers have what the ripple under way brings: so many of its sessions take it.
fn forward(control: &Control, program: &ProgramName, manifest: &Manifest) -> Option<Forward> {
    manifest.session.as_ref()?;
    let to = control.leader.under_way(program)?.plan.to.as_ref()?;
    let list = &control.leader.list;
    let servers: Vec<&ServerName> = list.cells.get(program)?.keys().collect();
    let has_it = |server: &&&ServerName| {
        let seen = list.observed(program, server);
        seen.is_some_and(|seen| seen.state == State::Open && seen.release.as_ref() == Some(to))
    };
    let share = servers.iter().filter(has_it).count() as u64 * 1_000_000 / servers.len().max(1) as u64;
    Some(Forward { to: to.version.clone(), share_ppm: share as u32 })
}

/// Whether two lists differ in nothing but load.
fn same(a: &RouterList, b: &RouterList) -> bool {
    let calm = |programs: &[RouterProgram]| {
        let mut programs = programs.to_vec();
        programs.iter_mut().flat_map(|program| &mut program.placements).for_each(|placement| {
            placement.active = 0;
            placement.by_router.clear();
        });
        programs
    };
    a.stamp.term == b.stamp.term && a.servers == b.servers && calm(&a.programs) == calm(&b.programs)
}

/// What has to be said to a router that holds `base`.
pub fn difference(base: &RouterList, now: &RouterList) -> RouterList {
    let programs = now.programs.iter().filter(|program| !base.programs.contains(program)).cloned().collect();
    let still = |name| now.programs.iter().any(|program| program.manifest.name == name);
    let removed = base.programs.iter().map(|program| program.manifest.name.clone()).filter(|name| !still(name.clone()));
    RouterList {
        stamp: now.stamp.clone(),
        since: Some(base.stamp.clone()),
        servers: now.servers.clone(),
        programs,
        removed: removed.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::manifest;
    use crate::domain::names::{NodeName, Revision, Term};

    fn program(name: &str, active: u64) -> RouterProgram {
        let text =
            format!("name = \"{name}\"\nversion = \"1\"\nroutes = [\"*/{name}\"]\n[static]\nroot = \"public\"\n");
        let placement = RouterPlacement {
            server: NodeName::new("app-1").unwrap(),
            run: None,
            generation: Default::default(),
            version: None,
            takes_requests: true,
            keeps_sessions: false,
            active,
            by_router: [(NodeName::new("router-1").unwrap(), active)].into(),
        };
        RouterProgram {
            manifest: manifest::parse("program.toml", &text).unwrap(),
            placements: vec![placement],
            forward: None,
        }
    }

    fn list(revision: u64, programs: Vec<RouterProgram>) -> RouterList {
        let term = Term { number: 1, management: NodeName::new("m").unwrap() };
        let stamp = ListStamp { term, revision: Revision(revision) };
        RouterList { stamp, since: None, servers: vec![], programs, removed: vec![] }
    }

    #[test]
    fn a_difference_names_what_changed_and_what_is_no_more() {
        let base = list(1, vec![program("mail", 0), program("shop", 0), program("site", 0)]);
        let now = list(2, vec![program("mail", 0), program("shop", 3)]);
        let change = difference(&base, &now);
        assert_eq!(change.since, Some(base.stamp));
        assert_eq!(change.programs, [program("shop", 3)]);
        assert_eq!(change.removed.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["site"]);
    }

    #[test]
    fn load_alone_is_no_change() {
        let (calm, busy) = (list(1, vec![program("shop", 0)]), list(1, vec![program("shop", 9)]));
        assert!(same(&calm, &busy));
        let mut closed = busy.clone();
        closed.programs[0].placements[0].takes_requests = false;
        assert!(!same(&busy, &closed));
    }
}
