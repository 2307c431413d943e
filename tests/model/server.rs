//! Owns a modelled server: a shell around `Placement`, `Seal` and the gate's `Word` that saves, acts, speaks; and the
//! instances, which outlive it. Must not know what management decides.

use std::time::Duration;

use neap::domain::gate::{NotDrained, Word};
use neap::domain::names::{Generation, RunId, Term};
use neap::domain::placement::{Command, Effect, Event, Here, Order, Phase, Placement, Refusal, State};
use neap::domain::seal::Seal;
use neap::domain::server_list::Report;

use super::overlap;
use super::world::{Cluster, LATER, Message, Off, Request, Shared, World, hash_of, program, release, server_name};

/// What an instance is to its server, as its mark on disk says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Main,
    /// Started beside the main one.
    Beside,
    /// The main one took over from it.
    Retired,
}

/// One running copy of the program.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Instance {
    pub version: u8,
    pub role: Role,
    /// Marked, and signalled.
    pub stopping: bool,
    pub healthy: bool,
    /// Requests of a dead run of the server that it may still be executing.
    pub orphans: u8,
}

/// What dies with the server's process. The placement's own memory is in `Srv::placement`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Memory {
    pub word: Word,
    /// The gate that was switched away from.
    pub retired: Option<Word>,
    /// Where P14's order is off: closed, and not switched yet.
    pub half_switched: bool,
    pub starting: Option<u8>,
    pub stopping: bool,
}

/// A server: its disk, its process if there is one, its instances.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Srv {
    pub number: u8,
    pub placement: Shared<Placement>,
    pub seal: Seal,
    pub up: Option<Memory>,
    pub instances: Vec<Instance>,
    /// Operations carried out here.
    pub carried: Vec<u64>,
    /// Where it is off that disk comes first: what is on it.
    pub stale: Option<Shared<Placement>>,
}

impl Memory {
    fn closed(generation: Generation) -> Self {
        let word = Word::closed(generation);
        Self { word, retired: None, half_switched: false, starting: None, stopping: false }
    }
}

impl Srv {
    pub fn is_healthy(&self) -> bool {
        self.mains().any(|instance| instance.healthy && !instance.stopping)
    }

    fn mains(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.role == Role::Main)
    }

    fn orphans(&self) -> u64 {
        self.mains().map(|instance| u64::from(instance.orphans)).sum()
    }

    pub fn run(&self, server: usize) -> RunId {
        RunId::new(format!("{}.{}", server_name(server).as_str(), self.number)).expect("a run")
    }

    pub fn report(&self, cluster: &Cluster) -> Report {
        let retiring = self.up.as_ref().and_then(|up| up.retired).map_or(0, Word::active);
        let active = self.up.as_ref().map_or(0, |up| up.word.active()) + retiring;
        let orphans = if cluster.off == Off::P9dOrphans { 0 } else { self.orphans() };
        Report { retiring, ..Report::of(&self.placement, self.is_healthy(), active, orphans) }
    }
}

/// A server that serves version 1.
pub fn first(_server: usize) -> Srv {
    let mut placement = Placement::absent(program());
    (placement.state, placement.generation, placement.release) = (State::Open, Generation(1), Some(release(1)));
    Srv {
        number: 1,
        placement: Shared::new(placement),
        seal: Seal::default(),
        up: Some(Memory { word: Word::closed(Generation(1)).open(Generation(1)), ..Memory::closed(Generation(1)) }),
        instances: vec![Instance { version: 1, role: Role::Main, stopping: false, healthy: true, orphans: 0 }],
        carried: Vec::new(),
        stale: None,
    }
}

pub fn claim(cluster: &Cluster, world: &mut World, server: usize) {
    let Some(request) = world.requests.iter().position(|request| *request == Request::Waiting) else { return };
    let held = &mut world.servers[server];
    let unwell = held.mains().any(|instance| !instance.stopping && !instance.healthy);
    let Some(up) = &mut held.up else { return };
    let Some(claimed) = up.word.claim() else { return overlap::refused(cluster, world, server) };
    // An instance that ended by itself takes no connection, which is a refusal.
    if unwell {
        return;
    }
    if cluster.off == Off::P1OneStep {
        world.requests[request] = Request::Checked(server);
        return;
    }
    up.word = claimed;
    world.requests[request] = Request::Admitted(server);
    delivered(world, server);
}

/// Only where P1 is off.
pub fn count(world: &mut World, index: usize) {
    let Request::Checked(server) = world.requests[index] else { return };
    world.requests[index] = Request::Waiting;
    let Some(up) = &mut world.servers[server].up else { return };
    let generation = up.word.generation();
    let Some(claimed) = up.word.open(generation).claim() else { return };
    up.word = if up.word.is_open() { claimed } else { claimed.close(generation) };
    world.requests[index] = Request::Admitted(server);
    delivered(world, server);
}

fn delivered(world: &mut World, server: usize) {
    if !world.servers[server].mains().any(|instance| !instance.stopping) {
        world.broken = Some("I1: a request was delivered to a stopped instance");
    }
}

pub fn end(world: &mut World, index: usize) {
    let Request::Admitted(server) = world.requests[index] else { return };
    world.requests[index] = Request::Completed;
    if let Some(up) = &mut world.servers[server].up {
        up.word = up.word.release();
    }
}

fn cut(world: &mut World, server: usize) {
    for request in world.requests.iter_mut().filter(|request| **request == Request::Admitted(server)) {
        *request = Request::Cut;
        if let Some(up) = &mut world.servers[server].up {
            up.word = up.word.release();
        }
    }
}

pub fn crash(cluster: &Cluster, world: &mut World, server: usize) {
    let active = world.admitted(server) as u8;
    let old = world.requests.iter().filter(|request| **request == Request::Old(server)).count() as u8;
    cut(world, server);
    overlap::cut_old(world, server);
    for request in &mut world.requests {
        if matches!(request, Request::Looking(at) | Request::LookingOld(at) if *at == server) {
            *request = Request::Waiting;
        }
    }
    let held = &mut world.servers[server];
    held.up = None;
    for instance in held.instances.iter_mut().filter(|instance| !instance.stopping) {
        instance.orphans += match instance.role {
            Role::Main => active,
            Role::Retired => old,
            Role::Beside => 0,
        };
    }
    if let Some(stale) = held.stale.take() {
        held.placement = stale;
        for instance in &mut held.instances {
            instance.role = if instance.role == Role::Main { Role::Beside } else { Role::Main };
        }
    }
    let mut kept = (*held.placement).clone();
    (kept.lease_until, kept.boot) = (None, Default::default());
    if let Some(operation) = kept.operation.as_mut().filter(|_| cluster.off == Off::P9bTakenBack)
        && operation.phase == Phase::StoppingNew
    {
        operation.phase = Phase::Starting;
    }
    held.placement = Shared::new(kept);
    world.fault(server);
}

pub fn boot(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &mut world.servers[server];
    held.number += 1;
    let mut placement = (*held.placement).clone();
    let effects = placement.boot(1);
    held.up = Some(Memory::closed(placement.generation));
    held.placement = Shared::new(placement);
    perform(cluster, world, server, effects, false);
}

pub fn report(cluster: &Cluster, world: &mut World, server: usize, management: usize) {
    let held = &world.servers[server];
    let (run, report) = (held.run(server), held.report(cluster));
    world.post(cluster, Message::Report { to: management, from: server, run, refusal: None, report });
}

/// The question of a seal: the promise is on disk before the answer leaves.
pub fn sealed(cluster: &Cluster, world: &mut World, server: usize, from: usize, term: &Term, asked: u64, dies: bool) {
    let held = &mut world.servers[server];
    if held.up.is_none() {
        return;
    }
    let kept = held.seal.clone();
    let answer = held.seal.admit(term).map(|_| held.report(cluster));
    let answered = Message::Sealed { to: from, from: server, run: held.run(server), term: term.clone(), asked, answer };
    if dies && cluster.off == Off::P11SavedFirst {
        held.seal = kept;
        world.post(cluster, answered);
    } else if !dies {
        world.post(cluster, answered);
    }
    if dies {
        crash(cluster, world, server);
    }
}

pub fn command(cluster: &Cluster, world: &mut World, server: usize, from: usize, command: &Command, dies: bool) {
    if world.servers[server].up.is_none() {
        return;
    }
    let kept = (world.servers[server].placement.clone(), world.servers[server].seal.clone());
    let judged = judge(cluster, world, server, command);
    let (effects, refusal) = match judged {
        Ok(effects) => (effects, None),
        Err(refusal) => (Vec::new(), Some(refusal)),
    };
    let forced = matches!(&command.order, Order::Upgrade { force: true, .. } | Order::Remove { force: true, .. });
    let held = &world.servers[server];
    let (run, report) = (held.run(server), held.report(cluster));
    let answer = Message::Report { to: from, from: server, run, refusal, report };
    if dies && cluster.off == Off::P11SavedFirst {
        perform(cluster, world, server, effects, forced);
        world.post(cluster, answer);
        (world.servers[server].placement, world.servers[server].seal) = kept;
    } else if !dies {
        perform(cluster, world, server, effects, forced);
        world.post(cluster, answer);
    }
    if dies {
        crash(cluster, world, server);
    }
}

fn judge(cluster: &Cluster, world: &mut World, server: usize, command: &Command) -> Result<Vec<Effect>, Refusal> {
    world.servers[server].seal.admit(&command.term)?;
    let mut command = command.clone();
    let held = &world.servers[server];
    let run = held.run(server);
    if cluster.off == Off::P3GenerationMatched && command.order != Order::Reopen {
        command.expected = held.placement.generation;
    }
    let before = held.placement.clone();
    let mut placement = (*before).clone();
    let mut word = held.up.as_ref().expect("a live server").word;
    let was_serving = world.serves(server);
    let orphans = if cluster.off == Off::P9dOrphans { 0 } else { held.orphans() };
    let here = Here { run: &run, now: 0, lease: Duration::from_secs(60), orphans, sticky: None };
    let mut forced = false;
    let overlaps = before.state == State::Overlapping;
    let old = overlap::freeze_old(held);
    let freeze = |generation| match if overlaps { old.map(|()| word) } else { word.freeze(generation) } {
        Ok(frozen) => {
            word = frozen;
            Ok(())
        }
        Err(NotDrained { open: false, .. }) if is_forced(&command.order) => {
            forced = true;
            Ok(())
        }
        Err(_) if cluster.off == Off::P4OwnCheck => Ok(()),
        Err(left) => Err(left),
    };
    let effects = placement.command(&command, &here, freeze)?;
    if forced && overlaps {
        overlap::cut_old(world, server);
    } else if forced {
        cut(world, server);
    }
    let up = world.servers[server].up.as_mut().expect("a live server");
    up.word = if forced && !overlaps { up.word.freeze(placement.generation).expect("all were cut") } else { word };
    keep_generation(cluster, &before, &mut placement);
    watch(cluster, world, server, &command, &before, &placement, was_serving);
    world.servers[server].placement = Shared::new(placement);
    Ok(effects)
}

fn is_forced(order: &Order) -> bool {
    matches!(order, Order::Upgrade { force: true, .. } | Order::Remove { force: true, .. })
}

/// Where it is off that the generation rises at every transition.
fn keep_generation(cluster: &Cluster, before: &Placement, after: &mut Placement) {
    if cluster.off == Off::P3GenerationRises
        && before.state == State::Quiescing
        && after.state == State::Open
        && let Some(operation) = &before.operation
    {
        after.generation = operation.expected;
    }
}

/// What a command that was obeyed must not have done.
fn watch(
    cluster: &Cluster,
    world: &mut World,
    server: usize,
    command: &Command,
    before: &Placement,
    after: &Placement,
    was_serving: bool,
) {
    let began = |state| before.state != state && after.state == state;
    if began(State::Quiescing) && was_serving {
        world.servers[server].up.as_mut().expect("a live server").word = {
            let word = world.servers[server].up.as_ref().expect("a live server").word;
            word.close(after.generation)
        };
        world.closed(cluster, server, &command.operation);
    }
    if before.operation.is_some() && after.operation.is_some() {
        let id = |placement: &Placement| placement.operation.as_ref().map(|operation| operation.id.clone());
        if id(before) != id(after) {
            world.broken = Some("I4: a transition began while another was under way");
        }
    }
    if began(State::Upgrading) {
        let id = hash_of(&command.operation);
        let carried = &mut world.servers[server].carried;
        if carried.contains(&id) {
            world.broken = Some("I4: an operation was carried out twice");
        }
        carried.push(id);
    }
}

pub fn happen(cluster: &Cluster, world: &mut World, server: usize, event: &Event, now: u64) {
    let held = &mut world.servers[server];
    let run = held.run(server);
    let here = Here { run: &run, now, lease: Duration::from_secs(60), orphans: held.orphans(), sticky: None };
    let before = held.placement.clone();
    let mut placement = (*before).clone();
    let effects = placement.event(event, &here);
    keep_generation(cluster, &before, &mut placement);
    if cluster.off == Off::P14DiskFirst && effects.iter().any(|effect| matches!(effect, Effect::Switch(_))) {
        held.stale = Some(held.placement.clone());
    } else if placement != *before {
        held.stale = None;
    }
    held.placement = Shared::new(placement);
    perform(cluster, world, server, effects, false);
}

fn perform(cluster: &Cluster, world: &mut World, server: usize, effects: Vec<Effect>, forced: bool) {
    for effect in effects {
        match effect {
            Effect::Stop => stop(world, server, forced),
            Effect::Start(release) => {
                overlap::clear(world, server);
                start(cluster, &mut world.servers[server], release.sha256.0[0]);
            }
            Effect::StartBeside(release) => overlap::start_beside(&mut world.servers[server], release.sha256.0[0]),
            Effect::Switch(_) => overlap::switch(cluster, world, server),
            Effect::StopBeside => overlap::stop(world, server, Role::Beside, false),
            Effect::StopOld => overlap::stop(world, server, Role::Retired, forced),
            // Sets have a model of their own.
            Effect::Await(_) | Effect::Report | Effect::MigrateSessions | Effect::KnowGate(_) => {}
            Effect::OpenGate(_) | Effect::CloseGate(_) => {
                let held = &mut world.servers[server];
                let Some(up) = &mut held.up else { continue };
                let generation = held.placement.generation;
                let open = matches!(effect, Effect::OpenGate(_));
                up.word = if open { up.word.open(generation) } else { up.word.close(generation) };
            }
        }
    }
}

fn stop(world: &mut World, server: usize, forced: bool) {
    let active = world.admitted(server);
    let held = &mut world.servers[server];
    let orphans = held.instances.iter().any(|instance| instance.orphans > 0 && !instance.stopping);
    if (active > 0 || orphans) && !forced {
        world.broken = Some("I1: an instance was stopped under a request");
    }
    for instance in &mut held.instances {
        (instance.stopping, instance.orphans) = (true, 0);
    }
    if let Some(up) = &mut held.up {
        (up.stopping, up.starting) = (true, None);
    }
}

fn start(cluster: &Cluster, held: &mut Srv, version: u8) {
    let adopts = |instance: &Instance| {
        let blind = [Off::P9bMarked, Off::P9bTakenBack, Off::P11SavedFirst].contains(&cluster.off);
        instance.version == version && instance.role == Role::Main && (!instance.stopping || blind)
    };
    if !held.instances.iter().any(adopts) {
        held.instances.push(Instance { version, role: Role::Main, stopping: false, healthy: false, orphans: 0 });
    }
    if let Some(up) = &mut held.up {
        up.starting = Some(version);
    }
}

pub fn started(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &mut world.servers[server];
    let version = held.up.as_mut().and_then(|up| up.starting.take());
    for instance in held.instances.iter_mut().filter(|instance| Some(instance.version) == version) {
        instance.healthy = true;
    }
    happen(cluster, world, server, &Event::Started, 0);
}

pub fn start_failed(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &mut world.servers[server];
    let version = held.up.as_mut().and_then(|up| up.starting.take());
    if !(cluster.bad_release && version == Some(2)) {
        world.left.failed_starts -= 1;
        world.fault(server);
    }
    // What an adopted instance was still executing is lost with it, and reported.
    let of_version = world.servers[server].instances.iter_mut().filter(|instance| Some(instance.version) == version);
    of_version.for_each(|instance| instance.orphans = 0);
    happen(cluster, world, server, &Event::StartFailed("it did not start".to_owned()), 0);
}

pub fn stopped(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &mut world.servers[server];
    held.instances.retain(|instance| !instance.stopping);
    if let Some(up) = &mut held.up {
        up.stopping = false;
    }
    happen(cluster, world, server, &Event::Stopped, 0);
}

pub fn exit(world: &mut World, server: usize) {
    let active = world.admitted(server);
    let held = &mut world.servers[server];
    held.instances.retain(|instance| !instance.stopping);
    if active > 0 && held.instances.is_empty() {
        world.broken = Some("I1: a request was delivered to a stopped instance");
    }
}

pub fn orphan_ends(world: &mut World, server: usize) {
    let instances = &mut world.servers[server].instances;
    if let Some(instance) = instances.iter_mut().find(|instance| instance.orphans > 0) {
        instance.orphans -= 1;
    }
}

pub fn tick(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &world.servers[server];
    if let (State::Quiescing | State::Overlapping, Some(operation)) = (held.placement.state, &held.placement.operation)
    {
        let renewed = world.managements.iter().any(|management| management.renews(Off::Nothing, &operation.id));
        world.left.leases = world.left.leases.saturating_sub(u8::from(renewed));
    }
    happen(cluster, world, server, &Event::Tick, LATER);
}

pub fn unhealthy(world: &mut World, server: usize) {
    world.left.unhealthy -= 1;
    let mains = world.servers[server].instances.iter_mut().filter(|instance| instance.role == Role::Main);
    mains.for_each(|instance| instance.healthy = false);
    world.fault(server);
}

/// Its server has started the program again, or it answers again.
pub fn recovers(world: &mut World, server: usize) {
    let running = world.servers[server].instances.iter_mut().filter(|instance| instance.role != Role::Beside);
    running.for_each(|instance| instance.healthy = true);
}
