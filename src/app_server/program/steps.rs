//! Owns the first three of the four moves: a command, an event or a boot steps the placement, and what came of it is on
//! disk before any of it is done (protocol P11). What cannot be saved is as if it had not been. Must not know processes.

use actix::prelude::*;

use super::{Program, SAVE_RETRY};
use crate::app_server::claims::freeze;
use crate::app_server::records;
use crate::domain::placement::{Boot, Command, Effect, Event, Here, Phase, Placement, Refusal};
use crate::programs::instance::Mark;
use crate::store::{Change, StoreError};

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
        let judged = next.command(command, &self.here(), |generation| freeze(&admission, &retired, generation));
        let effects = match judged {
            Ok(effects) => effects,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(error) = self.become_placement(next, effects, ctx) {
            // A gate that was frozen for it goes back to its generation. It was closed before, and stays so.
            if self.placement.is_known() {
                admission.gate.know(self.placement.generation);
            } else if !admission.gate.word().is_open() {
                admission.gate.close(self.placement.generation);
            }
            return Err(error);
        }
        Ok(Ok(()))
    }

    /// Takes in what happened. What cannot be saved happens again later.
    pub(super) fn event(&mut self, event: Event, ctx: &mut Context<Self>) {
        let mut next = self.placement.clone();
        let effects = next.event(&event, &self.here());
        if let Err(error) = self.become_placement(next, effects, ctx) {
            tracing::error!(program = %self.placement.program, ?event, %error, "cannot save what happened");
            if matches!(event, Event::Stopped | Event::Started | Event::StartFailed(_)) {
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
        let mut changes = Vec::new();
        if durable(next) != durable(&self.placement) {
            changes.push(records::placement(next)?);
        }
        let mark = effects.contains(&Effect::Stop).then(|| mark_of(next));
        if let Some(mark) = mark {
            changes.extend(self.marks(mark)?);
        }
        if !changes.is_empty() {
            self.shared.store.save(changes)?;
        }
        if let Some(mark) = mark {
            self.keeper.set_marks(mark);
        }
        Ok(())
    }

    pub(super) fn marks(&self, mark: Mark) -> Result<Vec<Change>, StoreError> {
        self.keeper.all().iter().map(|record| records::marked(record, mark)).collect()
    }
}

/// Without what only this run knows.
fn durable(placement: &Placement) -> Placement {
    Placement { known_until: None, lease_until: None, boot: Boot::default(), ..placement.clone() }
}

fn mark_of(placement: &Placement) -> Mark {
    match placement.operation.as_ref().map(|operation| operation.phase) {
        Some(Phase::StoppingNew) => Mark::TakenBack,
        _ => Mark::Stopping,
    }
}
