//! Owns what a ripple will do, computed before it starts and immutable from then on.
//! Must not know how far a ripple is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{hooks, safety};
use crate::domain::names::{ProgramName, Release, RippleId, ServerName};
use crate::domain::program::{Hooks, LongLived, MinServing, OnDrainTimeout, Promote, RollbackOn, Strategy};
use crate::domain::server_list::ServerList;

/// Why a ripple runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RippleKind {
    /// The first release of a program that runs nowhere yet: on all its servers at once.
    Install,
    Upgrade,
    /// To the version that runs already.
    Restart,
    /// A server that is behind what is desired of it (protocol P13).
    CatchUp,
    /// The program is taken away.
    Remove,
    /// Leaves service for as long as another program of its server is upgraded.
    Aside,
    /// Every server that another ripple touched goes back to what was desired there before.
    Undo,
}

/// One server's part.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PlannedStep {
    pub server: ServerName,
    /// What was desired there when the ripple was planned; an undo goes back to it.
    pub from: Option<Release>,
    /// Of an undo: what this server goes back to.
    #[serde(default)]
    pub back_to: Option<Release>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub id: RippleId,
    pub kind: RippleKind,
    pub program: ProgramName,
    /// What the program is to have as a whole. `None`: it is removed.
    pub to: Option<Release>,
    pub steps: Vec<PlannedStep>,
    pub policy: Policy,
    /// What was desired of the program as a whole when the ripple was planned.
    #[serde(default)]
    pub was: Option<Release>,
    /// Of an undo: the ripple that is undone.
    #[serde(default)]
    pub undoes: Option<RippleId>,
    /// The set that it is a part of, which drives it.
    #[serde(default)]
    pub set: Option<RippleId>,
}

impl Plan {
    /// What a step's server is to have. `None`: the program is taken away there.
    pub fn target(&self, index: usize) -> Option<&Release> {
        match self.kind {
            RippleKind::Undo => self.steps[index].back_to.as_ref(),
            _ => self.to.as_ref(),
        }
    }

    /// Whether a server has to get this release.
    pub fn brings(&self, server: &ServerName, release: &Release) -> bool {
        (0..self.steps.len()).any(|index| self.steps[index].server == *server && self.target(index) == Some(release))
    }
}

/// How careful the ripple is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Policy {
    #[serde(default)]
    pub strategy: Strategy,
    /// Servers at a time.
    pub batch: usize,
    /// So many servers first; then it waits to be promoted. 0: none.
    #[serde(default)]
    pub canary: usize,
    #[serde(default)]
    pub promote: Promote,
    /// By what the new version is judged while it soaks; `None`: it is not.
    #[serde(default)]
    pub rollback_on: Option<RollbackOn>,
    /// Commands that go with it.
    #[serde(default)]
    pub hooks: Vec<hooks::Hook>,
    /// Of a server's cores, in thousandths, what those that stay may use for a gate to close; 0: any.
    #[serde(default)]
    pub max_utilization_milli: u32,
    /// How long it waits for that until it pauses.
    #[serde(default, with = "crate::domain::duration::millis")]
    pub capacity_wait: Duration,
    /// Placements that stay open and healthy throughout.
    pub min_serving: usize,
    #[serde(with = "crate::domain::duration::millis")]
    pub drain_timeout: Duration,
    pub on_drain_timeout: OnDrainTimeout,
    pub long_lived: LongLived,
    #[serde(with = "crate::domain::duration::millis")]
    pub soak: Duration,
    /// How long a new instance may take until it is healthy again, once it was.
    #[serde(with = "crate::domain::duration::millis")]
    pub unhealthy_limit: Duration,
}

/// What was asked for, before it is checked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub id: RippleId,
    pub kind: RippleKind,
    pub program: ProgramName,
    pub to: Option<Release>,
    pub servers: Vec<ServerName>,
    pub min_serving: MinServing,
    /// Routers hold requests: no placement has to stay open.
    pub holds: bool,
    /// Its hooks are worked out by `plan`.
    pub policy: Policy,
    pub hooks: Hooks,
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoPlan {
    #[error("ripple {under_way} of this program is under way")]
    Busy { under_way: RippleId },
    #[error("no server that is up hosts this program")]
    NoServer,
    #[error("it already runs everywhere")]
    NothingToDo,
    #[error("{serving} of its servers serve it; taking one out would leave fewer than {min_serving}")]
    MinServing { serving: usize, min_serving: usize },
}

/// Computes a plan, or says why there is none.
pub fn plan(ask: Ask, list: &ServerList) -> Result<Plan, NoPlan> {
    let steps: Vec<PlannedStep> = ask.servers.iter().map(|server| planned_step(&ask.program, server, list)).collect();
    let up = |step: &PlannedStep| list.servers.get(&step.server).is_some_and(|server| server.up);
    if !steps.iter().any(up) {
        return Err(NoPlan::NoServer);
    }
    let runs_nowhere = steps.iter().all(|step| step.from.is_none());
    let kind = if runs_nowhere && ask.kind == RippleKind::Upgrade { RippleKind::Install } else { ask.kind };
    if kind == RippleKind::Upgrade && runs_everywhere(&ask, list) {
        return Err(NoPlan::NothingToDo);
    }
    let mut policy = ask.policy;
    policy.batch = policy.batch.clamp(1, steps.len());
    if policy.canary >= steps.len() {
        // Nobody would be left to be promoted to.
        policy.canary = 0;
    }
    if matches!(kind, RippleKind::Install | RippleKind::Remove) {
        policy.batch = steps.len();
        // There is nobody yet, or nobody any more, whose requests could tell anything.
        policy.soak = Duration::ZERO;
        policy.canary = 0;
        policy.max_utilization_milli = 0;
    }
    policy.hooks = hooks::planned(kind, &ask.hooks);
    let serving = list.serving(&ask.program).count();
    policy.min_serving = match kind {
        RippleKind::Install | RippleKind::Remove => 0,
        _ => safety::min_serving(ask.min_serving, serving, policy.batch, ask.holds),
    };
    let overlaps = policy.strategy == Strategy::Overlap;
    let closes_a_gate = !overlaps && steps.iter().any(|step| list.serves(&ask.program, &step.server));
    if closes_a_gate && kind != RippleKind::Remove && !safety::may_close_one(serving, policy.min_serving) {
        return Err(NoPlan::MinServing { serving, min_serving: policy.min_serving });
    }
    let was = list.programs.get(&ask.program).and_then(|wanted| wanted.release.clone());
    Ok(Plan { id: ask.id, kind, program: ask.program, to: ask.to, steps, policy, was, undoes: None, set: None })
}

fn planned_step(program: &ProgramName, server: &ServerName, list: &ServerList) -> PlannedStep {
    let desired = list.cell(program, server).and_then(|cell| cell.desired.as_ref());
    let observed = list.observed(program, server).and_then(|seen| seen.release.clone());
    // Of a server that has told nothing yet, it is what the program is to have everywhere.
    let silent = list.servers.get(server).is_none_or(|server| server.sealed.is_none());
    let presumed = list.programs.get(program).and_then(|wanted| wanted.release.clone()).filter(|_| silent);
    let from = desired.and_then(|desired| desired.release.clone()).or(observed).or(presumed);
    PlannedStep { server: server.clone(), from, back_to: None }
}

fn runs_everywhere(ask: &Ask, list: &ServerList) -> bool {
    let mut up = ask.servers.iter().filter(|name| list.servers.get(*name).is_some_and(|server| server.up)).peekable();
    up.peek().is_some()
        && up.all(|server| {
            let runs = list.observed(&ask.program, server).and_then(|seen| seen.release.as_ref());
            runs == ask.to.as_ref() && list.serves(&ask.program, server)
        })
}
