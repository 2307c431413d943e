//! Owns adoption: is a recorded instance still there and ours, and which processes are ours that no record knows?
//! Must not know what is decided about them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::instance::{Instance, InstanceRecord, VARIABLE, open_pidfd};
use super::launcher;
use super::ports::Ports;
use super::proc::{self, Stat};

/// What became of a recorded instance.
#[derive(Debug)]
pub enum Found {
    /// It lives, whatever its mark: the caller adopts only one that is marked running, and stops the others.
    Alive(Arc<Instance>),
    /// Its leader is gone, or never became the program. What is left of it may still be there: see `stop::kill_rest`.
    Gone,
}

/// Takes hold of a recorded instance if it is alive: the same boot, pid and start time, no other instance's name in its
/// environment, and the launcher no more. Must be called on a tokio runtime. An error says nothing about the
/// instance: it must not be taken for gone, nor its processes killed.
pub fn adopt(record: &InstanceRecord, ports: &Ports) -> io::Result<Found> {
    if proc::boot_id()? != record.boot_id {
        return Ok(Found::Gone);
    }
    // The pidfd first, then the check: what was checked is what is held.
    let Some(pidfd) = open_pidfd(record.pid)? else { return Ok(Found::Gone) };
    if !is_leader(record)? {
        return Ok(Found::Gone);
    }
    Instance::hold(record.clone(), pidfd, None, ports.adopt(record.port)).map(Found::Alive)
}

fn is_leader(record: &InstanceRecord) -> io::Result<bool> {
    let same = proc::look(record.pid)?.is_some_and(|stat| !stat.ended && stat.start_time == record.start_time);
    // A launcher whose node died before it gave the word is on its way out.
    let launcher = proc::words(record.pid).get(1).is_some_and(|word| word == launcher::COMMAND);
    // Some programs write their title over their environment, so that no name is no proof; another name is.
    Ok(same && !launcher && proc::variable(record.pid, VARIABLE).is_none_or(|name| name == record.name))
}

/// A process that carries the name of an instance of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    pub instance: String,
    pub pid: u32,
    pub start_time: u64,
}

/// All processes that carry an instance's name of this node (`scope`), without those of the instances in `known`.
pub fn strays(scope: &str, known: &[String]) -> Vec<Stray> {
    let ours = |name: &String| name.strip_prefix(scope).is_some_and(|rest| rest.starts_with('.'));
    let stray = |stat: Stat| {
        let instance = proc::variable(stat.pid, VARIABLE).filter(|name| ours(name) && !known.contains(name))?;
        Some(Stray { instance, pid: stat.pid, start_time: stat.start_time })
    };
    proc::all().into_iter().filter_map(stray).collect()
}

/// The ids of a recorded instance's living processes.
pub fn processes(record: &InstanceRecord) -> Vec<u32> {
    let leader = Some((record.pid, record.start_time));
    members(&record.name, leader, &[]).into_iter().map(|stat| stat.pid).collect()
}

/// The living processes of an instance: those that carry its name, those of its process group, those that were `seen`
/// to be its own before, and whatever any of them started.
pub(super) fn members(name: &str, leader: Option<(u32, u64)>, seen: &[Stat]) -> Vec<Stat> {
    look(name, leader, seen, &HashSet::new()).members
}

/// What a look through all processes tells of an instance.
pub(super) struct Look {
    pub members: Vec<Stat>,
    /// Ids of processes that are not its own and never will be: they are older, or carry something else for a name.
    pub strangers: Vec<u32>,
}

/// The same, without another look at those that were found to be strangers a moment ago.
pub(super) fn look(name: &str, leader: Option<(u32, u64)>, seen: &[Stat], strangers: &HashSet<u32>) -> Look {
    // A group's number is taken by nothing else while the group has members; where the pid is another's now,
    // the group went with it.
    let reused = |(pid, start)| proc::stat(pid).is_some_and(|stat| stat.start_time != start);
    let group = leader.filter(|leader| !reused(*leader)).map(|(pid, _)| pid);
    // The name comes from the leader, so that nothing that is older has it.
    let since = leader.map_or(0, |(_, start)| start);
    let mut nameless = HashSet::new();
    let mut named = |stat: &Stat| {
        if stat.start_time < since {
            return false;
        }
        match proc::environ(stat.pid) {
            Some(environ) => proc::variable_of(&environ, VARIABLE).as_deref() == Some(name),
            None => {
                nameless.insert(stat.pid);
                false
            }
        }
    };
    let ours = |stat: &Stat| {
        let known = seen.iter().any(|seen| (seen.pid, seen.start_time) == (stat.pid, stat.start_time));
        known || Some(stat.group) == group || named(stat)
    };
    let (mut members, mut others): (Vec<Stat>, Vec<Stat>) = proc::all_but(strangers).into_iter().partition(ours);
    loop {
        let pids: HashSet<u32> = members.iter().map(|stat| stat.pid).collect();
        let (started, rest) = others.into_iter().partition(|stat| pids.contains(&stat.parent));
        others = rest;
        let started: Vec<Stat> = started;
        if started.is_empty() {
            let strangers = others.iter().map(|stat| stat.pid).filter(|pid| !nameless.contains(pid)).collect();
            return Look { members, strangers };
        }
        members.extend(started);
    }
}
