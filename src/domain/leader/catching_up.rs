//! Owns catching up: a server that is behind what is desired of it gets a ripple of its own (protocol P13). Must not know how
//! a ripple goes.

use std::collections::BTreeSet;

use super::Leader;
use crate::domain::names::{ProgramName, Release, RippleId, ServerName};
use crate::domain::placement::{Desired, State};
use crate::domain::program::{LongLived, OnDrainTimeout};
use crate::domain::ripple::plan::{Plan, PlannedStep, Policy, RippleKind};
use crate::domain::server_list::Server;

impl Leader {
    /// Starts a ripple of one step for each program of which a server is behind what is desired of it; also where that is
    /// nothing, since it was down when the program was removed.
    pub(super) fn catch_up(&mut self) {
        let programs: BTreeSet<&ProgramName> = self.list.programs.keys().chain(self.list.cells.keys()).collect();
        let idle = programs.into_iter().filter(|program| self.under_way(program).is_none());
        let behind = idle.filter_map(|program| match self.list.programs.contains_key(program) {
            true => self.behind(program).map(|(program, server, to)| (program, server, Some(to))),
            false => self.left_over(program).map(|server| (program.clone(), server, None)),
        });
        let behind: Vec<(ProgramName, ServerName, Option<Release>)> = behind.collect();
        for (program, server, to) in behind {
            let from = self.list.observed(&program, &server).and_then(|seen| seen.release.clone());
            let Some(operation) = self.mint.operation() else { continue };
            let Ok(id) = RippleId::new(format!("catch-up-{operation}")) else { continue };
            let steps = vec![PlannedStep { server, from, back_to: None }];
            let was = self.list.programs.get(&program).and_then(|wanted| wanted.release.clone());
            // Of a program that was removed, nobody has to stay.
            let policy = Policy { min_serving: usize::from(to.is_some()), ..catch_up_policy() };
            self.start(Plan {
                id,
                kind: RippleKind::CatchUp,
                program,
                to,
                steps,
                policy,
                was,
                undoes: None,
                set: None,
            });
        }
    }

    fn behind(&self, program: &ProgramName) -> Option<(ProgramName, ServerName, Release)> {
        let wanted = self.list.programs.get(program)?;
        wanted.servers.iter().find_map(|server| {
            let may = |entry: &&Server| entry.up && entry.sealed.is_some() && !entry.drained;
            self.list.servers.get(server).filter(may)?;
            let seen = self.list.observed(program, server);
            let state = seen.map_or(State::Absent, |seen| seen.state);
            let desired = self.list.cell(program, server).and_then(|cell| cell.desired.as_ref());
            let to = desired.map_or(wanted.release.clone(), |desired| desired.release.clone())?;
            let is_behind = matches!(state, State::Absent | State::Closed | State::Open)
                && seen.and_then(|seen| seen.release.as_ref()) != Some(&to);
            is_behind.then(|| (program.clone(), server.clone(), to))
        })
    }

    /// A server that still has a program which was removed while it was down.
    fn left_over(&self, program: &ProgramName) -> Option<ServerName> {
        let cells = self.list.cells.get(program)?;
        let is_left = |server: &ServerName, desired: Option<&Desired>| {
            let up = self.list.servers.get(server).is_some_and(|entry| entry.up && !entry.drained);
            let seen = self.list.observed(program, server);
            let runs = seen.is_some_and(|seen| {
                seen.release.is_some() && matches!(seen.state, State::Closed | State::Open | State::Failed)
            });
            up && runs && desired.is_some_and(|desired| desired.release.is_none())
        };
        cells.iter().find_map(|(server, cell)| is_left(server, cell.desired.as_ref()).then(|| server.clone()))
    }
}

/// How a server that is behind is brought up: carefully, and giving up rather than cutting anyone.
fn catch_up_policy() -> Policy {
    Policy {
        strategy: Default::default(),
        batch: 1,
        canary: 0,
        promote: Default::default(),
        rollback_on: None,
        hooks: Vec::new(),
        max_utilization_milli: 0,
        capacity_wait: std::time::Duration::ZERO,
        min_serving: 1,
        drain_timeout: std::time::Duration::from_secs(300),
        on_drain_timeout: OnDrainTimeout::Abort,
        long_lived: LongLived::Wait,
        soak: std::time::Duration::ZERO,
        unhealthy_limit: std::time::Duration::from_secs(60),
    }
}
