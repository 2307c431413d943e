//! Owns sets: ripples of several programs that are one on each server, since one thing is done there to all of them
//! (protocol P15). A step takes its place and all its margins in one decision, or nothing, and holds nothing while it
//! waits; losing one member gives back all. Must not know how one program's step goes (`step.rs`).

mod round;
mod undo;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use round::advance;
pub use undo::{Undone, undo};

use super::wait::Wait;
use super::{Asked, Ripple, RippleState, StepPhase};
use crate::domain::names::{ComponentName, OperationId, ProgramName, RippleId, ServerName};
use crate::domain::placement::{Command, Order, Work, Worked};
use crate::domain::program::Promote;

/// What is done to all members at once.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "subject", rename_all = "snake_case")]
pub enum Subject {
    /// A component is replaced by a command while none of the programs that use it runs.
    Component { name: ComponentName, work: Work, undo_work: Option<Work> },
    /// One program is upgraded, and all others of its server leave service with it.
    Server { program: ProgramName },
}

/// What a set will do, computed before it starts and immutable from then on.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SetPlan {
    pub id: RippleId,
    pub subject: Subject,
    /// In the order of the steps.
    pub servers: Vec<ServerName>,
    /// A ripple of each program, with the servers where it is a member.
    pub parts: Vec<RippleId>,
    /// Servers at a time.
    pub batch: usize,
    /// So many servers first; then it waits to be promoted. 0: none.
    pub canary: usize,
    pub promote: Promote,
    /// Of an undo: the set that is undone.
    pub undoes: Option<RippleId>,
}

/// One run of a set: its plan, and how far it is beyond what its parts say.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Set {
    pub plan: SetPlan,
    pub state: RippleState,
    pub asked: Asked,
    pub promoted: bool,
    /// The latest order to a server's members: under this id.
    #[serde(default)]
    pub ordered: BTreeMap<ServerName, OperationId>,
    /// How the work ended, by server.
    pub worked: BTreeMap<ServerName, Worked>,
    /// It was no good: what was done is undone by a set of its own.
    pub undoes_itself: bool,
    /// Why it failed or was aborted.
    pub reason: Option<String>,
    /// What it waits for now.
    #[serde(skip)]
    pub wait: Option<Wait>,
}

impl Set {
    pub fn new(plan: SetPlan) -> Self {
        Self {
            plan,
            state: RippleState::Running,
            asked: Asked::Nothing,
            promoted: false,
            ordered: BTreeMap::new(),
            worked: BTreeMap::new(),
            undoes_itself: false,
            reason: None,
            wait: None,
        }
    }

    /// How the work of a step ended, by the word of its server.
    pub fn worked(&mut self, server: &ServerName, worked: Worked) {
        self.worked.insert(server.clone(), worked);
    }

    /// Whether a part's program is the one that leaves service for another's sake.
    pub fn is_aside(&self, part: &Ripple) -> bool {
        matches!(&self.plan.subject, Subject::Server { program } if *program != part.plan.program)
    }
}

/// Where a set stands on one server, by what its parts say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing is ordered there, and something is to be.
    Waits,
    UnderWay,
    Over,
}

/// The stage of a server, from the phases of its members.
pub fn stage<'a>(phases: impl Iterator<Item = &'a StepPhase> + Clone) -> Stage {
    if phases.clone().all(StepPhase::is_over) {
        return Stage::Over;
    }
    let under_way = |phase: &StepPhase| !phase.is_over() && *phase != StepPhase::Pending;
    match phases.clone().any(under_way) {
        true => Stage::UnderWay,
        false => Stage::Waits,
    }
}

/// The phases of a server's members among these parts.
pub fn phases<'a>(
    parts: impl Iterator<Item = &'a Ripple> + Clone,
    server: &'a ServerName,
) -> impl Iterator<Item = &'a StepPhase> + Clone {
    parts.filter_map(move |part| {
        let index = part.plan.steps.iter().position(|step| step.server == *server)?;
        Some(&part.steps[index])
    })
}

/// Whether a command is one that stops the program.
fn is_upgrade_order(command: &Command) -> bool {
    matches!(command.order, Order::Upgrade { .. } | Order::Remove { .. })
}

/// A member's upgrade, as a part of the set's.
fn joined(command: Command, set: &OperationId) -> Command {
    let order = match command.order {
        Order::Upgrade { to, desired, force } => Order::Together { to, desired, force, set: set.clone() },
        other => other,
    };
    Command { order, ..command }
}

#[cfg(test)]
mod tests;
