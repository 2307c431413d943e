//! Owns the first three of the four moves: a command, an event or a boot steps the placement, and what came of it is on
//! disk before any of it is done (protocol P11). What cannot be saved is as if it had not been. Must not know processes.

use actix::prelude::*;

use super::{Program, SAVE_RETRY};
use crate::app_server::claims::{freeze, freeze_retired};
use crate::app_server::records;
use crate::domain::placement::{Boot, Command, Effect, Event, Here, Phase, Placement, Refusal, State};
use crate::programs::instance::{InstanceRecord, Mark};
use crate::store::{Change, StoreError};

/// Before an event is looked at again that came while a set's order was being decided.
const DECIDED_SOON: std::time::Duration = std::time::Duration::from_millis(10);

impl Program {
    pub(super) fn here(&self) -> Here<'_> {
        Here {
            run: &self.shared.identity.run,
            now: self.shared.clock.now(),
            lease: self.shared.settings.lease,
            orphans: self.orphans.count,
            sticky: self.sticky(),
        }
    }

    /// Obeys a command, or answers why not. An error: it could not be saved, and nothing was done.
    pub(super) fn command(
        &mut self,
        command: &Command,
        ctx: &mut Context<Self>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.count_orphans();
        let (admission, retired) = (self.slot.admission(), self.retired.clone());
        let mut next = self.placement.clone();
        let overlaps = self.is_state(State::Overlapping);
        let judged = next.command(command, &self.here(), |generation| match overlaps {
            true => freeze_retired(&retired),
            false => freeze(&admission, &retired, generation),
        });
        let effects = match judged {
            Ok(effects) => effects,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(error) = self.become_placement(next, effects, ctx) {
            self.thaw();
            return Err(error);
        }
        Ok(Ok(()))
    }

    /// Takes in what happened. What cannot be saved happens again later.
    pub(super) fn event(&mut self, event: Event, ctx: &mut Context<Self>) {
        if self.reserved_by().is_some() {
            // A set's order is about to be decided. What comes again by itself is left to that; all else is kept.
            if !matches!(event, Event::Tick | Event::Renewed { .. } | Event::KeptClosed { .. }) {
                ctx.run_later(DECIDED_SOON, move |program, ctx| program.event(event, ctx));
            }
            return;
        }
        let mut next = self.placement.clone();
        let effects = next.event(&event, &self.here());
        if let Err(error) = self.become_placement(next, effects, ctx) {
            tracing::error!(program = %self.placement.program, ?event, %error, "cannot save what happened");
            if matches!(event, Event::Stopped | Event::Started | Event::StartFailed(_) | Event::Worked(_)) {
                let number = self.work.number;
                ctx.run_later(SAVE_RETRY, move |program, ctx| {
                    if program.work.number == number {
                        program.event(event, ctx);
                    }
                });
            }
        }
    }

    /// The first step of a run.
    pub(super) fn boot(&mut self, ctx: &mut Context<Self>) {
        if self.placement == Placement::absent(self.placement.program.clone()) {
            // Never held here: there is nothing to reconcile, and the first command names generation 0.
            self.booted = true;
            return;
        }
        let mut next = self.placement.clone();
        let effects = next.boot(self.shared.clock.now() + self.shared.settings.boot_wait.as_millis() as u64);
        match self.become_placement(next, effects, ctx) {
            Ok(()) => self.booted = true,
            Err(error) => {
                tracing::error!(program = %self.placement.program, %error, "cannot save the boot");
                ctx.run_later(SAVE_RETRY, Self::boot);
            }
        }
    }

    fn become_placement(
        &mut self,
        next: Placement,
        effects: Vec<Effect>,
        ctx: &mut Context<Self>,
    ) -> Result<(), StoreError> {
        self.save(&next, &effects)?;
        self.placement = next;
        self.perform(effects, ctx);
        Ok(())
    }

    /// The placement, and with it, where an instance is to be stopped, its mark (protocol P9b).
    fn save(&self, next: &Placement, effects: &[Effect]) -> Result<(), StoreError> {
        let mut changes = self.changes(next, effects)?;
        changes.extend(self.keeper.gone());
        if !changes.is_empty() {
            self.shared.store.save(changes)?;
            self.keeper.removed();
        }
        self.set_marks(next, effects);
        Ok(())
    }

    pub(super) fn changes(&self, next: &Placement, effects: &[Effect]) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        if durable(next) != durable(&self.placement) {
            changes.push(records::placement(next)?);
        }
        for record in self.marked(next, effects) {
            changes.push(records::instance(&record)?);
        }
        Ok(changes)
    }

    /// The records whose marks these effects change.
    fn marked(&self, next: &Placement, effects: &[Effect]) -> Vec<InstanceRecord> {
        self.keeper.would_be(|mark| effects.iter().fold(mark, |mark, effect| remark(next, mark, effect)))
    }

    /// The marks of what is to be stopped, or switched, are on disk.
    pub(super) fn set_marks(&self, next: &Placement, effects: &[Effect]) {
        self.keeper.remark(&self.marked(next, effects));
    }

    /// Marks what runs, on disk: it is only stopped from now on.
    pub(super) fn mark_stopping(&self) -> Result<(), StoreError> {
        let marked = self.keeper.would_be(|mark| if mark == Mark::Running { Mark::Stopping } else { mark });
        let changes = marked.iter().map(records::instance).collect::<Result<_, _>>()?;
        self.shared.store.save(changes)?;
        self.keeper.remark(&marked);
        Ok(())
    }
}

/// Without what only this run knows.
fn durable(placement: &Placement) -> Placement {
    Placement { known_until: None, lease_until: None, boot: Boot::default(), ..placement.clone() }
}

/// What an effect makes of an instance's mark (protocol P9b, P14).
fn remark(next: &Placement, mark: Mark, effect: &Effect) -> Mark {
    match (effect, mark) {
        (Effect::Stop, _) => mark_of(next),
        (Effect::StopBeside, Mark::Beside) => Mark::TakenBack,
        (Effect::StopOld, Mark::Retired) => Mark::Stopping,
        (Effect::Switch(_), Mark::Beside) => Mark::Running,
        (Effect::Switch(_), Mark::Running) => Mark::Retired,
        _ => mark,
    }
}

fn mark_of(placement: &Placement) -> Mark {
    match placement.operation.as_ref().map(|operation| operation.phase) {
        Some(Phase::StoppingNew) => Mark::TakenBack,
        _ => Mark::Stopping,
    }
}
