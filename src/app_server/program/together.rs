//! Owns a member's part of an order to a set (protocol P15): it is judged, its gate is frozen, and nothing else happens to
//! it until it hears whether all were. Must not know the other members.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::Program;
use super::messages::{CUT_LOOK, CUT_WAIT};
use crate::app_server::claims::freeze;
use crate::domain::names::OperationId;
use crate::domain::placement::{Command, Effect, Placement, Refusal};
use crate::store::Change;
use crate::wire::problem::{Code, Problem};

/// What a member would become, while it is not decided yet whether it does.
pub(super) struct Reservation {
    set: OperationId,
    next: Placement,
    effects: Vec<Effect>,
}

/// "Freeze, and wait for the word."
#[derive(Message)]
#[rtype(result = "Result<Reserved, Problem>")]
pub struct Reserve {
    pub set: OperationId,
    pub command: Command,
}

/// How a member was judged.
pub enum Reserved {
    /// What has to be on disk before it goes on.
    Frozen(Vec<Change>),
    Refused(Refusal),
}

/// All members are frozen, and on disk.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Commit {
    pub set: OperationId,
}

/// Not all could be frozen: nothing has happened.
#[derive(Message)]
#[rtype(result = "()")]
pub struct GiveBack {
    pub set: OperationId,
}

impl Handler<Reserve> for Program {
    type Result = ResponseActFuture<Self, Result<Reserved, Problem>>;

    fn handle(&mut self, Reserve { set, command }: Reserve, ctx: &mut Context<Self>) -> Self::Result {
        if self.cuts_first(&command) {
            let cut = self.shared.ledger.cut_requests(&self.placement.program, false, self.least_age());
            tracing::warn!(program = %self.placement.program, cut, "requests were cut by force");
        }
        self.reserve_number += 1;
        let (tell, told) = oneshot::channel();
        let wait = if command.order.is_forced() { CUT_WAIT } else { Duration::ZERO };
        self.reserve_when_empty(self.reserve_number, (set, command), wait, tell, ctx);
        let lost = |_| Err(Problem::new(Code::Unavailable, "the program's actor ended before it answered"));
        Box::pin(told.into_actor(self).map(move |told, _, _| told.unwrap_or_else(lost)))
    }
}

impl Handler<Commit> for Program {
    type Result = ();

    fn handle(&mut self, Commit { set }: Commit, ctx: &mut Context<Self>) {
        let Some(Reservation { next, effects, .. }) = self.reservation.take_if(|held| held.set == set) else { return };
        self.set_marks(&next, &effects);
        self.placement = next;
        self.perform(effects, ctx);
    }
}

impl Handler<GiveBack> for Program {
    type Result = ();

    fn handle(&mut self, GiveBack { set }: GiveBack, _: &mut Context<Self>) {
        // Also one that is still being cut: it is not reserved any more.
        self.reserve_number += 1;
        if self.reservation.take_if(|held| held.set == set).is_some() {
            self.thaw();
        }
    }
}

impl Program {
    fn reserve_when_empty(
        &mut self,
        number: u64,
        (set, command): (OperationId, Command),
        left: Duration,
        tell: oneshot::Sender<Result<Reserved, Problem>>,
        ctx: &mut Context<Self>,
    ) {
        if number != self.reserve_number {
            // Given back meanwhile: nobody waits any more.
            return;
        }
        if self.active() == 0 || left.is_zero() {
            // Who does not hear it in time gives it back.
            let _ = tell.send(self.reserve(set, &command));
            return;
        }
        ctx.run_later(CUT_LOOK, move |program, ctx| {
            program.reserve_when_empty(number, (set, command), left.saturating_sub(CUT_LOOK), tell, ctx);
        });
    }

    fn reserve(&mut self, set: OperationId, command: &Command) -> Result<Reserved, Problem> {
        if let Some(refusal) = self.may_obey(command)? {
            return Ok(Reserved::Refused(refusal));
        }
        self.count_orphans();
        let (admission, retired) = (self.slot.admission(), self.retired.clone());
        let mut next = self.placement.clone();
        let judged = next.command(command, &self.here(), |generation| freeze(&admission, &retired, generation));
        match judged {
            Ok(effects) => {
                let changes = self.changes(&next, &effects).map_err(|error| {
                    self.thaw();
                    Problem::new(Code::StoreFailed, format!("the order cannot be written: {error}"))
                })?;
                self.reservation = Some(Reservation { set, next, effects });
                Ok(Reserved::Frozen(changes))
            }
            Err(refusal) => Ok(Reserved::Refused(refusal)),
        }
    }

    /// The set whose order is not decided yet.
    pub(super) fn reserved_by(&self) -> Option<&OperationId> {
        self.reservation.as_ref().map(|held| &held.set)
    }

    /// A gate that was frozen goes back to its generation. It was closed before, and stays so.
    pub(super) fn thaw(&self) {
        let admission = self.slot.admission();
        if self.placement.is_known() {
            admission.gate.know(self.placement.generation);
        } else if !admission.gate.word().is_open() {
            admission.gate.close(self.placement.generation);
        }
    }
}
