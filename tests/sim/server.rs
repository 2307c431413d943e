//! Owns a simulated server: what it keeps, and how it carries out what its placements decide. Time, chance and messages
//! are the world's. Must not know management.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use neap::domain::figures::Figures;
use neap::domain::gate::NotDrained;
use neap::domain::names::{Generation, OperationId, ProgramName, Release, RunId, ServerName, Version};
use neap::domain::placement::{Command, Effect, Event, Here, Millis, Order, Phase, Placement, Refusal, State};
use neap::domain::seal::Seal;
use neap::domain::server_list::Report;

use super::sets::Record;

pub const LEASE: Duration = Duration::from_secs(60);
/// A booted placement waits so long for management's word.
pub const BOOT_WAIT: Millis = 5_000;

/// What an effect leads to, after a while that the world chooses.
#[derive(Clone, Debug)]
pub enum Later {
    Stopped,
    Starts(Release),
    /// One of the requests that were active when a gate closed.
    RequestEnds,
    OldRequestEnds,
    OldDrained,
    Tell,
    /// A member of a set has stopped.
    Awaits(OperationId),
}

/// One program on a server.
pub struct Cell {
    pub placement: Placement,
    pub open: bool,
    pub healthy: bool,
    pub active: u64,
    /// Of an overlap: at the instance that was switched away from.
    pub old: u64,
    /// What was begun before it changed is not heard of.
    pub work: u64,
    /// Versions' answers and errors.
    pub answered: BTreeMap<Version, (u64, u64)>,
    carried: BTreeSet<OperationId>,
}

pub struct Srv {
    pub name: ServerName,
    pub up: bool,
    pub run: u64,
    pub seal: Seal,
    pub cells: BTreeMap<ProgramName, Cell>,
    /// Hooks that ran, or run, and whether they ended.
    pub hooks: BTreeMap<String, bool>,
    pub sets: Vec<Record>,
}

impl Cell {
    pub fn new(program: &ProgramName, release: Option<Release>) -> Self {
        let mut placement = Placement::absent(program.clone());
        let serves = release.is_some();
        if serves {
            (placement.state, placement.generation, placement.release) = (State::Open, Generation(1), release);
        }
        let (answered, carried) = Default::default();
        Self { placement, open: serves, healthy: serves, active: 0, old: 0, work: 0, answered, carried }
    }

    pub fn serves(&self) -> bool {
        self.open && self.healthy && self.placement.state.takes_requests()
    }

    /// Out of service, and taken so by a ripple.
    pub fn is_out(&self) -> bool {
        let served = self.placement.operation.as_ref().is_some_and(|operation| operation.was == State::Open);
        served && matches!(self.placement.state, State::Quiescing | State::Upgrading)
    }

    pub fn report(&self) -> Report {
        let retiring = if self.placement.state == State::Overlapping { self.old } else { 0 };
        Report { retiring, ..Report::of(&self.placement, self.healthy, self.active + self.old, 0) }
    }

    pub fn figures(&self) -> BTreeMap<Version, Figures> {
        let figures = |(answers, errors): &(u64, u64)| Figures {
            answers: *answers,
            errors: *errors,
            latency: [(10, *answers)].into(),
        };
        self.answered.iter().map(|(version, counts)| (version.clone(), figures(counts))).collect()
    }

    /// Carries out effects; what takes time comes back. `chance` is a number below its argument.
    pub fn perform(
        &mut self,
        effects: Vec<Effect>,
        forced: bool,
        chance: &mut impl FnMut(u64) -> u64,
    ) -> Result<Vec<Later>, String> {
        let mut later = Vec::new();
        for effect in effects {
            match effect {
                Effect::OpenGate(_) => {
                    self.open = true;
                    self.active = self.active.max(chance(3));
                }
                Effect::CloseGate(_) => {
                    self.open = false;
                    later.extend((0..self.active).map(|_| Later::RequestEnds));
                }
                Effect::Stop => {
                    if (self.open || self.active + self.old > 0) && !forced {
                        return Err("I1: an instance was stopped under a request".to_owned());
                    }
                    (self.open, self.active, self.old, self.healthy) = (false, 0, 0, false);
                    self.work += 1;
                    later.push(Later::Stopped);
                }
                Effect::StopOld if self.old > 0 && !forced => {
                    return Err("I1: an old instance was stopped under a request".to_owned());
                }
                Effect::StopBeside | Effect::StopOld => {
                    self.old = 0;
                    self.work += 1;
                    later.push(Later::Stopped);
                }
                Effect::Start(release) | Effect::StartBeside(release) => {
                    self.work += 1;
                    later.push(Later::Starts(release));
                }
                Effect::Switch(_) => {
                    (self.old, self.active) = (self.active, chance(3));
                    (self.open, self.healthy) = (true, true);
                    later.extend((0..self.old).map(|_| Later::OldRequestEnds));
                    later.push(Later::OldDrained);
                }
                Effect::Report => later.push(Later::Tell),
                // No program of the simulation is sticky.
                Effect::KnowGate(_) | Effect::MigrateSessions => {}
                Effect::Await(set) => later.push(Later::Awaits(set)),
            }
        }
        Ok(later)
    }

    /// What happens on the server; nothing, if it has nothing left to say.
    pub fn happens(
        &mut self,
        event: &Event,
        here: &Here<'_>,
        chance: &mut impl FnMut(u64) -> u64,
    ) -> Result<Vec<Later>, String> {
        let effects = self.placement.event(event, here);
        self.perform(effects, false, chance)
    }

    /// Whether the old instance of an overlap has nothing left to do.
    pub fn old_is_drained(&self) -> bool {
        let switched = self.placement.operation.as_ref().is_some_and(|operation| operation.phase == Phase::Switched);
        self.placement.state == State::Overlapping && switched && self.old == 0
    }

    /// Judges a command, and carries it out.
    pub fn command(
        &mut self,
        command: &Command,
        here: &Here<'_>,
        chance: &mut impl FnMut(u64) -> u64,
    ) -> Result<Result<Vec<Later>, Refusal>, String> {
        match self.judge(command, here) {
            Ok(judged) => self.commit(judged, command, chance).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// What a command would make of the placement; nothing is changed.
    pub fn judge(&self, command: &Command, here: &Here<'_>) -> Result<Judged, Refusal> {
        let forced = is_forced(command);
        let overlaps = self.placement.state == State::Overlapping;
        let left = if overlaps { self.old } else { self.active + self.old };
        let open = self.open && !overlaps;
        let freeze = |_| if !open && (left == 0 || forced) { Ok(()) } else { Err(NotDrained { open, active: left }) };
        let mut placement = self.placement.clone();
        let effects = placement.command(command, here, freeze)?;
        Ok((placement, effects))
    }

    /// Carries out what was judged.
    pub fn commit(
        &mut self,
        (placement, effects): Judged,
        command: &Command,
        chance: &mut impl FnMut(u64) -> u64,
    ) -> Result<Vec<Later>, String> {
        let before = std::mem::replace(&mut self.placement, placement).state;
        let began = |state| before != state && self.placement.state == state;
        if (began(State::Upgrading) || began(State::Overlapping)) && !self.carried.insert(command.operation.clone()) {
            return Err(format!("I4: {} was carried out twice", command.operation));
        }
        self.perform(effects, is_forced(command), chance)
    }
}

/// A placement as a command makes it, and what is to be done.
pub type Judged = (Placement, Vec<Effect>);

fn is_forced(command: &Command) -> bool {
    matches!(
        &command.order,
        Order::Upgrade { force: true, .. } | Order::Remove { force: true, .. } | Order::Together { force: true, .. }
    )
}

impl Srv {
    pub fn run_id(&self) -> RunId {
        RunId::new(format!("{}.{}", self.name, self.run)).expect("a run")
    }

    /// The process dies; its instances live on.
    pub fn crash(&mut self) {
        self.up = false;
        for cell in self.cells.values_mut() {
            (cell.open, cell.active, cell.old) = (false, 0, 0);
            cell.work += 1;
            (cell.placement.lease_until, cell.placement.boot) = (None, Default::default());
        }
    }
}
