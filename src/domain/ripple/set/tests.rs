//! Owns the tests of sets: a leadership, and servers on which two programs use one component. Time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::domain::gate::NotDrained;
use crate::domain::leader::Leader;
use crate::domain::names::{Generation, NodeName, Release, Revision, RunId, Sha256, Term, Version};
use crate::domain::placement::{Effect, Event, Here, Millis, Order, Placement, State};
use crate::domain::program::{LongLived, MinServing, OnDrainTimeout};
use crate::domain::ripple::machine::Send;
use crate::domain::ripple::plan::{self, Ask, Plan, Policy, RippleKind};
use crate::domain::ripple::undo::NoUndo;
use crate::domain::server_list::{Report, ServerList, Wanted};

const LEASE: Duration = Duration::from_secs(60);

fn name(given: &str) -> ProgramName {
    ProgramName::new(given).unwrap()
}

fn server(given: &str) -> ServerName {
    ServerName::new(given).unwrap()
}

fn id(given: &str) -> RippleId {
    RippleId::new(given).unwrap()
}

fn release() -> Release {
    Release { version: Version::new("1").unwrap(), sha256: Sha256([1; 32]) }
}

fn work(word: &str) -> Work {
    Work { run: vec![word.to_owned()], within: Duration::from_secs(60) }
}

/// One program on one server.
struct Cell {
    placement: Placement,
    active: u64,
    healthy: bool,
    restarts: u32,
    /// It does not start as long as the component is this.
    not_with: Option<&'static str>,
}

/// Servers whose commands end at once.
struct World {
    leader: Leader,
    cells: BTreeMap<(ServerName, ProgramName), Cell>,
    /// What was run on each server, in order.
    ran: BTreeMap<ServerName, Vec<String>>,
    worked: BTreeMap<OperationId, Worked>,
    /// Commands that fail.
    failing: BTreeSet<String>,
    down: BTreeSet<ServerName>,
    runs: BTreeMap<ServerName, u32>,
    now: Millis,
    /// Orders to sets are lost on the way.
    loses_together: bool,
}

impl World {
    /// Each program on the servers that are named beside it.
    fn new(programs: &[(&str, &[&str])]) -> Self {
        let mut list = ServerList::default();
        let mut cells = BTreeMap::new();
        for (program, servers) in programs {
            let servers: Vec<ServerName> = servers.iter().map(|one| server(one)).collect();
            for one in &servers {
                let mut placement = Placement::absent(name(program));
                (placement.state, placement.generation) = (State::Open, Generation(1));
                placement.release = Some(release());
                let (active, healthy, restarts, not_with) = (0, true, 0, None);
                cells.insert((one.clone(), name(program)), Cell { placement, active, healthy, restarts, not_with });
            }
            list.programs.insert(name(program), Wanted { release: Some(release()), servers });
        }
        let term = Term { number: 1, management: NodeName::new("m").unwrap() };
        let leader = Leader::new(term, Revision(0), list, BTreeMap::new());
        let (ran, worked, failing, down, runs) = Default::default();
        let mut world = Self { leader, cells, ran, worked, failing, down, runs, now: 0, loses_together: false };
        world.settle();
        world
    }

    fn run(&self, of: &ServerName) -> RunId {
        RunId::new(format!("{of}.{}", self.runs.get(of).unwrap_or(&1))).unwrap()
    }

    /// Starts a set of these programs, each on these servers, with a command and one that takes it back.
    fn start(&mut self, programs: &[(&str, &[&str])], batch: usize) -> Result<(), plan::NoPlan> {
        let mut parts = Vec::new();
        for (program, servers) in programs {
            let ask = Ask {
                id: id(&format!("s-{program}")),
                kind: RippleKind::Restart,
                program: name(program),
                to: Some(release()),
                servers: servers.iter().map(|one| server(one)).collect(),
                min_serving: MinServing::Auto,
                holds: false,
                policy: policy(batch),
                hooks: Default::default(),
            };
            parts.push(Plan { set: Some(id("s")), ..plan::plan(ask, &self.leader.list)? });
        }
        let servers: BTreeSet<ServerName> =
            parts.iter().flat_map(|part| part.steps.iter().map(|step| step.server.clone())).collect();
        let (name, work, undo_work) = (ComponentName::new("lib").unwrap(), work("new"), Some(work("old")));
        self.leader.start_set(SetPlan {
            id: id("s"),
            subject: Subject::Component { name, work, undo_work },
            servers: servers.into_iter().collect(),
            parts: parts.iter().map(|part| part.id.clone()).collect(),
            batch,
            canary: 0,
            promote: Promote::Auto,
            undoes: None,
        });
        parts.into_iter().for_each(|part| self.leader.start(part));
        Ok(())
    }

    fn set(&self) -> &Set {
        &self.leader.sets[&id("s")]
    }

    fn cell(&mut self, on: &str, program: &str) -> &mut Cell {
        self.cells.get_mut(&(server(on), name(program))).unwrap()
    }

    fn state(&self, on: &str, program: &str) -> State {
        self.cells[&(server(on), name(program))].placement.state
    }

    fn waits_for(&self) -> Option<String> {
        self.set().wait.as_ref().map(|wait| wait.reason.to_string())
    }

    /// Everybody is heard and obeyed until nothing moves; looks on the way that the rules hold.
    fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.leader.clone();
            self.beat();
            let sends = self.leader.decide(self.now);
            for send in sends {
                self.deliver(&send);
                self.check();
            }
            if self.leader == before {
                return;
            }
        }
        panic!("it never comes to rest: {:#?}", self.leader.sets);
    }

    fn beat(&mut self) {
        let servers: BTreeSet<ServerName> = self.cells.keys().map(|(server, _)| server.clone()).collect();
        for one in servers {
            if self.down.contains(&one) {
                self.leader.down(&one);
                continue;
            }
            let run = self.run(&one);
            self.leader.up(&one, &run, self.now);
            for report in self.reports(&one) {
                self.leader.heard(&one, &run, report);
            }
        }
    }

    fn reports(&self, of: &ServerName) -> Vec<Report> {
        let own = self.cells.iter().filter(|((server, _), _)| server == of);
        own.map(|(_, cell)| Report::of(&cell.placement, cell.healthy, cell.active, 0)).collect()
    }

    fn deliver(&mut self, send: &Send) {
        match send {
            Send::Seal { server, asked } if !self.down.contains(server) => {
                let (run, reports) = (self.run(server), self.reports(server));
                self.leader.sealed(server, *asked, &run, reports);
            }
            Send::Prepare { server, program, release } => self.leader.prepared(server, program, release, Ok(())),
            Send::Command { server, program, command } if !self.down.contains(server) => {
                let run = self.run(server);
                let cell = self.cells.get_mut(&(server.clone(), program.clone())).unwrap();
                if let Ok(effects) = obey(cell, command, &run) {
                    self.perform(server, program, effects);
                }
                let report = self.cells[&(server.clone(), program.clone())].report();
                self.leader.heard(server, &run, report);
            }
            Send::Together { server, operation, members, work, .. } if !self.loses_together => {
                self.together(server, operation, members, work);
            }
            Send::Worked { server, set, operation } => {
                if let Some(worked) = self.worked.get(operation).cloned() {
                    self.leader.worked(set, server, worked);
                }
            }
            _ => {}
        }
    }

    /// All members are judged on copies; then all are so, or none is.
    fn together(
        &mut self,
        on: &ServerName,
        set: &OperationId,
        members: &[crate::domain::ripple::machine::Member],
        work: &Work,
    ) {
        let run = self.run(on);
        let mut next = Vec::new();
        for member in members {
            let cell = &self.cells[&(on.clone(), member.program.clone())];
            let mut placement = cell.placement.clone();
            let active = cell.active;
            let freeze = |_| if active == 0 { Ok(()) } else { Err(NotDrained { open: false, active }) };
            let here = Here { run: &run, now: self.now, lease: LEASE, orphans: 0, sticky: None };
            let Ok(effects) = placement.command(&member.command, &here, freeze) else { return };
            assert_eq!(effects, [Effect::Stop]);
            next.push((member.program.clone(), placement));
        }
        for (program, placement) in next {
            let cell = self.cells.get_mut(&(on.clone(), program)).unwrap();
            (cell.placement, cell.healthy) = (placement, false);
        }
        for member in members {
            let effects = self.happen(on, &member.program, &Event::Stopped);
            assert_eq!(effects, [Effect::Await(set.clone())]);
        }
        let word = work.run[0].clone();
        self.check_nobody_runs(on, members);
        let failure = self.failing.contains(&word).then(|| "the command ended with exit status 1".to_owned());
        self.ran.entry(on.clone()).or_default().push(word);
        self.worked.insert(set.clone(), Worked { failure: failure.clone(), lines: Vec::new(), took_ms: 1 });
        for member in members {
            let effects = self.happen(on, &member.program, &Event::Worked(failure.clone().map_or(Ok(()), Err)));
            self.perform(on, &member.program, effects);
        }
        for report in self.reports(on) {
            self.leader.heard(on, &run, report);
        }
    }

    fn happen(&mut self, on: &ServerName, program: &ProgramName, event: &Event) -> Vec<Effect> {
        let (run, now) = (self.run(on), self.now);
        let cell = self.cells.get_mut(&(on.clone(), program.clone())).unwrap();
        cell.placement.event(event, &Here { run: &run, now, lease: LEASE, orphans: 0, sticky: None })
    }

    fn perform(&mut self, on: &ServerName, program: &ProgramName, mut effects: Vec<Effect>) {
        while let Some(effect) = effects.pop() {
            let event = match effect {
                Effect::Stop => Event::Stopped,
                Effect::Start(_) => {
                    let last = self.ran.get(on).and_then(|ran| ran.last()).cloned();
                    let cell = self.cells.get_mut(&(on.clone(), program.clone())).unwrap();
                    cell.restarts += 1;
                    cell.healthy = cell.not_with.is_none_or(|bad| Some(bad) != last.as_deref());
                    if cell.healthy { Event::Started } else { Event::StartFailed("exit status 1".to_owned()) }
                }
                Effect::CloseGate(_) | Effect::OpenGate(_) | Effect::Report | Effect::Await(_) => continue,
                Effect::KnowGate(_) | Effect::MigrateSessions => continue,
                Effect::StartBeside(_) | Effect::Switch(_) | Effect::StopBeside | Effect::StopOld => {
                    panic!("no member of a set overlaps")
                }
            };
            effects.extend(self.happen(on, program, &event));
        }
    }

    /// While the command runs, no member serves or starts.
    fn check_nobody_runs(&self, on: &ServerName, members: &[crate::domain::ripple::machine::Member]) {
        for member in members {
            let cell = &self.cells[&(on.clone(), member.program.clone())];
            assert_eq!(cell.placement.state, State::Upgrading, "{} is half of it", member.program);
        }
    }

    /// Of each program, one server at least serves.
    fn check(&self) {
        for program in self.leader.list.programs.keys() {
            let own = self.cells.iter().filter(|((_, one), _)| one == program);
            let serving = own.filter(|(_, cell)| cell.placement.state == State::Open).count();
            assert!(serving > 0 || self.failing.contains("anything"), "nobody serves {program}");
        }
    }
}

impl Cell {
    fn report(&self) -> Report {
        Report::of(&self.placement, self.healthy, self.active, 0)
    }
}

fn obey(
    cell: &mut Cell,
    command: &crate::domain::placement::Command,
    run: &RunId,
) -> Result<Vec<Effect>, crate::domain::placement::Refusal> {
    let active = cell.active;
    let freeze = |_| if active == 0 { Ok(()) } else { Err(NotDrained { open: false, active }) };
    cell.placement.command(command, &Here { run, now: 0, lease: LEASE, orphans: 0, sticky: None }, freeze)
}

fn policy(batch: usize) -> Policy {
    Policy {
        batch,
        strategy: Default::default(),
        max_utilization_milli: 0,
        capacity_wait: Duration::ZERO,
        canary: 0,
        promote: Promote::Auto,
        rollback_on: None,
        hooks: Vec::new(),
        min_serving: 0,
        drain_timeout: Duration::from_secs(3_600),
        on_drain_timeout: OnDrainTimeout::Abort,
        long_lived: LongLived::Wait,
        soak: Duration::ZERO,
        unhealthy_limit: Duration::from_secs(60),
    }
}

const BOTH: [&str; 2] = ["a", "b"];

#[test]
fn the_command_runs_once_on_each_server_and_only_members_are_restarted() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH), ("site", &BOTH)]);
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    assert_eq!(world.set().state, RippleState::Upgraded, "{:?}", world.set());
    assert_eq!(world.ran.values().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    for on in BOTH {
        assert_eq!([world.cell(on, "shop").restarts, world.cell(on, "mail").restarts], [1, 1]);
        let untouched = &world.cell(on, "site").placement;
        assert_eq!((untouched.generation, untouched.state), (Generation(1), State::Open));
    }
    assert!(world.leader.ripples.values().all(|part| part.state == RippleState::Upgraded));
    assert!(world.set().worked.values().all(|worked| worked.failure.is_none()));
}

#[test]
fn all_members_are_drained_before_the_command_runs_and_it_says_who_is_not() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH)]);
    world.cell("a", "mail").active = 1;
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    assert_eq!([world.state("a", "shop"), world.state("a", "mail")], [State::Quiescing; 2]);
    assert_eq!([world.state("b", "shop"), world.state("b", "mail")], [State::Open; 2]);
    assert!(world.ran.is_empty());
    assert_eq!(world.waits_for().unwrap(), "mail: 1 active request");
    world.cell("a", "mail").active = 0;
    world.settle();
    assert_eq!(world.set().state, RippleState::Upgraded);
}

#[test]
fn a_member_that_may_not_close_its_gate_keeps_all_of_them_open() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &["a", "c"])]);
    world.start(&[("shop", &["a"]), ("mail", &["a"])], 1).unwrap();
    // Where mail is not touched it does not serve: its margin is gone before the first step.
    world.cell("c", "mail").healthy = false;
    world.settle();
    assert_eq!([world.state("a", "shop"), world.state("a", "mail")], [State::Open; 2], "nothing is held");
    assert!(world.waits_for().unwrap().starts_with("mail: more servers to serve"), "{:?}", world.waits_for());
    assert!(world.leader.list.cells.values().flatten().all(|(_, cell)| cell.unanswered.is_none()));
    world.cell("c", "mail").healthy = true;
    world.settle();
    assert_eq!(world.set().state, RippleState::Upgraded);
}

#[test]
fn losing_one_member_gives_back_all_and_begins_anew() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH)]);
    world.cell("a", "mail").active = 1;
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    let lease = Event::Tick;
    world.now = LEASE.as_millis() as Millis;
    let before = world.cell("a", "mail").placement.generation;
    let effects = world.happen(&server("a"), &name("shop"), &lease);
    assert!(!effects.is_empty(), "its lease ran out");
    world.beat();
    world.leader.decide(world.now);
    assert!(world.ran.is_empty());
    world.settle();
    let mail = &world.cell("a", "mail").placement;
    assert!(mail.generation > before.next(), "it was opened again, and quiesced again: {mail:?}");
    assert_eq!([world.state("a", "shop"), world.state("a", "mail")], [State::Quiescing; 2]);
    world.cell("a", "mail").active = 0;
    world.settle();
    assert_eq!((world.set().state, world.ran[&server("a")].len()), (RippleState::Upgraded, 1));
}

#[test]
fn a_command_that_fails_stops_the_set_and_is_undone() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH)]);
    world.failing.insert("new".to_owned());
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    assert_eq!(world.set().state, RippleState::Failed);
    assert!(world.set().reason.as_ref().unwrap().contains("exit status 1"), "{:?}", world.set().reason);
    assert_eq!(world.ran[&server("a")], ["new", "old"]);
    assert!(!world.ran.contains_key(&server("b")), "the next server is not touched");
    assert!(world.cells.values().all(|cell| cell.placement.state == State::Open));
    let undo = world.leader.sets.values().find(|set| set.plan.undoes == Some(id("s"))).unwrap();
    assert_eq!(undo.state, RippleState::Undone);
}

#[test]
fn a_program_that_does_not_start_with_the_new_component_has_it_taken_back() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH)]);
    world.cell("b", "mail").not_with = Some("new");
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    assert_eq!(world.set().state, RippleState::Failed);
    assert_eq!(
        (&world.ran[&server("a")][..], &world.ran[&server("b")][..]),
        (&["new".into(), "old".into()][..], &["new".to_string(), "old".into()][..])
    );
    assert!(world.cells.values().all(|cell| cell.placement.state == State::Open), "{:?}", world.state("b", "mail"));
}

#[test]
fn what_was_not_begun_is_not_undone_and_what_was_is_undone_in_reverse() {
    let mut world = World::new(&[("shop", &BOTH)]);
    world.start(&[("shop", &BOTH)], 1).unwrap();
    let (set, parts) = (world.set().clone(), world.leader.ripples.values().cloned().collect::<Vec<_>>());
    assert_eq!(undo(id("u"), &set, &parts.iter().collect::<Vec<_>>()), Err(NoUndo::Nothing));
    world.settle();
    let (set, parts) = (world.set().clone(), world.leader.ripples.values().cloned().collect::<Vec<_>>());
    let back = undo(id("u"), &set, &parts.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(back.set.servers, [server("b"), server("a")]);
    let plans = world.leader.undo_set(id("u"), &set, &parts.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(plans.len(), 1);
    world.settle();
    assert_eq!(world.leader.sets[&id("u")].state, RippleState::Undone);
    assert_eq!(world.ran[&server("a")], ["new", "old"]);
}

#[test]
fn an_abort_in_a_drain_opens_every_member_and_nothing_is_run() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH)]);
    world.cell("a", "mail").active = 1;
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    assert!(world.leader.ask_set(&id("s"), Asked::Abort));
    world.settle();
    assert_eq!((world.set().state, world.ran.len()), (RippleState::Aborted, 0));
    assert!(world.cells.values().all(|cell| cell.placement.state == State::Open));
}

#[test]
fn a_set_that_is_paused_begins_no_further_server() {
    let mut world = World::new(&[("shop", &BOTH)]);
    world.cell("a", "shop").active = 1;
    world.start(&[("shop", &BOTH)], 1).unwrap();
    world.settle();
    world.leader.ask_set(&id("s"), Asked::Pause);
    world.cell("a", "shop").active = 0;
    world.settle();
    assert_eq!((world.set().state, world.ran.len()), (RippleState::Paused, 1));
    world.leader.ask_set(&id("s"), Asked::Nothing);
    world.settle();
    assert_eq!((world.set().state, world.ran.len()), (RippleState::Upgraded, 2));
}

#[test]
fn an_order_that_is_lost_on_the_way_is_given_again() {
    let mut world = World::new(&[("shop", &BOTH), ("mail", &BOTH)]);
    world.loses_together = true;
    world.start(&[("shop", &BOTH), ("mail", &BOTH)], 1).unwrap();
    world.settle();
    assert_eq!([world.state("a", "shop"), world.state("a", "mail")], [State::Quiescing; 2]);
    world.loses_together = false;
    world.settle();
    assert_eq!(world.set().state, RippleState::Upgraded);
}

#[test]
fn a_component_that_the_only_server_uses_is_refused_when_it_is_planned() {
    let mut world = World::new(&[("shop", &["a"])]);
    let refused = world.start(&[("shop", &["a"])], 1).unwrap_err();
    assert_eq!(refused, plan::NoPlan::MinServing { serving: 1, min_serving: 1 });
}

#[test]
fn a_member_of_a_set_obeys_together_only_where_it_was_quiesced() {
    let mut placement = Placement::absent(name("shop"));
    let run = RunId::new("r").unwrap();
    let term = Term { number: 1, management: NodeName::new("m").unwrap() };
    let desired = crate::domain::placement::Desired {
        release: Some(release()),
        stamp: crate::domain::placement::Stamp { term: term.clone(), revision: Revision(1) },
    };
    let set = OperationId::new("set").unwrap();
    let order = Order::Together { to: release(), desired, force: false, set };
    let operation = OperationId::new("o").unwrap();
    let command =
        crate::domain::placement::Command { term, operation, run: run.clone(), expected: Generation(0), order };
    let here = Here { run: &run, now: 0, lease: LEASE, orphans: 0, sticky: None };
    assert!(placement.command(&command, &here, |_| Ok(())).is_err());
    assert_eq!(placement.state, State::Absent);
}
