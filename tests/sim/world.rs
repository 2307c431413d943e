//! Owns the simulated cluster: its clock, its chance, its network, its faults, what is checked at each event and what has
//! to be so when all has come to rest. Must not know what people ask for (`people`) or how a server obeys (`server`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use neap::domain::leader::{Heard, Leader};
use neap::domain::names::{NodeName, OperationId, ProgramName, Release, Revision, RippleId, RunId, ServerName, Term};
use neap::domain::placement::{Command, Event, Here, Millis, Refusal, State, Worked};
use neap::domain::ripple::hooks::HookEnd;
use neap::domain::ripple::machine::Send;
use neap::domain::ripple::set::Set;
use neap::domain::ripple::{Asked, Ripple, RippleState};
use neap::domain::server_list::{Measured, Report, ServerList, Wanted};

use super::people::release;
use super::server::{BOOT_WAIT, Cell, LEASE, Later, Srv};

/// Heard of less than this ago, a server is up.
const DOWN_AFTER: Millis = 5_000;
const HEARTBEAT: Millis = 1_000;
/// A message that was not answered goes again.
const AGAIN: Millis = 400;
/// How long all may take to come to rest once nothing more goes wrong.
const REST: Millis = 45 * 60_000;

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub servers: usize,
    pub programs: usize,
    /// How long things go wrong, in seconds.
    pub seconds: u64,
    pub log: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seed: 0, servers: 5, programs: 4, seconds: 40, log: false }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, servers, programs, seconds, .. } = self;
        write!(f, "seed={seed} servers={servers} programs={programs} seconds={seconds}")
    }
}

impl FromStr for Settings {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        for word in text.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, "0"));
            let number: u64 = value.parse().map_err(|error| format!("{word}: {error}"))?;
            match key {
                "seed" => settings.seed = number,
                "servers" => settings.servers = (number as usize).clamp(1, 10_000),
                "programs" => settings.programs = (number as usize).clamp(1, 1_000),
                "seconds" => settings.seconds = number,
                "log" => settings.log = true,
                _ => return Err(format!("{word}: seed, servers, programs, seconds or log")),
            }
        }
        Ok(settings)
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub upgraded: u64,
    pub undone: u64,
    pub aborted: u64,
    pub failed: u64,
    pub crashes: u64,
    pub restarts: u64,
    pub overlaps: u64,
    pub hooks: u64,
    /// Commands that sets ran.
    pub works: u64,
    pub sets: u64,
    pub sets_undone: u64,
    pub sets_failed: u64,
    pub events: u64,
    pub decisions: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.upgraded += other.upgraded;
        self.undone += other.undone;
        self.aborted += other.aborted;
        self.failed += other.failed;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.overlaps += other.overlaps;
        self.hooks += other.hooks;
        self.works += other.works;
        self.sets += other.sets;
        self.sets_undone += other.sets_undone;
        self.sets_failed += other.sets_failed;
        self.events += other.events;
        self.decisions += other.decisions;
    }
}

/// Chance, by a seed (SplitMix64).
pub struct Rng(u64);

impl Rng {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// Something that happens at a time.
pub enum Happens {
    Decide,
    Person,
    Fault,
    Beat(usize),
    ToServer(usize, Send, Term),
    Heard(usize, RunId, Box<Report>, Option<Refusal>),
    Beaten(usize, RunId, Vec<Report>),
    Sealed(usize, RunId, u64, Term, Result<Vec<Report>, Refusal>),
    Prepared(usize, ProgramName, Release),
    Measured(usize, ProgramName, Measured),
    Hooked(Send, bool),
    OnServer(usize, ProgramName, u64, Later),
    WorkEnds(usize, u64, OperationId),
    Worked(usize, RippleId, Worked),
    Boot(usize),
    Management,
}

/// What management keeps over its death.
type Disk = (ServerList, BTreeMap<RippleId, Ripple>, BTreeMap<RippleId, Set>, Revision);

pub struct Sim {
    pub settings: Settings,
    pub rng: Rng,
    pub now: Millis,
    pub leader: Option<Leader>,
    /// What is on management's disk while it is down.
    disk: Option<Disk>,
    term: u64,
    pub servers: Vec<Srv>,
    numbers: HashMap<ServerName, usize>,
    pub programs: Vec<ProgramName>,
    /// Where each program is placed, and its newest version.
    pub placed: Vec<Vec<usize>>,
    pub versions: Vec<u32>,
    /// The newest ripple that somebody asked for.
    pub asked: BTreeMap<ProgramName, RippleId>,
    pub asked_sets: Vec<RippleId>,
    pub made: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    happenings: HashMap<u64, Happens>,
    next: u64,
    flights: HashMap<u64, Millis>,
    /// In a hundred.
    loss: u64,
    /// Whether servers die and instances fail.
    harsh: bool,
    pub calm: bool,
    pub counts: Counts,
    pub over: BTreeMap<RippleId, RippleState>,
}

impl Sim {
    pub fn new(settings: &Settings) -> Self {
        let mut rng = Rng(settings.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ settings.servers as u64);
        let name = |at: usize| NodeName::new(format!("s{at}")).expect("a name");
        let programs: Vec<ProgramName> =
            (0..settings.programs).map(|at| ProgramName::new(format!("p{at}")).expect("a name")).collect();
        let mut servers: Vec<Srv> = (0..settings.servers)
            .map(|at| Srv {
                name: name(at),
                up: true,
                run: 1,
                seal: Default::default(),
                cells: BTreeMap::new(),
                hooks: BTreeMap::new(),
                sets: Vec::new(),
            })
            .collect();
        // On all of a small cluster; of a large one on a tenth.
        let placed: Vec<Vec<usize>> = (0..settings.programs)
            .map(|_| match settings.servers {
                few @ ..=20 => (0..few).filter(|_| rng.below(5) > 0).collect::<Vec<_>>(),
                many => {
                    let first = rng.below(many as u64) as usize;
                    (0..many / 20).map(|at| (first + at * 7) % many).collect()
                }
            })
            .map(|mut placed| {
                placed.sort_unstable();
                placed.dedup();
                if placed.is_empty() { vec![0] } else { placed }
            })
            .collect();
        let mut list = ServerList::default();
        for (program, placed) in programs.iter().zip(&placed) {
            let on = placed.iter().map(|&server| servers[server].name.clone()).collect();
            list.programs.insert(program.clone(), Wanted { release: Some(release(1)), servers: on });
            for &server in placed {
                servers[server].cells.insert(program.clone(), Cell::new(program, Some(release(1))));
            }
        }
        for server in &servers {
            list.servers.insert(server.name.clone(), Default::default());
        }
        let numbers = servers.iter().enumerate().map(|(at, server)| (server.name.clone(), at)).collect();
        let (loss, harsh) = (rng.below(3) * 10, rng.below(2) == 0);
        let mut sim = Self {
            settings: settings.clone(),
            rng,
            now: 0,
            leader: None,
            disk: Some((list, BTreeMap::new(), BTreeMap::new(), Revision(0))),
            term: 0,
            servers,
            numbers,
            versions: vec![1; programs.len()],
            programs,
            placed,
            asked: BTreeMap::new(),
            asked_sets: Vec::new(),
            made: 0,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            next: 0,
            flights: HashMap::new(),
            loss,
            harsh,
            calm: false,
            counts: Counts::default(),
            over: BTreeMap::new(),
        };
        sim.boot_management();
        for server in 0..sim.servers.len() {
            let at = sim.chance(HEARTBEAT);
            sim.at(at, Happens::Beat(server));
        }
        sim.at(0, Happens::Decide);
        sim.at(3_000, Happens::Person);
        sim.at(4_000, Happens::Fault);
        sim
    }

    pub fn chance(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    pub fn log(&self, what: impl FnOnce() -> String) {
        if self.settings.log {
            println!("{:>9.3} {}", self.now as f64 / 1_000.0, what());
        }
    }

    pub fn at(&mut self, after: Millis, happens: Happens) {
        self.next += 1;
        self.happenings.insert(self.next, happens);
        self.queue.push(Reverse((self.now + after, self.next)));
    }

    /// A message takes a while, is lost, or comes twice.
    pub fn post(&mut self, twice: Option<Happens>, happens: Happens) {
        if !self.calm && self.chance(100) < self.loss {
            return;
        }
        let late = if self.chance(20) == 0 { 800 } else { 40 };
        let after = 1 + self.chance(late);
        self.at(after, happens);
        if let Some(again) = twice.filter(|_| self.rng.below(20) == 0) {
            let after = 1 + self.chance(2_000);
            self.at(after, again);
        }
    }

    /// Plays it to its end; or says what broke.
    pub fn play(&mut self) -> Result<Counts, String> {
        let chaos = self.settings.seconds * 1_000;
        let mut rested_since = None;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            self.now = at;
            let Some(happens) = self.happenings.remove(&number) else { continue };
            let decided = matches!(happens, Happens::Decide);
            self.counts.events += 1;
            self.happen(happens).map_err(|why| format!("after {} ms: {why}", self.now))?;
            if !self.calm && self.now >= chaos {
                self.calm_down();
            }
            if !self.calm || !decided {
                continue;
            }
            self.somebody_clears_up();
            self.somebody_clears_up_sets();
            match (self.is_at_rest(), rested_since) {
                (Err(_), _) => rested_since = None,
                (Ok(()), None) => rested_since = Some(self.now),
                (Ok(()), Some(since)) if self.now >= since + 15_000 => return Ok(self.counts),
                (Ok(()), Some(_)) => {}
            }
            if self.now > chaos + REST {
                return Err(format!("L: never comes to rest: {}", self.is_at_rest().err().unwrap_or_default()));
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.log(|| "from now on nothing goes wrong".to_owned());
        if self.leader.is_none() {
            self.boot_management();
        }
        for server in 0..self.servers.len() {
            if !self.servers[server].up {
                self.boot(server);
            }
            self.servers[server].cells.values_mut().for_each(|cell| {
                cell.healthy |= cell.placement.state.takes_requests() && cell.open;
            });
        }
    }

    fn happen(&mut self, happens: Happens) -> Result<(), String> {
        match happens {
            Happens::Decide => self.decide()?,
            Happens::Person => {
                if !self.calm {
                    // Of a large cluster's many ripples few are sets: each is hundreds of steps at once.
                    if self.chance(if self.settings.programs > 20 { 400 } else { 6 }) == 0 {
                        self.somebody_asks_for_a_set();
                    } else {
                        self.somebody_asks();
                    }
                    let after = 50 + self.chance(40_000 / self.settings.programs as u64);
                    self.at(after, Happens::Person);
                }
            }
            Happens::Fault => self.fault(),
            Happens::Beat(server) => self.beat(server)?,
            Happens::ToServer(server, send, term) => self.arrives(server, send, &term)?,
            Happens::Heard(server, run, report, refusal) => {
                let name = self.servers[server].name.clone();
                if let Some(leader) = &mut self.leader {
                    if let Some(refusal) = refusal {
                        leader.refused(&refusal, false);
                    }
                    leader.heard(&name, &run, *report);
                }
            }
            Happens::Beaten(server, run, reports) => {
                let (name, now) = (self.servers[server].name.clone(), self.now);
                if let Some(leader) = &mut self.leader {
                    leader.up(&name, &run, now);
                    reports.into_iter().for_each(|report| {
                        leader.heard(&name, &run, report);
                    });
                    self.renew(server);
                }
            }
            Happens::Sealed(server, run, asked, term, answer) => self.sealed(server, &run, asked, &term, answer),
            Happens::Prepared(server, program, release) => {
                let name = self.servers[server].name.clone();
                if let Some(leader) = &mut self.leader {
                    leader.prepared(&name, &program, &release, Ok(()));
                }
            }
            Happens::Measured(server, program, measured) => {
                let name = self.servers[server].name.clone();
                if let Some(leader) = &mut self.leader {
                    leader.measured(&name, &program, measured);
                }
            }
            Happens::Hooked(send, well) => {
                if let (Send::Hook { server, order, .. }, Some(leader)) = (send, &mut self.leader) {
                    let how = if well { "exit status 0" } else { "exit status 1" }.to_owned();
                    let end = HookEnd { well, how, lines: Vec::new(), took_ms: 0 };
                    self.counts.hooks += u64::from(leader.hooked(&order.ripple, order.hook, server.as_ref(), end));
                }
            }
            Happens::WorkEnds(server, run, operation) => self.work_ends(server, run, &operation)?,
            Happens::Worked(server, set, worked) => {
                let name = self.servers[server].name.clone();
                if let Some(leader) = &mut self.leader {
                    leader.worked(&set, &name, worked);
                }
            }
            Happens::OnServer(server, program, work, later) => self.on_server(server, &program, work, later)?,
            Happens::Boot(server) if !self.servers[server].up => self.boot(server),
            Happens::Boot(_) => {}
            Happens::Management if self.leader.is_none() => self.boot_management(),
            Happens::Management => {}
        }
        Ok(())
    }

    fn boot_management(&mut self) {
        let Some((list, ripples, sets, revision)) = self.disk.take() else { return };
        self.term += 1;
        let term = Term { number: self.term, management: NodeName::new("m").expect("a name") };
        let mut leader = Leader::new(term, revision, list, ripples);
        leader.sets = sets;
        self.leader = Some(leader);
        self.flights.clear();
        self.log(|| "management is up".to_owned());
    }

    /// What it has saved is all that it knew: it saves before it speaks.
    fn crash_management(&mut self) {
        let Some(leader) = self.leader.take() else { return };
        let saved = |ripple: &Ripple| -> Ripple {
            let text = serde_json::to_string(ripple).expect("a ripple is written");
            serde_json::from_str(&text).expect("and read")
        };
        let live = leader.ripples.iter().filter(|(_, ripple)| !ripple.state.is_over());
        let mut ripples: BTreeMap<RippleId, Ripple> = live.map(|(id, ripple)| (id.clone(), saved(ripple))).collect();
        let over = leader.ripples.iter().filter(|(_, ripple)| ripple.state.is_over());
        ripples.extend(over.map(|(id, ripple)| (id.clone(), ripple.clone())));
        let saved = |set: &Set| -> Set {
            let text = serde_json::to_string(set).expect("a set is written");
            serde_json::from_str(&text).expect("and read")
        };
        let sets = leader.sets.iter().map(|(id, set)| (id.clone(), saved(set))).collect();
        self.disk = Some((leader.list, ripples, sets, leader.mint.revision));
        self.counts.restarts += 1;
        self.log(|| "management dies".to_owned());
    }

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let after = 500 + self.chance(12_000);
        self.at(after, Happens::Fault);
        let server = self.chance(self.settings.servers as u64) as usize;
        match self.chance(if self.harsh { 6 } else { 1 }) {
            0 => {
                self.crash_management();
                let after = 200 + self.chance(15_000);
                self.at(after, Happens::Management);
            }
            1..4 if self.servers[server].up => {
                self.log(|| format!("s{server} dies"));
                self.servers[server].crash();
                self.counts.crashes += 1;
                let after = 200 + self.chance(20_000);
                self.at(after, Happens::Boot(server));
            }
            _ => {
                let programs = self.servers[server].cells.len() as u64;
                let which = self.chance(programs) as usize;
                if let Some((program, cell)) = self.servers[server].cells.iter_mut().nth(which) {
                    cell.healthy = !cell.healthy && cell.placement.state.takes_requests();
                    let (program, healthy) = (program.clone(), cell.healthy);
                    self.log(|| format!("{program} on s{server} is {}healthy", if healthy { "" } else { "un" }));
                }
            }
        }
    }

    fn boot(&mut self, server: usize) {
        let held = &mut self.servers[server];
        (held.up, held.run) = (true, held.run + 1);
        held.sets_boot();
        let programs: Vec<ProgramName> = held.cells.keys().cloned().collect();
        let until = self.now + BOOT_WAIT;
        self.log(|| format!("s{server} is up again"));
        for program in programs {
            let cell = self.servers[server].cells.get_mut(&program).expect("a cell");
            let effects = cell.placement.boot(until);
            let later = cell.perform(effects, true, &mut |bound| self.rng.below(bound));
            self.schedule(server, &program, later.unwrap_or_default());
        }
        // Hooks that ran have gone with it.
        let lost: Vec<String> =
            self.servers[server].hooks.iter().filter(|(_, ended)| !**ended).map(|(key, _)| key.clone()).collect();
        lost.into_iter().for_each(|key| {
            self.servers[server].hooks.insert(key, true);
        });
    }

    pub fn schedule(&mut self, server: usize, program: &ProgramName, later: Vec<Later>) {
        let work = self.servers[server].cells[program].work;
        for later in later {
            let after = match &later {
                Later::Stopped => 5 + self.chance(300),
                Later::Starts(_) => 20 + self.chance(1_500),
                Later::RequestEnds | Later::OldRequestEnds => self.chance(4_000),
                Later::OldDrained => 1,
                Later::Tell | Later::Awaits(_) => 0,
            };
            self.at(after, Happens::OnServer(server, program.clone(), work, later));
        }
    }

    /// Versions that do not start: every seventh, on every second server.
    fn is_bad(&self, server: usize, release: &Release) -> bool {
        let number: u32 = release.version.as_str().parse().unwrap_or(0);
        number > 1 && number % 7 == 3 && server.is_multiple_of(2)
    }

    fn answers_badly(release: &Release) -> bool {
        let number: u32 = release.version.as_str().parse().unwrap_or(0);
        number > 1 && number % 7 == 5
    }

    fn on_server(&mut self, server: usize, program: &ProgramName, work: u64, later: Later) -> Result<(), String> {
        let held = &mut self.servers[server];
        let Some(cell) = held.cells.get_mut(program).filter(|_| held.up) else { return Ok(()) };
        let same_work = cell.work == work;
        let mut tell = true;
        let event = match &later {
            Later::Stopped | Later::Starts(_) | Later::Awaits(_) if !same_work => return Ok(()),
            Later::Awaits(operation) => return self.awaits(server, program, operation),
            Later::Stopped => Event::Stopped,
            Later::Starts(release) => {
                let release = release.clone();
                self.servers[server].may_start(program)?;
                if self.is_bad(server, &release) {
                    Event::StartFailed("exit status 1".to_owned())
                } else {
                    let cell = self.servers[server].cells.get_mut(program).expect("a cell");
                    cell.healthy |= cell.placement.state != State::Overlapping || !cell.placement.overlap_begins();
                    Event::Started
                }
            }
            Later::RequestEnds => {
                cell.active = cell.active.saturating_sub(u64::from(!cell.open));
                tell = cell.active == 0;
                Event::Tick
            }
            Later::OldRequestEnds => {
                cell.old = cell.old.saturating_sub(1);
                if cell.old_is_drained() { Event::OldDrained } else { Event::Tick }
            }
            Later::OldDrained if cell.old_is_drained() => Event::OldDrained,
            Later::OldDrained => return Ok(()),
            Later::Tell => Event::Tick,
        };
        self.event(server, program, &event)?;
        if tell {
            self.tell(server, program, None);
        }
        Ok(())
    }

    pub fn event(&mut self, server: usize, program: &ProgramName, event: &Event) -> Result<(), String> {
        let run = self.servers[server].run_id();
        let here = Here { run: &run, now: self.now, lease: LEASE, orphans: 0, sticky: None };
        let cell = self.servers[server].cells.get_mut(program).expect("a cell");
        let later = cell.happens(event, &here, &mut |bound| self.rng.below(bound));
        let later = later.map_err(|why| format!("{program} on s{server}, {event:?}: {why}"))?;
        self.schedule(server, program, later);
        Ok(())
    }

    pub fn tell(&mut self, server: usize, program: &ProgramName, refusal: Option<Refusal>) {
        let held = &self.servers[server];
        let (run, report) = (held.run_id(), Box::new(held.cells[program].report()));
        self.post(None, Happens::Heard(server, run, report, refusal));
    }

    fn beat(&mut self, server: usize) -> Result<(), String> {
        self.at(HEARTBEAT, Happens::Beat(server));
        if !self.servers[server].up {
            return Ok(());
        }
        let programs: Vec<ProgramName> = self.servers[server].cells.keys().cloned().collect();
        for program in &programs {
            let cell = self.servers[server].cells.get_mut(program).expect("a cell");
            if let (true, Some(release)) = (cell.serves(), cell.placement.release.clone()) {
                let counts = cell.answered.entry(release.version.clone()).or_default();
                counts.0 += 20;
                counts.1 += if Self::answers_badly(&release) { 10 } else { 0 };
            }
            let drained = cell.old_is_drained();
            self.event(server, program, &Event::Tick)?;
            if drained {
                self.event(server, program, &Event::OldDrained)?;
            }
            // An instance that failed by itself is restarted by its server.
            let cell = self.servers[server].cells.get_mut(program).expect("a cell");
            if !cell.healthy && cell.placement.state.takes_requests() && cell.open && self.rng.below(5) == 0 {
                cell.healthy = true;
            }
        }
        let held = &self.servers[server];
        let reports = held.cells.values().map(Cell::report).collect();
        let run = held.run_id();
        self.post(None, Happens::Beaten(server, run, reports));
        Ok(())
    }

    /// The answer to a heartbeat renews the leases that are still wanted.
    fn renew(&mut self, server: usize) {
        let Some(leader) = &self.leader else { return };
        let term = leader.term().clone();
        let wanted = |operation: &OperationId| {
            leader.ripples.values().any(|ripple| ripple.asked != Asked::Abort && ripple.owns(operation))
        };
        let cells = self.servers[server].cells.iter();
        let renewed: Vec<(ProgramName, Event)> = cells
            .filter_map(|(program, cell)| {
                let operation = &cell.placement.operation.as_ref()?.id;
                let (operation, generation) = (operation.clone(), cell.placement.generation);
                wanted(&operation)
                    .then(|| (program.clone(), Event::Renewed { term: term.clone(), operation, generation }))
            })
            .collect();
        let name = self.servers[server].name.clone();
        let kept: Vec<ProgramName> = self.servers[server]
            .cells
            .iter()
            .filter(|(program, cell)| cell.placement.state == State::Closed && leader.stays_closed(program, &name))
            .map(|(program, _)| program.clone())
            .collect();
        for (program, event) in renewed {
            let _ = self.event(server, &program, &event);
        }
        for program in kept {
            let until = self.now + BOOT_WAIT;
            let _ = self.event(server, &program, &Event::KeptClosed { until });
        }
    }

    fn sealed(&mut self, server: usize, run: &RunId, asked: u64, term: &Term, answer: Result<Vec<Report>, Refusal>) {
        let name = self.servers[server].name.clone();
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.term() == term) else { return };
        match answer {
            Ok(reports) => {
                leader.sealed(&name, asked, run, reports);
            }
            Err(refusal) => {
                if let Heard::LearnAgain(highest) = leader.refused(&refusal, true) {
                    leader.take_term(highest.number + 1);
                }
            }
        }
    }

    fn decide(&mut self) -> Result<(), String> {
        let often = if self.settings.servers > 50 { 400 } else { 100 };
        self.at(often, Happens::Decide);
        let now = self.now;
        let Some(leader) = &mut self.leader else { return Ok(()) };
        let silent: Vec<ServerName> = leader
            .list
            .servers
            .iter()
            .filter(|(_, server)| server.up && server.heard_at + DOWN_AFTER <= now)
            .map(|(name, _)| name.clone())
            .collect();
        silent.iter().for_each(|name| {
            leader.down(name);
        });
        let sends = leader.decide(now);
        let term = leader.term().clone();
        self.counts.decisions += 1;
        self.count_ends()?;
        for send in sends {
            self.send(send, &term);
        }
        Ok(())
    }

    /// A ripple or a set that is over does not move any more.
    fn count_ends(&mut self) -> Result<(), String> {
        let Some(leader) = &self.leader else { return Ok(()) };
        let ripples = leader.ripples.iter().map(|(id, ripple)| (id, ripple.state, &ripple.reason, false));
        let sets = leader.sets.iter().map(|(id, set)| (id, set.state, &set.reason, true));
        for (id, state, reason, is_set) in ripples.chain(sets).filter(|(_, state, ..)| state.is_over()) {
            match self.over.get(id) {
                Some(before) if *before != state => return Err(format!("{id} moved after it was over")),
                Some(_) => continue,
                None => self.over.insert(id.clone(), state),
            };
            let count = match (is_set, state) {
                (false, RippleState::Upgraded) => &mut self.counts.upgraded,
                (false, RippleState::Undone) => &mut self.counts.undone,
                (false, RippleState::Aborted) => &mut self.counts.aborted,
                (false, _) => &mut self.counts.failed,
                (true, RippleState::Upgraded) => &mut self.counts.sets,
                (true, RippleState::Undone) => &mut self.counts.sets_undone,
                (true, _) => &mut self.counts.sets_failed,
            };
            *count += 1;
            if self.settings.log {
                println!("{:>9.3} {id} {state:?} {reason:?}", self.now as f64 / 1_000.0);
            }
        }
        Ok(())
    }

    fn send(&mut self, send: Send, term: &Term) {
        let mut hasher = DefaultHasher::new();
        send.hash(&mut hasher);
        let key = hasher.finish();
        if self.flights.get(&key).is_some_and(|again| *again > self.now) {
            return;
        }
        if self.flights.len() > 100_000 {
            let now = self.now;
            self.flights.retain(|_, again| *again > now);
        }
        self.flights.insert(key, self.now + AGAIN);
        let server = match &send {
            Send::Hook { server: None, .. } => {
                // Management runs it: once, and it ends if management lives.
                self.flights.insert(key, Millis::MAX);
                let (after, well) = (50 + self.chance(2_000), self.calm || self.chance(8) > 0);
                return self.at(after, Happens::Hooked(send, well));
            }
            Send::Seal { server, .. }
            | Send::Prepare { server, .. }
            | Send::Measure { server, .. }
            | Send::Hook { server: Some(server), .. }
            | Send::Command { server, .. }
            | Send::Together { server, .. }
            | Send::Worked { server, .. } => self.numbers[server],
        };
        let again = Happens::ToServer(server, send.clone(), term.clone());
        self.post(Some(again), Happens::ToServer(server, send, term.clone()));
    }

    fn arrives(&mut self, server: usize, send: Send, term: &Term) -> Result<(), String> {
        if !self.servers[server].up {
            return Ok(());
        }
        match send {
            Send::Seal { asked, .. } => {
                let held = &mut self.servers[server];
                let answer = held.seal.admit(term).map(|_| held.cells.values().map(Cell::report).collect());
                let run = held.run_id();
                self.post(None, Happens::Sealed(server, run, asked, term.clone(), answer));
            }
            Send::Prepare { program, release, .. } => self.post(None, Happens::Prepared(server, program, release)),
            Send::Measure { program, .. } => {
                let cell = self.servers[server].cells.get(&program);
                let versions = cell.map(Cell::figures).unwrap_or_default();
                let measured = Measured { at: self.now, versions };
                self.post(None, Happens::Measured(server, program, measured));
            }
            Send::Hook { ref program, ref order, .. } => {
                let key = format!("{}/{program}/{}", order.ripple, order.hook.as_str());
                let well = !order.release.version.as_str().ends_with('4');
                match self.servers[server].hooks.get(&key) {
                    Some(true) => self.post(None, Happens::Hooked(send, well)),
                    Some(false) => {}
                    None => {
                        self.servers[server].hooks.insert(key, true);
                    }
                }
            }
            Send::Command { program, command, .. } => return self.command(server, &program, &command),
            Send::Together { operation, members, .. } => return self.together(server, operation, &members, term),
            Send::Worked { set, operation, .. } => self.tell_work(server, set, &operation),
        }
        Ok(())
    }

    fn command(&mut self, server: usize, program: &ProgramName, command: &Command) -> Result<(), String> {
        let name = self.servers[server].name.clone();
        if let Err(refusal) = self.servers[server].seal.admit(&command.term) {
            self.tell(server, program, Some(refusal));
            return Ok(());
        }
        self.servers[server].cells.entry(program.clone()).or_insert_with(|| Cell::new(program, None));
        let run = self.servers[server].run_id();
        let here = Here { run: &run, now: self.now, lease: LEASE, orphans: 0, sticky: None };
        let cell = self.servers[server].cells.get_mut(program).expect("a cell");
        let served = cell.serves();
        let answer = cell.command(command, &here, &mut |bound| self.rng.below(bound));
        let answer = answer.map_err(|why| format!("{program} on {name}, {command:?}: {why}"))?;
        let closed = served && cell.placement.state == State::Quiescing;
        self.counts.overlaps += u64::from(cell.placement.state == State::Overlapping);
        let refusal = match answer {
            Ok(later) => {
                self.schedule(server, program, later);
                None
            }
            Err(refusal) => Some(refusal),
        };
        if closed {
            self.closed(server, program, command)?;
        }
        self.tell(server, program, refusal);
        Ok(())
    }

    /// A gate that served was closed: are enough others open, and is no other program out here?
    fn closed(&self, server: usize, program: &ProgramName, command: &Command) -> Result<(), String> {
        let out = self.servers[server].cells.iter().filter(|(_, cell)| cell.is_out()).count();
        if out > 1 && !self.are_one_set(server) {
            return Err(format!("{out} programs are out of service on s{server}"));
        }
        let ripple =
            self.leader.as_ref().and_then(|leader| leader.ripples.values().find(|r| r.owns(&command.operation)));
        let (Some(ripple), false) = (ripple, self.harsh) else { return Ok(()) };
        let serving = self.servers.iter().filter(|held| held.cells.get(program).is_some_and(Cell::serves)).count();
        let least = ripple.plan.policy.min_serving;
        if serving < least {
            return Err(format!("I3: {serving} of {program} are left, and {least} have to stay"));
        }
        Ok(())
    }

    /// Every ripple over, every placement open as it is wanted or failed with a reason.
    fn is_at_rest(&self) -> Result<(), String> {
        let Some(leader) = &self.leader else { return Err("management is down".to_owned()) };
        for ripple in leader.ripples.values().filter(|ripple| !ripple.state.is_over()) {
            let short =
                matches!(ripple.wait.as_ref().map(|wait| wait.reason.code()), Some("min_serving" | "old_instance"));
            if !short && !self.is_short_set(ripple) {
                return Err(format!("{} {:?} {:?} {:?}", ripple.plan.id, ripple.state, ripple.wait, ripple.steps));
            }
        }
        self.sets_are_at_rest()?;
        for server in &self.servers {
            for (program, cell) in &server.cells {
                let placement = &cell.placement;
                let told = || format!("{program} on {}: {placement:?}, open {}", server.name, cell.open);
                if leader.under_way(program).is_some() {
                    continue;
                }
                match placement.state {
                    State::Failed if placement.failure.is_some() => {}
                    State::Absent => {}
                    State::Open if cell.open && cell.healthy => {
                        let wanted = leader.list.cell(program, &server.name).and_then(|cell| cell.desired.as_ref());
                        if wanted.is_some_and(|wanted| wanted.release != placement.release) {
                            return Err(format!("{}; wanted is {wanted:?}", told()));
                        }
                    }
                    _ => return Err(told()),
                }
            }
        }
        Ok(())
    }
}
