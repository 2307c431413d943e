//! Owns the actor of one program on this server: it holds the placement, and is a thin shell around it. Its handlers
//! are four moves: decode, step, **save**, perform. Must not know who sends it commands, or how processes work.

mod messages;
mod overlap;
mod perform;
mod sessions;
mod steps;
mod supervise;
#[cfg(test)]
mod tests;
mod timing;
mod together;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream;

pub use messages::{Heard, Obey, Stop, Tell};
use overlap::Overlap;
use supervise::Supervised;
use timing::Timing;
pub use together::{Commit, GiveBack, Reserve, Reserved};

use super::claims::{Admission, Slot};
use super::hands::{Keeper, Up};
use super::shared::Shared;
use crate::domain::names::Generation;
use crate::domain::placement::{Event, Millis, Placement, State};
use crate::domain::program::Manifest;
use crate::domain::server_list::Report;
use crate::domain::session::WallMillis;

/// How often leases, boots and orphans are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Before an event that could not be saved is tried again.
const SAVE_RETRY: Duration = Duration::from_secs(1);

/// One program on this server.
pub struct Program {
    shared: Rc<Shared>,
    placement: Placement,
    slot: Arc<Slot>,
    /// Gates of earlier instances that still have claims.
    retired: Vec<Arc<Admission>>,
    keeper: Keeper,
    /// The manifest of what runs.
    manifest: Option<Arc<Manifest>>,
    up: Option<Up>,
    healthy: bool,
    /// What is being done to processes; only the latest counts.
    work: Work,
    supervised: Supervised,
    quiesced_at: Option<Millis>,
    timing: Timing,
    orphans: Orphans,
    /// Of an overlap.
    overlap: Overlap,
    /// Until then the list may lack sessions, and only the deadline drains.
    sessions_uncertain_until: WallMillis,
    drained_told: Option<Generation>,
    /// A set's order that is not decided yet; nothing else happens to the placement meanwhile.
    reservation: Option<together::Reservation>,
    /// Which question of a set is the latest.
    reserve_number: u64,
    /// The first step of this run is on disk; nothing else is done before.
    booted: bool,
}

/// Orphans count against `drained` until this time.
#[derive(Clone, Copy, Debug, Default)]
struct Orphans {
    count: u64,
    until: Millis,
}

/// The one thing at a time that is done to processes.
#[derive(Default)]
struct Work {
    number: u64,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Work {
    /// Gives up what is under way: nothing more of it happens, and its outcome is not heard.
    fn give_up(&mut self) -> u64 {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.number += 1;
        self.number
    }

    fn is_under_way(&self) -> bool {
        self.task.is_some()
    }
}

impl Program {
    /// A program as this server kept it, or one that is new here.
    pub fn new(shared: Rc<Shared>, placement: Placement, keeper: Keeper) -> Self {
        let slot = shared.claims.open_slot(&placement.program);
        slot.point(Arc::new(Admission::nobody(placement.generation)));
        Self {
            shared,
            placement,
            slot,
            retired: Vec::new(),
            keeper,
            manifest: None,
            up: None,
            healthy: false,
            work: Work::default(),
            supervised: Supervised::default(),
            quiesced_at: None,
            timing: Timing::default(),
            orphans: Orphans::default(),
            overlap: Overlap::default(),
            sessions_uncertain_until: 0,
            drained_told: None,
            reservation: None,
            reserve_number: 0,
            booted: false,
        }
    }

    /// Starts the actor on this thread.
    pub fn begin(self) -> Addr<Self> {
        let mailbox = self.shared.settings.bounds.mailbox;
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(mailbox);
            self
        })
    }

    /// Requests admitted and not ended, at all gates.
    fn active(&self) -> u64 {
        self.slot.admission().active() + self.retiring()
    }

    /// Those at gates that were switched away from.
    fn retiring(&self) -> u64 {
        self.retired.iter().map(|admission| admission.active()).sum()
    }

    fn report(&self) -> Report {
        let orphans = if self.is_switched() { self.old_orphans() } else { self.orphans.count };
        let mut report = Report::of(&self.placement, self.healthy, self.active(), orphans);
        report.restarts = self.slot.restarts.load(Relaxed);
        report.took = self.timing.took().filter(|_| self.is_state(State::Open));
        report.sessions = self.sessions_left();
        if report.active > 0 {
            report.oldest = self.shared.ledger.oldest(&self.placement.program);
            if self.is_state(State::Overlapping) {
                report.retiring = self.retiring();
            }
            if self.is_state(State::Quiescing) {
                report.long_lived = self.shared.ledger.long_lived(&self.placement.program);
            }
        }
        report
    }

    fn set_healthy(&mut self, healthy: bool) {
        self.healthy = healthy;
        self.slot.healthy.store(healthy, Relaxed);
    }

    fn is_state(&self, state: State) -> bool {
        self.placement.state == state
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if !self.booted {
            return;
        }
        self.retired.retain(|admission| admission.active() > 0);
        self.count_orphans();
        self.count_finished_sessions();
        self.event(Event::Tick, ctx);
        self.close_long_lived();
        self.tell_drained();
        self.look_at_old(ctx);
        self.settle(ctx);
    }
}

impl Actor for Program {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.boot(ctx);
        ctx.run_interval(TICK, Self::tick);
        // Never through the mailbox: that may be full.
        let emptied = stream::unfold(self.slot.clone(), |slot| async move {
            slot.emptied().await;
            Some((Emptied, slot))
        });
        ctx.add_stream(emptied);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        // Instances live on; only what is done to them here ends.
        self.work.give_up();
    }
}

/// A closed gate has lost its last claim.
struct Emptied;

impl StreamHandler<Emptied> for Program {
    fn handle(&mut self, _: Emptied, ctx: &mut Context<Self>) {
        self.tell_drained();
        self.look_at_old(ctx);
    }

    fn finished(&mut self, _: &mut Context<Self>) {
        // The stream has no end; an actor is not stopped by one.
    }
}
