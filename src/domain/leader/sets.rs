//! Owns how a leadership drives sets: in turn, one at a time on each server, and back again where one was no good.
//! Must not know how one set goes.

use std::collections::{BTreeMap, BTreeSet};

use super::Leader;
use crate::domain::names::{RippleId, ServerName};
use crate::domain::placement::{Millis, Worked};
use crate::domain::ripple::machine::Send;
use crate::domain::ripple::plan::Plan;
use crate::domain::ripple::set::{self, Set, SetPlan, Stage, Undone};
use crate::domain::ripple::undo::NoUndo;
use crate::domain::ripple::wait::{Reason, Wait};
use crate::domain::ripple::{Asked, Ripple, StepPhase};

impl Leader {
    /// Starts a set of which the parts are started, or soon will be.
    pub fn start_set(&mut self, plan: SetPlan) {
        self.sets.insert(plan.id.clone(), Set::new(plan));
    }

    /// The set that an id means: its own, or that of a part of it.
    pub fn set_of(&self, id: &RippleId) -> Option<&RippleId> {
        self.sets
            .values()
            .map(|set| &set.plan)
            .find(|plan| plan.id == *id || plan.parts.contains(id))
            .map(|plan| &plan.id)
    }

    /// Asks a running set to stop, pause or go on; answers whether it is one.
    pub fn ask_set(&mut self, id: &RippleId, asked: Asked) -> bool {
        match self.sets.get_mut(id).filter(|set| !set.state.is_over()) {
            Some(set) if set.asked != Asked::Abort => {
                set.asked = asked;
                true
            }
            Some(_) => asked == Asked::Abort,
            None => false,
        }
    }

    /// A person has seen enough of a set's canaries; answers whether it has any, and is not over.
    pub fn promote_set(&mut self, id: &RippleId) -> bool {
        let Some(set) = self.sets.get_mut(id).filter(|set| !set.state.is_over() && set.plan.canary > 0) else {
            return false;
        };
        if !std::mem::replace(&mut set.promoted, true) {
            let parts: Vec<&mut Ripple> =
                self.ripples.values_mut().filter(|ripple| ripple.plan.set.as_ref() == Some(id)).collect();
            for step in parts.into_iter().flat_map(|part| &mut part.steps) {
                if let StepPhase::Soaking { soak } = step {
                    soak.enough = true;
                }
            }
        }
        true
    }

    /// How the work of a set ended on a server.
    pub fn worked(&mut self, id: &RippleId, server: &ServerName, worked: Worked) {
        if let Some(set) = self.sets.get_mut(id) {
            set.worked(server, worked);
        }
    }

    /// Starts the way back from a set. One that runs is stopped first. `parts`: its own, over or not.
    pub fn undo_set(&mut self, id: RippleId, undone: &Set, parts: &[&Ripple]) -> Result<Vec<Plan>, NoUndo> {
        let busy = parts.iter().find_map(|part| {
            let other = self.under_way(&part.plan.program)?;
            (other.plan.set.as_ref() != Some(&undone.plan.id)).then(|| other.plan.id.clone())
        });
        if let Some(under_way) = busy {
            return Err(NoUndo::Busy { under_way });
        }
        let back = set::undo(id, undone, parts);
        let running = self.sets.get_mut(&undone.plan.id).filter(|set| !set.state.is_over());
        match (running, &back) {
            (Some(running), Ok(Undone { set, .. })) => {
                running.asked = Asked::Abort;
                running.reason.get_or_insert_with(|| format!("undone by ripple {}", set.id));
            }
            // It has changed nothing yet, and shall not.
            (Some(running), Err(NoUndo::Nothing)) => running.asked = Asked::Abort,
            _ => {}
        }
        let Undone { set, parts } = back?;
        for part in &parts {
            self.start(part.clone());
        }
        self.start_set(set);
        Ok(parts)
    }

    /// Moves every set, the oldest first, so that two of them that want the same server do not wait for each other.
    pub(super) fn advance_sets(&mut self, now: Millis) -> Vec<Send> {
        let mut sets = std::mem::take(&mut self.sets);
        let running: BTreeSet<RippleId> =
            sets.values().filter(|set| !set.state.is_over()).map(|set| set.plan.id.clone()).collect();
        let mut taken = self.taken(&sets);
        let mut sends = Vec::new();
        for set in sets.values_mut().filter(|set| !set.state.is_over()) {
            if let Some(undone) = set.plan.undoes.clone().filter(|undone| running.contains(undone)) {
                set.wait = Some(Wait { server: None, reason: Reason::Stopping { ripple: undone }, until: None });
                continue;
            }
            let others = others(&taken, &set.plan.id);
            let (more, mut now_taken) = self.advance_set(set, others, now);
            now_taken.retain(|server| !taken.contains_key(server));
            taken.extend(now_taken.into_iter().map(|server| (server, set.plan.id.clone())));
            sends.extend(more);
        }
        self.sets = sets;
        self.undo_sets_that_were_no_good();
        sends
    }

    fn advance_set(
        &mut self,
        set: &mut Set,
        mut taken: BTreeSet<ServerName>,
        now: Millis,
    ) -> (Vec<Send>, BTreeSet<ServerName>) {
        let before = taken.clone();
        let mut ripples = std::mem::take(&mut self.ripples);
        let sends = set::advance(set, &mut ripples, &mut self.list, &mut self.mint, &mut taken, now);
        if set.state.is_over() {
            for part in set.plan.parts.iter().filter_map(|part| ripples.get(part)) {
                self.conclude(part);
            }
        }
        self.ripples = ripples;
        taken.retain(|server| !before.contains(server));
        (sends, taken)
    }

    /// On which server which set is under way.
    fn taken(&self, sets: &BTreeMap<RippleId, Set>) -> BTreeMap<ServerName, RippleId> {
        let mut taken = BTreeMap::new();
        for set in sets.values().filter(|set| !set.state.is_over()) {
            let parts = set.plan.parts.iter().filter_map(|part| self.ripples.get(part));
            for server in &set.plan.servers {
                if set::stage(set::phases(parts.clone(), server)) == Stage::UnderWay {
                    taken.insert(server.clone(), set.plan.id.clone());
                }
            }
        }
        taken
    }

    fn undo_sets_that_were_no_good(&mut self) {
        let undone: BTreeSet<&RippleId> = self.sets.values().filter_map(|set| set.plan.undoes.as_ref()).collect();
        let no_good = |set: &&Set| set.undoes_itself && set.state.is_over() && !undone.contains(&set.plan.id);
        let no_good: Vec<Set> = self.sets.values().filter(no_good).cloned().collect();
        for set in no_good {
            let parts: Vec<Ripple> = set.plan.parts.iter().filter_map(|part| self.ripples.get(part)).cloned().collect();
            if parts.len() < set.plan.parts.len() {
                continue;
            }
            let Some(operation) = self.mint.operation() else { continue };
            if let Ok(id) = RippleId::new(format!("undo-{operation}")) {
                // Nothing to undo, or something else under way: then nothing is left of it.
                let _ = self.undo_set(id, &set, &parts.iter().collect::<Vec<_>>());
            }
        }
    }
}

fn others(taken: &BTreeMap<ServerName, RippleId>, set: &RippleId) -> BTreeSet<ServerName> {
    taken.iter().filter(|(_, other)| *other != set).map(|(server, _)| server.clone()).collect()
}
