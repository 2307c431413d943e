//! Owns the Server List as requests look at it: immutable, with the router's own view of each placement beside it.
//! Must not know where lists come from, or how a request is sent.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::list::HeldList;
use crate::domain::names::{Generation, NodeName, ProgramName, RunId, ServerName};
use crate::domain::program::Manifest;
use crate::domain::routing::{Candidate, Fit, RouteTable, Standing};
use crate::wire::messages::{ActiveThere, Forward, RouterPlacement, RouterProgram, RouterServer};

/// A placement that the list says is open at the very generation that refused is asked first again after this: then it was
/// not the gate that refused but an instance that took no connection, and that changes without a new generation.
const RECHECK: Duration = Duration::from_secs(1);
/// Set in the keys that instances of a server in this process have their connections by; see [`Placement::pool_key`].
pub const HERE: u64 = 1 << 63;

/// Everything needed to send a request on its way. What one list has as the one before is shared by their snapshots.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub list: Option<HeldList>,
    pub table: Arc<RouteTable>,
    /// In the order of the list, which is that of their names.
    pub programs: Vec<Arc<Program>>,
    servers: HashMap<ServerName, Arc<Server>>,
}

/// What every snapshot of a router has in common.
#[derive(Clone, Debug)]
pub struct Setting {
    /// This router's.
    pub name: NodeName,
    /// Counted apart by each.
    pub workers: usize,
    /// The server in this very process, by its name and its data port: requests for it go straight to it.
    pub here: Option<(ServerName, SocketAddr)>,
}

#[cfg(test)]
impl Setting {
    /// Of the router "r1", without a server in its process.
    pub fn sample(workers: usize) -> Self {
        Self { name: NodeName::new("r1").unwrap(), workers, here: None }
    }
}

/// A program and where it is placed.
#[derive(Debug)]
pub struct Program {
    listed: Arc<RouterProgram>,
    pub placements: Vec<Placement>,
}

/// One cell of the list.
#[derive(Debug)]
pub struct Placement {
    pub listed: RouterPlacement,
    pub server: Arc<Server>,
    pub own: Arc<Own>,
    /// What this router goes by of the requests that others have there: its share of those that last.
    elsewhere: u64,
    /// Connections are pooled by it: the server's run, never the address alone (protocol P2c).
    pub pool_key: u64,
}

/// A server as this router sees it; the same one from list to list while its address stays.
#[derive(Debug)]
pub struct Server {
    pub name: ServerName,
    pub data: SocketAddr,
    pub up: bool,
    /// It is in this very process.
    pub here: bool,
    aside: Arc<AtomicBool>,
}

/// What this router itself knows of a placement; the same one from list to list.
#[derive(Debug)]
pub struct Own {
    /// This router's requests there.
    pub active: PerWorker,
    /// There may be a mark: asked first, for most placements have none.
    is_marked: AtomicBool,
    closed: ArcSwapOption<Mark>,
}

/// A count that each worker keeps for itself, so that none waits for another's; all may read the sum.
#[derive(Debug)]
pub struct PerWorker(Box<[Alone]>);

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Alone(AtomicU64);

impl PerWorker {
    fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Alone::default()).collect())
    }

    /// Only the worker itself may count with its number.
    pub fn add(&self, worker: usize) {
        let Alone(own) = &self.0[worker];
        own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn take(&self, worker: usize) {
        let Alone(own) = &self.0[worker];
        own.store(own.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    pub fn sum(&self) -> u64 {
        self.0.iter().map(|Alone(own)| own.load(Ordering::Relaxed)).sum()
    }
}

/// A refusal, which closes the placement in this router's view (protocol P2a).
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mark {
    run: RunId,
    generation: Generation,
    /// What the list said then: of another run than the one that refused, only something newer is news.
    listed_run: Option<RunId>,
    listed_generation: Generation,
    at: Instant,
}

impl Snapshot {
    /// Builds what requests need of a list from what differs from `before`, and carries over what this router itself
    /// knows.
    pub fn build(list: HeldList, before: &Snapshot, setting: &Setting) -> Self {
        let servers = list.servers.iter().map(|server| (server.name.clone(), Server::build(server, before, setting)));
        let servers: HashMap<_, _> = servers.collect();
        let as_before = |(name, server): (&ServerName, &Arc<Server>)| {
            before.servers.get(name).is_some_and(|before| Arc::ptr_eq(before, server))
        };
        let same_servers = servers.len() == before.servers.len() && servers.iter().all(as_before);
        let mut old = before.programs.iter().peekable();
        let programs = list.programs.iter().map(|listed| {
            // Both are in the order of names.
            while old.next_if(|old| old.name() < &listed.manifest.name).is_some() {}
            let old = old.next_if(|old| old.name() == &listed.manifest.name);
            match old.filter(|old| same_servers && old.is_still(listed)) {
                Some(old) => Arc::clone(old),
                None => Arc::new(Program::build(listed, &servers, old.map(|old| &**old), setting)),
            }
        });
        let programs: Vec<_> = programs.collect();
        let same_rules = programs.len() == before.programs.len()
            && programs.iter().zip(&before.programs).all(|(new, old)| new.has_rules_of(old));
        let table = match same_rules {
            true => Arc::clone(&before.table),
            false => Arc::new(RouteTable::build(programs.iter().map(|program| program.manifest()))),
        };
        Self { list: Some(list), table, programs, servers }
    }

    /// A program's place among the programs.
    pub fn place(&self, name: &ProgramName) -> Option<usize> {
        self.programs.binary_search_by(|program| program.name().cmp(name)).ok()
    }

    pub fn server(&self, name: &ServerName) -> Option<&Arc<Server>> {
        self.servers.get(name)
    }

    /// This router's requests at servers.
    pub fn active(&self) -> u64 {
        let placements = self.programs.iter().flat_map(|program| &program.placements);
        placements.map(|placement| placement.own.active.sum()).sum()
    }

    /// This router's requests at each placement where it has any; at the busiest `most` of them.
    pub fn active_there(&self, most: usize) -> ActiveThere {
        let all = self.programs.iter().flat_map(|program| program.placements.iter().map(move |there| (program, there)));
        let all = all.map(|(program, there)| (there.own.active.sum(), program.name(), &there.server.name));
        let mut busy: Vec<_> = all.filter(|(active, ..)| *active > 0).collect();
        if busy.len() > most {
            busy.sort_by_key(|(active, ..)| Reverse(*active));
            busy.truncate(most);
        }
        let mut told = ActiveThere::new();
        for (active, program, server) in busy {
            told.entry(program.clone()).or_default().insert(server.clone(), active);
        }
        told
    }
}

impl Program {
    fn build(
        listed: &Arc<RouterProgram>,
        servers: &HashMap<ServerName, Arc<Server>>,
        old: Option<&Program>,
        setting: &Setting,
    ) -> Self {
        let placements = listed.placements.iter().filter_map(|cell| {
            let own = old.and_then(|old| old.placements.iter().find(|old| old.listed.server == cell.server));
            let own = own.map_or_else(|| Arc::new(Own::new(setting.workers)), |old| Arc::clone(&old.own));
            // A placement on a server whose address is not known cannot be asked.
            Some(Placement::build(cell, Arc::clone(servers.get(&cell.server)?), own, &setting.name))
        });
        Self { placements: placements.collect(), listed: Arc::clone(listed) }
    }

    /// Whether it would be built just so again.
    fn is_still(&self, listed: &Arc<RouterProgram>) -> bool {
        Arc::ptr_eq(&self.listed, listed)
    }

    fn has_rules_of(&self, other: &Self) -> bool {
        let (one, two) = (self.manifest(), other.manifest());
        Arc::ptr_eq(&self.listed, &other.listed)
            || (one.name == two.name && one.routes == two.routes && one.matches == two.matches)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.listed.manifest
    }

    pub fn name(&self) -> &ProgramName {
        &self.listed.manifest.name
    }

    /// Where sessions go during a ripple.
    pub fn forward(&self) -> Option<&Forward> {
        self.listed.forward.as_ref()
    }

    /// The program's placements as a dispatch sees them, in their order.
    pub fn candidates(&self, now: Instant) -> impl ExactSizeIterator<Item = Candidate<'_>> + Clone {
        self.placements.iter().map(move |placement| placement.candidate(now))
    }
}

impl Own {
    fn new(workers: usize) -> Self {
        Self { active: PerWorker::new(workers), is_marked: AtomicBool::new(false), closed: ArcSwapOption::empty() }
    }

    fn mark(&self, mark: Mark) {
        self.closed.store(Some(Arc::new(mark)));
        self.is_marked.store(true, Ordering::Release);
    }

    /// Forgets a mark that matters no more, unless there is another one meanwhile.
    fn unmark(&self, seen: &Arc<Mark>) {
        let found = self.closed.compare_and_swap(&Some(Arc::clone(seen)), None);
        if found.as_ref().is_some_and(|found| Arc::ptr_eq(found, seen)) {
            self.is_marked.store(false, Ordering::SeqCst);
            if self.closed.load().is_some() {
                self.is_marked.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl Placement {
    fn build(listed: &RouterPlacement, server: Arc<Server>, own: Arc<Own>, router: &NodeName) -> Self {
        // Not what the server has less this router's own: the two are of different moments, and what they differ by would
        // be taken for load until the next list, at a server that has room. And not all of the others': each of them sees
        // the same, and if each made up for the whole of it, together they would for as many times as they are.
        let others = listed.by_router.iter().filter(|(name, _)| *name != router).map(|(_, active)| active);
        let elsewhere = others.clone().sum::<u64>() / (others.count() as u64 + 1);
        let mut hasher = DefaultHasher::new();
        (&server.name, server.data, &listed.run).hash(&mut hasher);
        // The upper half is for instances of the server that is here.
        let pool_key = hasher.finish() & !HERE;
        let placement = Self { listed: listed.clone(), server, own, elsewhere, pool_key };
        if let Some(mark) = &*placement.own.closed.load()
            && placement.has_moved_past(mark)
        {
            placement.own.unmark(mark);
        }
        placement
    }

    pub(super) fn candidate(&self, now: Instant) -> Candidate<'_> {
        Candidate {
            server: &self.server.name,
            generation: self.listed.generation,
            standing: self.standing(now),
            fit: Fit::Any,
            active: self.active(),
        }
    }

    /// Active requests there, as far as this router goes by them: its own now, and its share of what others keep there.
    pub fn active(&self) -> u64 {
        self.elsewhere + self.own.active.sum()
    }

    pub fn standing(&self, now: Instant) -> Standing {
        if self.server.is_aside() {
            Standing::Aside
        } else if self.listed.takes_requests && self.server.up && !self.is_closed(now) {
            Standing::First
        } else {
            Standing::Last
        }
    }

    /// Why it stands where it stands, for people.
    pub fn why(&self, now: Instant) -> String {
        match &*self.own.closed.load() {
            _ if self.server.is_aside() => "the server could not be reached; it is probed".to_owned(),
            _ if !self.server.up => "management has not heard of the server".to_owned(),
            _ if !self.listed.takes_requests => "the list says that it takes no requests".to_owned(),
            Some(mark) if self.is_closed(now) => format!("it refused at generation {}", mark.generation),
            _ => "takes requests".to_owned(),
        }
    }

    /// Closes the placement in this router's view, until it hears of something newer.
    pub fn mark_refused(&self, run: &RunId, generation: Generation, at: Instant) {
        if generation < self.listed.generation && self.listed.run.as_ref() == Some(run) {
            return;
        }
        let (listed_run, listed_generation) = (self.listed.run.clone(), self.listed.generation);
        self.own.mark(Mark { run: run.clone(), generation, listed_run, listed_generation, at });
    }

    fn is_closed(&self, now: Instant) -> bool {
        if !self.own.is_marked.load(Ordering::Acquire) {
            return false;
        }
        let mark = self.own.closed.load();
        let Some(mark) = &*mark else { return false };
        let contradicts = self.listed.generation == mark.generation && self.listed.run.as_ref() == Some(&mark.run);
        !(self.has_moved_past(mark) || (contradicts && now.saturating_duration_since(mark.at) >= RECHECK))
    }

    /// Whether the list says something newer than the refusal.
    fn has_moved_past(&self, mark: &Mark) -> bool {
        let (listed, run) = (&self.listed, self.listed.run.as_ref());
        match run == Some(&mark.run) {
            true => listed.generation > mark.generation,
            false => listed.run != mark.listed_run || listed.generation > mark.generation.max(mark.listed_generation),
        }
    }
}

impl Server {
    /// The one of the snapshot before where nothing of it is new.
    fn build(listed: &RouterServer, before: &Snapshot, setting: &Setting) -> Arc<Self> {
        let RouterServer { name, data, up } = listed;
        let old = before.servers.get(name).filter(|old| old.data == *data);
        if let Some(old) = old.filter(|old| old.up == *up) {
            return Arc::clone(old);
        }
        let aside = old.map_or_else(Arc::default, |old| Arc::clone(&old.aside));
        let here = setting.here.as_ref().is_some_and(|here| *here == (name.clone(), *data));
        Arc::new(Self { name: name.clone(), data: *data, up: *up, here, aside })
    }

    pub fn is_aside(&self) -> bool {
        self.aside.load(Ordering::Relaxed)
    }

    /// Sets it aside; whether it was not so already: then someone must probe it.
    pub fn set_aside(&self) -> bool {
        !self.aside.swap(true, Ordering::Relaxed)
    }

    pub fn take_back(&self) {
        self.aside.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
