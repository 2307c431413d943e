//! Owns a modelled management: a shell around `Leader` that saves before it sends. What `Leader::decide` wants on its
//! way may be sent at any time, any number of times. Must not know how a server obeys.

use std::collections::BTreeMap;
use std::time::Duration;

use neap::domain::leader::{Heard, Leader};
use neap::domain::names::{NodeName, OperationId, Revision, RippleId, RunId, Term};
use neap::domain::placement::{Refusal, State};
use neap::domain::program::{LongLived, MinServing, Promote};
use neap::domain::ripple::machine::Send;
use neap::domain::ripple::plan::{Ask, Policy, RippleKind, plan};
use neap::domain::ripple::wait::Reason;
use neap::domain::ripple::{Asked, Ripple, StepPhase};
use neap::domain::server_list::{Report, ServerList, Wanted};

use super::world::{Cluster, LATER, Message, Off, Shared, World, program, release, server_name, server_of};

/// What a management has on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Disk {
    number: u64,
    /// How many disks were lost; part of the management's id, so that no two terms are alike (P6).
    lost: u8,
    revision: Revision,
    list: ServerList,
    ripples: BTreeMap<RippleId, Ripple>,
}

impl Disk {
    pub fn is_fresh(&self) -> bool {
        self.number == 0
    }
}

/// A management. While it is up, what it knows is what it has saved: it sends only after.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Management {
    pub disk: Shared<Disk>,
    pub up: Option<Shared<Leader>>,
    pub sends: Shared<Vec<Send>>,
    /// Servers of which a fault has happened that this management cannot know of.
    pub unheard: u8,
    /// Not the first run of the first management.
    pub restarted: bool,
}

impl Management {
    /// Whether its answers to heartbeats renew an operation's lease.
    pub fn renews(&self, off: Off, operation: &OperationId) -> bool {
        let Some(leader) = &self.up else { return false };
        let owns = leader.ripples.values().any(|ripple| ripple.owns(operation) && ripple.asked != Asked::Abort);
        off == Off::P8Matching || (leader.stepped_down.is_none() && owns)
    }

    /// Whether a report would tell it anything. (One that would not, and comes late, is no different from a late one
    /// that would have.)
    pub fn does_not_know(&self, server: usize, run: &RunId, report: &Report) -> bool {
        let Some(leader) = &self.up else { return false };
        let name = server_name(server);
        let entry = leader.list.servers.get(&name);
        entry.is_none_or(|entry| !entry.up || entry.sealed.as_ref().is_some_and(|sealed| sealed != run))
            || (entry.is_some_and(|entry| entry.sealed.is_some())
                && leader.list.observed(&program(), &name) != Some(report))
    }

    /// Whether the first ripple is known, and nobody has asked for it to be undone.
    pub fn may_undo(&self) -> bool {
        let Some(leader) = self.up.as_ref().filter(|leader| leader.stepped_down.is_none()) else { return false };
        leader.ripples.contains_key("r") && !leader.ripples.contains_key("u")
    }

    pub fn waits_to_be_promoted(&self) -> bool {
        let waits = |ripple: &Ripple| {
            let wait = ripple.wait.as_ref().map(|wait| &wait.reason);
            !ripple.state.is_over() && matches!(wait, Some(Reason::Promotion { .. }))
        };
        self.up.as_ref().is_some_and(|leader| leader.ripples.values().any(waits))
    }

    pub fn rests(&self, world: &World) -> bool {
        let Some(leader) = &self.up else { return true };
        if leader.stepped_down.is_some() {
            return true;
        }
        let says_why = |ripple: &Ripple| {
            let wait = ripple.wait.as_ref().map(|wait| &wait.reason);
            matches!(wait, Some(Reason::Paused | Reason::MinServing { .. } | Reason::Promotion { .. }))
        };
        let is_desired = |server: usize| {
            let desired = leader.list.cell(&program(), &server_name(server)).and_then(|cell| cell.desired.as_ref());
            let placement = &world.servers[server].placement;
            placement.state == State::Failed || desired.is_none_or(|desired| desired.release == placement.release)
        };
        let over = leader.ripples.values().all(|ripple| ripple.state.is_over());
        let waits = leader.ripples.values().any(says_why);
        waits || (over && (0..world.servers.len()).all(is_desired))
    }
}

fn id(index: usize, lost: u8, off: Off) -> NodeName {
    let name = match off {
        Off::P6TermsDiffer => "m".to_owned(),
        _ => format!("m{index}-{lost}"),
    };
    NodeName::new(name).expect("a name")
}

/// The first management leads, everything is sealed, and a ripple to version 2 has just begun. Others are down.
pub fn first(cluster: &Cluster, world: &mut World) {
    let names: Vec<_> = (0..cluster.servers).map(server_name).collect();
    let wanted = Wanted { release: Some(release(1)), servers: names.clone() };
    let list = ServerList { programs: BTreeMap::from([(program(), wanted)]), ..ServerList::default() };
    let term = Term { number: 1, management: id(0, 0, cluster.off) };
    let mut leader = Leader::new(term.clone(), Revision(0), list, BTreeMap::new());
    for (server, name) in names.iter().enumerate() {
        let held = &mut world.servers[server];
        held.seal.admit(&term).expect("the first term");
        leader.up(name, &held.run(server), 0);
        leader.sealed(name, 0, &held.run(server), vec![held.report(cluster)]);
    }
    leader.start(plan(ask(cluster, "r", 2), &leader.list).expect("a plan"));
    world.managements = (0..cluster.managements)
        .map(|_| Management {
            disk: Shared::new(Disk::default()),
            up: None,
            sends: Shared::new(Vec::new()),
            unheard: 0,
            restarted: false,
        })
        .collect();
    settle(cluster, world, 0, leader, 0);
}

fn policy(cluster: &Cluster) -> Policy {
    Policy {
        strategy: cluster.strategy,
        batch: cluster.batch,
        canary: cluster.canary,
        promote: Promote::Manual,
        rollback_on: None,
        hooks: Vec::new(),
        max_utilization_milli: 800,
        capacity_wait: Duration::from_secs(600),
        min_serving: 0,
        drain_timeout: Duration::from_secs(30),
        on_drain_timeout: cluster.on_drain_timeout,
        long_lived: LongLived::Wait,
        soak: Duration::ZERO,
        unhealthy_limit: Duration::from_secs(60),
    }
}

fn ask(cluster: &Cluster, id: &str, to: u8) -> Ask {
    Ask {
        id: RippleId::new(id).expect("a name"),
        kind: RippleKind::Upgrade,
        program: program(),
        to: Some(release(to)),
        servers: (0..cluster.servers).map(server_name).collect(),
        min_serving: MinServing::AtLeast(match cluster.off {
            Off::P7EachGate => cluster.min_serving - (cluster.batch as u32 - 1),
            _ => cluster.min_serving,
        }),
        holds: false,
        hooks: Default::default(),
        policy: policy(cluster),
    }
}

/// Someone asks a management that has started, and knows its servers, for another ripple.
fn start_again(cluster: &Cluster, leader: &mut Leader) {
    let known = (0..cluster.servers).all(|server| leader.list.observed(&program(), &server_name(server)).is_some());
    let asked = leader.ripples.keys().any(|id| id.as_str() == "again");
    if known
        && !asked
        && leader.stepped_down.is_none()
        && leader.under_way(&program()).is_none()
        && let Ok(plan) = plan(ask(cluster, "again", 3), &leader.list)
    {
        leader.start(plan);
    }
}

/// Decides until nothing moves; then all is on disk, and what is to be sent may be.
fn settle(cluster: &Cluster, world: &mut World, index: usize, mut leader: Leader, now: u64) {
    let mut sends = Vec::new();
    for round in 0.. {
        let before = leader.clone();
        if cluster.starts_again && world.managements[index].restarted {
            start_again(cluster, &mut leader);
        }
        sends = leader.decide(now);
        for send in &sends {
            if let Send::Prepare { server, program, release } = send {
                leader.prepared(server, program, release, Ok(()));
            }
        }
        order(cluster, world, index, &mut leader);
        if leader == before {
            break;
        }
        assert!(round < 16, "decide never comes to rest: {leader:?}");
    }
    sends.retain(|send| !matches!(send, Send::Prepare { .. } | Send::Measure { .. } | Send::Hook { .. }));
    let management = &mut world.managements[index];
    management.sends = Shared::new(sends);
    management.up = Some(Shared::new(leader));
}

/// Notes the quiesces just decided upon.
fn order(cluster: &Cluster, world: &mut World, index: usize, leader: &mut Leader) {
    let Some(cells) = leader.list.cells.get_mut(&program()) else { return };
    let excused = world.managements[index].unheard != 0;
    for cell in cells.values_mut() {
        if let Some(sent) = cell.unanswered.as_ref().filter(|sent| sent.closes) {
            let quiescing = |step: &StepPhase| step.operation() == Some(&sent.operation);
            if leader.ripples.values().any(|ripple| ripple.steps.iter().any(quiescing)) {
                let known = world.servers.iter().any(|server| {
                    let placement = &server.placement;
                    placement.operation.as_ref().is_some_and(|held| held.id == sent.operation)
                        || placement.ended.as_ref().is_some_and(|ended| ended.operation == sent.operation)
                });
                // One that failed needs no margin to be brought back, even if it recovers as it is closed.
                let unwell = cell.observed.as_ref().is_some_and(|seen| !seen.healthy);
                if !known {
                    world.ordered_now(&sent.operation, excused || unwell);
                }
            }
            if cluster.off == Off::P7UnansweredCounts {
                cell.unanswered = None;
            }
        }
    }
}

fn change(cluster: &Cluster, world: &mut World, index: usize, now: u64, change: impl FnOnce(&mut Leader)) {
    let Some(leader) = &world.managements[index].up else { return };
    let mut leader = (**leader).clone();
    change(&mut leader);
    settle(cluster, world, index, leader, now);
}

pub fn send(cluster: &Cluster, world: &mut World, index: usize, which: usize) {
    let management = &world.managements[index];
    let Some(leader) = &management.up else { return };
    let message = match &management.sends[which] {
        Send::Seal { server, asked } => {
            Message::Seal { to: server_of(server), from: index, term: leader.term().clone(), asked: *asked }
        }
        Send::Command { server, command, .. } => {
            Message::Command { to: server_of(server), from: index, command: command.clone() }
        }
        Send::Prepare { .. } | Send::Measure { .. } | Send::Hook { .. } => return,
        Send::Together { .. } | Send::Worked { .. } => return,
    };
    world.post(cluster, message);
}

pub fn hear(cluster: &Cluster, world: &mut World, message: &Message) {
    match message {
        Message::Sealed { to, from, run, term, asked, answer } => {
            let Some(leader) = &world.managements[*to].up else { return };
            if term != leader.term() {
                return;
            }
            if let Ok(report) = answer {
                note(world, *to, *from, run, report);
            }
            let answer = answer.clone();
            change(cluster, world, *to, 0, |leader| match answer {
                Ok(mut report) => {
                    unlearn(cluster, leader, &mut report);
                    leader.sealed(&server_name(*from), *asked, run, vec![report]);
                }
                Err(refusal) => refused(cluster, leader, &refusal, true),
            });
        }
        Message::Report { to, from, run, refusal, report } => {
            if world.managements[*to].up.is_none() {
                return;
            }
            note(world, *to, *from, run, report);
            let mut report = report.clone();
            change(cluster, world, *to, 0, |leader| {
                if let Some(refusal) = refusal {
                    refused(cluster, leader, refusal, false);
                }
                let name = server_name(*from);
                let sealed = leader.list.servers.get(&name).and_then(|server| server.sealed.clone());
                if cluster.off == Off::P5NewRunUnseals && sealed.is_some_and(|sealed| sealed != *run) {
                    return;
                }
                unlearn(cluster, leader, &mut report);
                leader.up(&name, run, 0);
                if cluster.off == Off::P6Sealing {
                    let asked = leader.list.servers[&name].asked;
                    leader.sealed(&name, asked, run, vec![report.clone()]);
                }
                leader.heard(&name, run, report);
            });
        }
        Message::Seal { .. } | Message::Command { .. } => {}
    }
}

/// What a management is not told where a rule is off.
fn unlearn(cluster: &Cluster, leader: &Leader, report: &mut Report) {
    if cluster.credulous {
        report.active = 0;
    }
    if cluster.off == Off::P7HealthCounts {
        report.healthy = true;
    }
    let known = |operation: &OperationId| leader.ripples.values().any(|ripple| ripple.owns(operation));
    if cluster.off == Off::P6Adoption && report.operation.as_ref().is_some_and(|held| !known(&held.id)) {
        report.operation = None;
    }
}

fn refused(cluster: &Cluster, leader: &mut Leader, refusal: &Refusal, of_a_seal: bool) {
    if let Heard::LearnAgain(highest) = leader.refused(refusal, of_a_seal) {
        if highest.number < cluster.most_terms {
            leader.take_term(highest.number + 1);
        } else {
            leader.stepped_down = Some(highest);
        }
    }
}

/// A message that tells how its server is now ends the excuse.
fn note(world: &mut World, index: usize, server: usize, run: &RunId, report: &Report) {
    let held = &world.servers[server];
    let current = held.up.is_some() && held.run(server) == *run && held.placement.generation == report.generation;
    if current && held.is_healthy() == report.healthy {
        world.managements[index].unheard &= !(1 << server);
    }
}

pub fn down(cluster: &Cluster, world: &mut World, index: usize, server: usize) {
    if world.servers[server].up.is_some() {
        world.left.suspicions -= 1;
    }
    change(cluster, world, index, 0, |leader| {
        leader.down(&server_name(server));
    });
}

pub fn abort(cluster: &Cluster, world: &mut World, index: usize) {
    world.left.aborts -= 1;
    change(cluster, world, index, 0, |leader| {
        let ids: Vec<_> = leader.ripples.keys().cloned().collect();
        for id in ids {
            leader.ask(&id, Asked::Abort);
        }
    });
}

/// Of the first ripple, whether it runs or has ended. One that has changed nothing is only stopped.
pub fn undo(cluster: &Cluster, world: &mut World, index: usize) {
    world.left.undos -= 1;
    change(cluster, world, index, 0, |leader| {
        if let Some(undone) = leader.ripples.get("r").cloned() {
            let _ = leader.undo(RippleId::new("u").expect("a name"), &undone);
        }
    });
}

pub fn promote(cluster: &Cluster, world: &mut World, index: usize) {
    change(cluster, world, index, 0, |leader| {
        let ids: Vec<_> = leader.ripples.keys().cloned().collect();
        for id in ids {
            leader.promote(&id);
        }
    });
}

pub fn later(cluster: &Cluster, world: &mut World, index: usize) {
    world.left.timeouts -= 1;
    change(cluster, world, index, LATER, |_| {});
}

pub fn crash(cluster: &Cluster, world: &mut World, index: usize) {
    world.left.management_crashes -= 1;
    let management = &mut world.managements[index];
    let Some(leader) = management.up.take() else { return };
    let lost = management.disk.lost;
    let disk = if cluster.loses_disk {
        Disk { lost: lost + 1, ..Disk::default() }
    } else {
        Disk {
            number: leader.term().number - u64::from(cluster.off == Off::P11TermSavedFirst),
            lost,
            revision: leader.mint.revision,
            list: saved_list(&leader.list),
            ripples: leader.ripples.iter().map(|(id, ripple)| (id.clone(), saved(ripple))).collect(),
        }
    };
    management.disk = Shared::new(disk);
    management.sends = Shared::new(Vec::new());
    management.unheard = 0;
}

/// As it is read again: all that is skipped when it is written is gone.
fn saved(ripple: &Ripple) -> Ripple {
    let written = serde_json::to_string(ripple).expect("a ripple is written");
    serde_json::from_str(&written).expect("a ripple is read")
}

fn saved_list(list: &ServerList) -> ServerList {
    let mut list = list.clone();
    list.cells.values_mut().flat_map(BTreeMap::values_mut).for_each(|cell| cell.observed = None);
    list.servers.values_mut().for_each(|server| *server = Default::default());
    list
}

pub fn boot(cluster: &Cluster, world: &mut World, index: usize) {
    let disk = (*world.managements[index].disk).clone();
    let term = Term { number: disk.number + 1, management: id(index, disk.lost, cluster.off) };
    world.managements[index].restarted = true;
    let leader = Leader::new(term, disk.revision, disk.list, disk.ripples);
    settle(cluster, world, index, leader, 0);
}
