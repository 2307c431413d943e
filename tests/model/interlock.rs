//! Owns the model of ripples of several programs on the same servers, one management deciding: at most one program is out
//! of service on a server at a time unless there is room, and the ripples never wait for each other for ever.
//! Of faults it knows one, an instance that fails and is well again: the others are the other models'.

use std::collections::BTreeMap;
use std::time::Duration;

use neap::domain::leader::Leader;
use neap::domain::names::{Generation, NodeName, ProgramName, Revision, RippleId, RunId, ServerName, Term};
use neap::domain::placement::{Effect, Event, Here, Placement, State};
use neap::domain::program::{LongLived, MinServing, OnDrainTimeout, Strategy};
use neap::domain::ripple::machine::Send;
use neap::domain::ripple::plan::{Ask, Policy, RippleKind, plan};
use neap::domain::server_list::{Report, ServerList, Wanted};
use stateright::{Model, Property};

use super::explore::walk;
use super::world::{release, server_name};

struct Programs {
    programs: usize,
    servers: usize,
    /// What each program uses everywhere, of two cores a server.
    cpu_milli: u32,
    /// Off: nobody looks at neighbours.
    blind: bool,
    /// How often an instance fails.
    failures: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Both {
    leader: Leader,
    sends: Vec<Send>,
    placements: BTreeMap<(ProgramName, ServerName), Placement>,
    /// Whose instance has failed, and is not well yet.
    ill: Option<(ProgramName, ServerName)>,
    failures: u8,
}

fn name(program: usize) -> ProgramName {
    ProgramName::new(["p", "q", "r"][program]).expect("a name")
}

fn run(server: &ServerName) -> RunId {
    RunId::new(server.as_str()).expect("a run")
}

fn report(placement: &Placement, ill: bool) -> Report {
    Report::of(placement, placement.state.takes_requests() && !ill, 0, 0)
}

impl Both {
    fn hear(&mut self, program: &ProgramName, server: &ServerName) {
        let ill = self.ill.as_ref() == Some(&(program.clone(), server.clone()));
        let told = report(&self.placements[&(program.clone(), server.clone())], ill);
        self.leader.heard(server, &run(server), told);
    }
}

impl Programs {
    fn servers(&self) -> Vec<ServerName> {
        (0..self.servers).map(server_name).collect()
    }

    fn ask(&self, program: usize) -> Ask {
        Ask {
            id: RippleId::new(format!("to-2-{program}")).expect("an id"),
            kind: RippleKind::Upgrade,
            program: name(program),
            to: Some(release(2)),
            // Each begins somewhere else.
            servers: (0..self.servers).map(|at| server_name((at + program) % self.servers)).collect(),
            min_serving: MinServing::Auto,
            holds: false,
            hooks: Default::default(),
            policy: Policy {
                strategy: Strategy::Quiesce,
                batch: 1,
                canary: 0,
                promote: Default::default(),
                rollback_on: None,
                hooks: Vec::new(),
                max_utilization_milli: if self.blind { 1_000_000 } else { 800 },
                capacity_wait: Duration::from_secs(600),
                min_serving: 0,
                drain_timeout: Duration::from_secs(30),
                on_drain_timeout: OnDrainTimeout::Abort,
                long_lived: LongLived::Wait,
                soak: Duration::ZERO,
                unhealthy_limit: Duration::from_secs(60),
            },
        }
    }

    fn settle(&self, both: &mut Both) {
        for round in 0.. {
            let before = both.leader.clone();
            both.sends = both.leader.decide(0);
            for send in &both.sends {
                if let Send::Prepare { server, program, release } = send {
                    both.leader.prepared(server, program, release, Ok(()));
                }
            }
            if both.leader == before {
                break;
            }
            assert!(round < 32, "decide never comes to rest");
        }
        both.sends.retain(|send| matches!(send, Send::Command { .. }));
    }
}

/// A message arrives, and what it leads to is done and told, at once; or one of the many waits ends.
#[derive(Clone, PartialEq, Debug)]
enum Step {
    Obeys(usize),
    Fails(usize, usize),
    /// Management hears of it later, with whatever comes next from there.
    IsWell,
    Tells(usize, usize),
}

impl Model for Programs {
    type State = Both;
    type Action = Step;

    fn init_states(&self) -> Vec<Both> {
        let servers = self.servers();
        let wanted = |_: usize| Wanted { release: Some(release(1)), servers: servers.clone() };
        let programs = (0..self.programs).map(|program| (name(program), wanted(program))).collect();
        let list = ServerList { programs, ..ServerList::default() };
        let term = Term { number: 1, management: NodeName::new("m").expect("a name") };
        let mut leader = Leader::new(term, Revision(0), list, BTreeMap::new());
        let mut placements = BTreeMap::new();
        for server in &servers {
            leader.up(server, &run(server), 0);
            let mut reports = Vec::new();
            for program in (0..self.programs).map(name) {
                let mut placement = Placement::absent(program.clone());
                (placement.state, placement.generation) = (State::Open, Generation(1));
                placement.release = Some(release(1));
                reports.push(report(&placement, false));
                placements.insert((program, server.clone()), placement);
            }
            leader.sealed(server, 0, &run(server), reports);
            leader.uses(server, 2, &(0..self.programs).map(|program| (name(program), self.cpu_milli)).collect());
        }
        for program in 0..self.programs {
            leader.start(plan(self.ask(program), &leader.list).expect("a plan"));
        }
        let mut both = Both { leader, sends: Vec::new(), placements, ill: None, failures: self.failures };
        self.settle(&mut both);
        vec![both]
    }

    fn actions(&self, both: &Both, steps: &mut Vec<Step>) {
        steps.extend((0..both.sends.len()).map(Step::Obeys));
        if both.ill.is_some() {
            steps.push(Step::IsWell);
        }
        for (program, server) in (0..self.programs).flat_map(|program| (0..self.servers).map(move |at| (program, at))) {
            let at = (name(program), server_name(server));
            if both.failures > 0 && both.ill.is_none() && both.placements[&at].state == State::Open {
                steps.push(Step::Fails(program, server));
            }
            if self.failures > 0 {
                steps.push(Step::Tells(program, server));
            }
        }
    }

    fn next_state(&self, last: &Both, step: Step) -> Option<Both> {
        let mut both = last.clone();
        match step {
            Step::Obeys(index) => {
                let Send::Command { server, program, command } = &last.sends[index] else { return None };
                let placement = both.placements.get_mut(&(program.clone(), server.clone()))?;
                let run = run(server);
                let here = Here { run: &run, now: 0, lease: Duration::from_secs(60), orphans: 0, sticky: None };
                let mut effects = placement.command(command, &here, |_| Ok(())).ok()?;
                while let Some(effect) = effects.pop() {
                    let event = match effect {
                        Effect::Stop => Event::Stopped,
                        Effect::Start(_) => Event::Started,
                        _ => continue,
                    };
                    effects.extend(placement.event(&event, &here));
                }
                // What starts is well.
                let starts = placement.state == State::Open && both.ill.as_ref().is_some_and(|(ill, _)| ill == program);
                both.ill = both.ill.take().filter(|(_, at)| !starts || at != server);
                both.hear(program, server);
            }
            Step::Fails(program, server) => {
                (both.ill, both.failures) = (Some((name(program), server_name(server))), last.failures - 1);
                both.hear(&name(program), &server_name(server));
            }
            Step::IsWell => both.ill = None,
            Step::Tells(program, server) => both.hear(&name(program), &server_name(server)),
        }
        self.settle(&mut both);
        (both != *last).then_some(both)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("one program at a time is out on a server", |model: &Self, both: &Both| {
            model.servers().iter().all(|server| {
                let out = |program: usize| {
                    let state = both.placements[&(name(program), server.clone())].state;
                    matches!(state, State::Quiescing | State::Upgrading)
                };
                (0..model.programs).filter(|program| out(*program)).count() <= 1
            })
        })]
    }
}

fn ended(both: &Both) -> bool {
    both.leader.ripples.values().all(|ripple| ripple.state.is_over())
        && both.placements.values().all(|placement| placement.release == Some(release(2)))
}

#[test]
fn ripples_of_several_programs_interlock_and_all_end() {
    for (programs, servers) in [(2, 2), (2, 3), (3, 2)] {
        let model = Programs { programs, servers, cpu_milli: 350, blind: false, failures: 0 };
        walk(&model, ended, 1_500_000).assert_sound(&format!("{programs} programs on {servers} servers"));
    }
}

#[test]
fn a_program_that_fails_and_is_well_again_is_not_taken_out_beside_another() {
    let model = Programs { programs: 2, servers: 2, cpu_milli: 350, blind: false, failures: 1 };
    walk(&model, ended, 1_500_000).assert_sound("2 programs on 2 servers, a failure");
}

#[test]
fn where_nobody_looks_at_neighbours_two_programs_are_out_on_one_server() {
    let walk = walk(&Programs { programs: 2, servers: 2, cpu_milli: 350, blind: true, failures: 0 }, ended, 1_500_000);
    let (property, way) = walk.broken.expect("the checker finds it");
    println!("{property}\n{}", way.join("\n"));
}
