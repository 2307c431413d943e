//! Owns the model of a set (protocol P15): two programs on one server that use one component, and a management that has
//! it replaced. Both drive the domain's own code; the shell of the server is here. Checks that the command runs only
//! while nothing that uses the component does, that no request meets a stopped instance, and invariant L; and that the
//! one check-and-freeze is missed where it is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use neap::domain::gate::Word;
use neap::domain::leader::{Heard, Leader};
use neap::domain::names::{
    ComponentName, Generation, NodeName, OperationId, ProgramName, Release, Revision, RippleId, RunId, ServerName,
    Sha256, Term, Version,
};
use neap::domain::placement::{Command, Effect, Event, Here, Placement, Refusal, State, Work, Worked};
use neap::domain::program::{LongLived, MinServing, OnDrainTimeout, Promote};
use neap::domain::ripple::machine::{Member, Send};
use neap::domain::ripple::plan::{Ask, Plan, Policy, RippleKind, plan};
use neap::domain::ripple::set::{SetPlan, Subject};
use neap::domain::ripple::{Asked, Ripple};
use neap::domain::seal::Seal;
use neap::domain::server_list::{Report, ServerList, Wanted};
use stateright::{Model, Property};

use super::explore::{Walk, walk};
use super::world::Shared;

const PROGRAMS: [&str; 2] = ["p", "q"];
const LEASE: Duration = Duration::from_secs(60);
/// A time after every lease.
const LATER: u64 = 1 << 40;

#[derive(Clone, Debug)]
struct Sets {
    /// At most one of each program.
    requests: usize,
    faults: Faults,
    lossy: bool,
    /// The command may fail.
    fails: bool,
    off: Off,
}

/// What is left out of protocol P15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Off {
    Nothing,
    /// Each member of a set is judged, and goes on, by itself.
    OneStep,
    /// A member that has opened again since is taken for one that has obeyed before.
    NoRepeats,
}

impl Default for Sets {
    fn default() -> Self {
        Self { requests: 1, faults: Faults::default(), lossy: false, fails: false, off: Off::Nothing }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Faults {
    leases: u8,
    crashes: u8,
    management_crashes: u8,
    repeats: u8,
    aborts: u8,
    failed_starts: u8,
}

/// One program, on disk and in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Cell {
    placement: Shared<Placement>,
    word: Word,
    /// An instance is there, and whether it is marked stopping.
    instance: Option<bool>,
    starting: bool,
    stopping: bool,
}

/// A set's record on the server's disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Record {
    operation: OperationId,
    members: Vec<usize>,
    /// In memory: who has stopped.
    stopped: Vec<usize>,
    state: Stand,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stand {
    Waiting,
    Running,
    Ended(Option<String>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Message {
    Seal { term: Term, asked: u64 },
    Command { program: usize, command: Command },
    Together { operation: OperationId, members: Vec<Member> },
    Sealed { run: RunId, asked: u64, answer: Result<Vec<Report>, Refusal> },
    Reports { run: RunId, refusal: Option<Refusal>, reports: Vec<Report> },
}

impl Message {
    fn is_to_server(&self) -> bool {
        matches!(self, Self::Seal { .. } | Self::Command { .. } | Self::Together { .. })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Request {
    Waiting,
    Admitted,
    Ended,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    cells: Vec<Cell>,
    records: Vec<Record>,
    seal: Seal,
    up: bool,
    run: u8,
    leader: Shared<Leader>,
    sends: Shared<Vec<Send>>,
    network: Vec<Shared<Message>>,
    /// At most one of each program.
    requests: Vec<Request>,
    left: Faults,
    broken: Option<&'static str>,
}

#[derive(Clone, PartialEq, Debug)]
enum Action {
    Send(usize),
    Deliver(usize),
    DeliverAgain(usize),
    Lose(usize),
    Beat,
    Claim(usize),
    End(usize),
    Lease(usize),
    Tick(usize),
    Stopped(usize),
    Started(usize),
    StartFailed(usize),
    WorkEnds { well: bool },
    Crash,
    Boot,
    RestartManagement,
    Abort,
}

fn server() -> ServerName {
    NodeName::new("a").expect("a name")
}

fn program(index: usize) -> ProgramName {
    ProgramName::new(PROGRAMS[index]).expect("a name")
}

fn index(program: &ProgramName) -> usize {
    PROGRAMS.iter().position(|name| *name == program.as_str()).expect("a program of the model")
}

fn release() -> Release {
    Release { version: Version::new("1").expect("a version"), sha256: Sha256([1; 32]) }
}

fn term(number: u64) -> Term {
    Term { number, management: NodeName::new("m").expect("a name") }
}

fn policy() -> Policy {
    Policy {
        batch: 1,
        strategy: Default::default(),
        max_utilization_milli: 0,
        capacity_wait: Duration::ZERO,
        canary: 0,
        promote: Promote::Auto,
        rollback_on: None,
        hooks: Vec::new(),
        min_serving: 0,
        drain_timeout: Duration::from_secs(30),
        on_drain_timeout: OnDrainTimeout::Abort,
        long_lived: LongLived::Wait,
        soak: Duration::ZERO,
        unhealthy_limit: Duration::from_secs(60),
    }
}

fn start_set(leader: &mut Leader) {
    let id = |text: String| RippleId::new(text).expect("a name");
    let parts = (0..PROGRAMS.len()).map(|index| {
        let ask = Ask {
            id: id(format!("s-{index}")),
            kind: RippleKind::Restart,
            program: program(index),
            to: Some(release()),
            servers: vec![server()],
            min_serving: MinServing::AtLeast(0),
            holds: true,
            policy: policy(),
            hooks: Default::default(),
        };
        Plan { set: Some(id("s".to_owned())), ..plan(ask, &leader.list).expect("a plan") }
    });
    let parts: Vec<Plan> = parts.collect();
    let work = Work { run: vec!["new".to_owned()], within: LEASE };
    let name = ComponentName::new("lib").expect("a name");
    leader.start_set(SetPlan {
        id: id("s".to_owned()),
        subject: Subject::Component { name, work, undo_work: None },
        servers: vec![server()],
        parts: parts.iter().map(|part| part.id.clone()).collect(),
        batch: 1,
        canary: 0,
        promote: Promote::Auto,
        undoes: None,
    });
    parts.into_iter().for_each(|part| leader.start(part));
}

impl World {
    fn first(model: &Sets) -> Self {
        let cells = (0..PROGRAMS.len()).map(|index| {
            let mut placement = Placement::absent(program(index));
            (placement.state, placement.generation) = (State::Open, Generation(1));
            placement.release = Some(release());
            let word = Word::closed(Generation(1)).open(Generation(1));
            Cell { placement: Shared::new(placement), word, instance: Some(false), starting: false, stopping: false }
        });
        let wanted = |_| Wanted { release: Some(release()), servers: vec![server()] };
        let programs = (0..PROGRAMS.len()).map(|index| (program(index), wanted(index))).collect();
        let list = ServerList { programs, ..ServerList::default() };
        let mut leader = Leader::new(term(1), Revision(0), list, BTreeMap::new());
        let mut world = Self {
            cells: cells.collect(),
            records: Vec::new(),
            seal: Seal::default(),
            up: true,
            run: 1,
            leader: Shared::new(leader.clone()),
            sends: Shared::new(Vec::new()),
            network: Vec::new(),
            requests: vec![Request::Waiting; model.requests],
            left: model.faults,
            broken: None,
        };
        world.seal.admit(&term(1)).expect("the first term");
        let (run, reports) = (world.run_id(), world.reports());
        leader.up(&server(), &run, 0);
        leader.sealed(&server(), 0, &run, reports);
        start_set(&mut leader);
        world.settle(leader);
        world
    }

    fn run_id(&self) -> RunId {
        RunId::new(format!("a.{}", self.run)).expect("a name")
    }

    fn reports(&self) -> Vec<Report> {
        let report = |cell: &Cell| {
            let healthy = cell.instance == Some(false) && !cell.starting;
            Report::of(&cell.placement, healthy, cell.word.active(), 0)
        };
        self.cells.iter().map(report).collect()
    }

    fn post(&mut self, message: Message) {
        let message = Shared::new(message);
        let busy = self.network.iter().any(|other| other.is_to_server() == message.is_to_server());
        if !busy {
            self.network.push(message);
            self.network.sort_by_key(|message| message.is_to_server());
        }
    }

    /// Decides until nothing moves; what is to be sent may be from then on.
    fn settle(&mut self, mut leader: Leader) {
        let mut sends = Vec::new();
        for round in 0.. {
            let before = leader.clone();
            sends = leader.decide(0);
            for send in &sends {
                if let Send::Prepare { server, program, release } = send {
                    leader.prepared(server, program, release, Ok(()));
                }
            }
            if leader == before {
                break;
            }
            assert!(round < 32, "decide never comes to rest: {leader:#?}");
        }
        sends.retain(|send| !matches!(send, Send::Prepare { .. } | Send::Measure { .. }));
        (self.leader, self.sends) = (Shared::new(leader), Shared::new(sends));
    }

    fn change(&mut self, change: impl FnOnce(&mut Leader)) {
        let mut leader = (*self.leader).clone();
        change(&mut leader);
        self.settle(leader);
    }

    /// Whether a heartbeat would tell management anything. (One that would not, and comes late, is no different from a
    /// late one that would have.)
    fn has_news(&self) -> bool {
        let (run, list) = (self.run_id(), &self.leader.list);
        let Some(entry) = list.servers.get(&server()).filter(|entry| entry.up) else { return true };
        match &entry.sealed {
            Some(sealed) if *sealed == run => {
                let known = |report: &Report| list.observed(&report.program, &server()) == Some(report);
                !self.reports().iter().all(known)
            }
            Some(_) => true,
            None => false,
        }
    }

    fn send(&mut self, which: usize) {
        match self.sends[which].clone() {
            Send::Seal { asked, .. } => self.post(Message::Seal { term: self.leader.term().clone(), asked }),
            Send::Command { program, command, .. } => {
                self.post(Message::Command { program: index(&program), command });
            }
            Send::Together { operation, members, .. } => self.post(Message::Together { operation, members }),
            // A question, asked until it is answered: what is lost of it changes nothing.
            Send::Worked { set, operation, .. } => {
                let record = self.records.iter().find(|record| record.operation == operation);
                if let Some(Stand::Ended(failure)) = record.map(|record| record.state.clone()).filter(|_| self.up) {
                    let worked = Worked { failure, lines: Vec::new(), took_ms: 0 };
                    self.change(|leader| leader.worked(&set, &server(), worked));
                }
            }
            Send::Prepare { .. } | Send::Measure { .. } | Send::Hook { .. } => {}
        }
    }

    fn deliver(&mut self, model: &Sets, message: &Message) {
        match message {
            Message::Seal { term, asked } if self.up => {
                let answer = self.seal.admit(term).map(|_| self.reports());
                let run = self.run_id();
                self.post(Message::Sealed { run, asked: *asked, answer });
            }
            Message::Command { program, command } if self.up => {
                let refusal = match self.judge(*program, command) {
                    Ok((placement, word, effects)) => {
                        (self.cells[*program].placement, self.cells[*program].word) = (placement, word);
                        self.perform(*program, effects);
                        None
                    }
                    Err(refusal) => Some(refusal),
                };
                self.answer(refusal);
            }
            Message::Together { operation, members } if self.up => {
                let refusal = match self.records.iter().any(|record| record.operation == *operation) {
                    true => None,
                    false => self.together(model, operation.clone(), members),
                };
                self.answer(refusal);
            }
            Message::Seal { .. } | Message::Command { .. } | Message::Together { .. } => {}
            Message::Sealed { run, asked, answer } => self.change(|leader| match answer {
                Ok(reports) => {
                    leader.sealed(&server(), *asked, run, reports.clone());
                }
                Err(refusal) => {
                    if let Heard::LearnAgain(highest) = leader.refused(refusal, true) {
                        leader.take_term(highest.number + 1);
                    }
                }
            }),
            Message::Reports { run, refusal, reports } => self.change(|leader| {
                if let Some(refusal) = refusal {
                    leader.refused(refusal, false);
                }
                leader.up(&server(), run, 0);
                for report in reports {
                    leader.heard(&server(), run, report.clone());
                }
            }),
        }
    }

    fn answer(&mut self, refusal: Option<Refusal>) {
        let (run, reports) = (self.run_id(), self.reports());
        self.post(Message::Reports { run, refusal, reports });
    }

    fn judge(&mut self, program: usize, command: &Command) -> Result<(Shared<Placement>, Word, Vec<Effect>), Refusal> {
        self.seal.admit(&command.term)?;
        let run = self.run_id();
        let here = Here { run: &run, now: 0, lease: LEASE, orphans: 0, sticky: None };
        let (mut placement, mut word) = ((*self.cells[program].placement).clone(), self.cells[program].word);
        let freeze = |generation| {
            word = word.freeze(generation)?;
            Ok(())
        };
        let effects = placement.command(command, &here, freeze)?;
        Ok((Shared::new(placement), word, effects))
    }

    /// All members are judged before any of them is changed; where that is off, each goes on by itself.
    fn together(&mut self, model: &Sets, operation: OperationId, members: &[Member]) -> Option<Refusal> {
        let mut judged = Vec::new();
        let mut refused = None;
        for member in members {
            match self.judge(index(&member.program), &member.command) {
                Ok((placement, word, effects)) => judged.push((index(&member.program), placement, word, effects)),
                Err(_) if model.off == Off::NoRepeats && self.has_ended(member) => {
                    let cell = &self.cells[index(&member.program)];
                    judged.push((index(&member.program), cell.placement.clone(), cell.word, Vec::new()));
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        if (refused.is_some() && model.off != Off::OneStep) || judged.is_empty() {
            return refused;
        }
        let members = judged.iter().map(|(program, ..)| *program).collect();
        self.records.push(Record { operation, members, stopped: Vec::new(), state: Stand::Waiting });
        for (program, placement, word, effects) in judged {
            (self.cells[program].placement, self.cells[program].word) = (placement, word);
            self.perform(program, effects);
        }
        refused
    }

    fn has_ended(&self, member: &Member) -> bool {
        let ended = &self.cells[index(&member.program)].placement.ended;
        ended.as_ref().is_some_and(|ended| ended.operation == member.command.operation)
    }

    fn happen(&mut self, program: usize, event: &Event, now: u64) {
        let run = self.run_id();
        let here = Here { run: &run, now, lease: LEASE, orphans: 0, sticky: None };
        let mut placement = (*self.cells[program].placement).clone();
        let effects = placement.event(event, &here);
        self.cells[program].placement = Shared::new(placement);
        self.perform(program, effects);
    }

    fn perform(&mut self, program: usize, effects: Vec<Effect>) {
        for effect in effects {
            let generation = self.cells[program].placement.generation;
            let cell = &mut self.cells[program];
            match effect {
                Effect::CloseGate(_) => cell.word = cell.word.close(generation),
                Effect::OpenGate(_) => cell.word = cell.word.open(generation),
                Effect::Stop => {
                    if cell.word.active() > 0 {
                        self.broken = Some("I1: an instance was stopped under a request");
                    }
                    cell.instance = cell.instance.map(|_| true);
                    (cell.stopping, cell.starting) = (true, false);
                }
                Effect::Start(_) => {
                    if cell.instance != Some(false) {
                        cell.instance = Some(false);
                    }
                    cell.starting = true;
                    if self.records.iter().any(|record| record.state == Stand::Running) {
                        self.broken = Some("P15: an instance started while the command ran");
                    }
                }
                Effect::Await(set) => self.wait_for(program, &set),
                Effect::Report | Effect::KnowGate(_) | Effect::MigrateSessions => {}
                Effect::StartBeside(_) | Effect::Switch(_) | Effect::StopBeside | Effect::StopOld => {
                    self.broken = Some("no member of a set overlaps");
                }
            }
        }
    }

    /// The command begins when the last member has stopped.
    fn wait_for(&mut self, program: usize, set: &OperationId) {
        let Some(record) = self.records.iter_mut().find(|record| record.operation == *set) else {
            return self.happen(program, &Event::Worked(Err("lost".to_owned())), 0);
        };
        if let Stand::Ended(failure) = record.state.clone() {
            return self.happen(program, &Event::Worked(failure.map_or(Ok(()), Err)), 0);
        }
        record.stopped.push(program);
        record.stopped.sort_unstable();
        record.stopped.dedup();
        if record.stopped.len() == record.members.len() && record.state == Stand::Waiting {
            record.state = Stand::Running;
            let runs = |cell: &Cell| cell.instance.is_some() || cell.word.is_open() || cell.word.active() > 0;
            if self.cells.iter().any(runs) {
                self.broken = Some("P15: the command ran while a program that uses the component did");
            }
        }
    }

    fn work_ends(&mut self, well: bool) {
        let Some(record) = self.records.iter_mut().find(|record| record.state == Stand::Running) else { return };
        let failure = (!well).then(|| "exit status 1".to_owned());
        record.state = Stand::Ended(failure.clone());
        let members = std::mem::take(&mut record.stopped);
        for member in members {
            self.happen(member, &Event::Worked(failure.clone().map_or(Ok(()), Err)), 0);
        }
    }

    fn crash(&mut self) {
        self.up = false;
        for cell in &mut self.cells {
            (cell.starting, cell.stopping) = (false, false);
            cell.word = Word::closed(cell.placement.generation);
            let mut placement = (*cell.placement).clone();
            (placement.lease_until, placement.boot) = (None, Default::default());
            cell.placement = Shared::new(placement);
        }
        for request in self.requests.iter_mut().filter(|request| **request == Request::Admitted) {
            *request = Request::Ended;
        }
        for record in &mut self.records {
            record.stopped.clear();
        }
        self.network.retain(|message| !message.is_to_server());
    }

    /// A command that ran is waited for, and how it ended is not known.
    fn boot(&mut self) {
        (self.up, self.run) = (true, self.run + 1);
        for record in &mut self.records {
            if record.state == Stand::Running {
                record.state = Stand::Ended(Some("not known".to_owned()));
            }
        }
        for program in 0..self.cells.len() {
            let mut placement = (*self.cells[program].placement).clone();
            let effects = placement.boot(LATER);
            let generation = placement.generation;
            self.cells[program].placement = Shared::new(placement);
            self.cells[program].word = Word::closed(generation);
            self.perform(program, effects);
        }
    }

    /// What is on disk is known to the next run of management, at a higher term.
    fn restart_management(&mut self) {
        let (number, old) = (self.leader.term().number + 1, &self.leader);
        let on_disk = |ripple: &Ripple| Ripple { wait: None, ..ripple.clone() };
        let live = old.ripples.iter().filter(|(_, ripple)| !ripple.state.is_over());
        let ripples = live.map(|(id, ripple)| (id.clone(), on_disk(ripple))).collect();
        let list =
            ServerList { programs: old.list.programs.clone(), cells: old.list.cells.clone(), ..Default::default() };
        let mut leader = Leader::new(term(number), old.mint.revision, list, ripples);
        leader.sets = old
            .sets
            .iter()
            .filter(|(_, set)| !set.state.is_over())
            .map(|(id, set)| (id.clone(), set.clone()))
            .collect();
        leader.list.servers.entry(server()).or_default();
        self.settle(leader);
    }

    fn is_calm(&self) -> bool {
        let rests = |cell: &Cell| {
            let open = cell.placement.state == State::Open && cell.word.is_open();
            let failed = cell.placement.state == State::Failed && cell.placement.failure.is_some();
            !cell.starting && !cell.stopping && (open || failed)
        };
        let over = self.leader.ripples.values().all(|ripple| ripple.state.is_over())
            && self.leader.sets.values().all(|set| set.state.is_over());
        // Of one that has failed, and says why, a router has nobody to send a request to.
        let ended = |(request, cell): (&Request, &Cell)| match request {
            Request::Waiting => cell.placement.state == State::Failed,
            Request::Admitted => false,
            Request::Ended => true,
        };
        self.up && over && self.cells.iter().all(rests) && self.requests.iter().zip(&self.cells).all(ended)
    }

    fn sets_are_under_way(&self) -> bool {
        self.leader.sets.values().any(|set| !set.state.is_over() && set.asked != Asked::Abort)
    }
}

impl Model for Sets {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::first(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend((0..world.sends.len()).map(Action::Send));
        for index in 0..world.network.len() {
            actions.push(Action::Deliver(index));
            if world.left.repeats > 0 {
                actions.push(Action::DeliverAgain(index));
            }
            if self.lossy {
                actions.push(Action::Lose(index));
            }
        }
        if world.left.management_crashes > 0 {
            actions.push(Action::RestartManagement);
        }
        if world.left.aborts > 0 && world.sets_are_under_way() {
            actions.push(Action::Abort);
        }
        if !world.up {
            actions.push(Action::Boot);
            return;
        }
        if world.has_news() {
            actions.push(Action::Beat);
        }
        if world.left.crashes > 0 {
            actions.push(Action::Crash);
        }
        if world.records.iter().any(|record| record.state == Stand::Running) {
            actions.push(Action::WorkEnds { well: true });
            if self.fails {
                actions.push(Action::WorkEnds { well: false });
            }
        }
        for (program, cell) in world.cells.iter().enumerate() {
            match world.requests.get(program) {
                Some(Request::Waiting) => actions.push(Action::Claim(program)),
                Some(Request::Admitted) => actions.push(Action::End(program)),
                Some(Request::Ended) | None => {}
            }
            match cell.placement.state {
                State::Quiescing if world.left.leases > 0 => actions.push(Action::Lease(program)),
                State::Closed => actions.push(Action::Tick(program)),
                _ => {}
            }
            if cell.stopping {
                actions.push(Action::Stopped(program));
            }
            if cell.starting {
                actions.push(Action::Started(program));
                if world.left.failed_starts > 0 {
                    actions.push(Action::StartFailed(program));
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Send(which) => world.send(which),
            Action::Deliver(index) => {
                let message = world.network.remove(index);
                world.deliver(self, &message);
            }
            Action::DeliverAgain(index) => {
                world.left.repeats -= 1;
                let message = world.network[index].clone();
                world.deliver(self, &message);
            }
            Action::Lose(index) => drop(world.network.remove(index)),
            Action::Beat => world.answer(None),
            Action::Claim(program) => {
                let cell = &mut world.cells[program];
                let claimed = cell.word.claim()?;
                if cell.instance != Some(false) || cell.starting {
                    return None;
                }
                cell.word = claimed;
                world.requests[program] = Request::Admitted;
            }
            Action::End(program) => {
                world.cells[program].word = world.cells[program].word.release();
                world.requests[program] = Request::Ended;
            }
            Action::Lease(program) => {
                world.left.leases -= 1;
                world.happen(program, &Event::Tick, LATER);
            }
            Action::Tick(program) => world.happen(program, &Event::Tick, LATER),
            Action::Stopped(program) => {
                (world.cells[program].stopping, world.cells[program].instance) = (false, None);
                world.happen(program, &Event::Stopped, 0);
            }
            Action::Started(program) => {
                world.cells[program].starting = false;
                world.happen(program, &Event::Started, 0);
            }
            Action::StartFailed(program) => {
                world.left.failed_starts -= 1;
                (world.cells[program].starting, world.cells[program].instance) = (false, None);
                world.happen(program, &Event::StartFailed("it did not start".to_owned()), 0);
            }
            Action::WorkEnds { well } => world.work_ends(well),
            Action::Crash => {
                world.left.crashes -= 1;
                world.crash();
            }
            Action::Boot => world.boot(),
            Action::RestartManagement => {
                world.left.management_crashes -= 1;
                world.restart_management();
            }
            Action::Abort => {
                world.left.aborts -= 1;
                let id = RippleId::new("s").expect("a name");
                world.change(|leader| {
                    leader.ask_set(&id, Asked::Abort);
                });
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no invariant is broken on the way", |_, world: &World| world.broken.is_none()),
            Property::always("no request is at an instance that is stopping", |_, world: &World| {
                world.cells.iter().all(|cell| cell.word.active() == 0 || cell.instance == Some(false))
            }),
        ]
    }

    fn format_action(&self, action: &Action) -> String {
        format!("{action:?}")
    }
}

fn sound(name: &str, model: &Sets) {
    walk(model, World::is_calm, 1_500_000).assert_sound(name);
}

#[test]
fn a_set_without_faults() {
    sound("a set", &Sets::default());
}

#[test]
fn a_set_whose_leases_run_out() {
    let faults = Faults { leases: 2, ..Faults::default() };
    sound("a set, leases", &Sets { faults, lossy: true, ..Sets::default() });
}

#[test]
fn a_set_on_a_server_that_crashes() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    sound("a set, crash", &Sets { requests: 0, faults, fails: true, ..Sets::default() });
}

#[test]
fn a_set_whose_messages_are_repeated() {
    let faults = Faults { repeats: 2, leases: 1, ..Faults::default() };
    sound("a set, repeats", &Sets { faults, ..Sets::default() });
}

#[test]
fn a_set_whose_management_restarts() {
    let faults = Faults { management_crashes: 1, leases: 1, ..Faults::default() };
    sound("a set, management restarts", &Sets { faults, ..Sets::default() });
}

#[test]
fn a_set_that_is_aborted() {
    let faults = Faults { aborts: 1, leases: 1, ..Faults::default() };
    sound("a set, abort", &Sets { faults, lossy: true, ..Sets::default() });
}

#[test]
fn a_set_whose_command_or_whose_program_fails() {
    let faults = Faults { failed_starts: 2, ..Faults::default() };
    sound("a set, failures", &Sets { faults, fails: true, ..Sets::default() });
}

fn left_out(off: Off) -> Walk {
    let faults = Faults { leases: 1, ..Faults::default() };
    walk(&Sets { faults, off, ..Sets::default() }, World::is_calm, 1_500_000)
}

#[test]
fn p15_members_that_are_frozen_one_by_one() {
    let walk = left_out(Off::OneStep);
    let (_, way) = walk.broken.unwrap_or_else(|| panic!("nothing found in {} states", walk.states));
    println!("P15: the command runs beside a member that opened again, after {} states: {way:?}", walk.states);
}

#[test]
fn p15_a_member_that_opened_again_and_is_taken_for_a_repeat() {
    let walk = left_out(Off::NoRepeats);
    let way = walk.stuck.unwrap_or_else(|| panic!("{:?}, {} states", walk.broken, walk.states));
    println!("P15: the command waits for it for ever, after {} states: {way:?}", walk.states);
}
