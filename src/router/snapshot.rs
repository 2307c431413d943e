//! Owns the Server List as requests look at it: immutable, with the router's own view of each placement beside it.
//! Must not know where lists come from, or how a request is sent.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::domain::names::{Generation, ProgramName, RunId, ServerName};
use crate::domain::program::Manifest;
use crate::domain::routing::{Candidate, RouteTable, Standing};
use crate::wire::messages::{RouterList, RouterPlacement, RouterProgram};

/// A placement that the list says is open at the very generation that refused is asked first again after this: then it was
/// not the gate that refused but an instance that took no connection, and that changes without a new generation.
const RECHECK: Duration = Duration::from_secs(1);

/// Everything needed to send a request on its way.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub list: Option<Arc<RouterList>>,
    pub table: RouteTable,
    pub programs: Vec<Arc<Program>>,
    by_name: HashMap<ProgramName, usize>,
    servers: HashMap<ServerName, Arc<Server>>,
}

/// A program and where it is placed.
#[derive(Debug)]
pub struct Program {
    pub manifest: Manifest,
    pub placements: Vec<Placement>,
}

/// One cell of the list.
#[derive(Debug)]
pub struct Placement {
    pub listed: RouterPlacement,
    pub server: Arc<Server>,
    pub own: Arc<Own>,
    /// Active requests there that came through other routers.
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
    aside: Arc<AtomicBool>,
}

/// What this router itself knows of a placement; the same one from list to list.
#[derive(Debug, Default)]
pub struct Own {
    /// This router's requests there.
    pub active: AtomicU64,
    closed: ArcSwapOption<Mark>,
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
    /// Builds what requests need of a list, and carries over from `before` what this router itself knows.
    pub fn build(list: RouterList, before: &Snapshot) -> Self {
        let servers = list.servers.iter().map(|server| {
            let aside = before.servers.get(&server.name).filter(|old| old.data == server.data);
            let aside = aside.map_or_else(Arc::default, |old| Arc::clone(&old.aside));
            let (name, data, up) = (server.name.clone(), server.data, server.up);
            (name.clone(), Arc::new(Server { name, data, up, aside }))
        });
        let servers: HashMap<_, _> = servers.collect();
        let programs: Vec<_> =
            list.programs.iter().map(|program| Arc::new(Program::build(program, &servers, before))).collect();
        let names = programs.iter().enumerate().map(|(place, program)| (program.manifest.name.clone(), place));
        let by_name = names.collect();
        let table = RouteTable::build(programs.iter().map(|program| &program.manifest));
        Self { list: Some(Arc::new(list)), table, programs, by_name, servers }
    }

    pub fn program(&self, name: &ProgramName) -> Option<&Arc<Program>> {
        self.by_name.get(name).map(|place| &self.programs[*place])
    }

    pub fn server(&self, name: &ServerName) -> Option<&Arc<Server>> {
        self.servers.get(name)
    }

    /// This router's requests at servers.
    pub fn active(&self) -> u64 {
        let placements = self.programs.iter().flat_map(|program| &program.placements);
        placements.map(|placement| placement.own.active.load(Ordering::Relaxed)).sum()
    }
}

impl Program {
    fn build(listed: &RouterProgram, servers: &HashMap<ServerName, Arc<Server>>, before: &Snapshot) -> Self {
        let old = before.program(&listed.manifest.name);
        let placements = listed.placements.iter().filter_map(|cell| {
            let own = old.and_then(|old| old.placements.iter().find(|old| old.listed.server == cell.server));
            let own = own.map_or_else(Arc::default, |old| Arc::clone(&old.own));
            // A placement on a server whose address is not known cannot be asked.
            Some(Placement::build(cell, Arc::clone(servers.get(&cell.server)?), own))
        });
        Self { manifest: listed.manifest.clone(), placements: placements.collect() }
    }

    /// The program's placements as a dispatch sees them, in their order.
    pub fn candidates(&self, now: Instant) -> impl Iterator<Item = Candidate<'_>> + Clone {
        self.placements.iter().map(move |placement| placement.candidate(now))
    }
}

impl Placement {
    fn build(listed: &RouterPlacement, server: Arc<Server>, own: Arc<Own>) -> Self {
        let elsewhere = listed.active.saturating_sub(own.active.load(Ordering::Relaxed));
        let mut hasher = DefaultHasher::new();
        (&server.name, server.data, &listed.run).hash(&mut hasher);
        Self { listed: listed.clone(), server, own, elsewhere, pool_key: hasher.finish() }
    }

    fn candidate(&self, now: Instant) -> Candidate<'_> {
        Candidate {
            server: &self.server.name,
            generation: self.listed.generation,
            standing: self.standing(now),
            active: self.active(),
        }
    }

    /// Active requests there: what others have, and what this router has now.
    pub fn active(&self) -> u64 {
        self.elsewhere + self.own.active.load(Ordering::Relaxed)
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
        let mark = Mark { run: run.clone(), generation, listed_run, listed_generation, at };
        self.own.closed.store(Some(Arc::new(mark)));
    }

    fn is_closed(&self, now: Instant) -> bool {
        let mark = self.own.closed.load();
        let Some(mark) = &*mark else { return false };
        let (listed, run) = (&self.listed, self.listed.run.as_ref());
        let moved_on = match run == Some(&mark.run) {
            true => listed.generation > mark.generation,
            false => listed.run != mark.listed_run || listed.generation > mark.generation.max(mark.listed_generation),
        };
        let contradicts = listed.generation == mark.generation && run == Some(&mark.run);
        !(moved_on || (contradicts && now.saturating_duration_since(mark.at) >= RECHECK))
    }
}

impl Server {
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
mod tests {
    use super::super::samples::{list, program};
    use super::*;

    fn built(programs: &[RouterProgram], before: &Snapshot) -> Snapshot {
        Snapshot::build(list(1, 1, programs), before)
    }

    fn run(name: &str) -> RunId {
        RunId::new(name).unwrap()
    }

    fn standing(snapshot: &Snapshot, place: usize, now: Instant) -> Standing {
        snapshot.programs[0].placements[place].standing(now)
    }

    #[test]
    fn a_refusal_closes_a_placement_in_this_routers_view_until_a_newer_generation_is_heard_of() {
        let now = Instant::now();
        let mut shop = program("shop", &[("s1", true), ("s2", false)]);
        let one = built(&[shop.clone()], &Snapshot::default());
        assert_eq!((standing(&one, 0, now), standing(&one, 1, now)), (Standing::First, Standing::Last));
        one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(2), now);
        let two = built(&[shop.clone()], &one);
        assert_eq!(standing(&two, 0, now + RECHECK * 9), Standing::Last, "the same list again is no news");
        shop.placements[0].generation = Generation(2);
        assert_eq!(standing(&built(&[shop.clone()], &two), 0, now), Standing::Last);
        shop.placements[0].generation = Generation(3);
        assert_eq!(standing(&built(&[shop], &two), 0, now), Standing::First);
    }

    #[test]
    fn a_new_run_is_news_but_the_lists_old_run_is_not() {
        let now = Instant::now();
        let mut shop = program("shop", &[("s1", true)]);
        shop.placements[0].generation = Generation(9);
        let one = built(&[shop.clone()], &Snapshot::default());
        one.programs[0].placements[0].mark_refused(&run("r-new"), Generation(2), now);
        assert_eq!(standing(&one, 0, now), Standing::Last);
        shop.placements[0].run = Some(run("r-newer"));
        shop.placements[0].generation = Generation(1);
        assert_eq!(standing(&built(&[shop], &one), 0, now), Standing::First);
    }

    #[test]
    fn a_placement_that_refused_though_open_at_that_generation_is_asked_first_again_after_a_while() {
        let now = Instant::now();
        let one = built(&[program("shop", &[("s1", true)])], &Snapshot::default());
        one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(1), now);
        assert_eq!(standing(&one, 0, now), Standing::Last);
        assert_eq!(standing(&one, 0, now + RECHECK), Standing::First);
    }

    #[test]
    fn a_refusal_older_than_the_list_closes_nothing() {
        let now = Instant::now();
        let mut shop = program("shop", &[("s1", true)]);
        shop.placements[0].generation = Generation(5);
        let one = built(&[shop], &Snapshot::default());
        one.programs[0].placements[0].mark_refused(&run("r-s1"), Generation(4), now);
        assert_eq!(standing(&one, 0, now), Standing::First);
    }

    #[test]
    fn own_requests_are_not_counted_twice() {
        let mut shop = program("shop", &[("s1", true)]);
        let one = built(&[shop.clone()], &Snapshot::default());
        one.programs[0].placements[0].own.active.store(4, Ordering::Relaxed);
        shop.placements[0].active = 10;
        let two = built(&[shop], &one);
        assert_eq!((two.programs[0].placements[0].active(), two.active()), (10, 4));
        two.programs[0].placements[0].own.active.store(1, Ordering::Relaxed);
        assert_eq!(two.programs[0].placements[0].active(), 7);
    }

    #[test]
    fn a_server_set_aside_stays_so_from_list_to_list_until_its_address_changes() {
        let shop = program("shop", &[("s1", true)]);
        let one = built(std::slice::from_ref(&shop), &Snapshot::default());
        let server = ServerName::new("s1").unwrap();
        assert!(one.server(&server).unwrap().set_aside() && !one.server(&server).unwrap().set_aside());
        let two = built(std::slice::from_ref(&shop), &one);
        assert_eq!(standing(&two, 0, Instant::now()), Standing::Aside);
        let mut moved = list(1, 2, &[shop]);
        moved.servers[0].data = ([127, 0, 0, 1], 99).into();
        assert_eq!(standing(&Snapshot::build(moved, &two), 0, Instant::now()), Standing::First);
    }

    #[test]
    fn a_placement_on_an_unknown_server_cannot_be_asked() {
        assert!(built(&[program("shop", &[("s9", true)])], &Snapshot::default()).programs[0].placements.is_empty());
    }
}
