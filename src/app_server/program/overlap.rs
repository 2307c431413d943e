//! Owns what a program's actor does of an overlap (protocol P14): an instance beside the one that serves, the switch, and
//! the old one's end. Must not know when one is wanted.

use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;

use super::{Orphans, Program};
use crate::app_server::claims::Target;
use crate::app_server::hands::{Life, Started, Up};
use crate::app_server::records;
use crate::domain::names::{Generation, Release};
use crate::domain::placement::{Event, Phase, State};
use crate::domain::program::Manifest;

/// The instances that come and go beside the one that takes requests.
#[derive(Default)]
pub(super) struct Overlap {
    /// Healthy, and about to take over.
    beside: Option<Beside>,
    /// Others have taken over from these; requests of the node's earlier run may still be going on there.
    old: Vec<Rc<dyn Life>>,
    orphans: Orphans,
}

struct Beside {
    up: Up,
    target: Target,
    manifest: Arc<Manifest>,
}

impl Program {
    pub(super) fn is_switched(&self) -> bool {
        let phase = self.placement.operation.as_ref().map(|operation| operation.phase);
        self.is_state(State::Overlapping) && phase == Some(Phase::Switched)
    }

    /// Requests that a drain waits for.
    pub(super) fn draining(&self) -> u64 {
        if self.is_state(State::Overlapping) { self.retiring() } else { self.active() }
    }

    /// Requests of the node's earlier run that an instance which was switched away from may still be serving.
    pub(super) fn old_orphans(&self) -> u64 {
        self.overlap.orphans.count
    }

    /// What is cut is at least so old: of an overlap, only what was there before its switch.
    pub(super) fn least_age(&self) -> u64 {
        let since = self.quiesced_at.filter(|_| self.is_state(State::Overlapping));
        // Both ages are whole milliseconds of their own clocks.
        since.map_or(0, |since| self.shared.clock.now().saturating_sub(since + 2))
    }

    pub(super) fn start_beside(&mut self, release: Release, ctx: &mut Context<Self>) {
        self.shared.nudge();
        let number = self.work.give_up();
        let manifest = match records::manifest(&self.shared.store, &self.placement.program, &release) {
            Ok(Some(manifest)) => Arc::new(manifest),
            Ok(None) => {
                return self.start_later_failed(format!("release {} is not on this server", release.version), ctx);
            }
            Err(error) => return self.start_later_failed(format!("its manifest cannot be read: {error}"), ctx),
        };
        let starting = self.shared.hands.start_beside(manifest.clone(), release.clone(), self.keeper.clone());
        let sets = self.shared.sets.clone();
        let starting = async move {
            sets.quiet().await;
            starting.await
        };
        self.work(number, starting, ctx, move |program, started, ctx| {
            program.beside_ended(started, release, manifest, ctx);
        });
    }

    fn beside_ended(&mut self, started: Started, release: Release, manifest: Arc<Manifest>, ctx: &mut Context<Self>) {
        let ready = started.and_then(|up| self.target(&up, release, &manifest).map(|target| (up, target)));
        match ready {
            Ok((up, target)) => {
                self.overlap.beside = Some(Beside { up, target, manifest });
                self.event(Event::Started, ctx);
                self.shared.nudge();
            }
            Err(why) => self.start_failed(why, ctx),
        }
    }

    /// It is on disk: the new instance's gate opens, the pointer moves, the old one's gate closes.
    pub(super) fn switch(&mut self, generation: Generation, ctx: &mut Context<Self>) {
        let Some(Beside { up, target, manifest }) = self.overlap.beside.take() else {
            tracing::error!(program = %self.placement.program, "a switch without an instance to switch to");
            return;
        };
        let (old, orphans) = (self.up.take(), std::mem::take(&mut self.orphans));
        self.install(up, target, manifest, ctx);
        self.overlap.old = old.into_iter().map(|up| up.life).collect();
        self.overlap.orphans = orphans;
        self.quiesced_at = Some(self.shared.clock.now());
        tracing::info!(program = %self.placement.program, %generation, "the new instance has taken over");
        self.shared.nudge();
        self.look_at_old(ctx);
    }

    /// After the server's death, the instances that others had taken over from are found again.
    pub(super) fn found_old(&mut self, old: Vec<Rc<dyn Life>>, drain: std::time::Duration) {
        if self.overlap.old.is_empty() {
            let count = old.iter().map(|life| life.orphans()).sum();
            let until = self.shared.clock.now() + drain.as_millis() as u64;
            self.overlap.orphans = Orphans { count, until };
            self.overlap.old = old;
        }
    }

    /// The old instance goes once it has nothing left to do.
    pub(super) fn look_at_old(&mut self, ctx: &mut Context<Self>) {
        if !self.is_switched() || self.retiring() > 0 || self.work.is_under_way() {
            return;
        }
        if self.overlap.orphans.count > 0 {
            let over = self.shared.clock.now() >= self.overlap.orphans.until;
            let left = self.overlap.old.iter().map(|life| life.orphans()).sum();
            if left > 0 && over {
                tracing::warn!(program = %self.placement.program, left,
                    "connections of the node's earlier run to an old instance outlast drain_timeout and are waited for no longer");
            }
            self.overlap.orphans.count = if over { 0 } else { left };
            if self.overlap.orphans.count > 0 {
                return;
            }
        }
        self.event(Event::OldDrained, ctx);
    }

    /// Stops what is marked, beside the instance that takes requests.
    pub(super) fn stop_marked(&mut self, ctx: &mut Context<Self>) {
        self.overlap.beside = None;
        self.shared.nudge();
        let number = self.work.give_up();
        let stopping = self.shared.hands.stop(self.keeper.clone());
        self.work(number, stopping, ctx, |program, stopped, ctx| match stopped {
            Ok(()) => {
                program.overlap = Overlap::default();
                program.event(Event::Stopped, ctx);
            }
            Err(why) => {
                tracing::error!(program = %program.placement.program, why, "an instance could not be stopped");
                let number = program.work.number;
                ctx.run_later(super::perform::STOP_RETRY, move |program, ctx| {
                    if program.work.number == number {
                        program.stop_marked(ctx);
                    }
                });
            }
        });
    }
}
