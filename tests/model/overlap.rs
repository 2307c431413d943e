//! Owns what a modelled server does of an overlap (protocol P14): the pointer, two gates, and the order of the switch.
//! Must not know what management decides.

use neap::domain::gate::{NotDrained, Word};
use neap::domain::placement::{Event, Phase, State};

use super::server::{self, Instance, Role, Srv};
use super::world::{Cluster, Off, Request, World};

/// A request reads the pointer to the gate; it claims there afterwards.
pub fn look(world: &mut World, server: usize) {
    let Some(request) = world.requests.iter().position(|request| *request == Request::Waiting) else { return };
    if world.servers[server].up.is_some() {
        world.requests[request] = Request::Looking(server);
    }
}

/// It claims at the gate that it has read, which may have been switched away from since: then it reads the pointer again.
pub fn claim_looking(cluster: &Cluster, world: &mut World, index: usize) {
    match world.requests[index] {
        Request::Looking(server) => {
            world.requests[index] = Request::Waiting;
            server::claim(cluster, world, server);
        }
        Request::LookingOld(server) if cluster.off == Off::P14ReadAgain => {
            world.requests[index] = Request::Waiting;
            if world.serves(server) {
                world.broken = Some("I2: a request was refused though the new instance's gate was open");
            }
        }
        Request::LookingOld(server) => world.requests[index] = Request::Looking(server),
        _ => {}
    }
}

/// With one gate that is never to be closed, a request found it closed.
pub fn refused(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &world.servers[server];
    let no_crash = world.left.crashes == cluster.faults.crashes;
    if no_crash && held.placement.state == State::Overlapping && held.is_healthy() {
        world.broken = Some("I2: a request was refused in the middle of a switch");
    }
}

pub fn start_beside(held: &mut Srv, version: u8) {
    held.instances.push(Instance { version, role: Role::Beside, stopping: false, healthy: false, orphans: 0 });
    if let Some(up) = &mut held.up {
        up.starting = Some(version);
    }
}

/// Opens the new, moves the pointer, closes the old: as one, for no request sees it in between.
pub fn switch(cluster: &Cluster, world: &mut World, server: usize) {
    let held = &mut world.servers[server];
    let generation = held.placement.generation;
    if let Some(up) = &mut held.up {
        if cluster.off == Off::P14Order && !up.half_switched {
            // The old one's gate is closed first.
            (up.word, up.half_switched) = (up.word.close(generation), true);
            return;
        }
        up.half_switched = false;
        up.retired = Some(up.word.close(generation));
        up.word = Word::closed(generation).open(generation);
    }
    for instance in &mut held.instances {
        instance.role = match instance.role {
            Role::Main => Role::Retired,
            Role::Beside => Role::Main,
            Role::Retired => Role::Retired,
        };
    }
    for request in &mut world.requests {
        match request {
            Request::Admitted(at) if *at == server => *request = Request::Old(server),
            Request::Looking(at) if *at == server => *request = Request::LookingOld(server),
            _ => {}
        }
    }
}

/// `forced`: what of a dead run of the server was still going on there was counted as cut when that run died.
pub fn stop(world: &mut World, server: usize, role: Role, forced: bool) {
    let asked = role == Role::Retired && world.requests.contains(&Request::Old(server));
    let held = &mut world.servers[server];
    for instance in held.instances.iter_mut().filter(|instance| instance.role == role) {
        if asked || (instance.orphans > 0 && !instance.stopping && !forced) {
            world.broken = Some("I1: an instance was stopped under a request");
        }
        (instance.stopping, instance.orphans) = (true, 0);
    }
    if let Some(up) = &mut held.up {
        (up.stopping, up.starting) = (true, None);
        if role == Role::Retired {
            up.retired = None;
        }
    }
}

/// What a start of the one instance finds beside it goes first; those that were switched away from are left.
pub fn clear(world: &mut World, server: usize) {
    let held = &mut world.servers[server];
    if held.instances.iter().any(|instance| instance.role == Role::Beside && instance.orphans > 0) {
        world.broken = Some("I1: an instance was stopped under a request");
    }
    held.instances.retain(|instance| instance.role != Role::Beside);
}

pub fn end_old(world: &mut World, index: usize) {
    let Request::Old(server) = world.requests[index] else { return };
    world.requests[index] = Request::Completed;
    if let Some(retired) = world.servers[server].up.as_mut().and_then(|up| up.retired.as_mut()) {
        *retired = retired.release();
    }
}

pub fn cut_old(world: &mut World, server: usize) {
    for index in 0..world.requests.len() {
        if world.requests[index] == Request::Old(server) {
            end_old(world, index);
            world.requests[index] = Request::Cut;
        }
    }
}

/// What a server's freeze means to the gate that was switched away from.
pub fn freeze_old(held: &Srv) -> Result<(), NotDrained> {
    let active = held.up.as_ref().and_then(|up| up.retired).map_or(0, Word::active);
    if active == 0 { Ok(()) } else { Err(NotDrained { open: false, active }) }
}

/// Whether the old instance has nothing left to do.
pub fn old_is_drained(held: &Srv) -> bool {
    let switched = held.placement.operation.as_ref().is_some_and(|operation| operation.phase == Phase::Switched);
    let orphans = held.instances.iter().any(|instance| instance.role == Role::Retired && instance.orphans > 0);
    let settled = held.up.as_ref().is_some_and(|up| up.starting.is_none() && !up.stopping && !up.half_switched);
    held.placement.state == State::Overlapping && switched && settled && !orphans && freeze_old(held).is_ok()
}

pub fn old_drained(cluster: &Cluster, world: &mut World, server: usize) {
    server::happen(cluster, world, server, &Event::OldDrained, 0);
}
