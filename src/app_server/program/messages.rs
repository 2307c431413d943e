//! Owns what a program's actor is asked, and its answers. Must not know how it decides.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::Program;
use crate::domain::gate::NotDrained;
use crate::domain::names::Term;
use crate::domain::placement::{Command, Event, Refusal, State};
use crate::domain::program::LongLived;
use crate::domain::server_list::Report;
use crate::wire::messages::{Obeyed, Renewal};
use crate::wire::problem::{Code, Problem};

/// How long requests may take to end once they are cut.
pub(super) const CUT_WAIT: Duration = Duration::from_secs(5);
pub(super) const CUT_LOOK: Duration = Duration::from_millis(10);

/// How a command is answered: the present state, or why nothing could be decided.
pub type Answer = Result<Obeyed, Problem>;

/// A command whose term the server admitted. For `try_send`: a full mailbox is answered by the sender.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Obey {
    pub command: Command,
    pub reply: oneshot::Sender<Answer>,
}

/// "How do you stand?"
#[derive(Message)]
#[rtype(result = "Report")]
pub struct Tell;

/// The node stops: its instances live on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

/// What management answered to a heartbeat about this placement.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub enum Heard {
    Renewed { term: Term, renewal: Renewal },
    KeptClosed,
}

impl Handler<Tell> for Program {
    type Result = MessageResult<Tell>;

    fn handle(&mut self, _: Tell, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.report())
    }
}

impl Handler<Stop> for Program {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<Heard> for Program {
    type Result = ();

    fn handle(&mut self, heard: Heard, ctx: &mut Context<Self>) {
        if !self.booted {
            return;
        }
        let event = match heard {
            Heard::Renewed { term, renewal } => {
                Event::Renewed { term, operation: renewal.operation, generation: renewal.generation }
            }
            Heard::KeptClosed => {
                let wait = self.shared.settings.boot_wait.as_millis() as u64;
                Event::KeptClosed { until: self.shared.clock.now() + wait }
            }
        };
        self.event(event, ctx);
    }
}

impl Handler<Obey> for Program {
    type Result = ();

    fn handle(&mut self, Obey { command, reply }: Obey, ctx: &mut Context<Self>) {
        if !self.cuts_first(&command) {
            // Nobody waits any more for an answer that does not arrive.
            let _ = reply.send(self.obey(&command, ctx));
            return;
        }
        let cut = self.shared.ledger.cut_requests(&self.placement.program, false, self.least_age());
        tracing::warn!(program = %self.placement.program, cut, "requests were cut by force");
        self.obey_when_empty(command, reply, CUT_WAIT, ctx);
    }
}

impl Program {
    /// Whether the command is one by force that only active requests keep from being obeyed.
    pub(super) fn cuts_first(&self, command: &Command) -> bool {
        if !command.order.is_forced() || self.draining() == 0 || self.shared.check_term(&command.term).is_err() {
            return false;
        }
        // Of an overlap, the gate that matters has been closed for good.
        let overlaps = self.is_state(State::Overlapping);
        let closed = overlaps || !self.slot.admission().gate.word().is_open();
        let mut would_freeze = false;
        let freeze = |_| {
            would_freeze = true;
            if closed { Ok(()) } else { Err(NotDrained { open: true, active: 0 }) }
        };
        let judged = self.placement.clone().command(command, &self.here(), freeze);
        judged.is_ok() && would_freeze
    }

    /// Obeys once the requests that were cut have ended, or says that they have not. All is judged anew then.
    fn obey_when_empty(
        &mut self,
        command: Command,
        reply: oneshot::Sender<Answer>,
        left: Duration,
        ctx: &mut Context<Self>,
    ) {
        if self.draining() == 0 || left.is_zero() {
            let _ = reply.send(self.obey(&command, ctx));
            return;
        }
        ctx.run_later(CUT_LOOK, move |program, ctx| {
            program.obey_when_empty(command, reply, left.saturating_sub(CUT_LOOK), ctx);
        });
    }

    fn answer(&self, refusal: Option<Refusal>) -> Answer {
        Ok(Obeyed { run: self.shared.identity.run.clone(), refusal, report: self.report() })
    }

    /// Why it obeys nothing now, or not this; `None`: the placement judges.
    pub(super) fn may_obey(&self, command: &Command) -> Result<Option<Refusal>, Problem> {
        if !self.booted {
            return Err(Problem::new(Code::StoreFailed, "this server cannot save its state, and obeys nothing"));
        }
        if let Err(refusal) = self.shared.check_term(&command.term) {
            return Ok(Some(refusal));
        }
        if let Some(set) = self.reserved_by() {
            return Ok(Some(Refusal::Busy { under_way: set.clone() }));
        }
        if let Some(to) = command.order.to()
            && !self.shared.hands.is_ready(&self.placement.program, to)
        {
            let program = &self.placement.program;
            let detail = format!("release {} of {program} is not prepared on this server", to.version);
            return Err(Problem::new(Code::UnknownRelease, detail).hint("prepare it first"));
        }
        Ok(None)
    }

    fn obey(&mut self, command: &Command, ctx: &mut Context<Self>) -> Answer {
        if let Some(refusal) = self.may_obey(command)? {
            return self.answer(Some(refusal));
        }
        match self.command(command, ctx) {
            Ok(Ok(())) => self.answer(None),
            Ok(Err(refusal)) => self.answer(Some(refusal)),
            Err(error) => {
                let code = if error.is_disk_full() { Code::DiskFull } else { Code::StoreFailed };
                Err(Problem::new(code, format!("the command was not obeyed: it could not be saved: {error}")))
            }
        }
    }

    /// Cuts long-lived requests once a drain has lasted for their grace, where the program wants that.
    pub(super) fn close_long_lived(&mut self) {
        let Some((manifest, since)) = self.manifest.as_ref().zip(self.quiesced_at) else { return };
        let rule = &manifest.upgrade;
        let over = self.shared.clock.now() >= since + rule.long_lived_grace.as_millis() as u64;
        if rule.long_lived == LongLived::Notify && over && self.draining() > 0 {
            let cut = self.shared.ledger.cut_requests(&self.placement.program, true, self.least_age());
            if cut > 0 {
                tracing::info!(program = %self.placement.program, cut, "long-lived requests were closed");
            }
        }
    }
}
