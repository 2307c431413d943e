//! Owns a cluster in which only the domain runs: one leadership, and servers that are shells around `Placement`. Time is
//! passed in, and a message arrives when it is told to. Must not know how a scenario is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use neap::domain::figures::{Figures, bucket};
use neap::domain::gate::NotDrained;
use neap::domain::leader::{Drain, Leader};
use neap::domain::names::{
    Generation, NodeName, OperationId, ProgramName, Release, Revision, RippleId, RunId, ServerName, Sha256, Term,
    Version,
};
use neap::domain::placement::{Effect, Event, Here, Millis, Order, Placement, State};
use neap::domain::ripple::hooks::HookEnd;
use neap::domain::ripple::machine::Send;
use neap::domain::ripple::plan::{self, Ask, NoPlan, Plan};
use neap::domain::ripple::undo::NoUndo;
use neap::domain::ripple::{Asked, Ripple};
use neap::domain::seal::Seal;
use neap::domain::server_list::{Measured, Report, ServerList, Wanted};

use super::sets::Commands;

/// Between two looks at the clock, unless said otherwise.
const TICK: Millis = 100;
/// Decisions on one event until nothing moves.
const ROUNDS_MAX: usize = 64;

/// A server: what it keeps, and how it behaves.
pub struct Srv {
    pub placement: Placement,
    seal: Seal,
    run: u64,
    pub up: bool,
    pub healthy: bool,
    pub restarts: u64,
    pub active: u64,
    /// Answers a second, while it serves.
    pub rate: u64,
    /// Answers and errors so far, in thousandths.
    answered: BTreeMap<Version, (u64, u64)>,
    /// Its cores, and what of them, in thousandths, the program and its neighbour use; 0 cores: nothing is told.
    pub cores: u32,
    pub uses: (u32, u32),
    /// Nothing of it reaches management, nor the other way.
    pub silent: bool,
    /// Versions that do not start here, and why.
    pub fails: BTreeMap<Version, String>,
    /// Versions that have not come up yet.
    pub slow: BTreeSet<Version>,
    /// The release that is to start, while it has not.
    starting: Option<Release>,
}

pub struct Driven {
    pub leader: Leader,
    pub servers: BTreeMap<ServerName, Srv>,
    pub now: Millis,
    /// Between two looks at the clock.
    pub tick: Millis,
    /// A second program, on servers that run it too; it is up with its server.
    pub mail: BTreeMap<ServerName, Srv>,
    pub commands: Commands,
    /// What management would send now.
    pub sends: Vec<Send>,
    pub prepared: bool,
    behaviours: BTreeMap<Version, Behaviour>,
    pub(super) ripples: u64,
}

/// What a version's answers are like: how long they take to begin, and how many of a hundred are errors.
struct Behaviour {
    micros: u64,
    errors: u64,
}

pub fn program() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

pub fn release(version: &str) -> Release {
    let mut sha256 = [0; 32];
    sha256.iter_mut().zip(version.bytes()).for_each(|(into, byte)| *into = byte);
    Release { version: Version::new(version).unwrap(), sha256: Sha256(sha256) }
}

fn term(number: u64) -> Term {
    Term { number, management: NodeName::new("m").unwrap() }
}

impl Srv {
    pub fn of(program: ProgramName, version: Option<&str>) -> Self {
        let mut placement = Placement::absent(program);
        if let Some(version) = version {
            (placement.state, placement.generation) = (State::Open, Generation(1));
            placement.release = Some(release(version));
        }
        let (seal, fails, slow, answered) = Default::default();
        let healthy = version.is_some();
        Self {
            placement,
            seal,
            run: 1,
            up: true,
            healthy,
            restarts: 0,
            active: 0,
            rate: 10,
            cores: 0,
            uses: (0, 0),
            answered,
            silent: false,
            fails,
            slow,
            starting: None,
        }
    }

    pub fn serves(&self) -> bool {
        self.up && self.healthy && self.placement.state.takes_requests()
    }

    pub fn run(&self, name: &ServerName) -> RunId {
        RunId::new(format!("{name}.{}", self.run)).unwrap()
    }

    pub fn report(&self) -> Report {
        let retiring = if self.placement.state == State::Overlapping { self.active } else { 0 };
        Report { retiring, restarts: self.restarts, ..Report::of(&self.placement, self.healthy, self.active, 0) }
    }

    /// Of an overlap: what has been switched away from goes when it has nothing left to do.
    fn look_at_old(&mut self, run: &RunId) {
        if self.up && self.active == 0 {
            let effects = self.placement.event(&Event::OldDrained, &here(run, 0));
            self.perform(run, effects);
        }
    }

    /// A tick's answers, of which so many in a hundred are errors.
    fn answer(&mut self, tick: Millis, behaviours: &BTreeMap<Version, Behaviour>) {
        if let (true, Some(release)) = (self.serves(), &self.placement.release) {
            let errors = behaviours.get(&release.version).map_or(0, |behaviour| behaviour.errors);
            let counts = self.answered.entry(release.version.clone()).or_default();
            counts.0 += self.rate * tick;
            counts.1 += self.rate * tick * errors / 100;
        }
    }

    fn figures(&self, behaviours: &BTreeMap<Version, Behaviour>) -> BTreeMap<Version, Figures> {
        let figures = |version: &Version, counts: (u64, u64)| {
            let micros = behaviours.get(version).map_or(20_000, |behaviour| behaviour.micros);
            let (answers, errors) = (counts.0 / 1_000, counts.1 / 1_000);
            Figures { answers, errors, latency: [(bucket(micros), answers)].into() }
        };
        self.answered.iter().map(|(version, counts)| (version.clone(), figures(version, *counts))).collect()
    }

    pub fn perform(&mut self, run: &RunId, mut effects: Vec<Effect>) {
        while let Some(effect) = effects.pop() {
            let event = match effect {
                Effect::Stop => {
                    self.healthy = false;
                    Event::Stopped
                }
                Effect::Start(release) => match self.start(release) {
                    Some(event) => event,
                    None => continue,
                },
                Effect::Await(_) => Event::Worked(Ok(())),
                Effect::StartBeside(release) => match self.start(release) {
                    Some(event) => event,
                    None => continue,
                },
                Effect::StopBeside | Effect::StopOld => {
                    self.starting = None;
                    Event::Stopped
                }
                Effect::Switch(_) if self.active == 0 => Event::OldDrained,
                Effect::Switch(_) | Effect::CloseGate(_) | Effect::OpenGate(_) | Effect::Report => continue,
                Effect::KnowGate(_) | Effect::MigrateSessions => continue,
            };
            effects.extend(self.placement.event(&event, &here(run, 0)));
        }
    }

    fn start(&mut self, release: Release) -> Option<Event> {
        if let Some(why) = self.fails.get(&release.version) {
            return Some(Event::StartFailed(why.clone()));
        }
        if self.slow.contains(&release.version) {
            self.starting = Some(release);
            return None;
        }
        self.healthy = true;
        Some(Event::Started)
    }

    fn obey(&mut self, run: &RunId, command: &neap::domain::placement::Command) {
        let active = self.active;
        let force = matches!(command.order, Order::Upgrade { force: true, .. } | Order::Remove { force: true, .. });
        let freeze = |_| match active {
            0 => Ok(()),
            _ if force => Ok(()),
            _ => Err(NotDrained { open: false, active }),
        };
        if let Ok(effects) = self.placement.command(command, &here(run, 0), freeze) {
            if force {
                self.active = 0;
            }
            self.perform(run, effects);
        }
    }
}

pub fn here(run: &RunId, now: Millis) -> Here<'_> {
    Here { run, now, lease: Duration::from_secs(3_600), orphans: 0, sticky: None }
}

impl Driven {
    /// Servers of these names, each with the version open, or with nothing.
    pub fn new(names: &[&str], version: Option<&str>) -> Self {
        let servers: BTreeMap<ServerName, Srv> =
            names.iter().map(|name| (ServerName::new(*name).unwrap(), Srv::of(program(), version))).collect();
        let wanted = Wanted { release: version.map(release), servers: servers.keys().cloned().collect() };
        let list = ServerList { programs: BTreeMap::from([(program(), wanted)]), ..ServerList::default() };
        let leader = Leader::new(term(1), Revision(0), list, BTreeMap::new());
        let mut driven = Self {
            leader,
            servers,
            now: 0,
            tick: TICK,
            mail: BTreeMap::new(),
            commands: Commands::default(),
            sends: Vec::new(),
            prepared: true,
            behaviours: BTreeMap::new(),
            ripples: 0,
        };
        driven.settle();
        driven.everyone_obeys();
        driven
    }

    pub fn behaves(&mut self, version: &str, micros: u64, errors: u64) {
        self.behaviours.insert(Version::new(version).unwrap(), Behaviour { micros, errors });
    }

    /// The newest ripple that a person asked for.
    pub fn id(&self) -> RippleId {
        RippleId::new(format!("r{}", self.ripples)).unwrap()
    }

    pub fn start(&mut self, ask: Ask) -> Result<Plan, NoPlan> {
        if let Some(under_way) = self.leader.under_way(&program()) {
            return Err(NoPlan::Busy { under_way: under_way.plan.id.clone() });
        }
        let plan = plan::plan(ask, &self.leader.list)?;
        self.ripples += 1;
        self.leader.start(plan.clone());
        Ok(plan)
    }

    /// Asks for a ripple to be undone; its undo is the newest ripple then.
    pub fn undo(&mut self, id: &RippleId) -> Result<Plan, NoUndo> {
        if let Some(set) = self.leader.sets.get(id).cloned() {
            return self.undo_set(&set);
        }
        let undone = self.leader.ripples[id].clone();
        let plan = self.leader.undo(self.next_id(), &undone)?;
        self.ripples += 1;
        Ok(plan)
    }

    /// Takes a server out of service as management does: with all but one of those that serve left, or at least one.
    pub fn drain(&mut self, name: &str, forced: bool) -> Vec<String> {
        let server = ServerName::new(name).unwrap();
        let least = self.leader.list.serving(&program()).count().saturating_sub(1).max(1);
        let operation = OperationId::new(format!("drain-{name}")).unwrap();
        let drain = Drain::new(operation, BTreeMap::from([(program(), least)]), forced);
        let short = self.leader.short_without(&server, &drain);
        if short.is_empty() {
            self.leader.drain(server, drain);
        }
        let said =
            |(program, serving, least)| format!("refused: {program}: {serving} serving, and {least} have to stay");
        short.into_iter().map(said).collect()
    }

    pub fn next_id(&self) -> RippleId {
        RippleId::new(format!("r{}", self.ripples + 1)).unwrap()
    }

    pub fn ask(&mut self, asked: Asked) -> bool {
        let id = self.id();
        self.leader.ask(&id, asked) || self.leader.ask_set(&id, asked)
    }

    /// Heartbeats are heard, and decisions made, until nothing moves.
    pub fn settle(&mut self) {
        for round in 0.. {
            let before = self.leader.clone();
            self.beat();
            self.sends = self.leader.decide(self.now);
            if self.prepared {
                self.prepare_all();
            }
            if self.leader == before {
                return;
            }
            assert!(round < ROUNDS_MAX, "decisions never come to rest");
        }
    }

    fn beat(&mut self) {
        for (name, server) in &mut self.servers {
            let run = server.run(name);
            server.look_at_old(&run);
            if !server.up || server.silent {
                self.leader.down(name);
                continue;
            }
            self.leader.up(name, &server.run(name), self.now);
            if server.cores > 0 {
                let neighbour = ProgramName::new("mail").unwrap();
                self.leader.list.cell_mut(&neighbour, name);
                let uses = BTreeMap::from([(program(), server.uses.0), (neighbour, server.uses.1)]);
                self.leader.uses(name, server.cores, &uses);
            }
            if self.leader.list.servers[name].sealed.is_some() {
                self.leader.heard(name, &server.run(name), server.report());
                if let Some(mail) = self.mail.get(name) {
                    self.leader.heard(name, &server.run(name), mail.report());
                }
            }
        }
    }

    fn prepare_all(&mut self) {
        for send in &self.sends {
            if let Send::Prepare { server, program, release } = send {
                self.leader.prepared(server, program, release, Ok(()));
            }
        }
    }

    /// A hook ends that was asked for.
    pub fn hook_ends(&mut self, hook: &str, at: Option<&ServerName>, why: Option<&str>) {
        let asked = self.sends.iter().find_map(|send| match send {
            Send::Hook { server, order, .. } if order.hook.as_str() == hook && server.as_ref() == at => {
                Some(order.clone())
            }
            _ => None,
        });
        let order = asked.unwrap_or_else(|| panic!("nobody asked for {hook}"));
        let how = why.unwrap_or("exit status 0").to_owned();
        let end = HookEnd { well: why.is_none(), how, lines: Vec::new(), took_ms: 0 };
        assert!(self.leader.hooked(&order.ripple, order.hook, at, end));
    }

    /// All that is on its way to a server arrives, and so do its answers, until nothing more is.
    pub fn obeys(&mut self, name: &ServerName) {
        for _ in 0..ROUNDS_MAX {
            if !self.obeys_one(name) {
                return;
            }
        }
    }

    /// Answers whether anything that is on its way to a server moves anything.
    fn obeys_one(&mut self, name: &ServerName) -> bool {
        let to_it = |send: &Send| match send {
            Send::Seal { server, .. } | Send::Command { server, .. } => server == name,
            Send::Together { server, .. } | Send::Worked { server, .. } => server == name,
            Send::Prepare { .. } | Send::Measure { .. } | Send::Hook { .. } => false,
        };
        let stands = |driven: &Self| {
            (driven.leader.clone(), driven.servers[name].report(), driven.mail.get(name).map(Srv::report))
        };
        for send in self.sends.clone().iter().filter(|send| to_it(send)) {
            let before = stands(self);
            self.deliver(name, send);
            self.settle();
            if before != stands(self) {
                return true;
            }
        }
        false
    }

    fn deliver(&mut self, name: &ServerName, send: &Send) {
        let server = self.servers.get_mut(name).unwrap();
        if !server.up || server.silent {
            return;
        }
        let run = server.run(name);
        match send {
            Send::Seal { asked, .. } => {
                if server.seal.admit(self.leader.term()).is_ok() {
                    let reports = [server.report()].into_iter().chain(self.mail.get(name).map(Srv::report)).collect();
                    self.leader.sealed(name, *asked, &run, reports);
                }
            }
            Send::Command { program, command, .. } => {
                if server.seal.admit(&command.term).is_ok() {
                    let cell = self.cell_mut(name, program);
                    cell.obey(&run, command);
                    let report = cell.report();
                    self.leader.heard(name, &run, report);
                }
            }
            Send::Together { operation, members, .. } => self.together(name, operation, members),
            Send::Worked { set, operation, .. } => self.tell_worked(name, set, operation),
            Send::Prepare { .. } | Send::Measure { .. } | Send::Hook { .. } => {}
        }
    }

    pub fn everyone_obeys(&mut self) {
        let names: Vec<ServerName> = self.servers.keys().cloned().collect();
        for _ in 0..ROUNDS_MAX {
            let before = self.leader.clone();
            names.iter().for_each(|name| self.obeys(name));
            if self.leader == before {
                return;
            }
        }
        panic!("messages never come to rest");
    }

    /// Time passes; `each` is what happens at every tick.
    pub fn pass(&mut self, time: Duration, mut each: impl FnMut(&mut Self)) {
        let until = self.now + time.as_millis() as Millis;
        while self.now < until {
            let tick = self.tick.min(until - self.now);
            self.now += tick;
            self.servers.values_mut().for_each(|server| server.answer(tick, &self.behaviours));
            each(self);
            self.settle();
            self.measure();
        }
    }

    /// The servers that are asked what their answers were like tell it.
    fn measure(&mut self) {
        let mut any = false;
        for send in &self.sends {
            let Send::Measure { server, program } = send else { continue };
            let held = &self.servers[server];
            if held.up && !held.silent {
                let measured = Measured { at: self.now, versions: held.figures(&self.behaviours) };
                self.leader.measured(server, program, measured);
                any = true;
            }
        }
        if any {
            self.settle();
        }
    }

    /// The server's process dies; its instance lives on.
    pub fn crash(&mut self, name: &ServerName) {
        let server = self.servers.get_mut(name).unwrap();
        (server.up, server.active) = (false, 0);
        self.mail.get_mut(name).into_iter().for_each(|mail| mail.active = 0);
        self.settle();
    }

    pub fn boot(&mut self, name: &ServerName) {
        let server = self.servers.get_mut(name).unwrap();
        server.run += 1;
        server.up = true;
        let run = server.run(name);
        for cell in [self.servers.get_mut(name), self.mail.get_mut(name)].into_iter().flatten() {
            let effects = cell.placement.boot(0);
            cell.perform(&run, effects);
        }
        self.settle();
    }

    /// A version that was slow to start is up.
    pub fn comes_up(&mut self, name: &ServerName) {
        let server = self.servers.get_mut(name).unwrap();
        let run = server.run(name);
        if let Some(release) = server.starting.take() {
            server.slow.remove(&release.version);
            server.healthy = true;
            let effects = server.placement.event(&Event::Started, &here(&run, 0));
            server.perform(&run, effects);
        }
        self.settle();
    }

    /// Management starts again, with what it has on disk.
    pub fn restart(&mut self) {
        let saved =
            |ripple: &Ripple| -> Ripple { serde_json::from_str(&serde_json::to_string(ripple).unwrap()).unwrap() };
        let ripples = self.leader.ripples.iter().map(|(id, ripple)| (id.clone(), saved(ripple))).collect();
        let mut list = self.leader.list.clone();
        for cell in list.cells.values_mut().flat_map(BTreeMap::values_mut) {
            *cell = serde_json::from_str(&serde_json::to_string(cell).unwrap()).unwrap();
        }
        let (number, revision) = (self.leader.term().number + 1, self.leader.mint.revision);
        let drains =
            self.leader.drains.iter().map(|(name, drain)| (name.clone(), Drain { wait: None, ..drain.clone() }));
        let (drains, sets) = (drains.collect(), self.saved_sets());
        self.leader = Leader::new(term(number), revision, list, ripples);
        (self.leader.drains, self.leader.sets) = (drains, sets);
        self.settle();
    }

    pub fn serving(&self) -> Vec<&ServerName> {
        self.servers.iter().filter(|(_, server)| server.serves()).map(|(name, _)| name).collect()
    }
}
