//! Owns what is done for an instance that runs: its probes, and its restart when it dies. A placement that is unhealthy
//! keeps its gate as it is (protocol P12). Must not know upgrades.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use actix::prelude::*;

use super::Program;
use crate::app_server::hands::Up;
use crate::domain::placement::{Event, Millis, State};
use crate::domain::program::Manifest;

/// Waits between restarts double from the first to the most.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MOST: Duration = Duration::from_secs(10);
/// An instance that lived so long begins anew with the first wait.
const LIVED_WELL: Duration = Duration::from_secs(30);

/// The instance that is watched, and how often it had to be restarted.
#[derive(Default)]
pub(super) struct Supervised {
    /// The key of the instance; what is heard of others is old.
    key: Option<u64>,
    failures_in_a_row: u32,
    since: Millis,
    /// Restarts without a good life in between.
    tries: u32,
    restart_at: Option<Millis>,
}

impl Supervised {
    /// Nothing more is heard of the present instance.
    pub fn forget(&mut self) {
        (self.key, self.failures_in_a_row, self.restart_at) = (None, 0, None);
    }
}

impl Program {
    pub(super) fn supervise(&mut self, key: u64, up: &Up, manifest: &Arc<Manifest>, ctx: &mut Context<Self>) {
        self.supervised.forget();
        (self.supervised.key, self.supervised.since) = (Some(key), self.shared.clock.now());
        let ended = up.life.ended().into_actor(self);
        ctx.spawn(ended.map(move |how, program, ctx| program.instance_ended(key, &how, ctx)));
        self.probe_later(key, up.clone(), manifest.clone(), ctx);
    }

    fn probe_later(&mut self, key: u64, up: Up, manifest: Arc<Manifest>, ctx: &mut Context<Self>) {
        ctx.run_later(manifest.health.interval, move |program, ctx| {
            if program.supervised.key != Some(key) {
                return;
            }
            let probed = up.life.probe().into_actor(program);
            ctx.spawn(probed.map(move |result, program, ctx| {
                if program.supervised.key == Some(key) {
                    program.probed(result, manifest.health.unhealthy_after);
                    program.probe_later(key, up, manifest, ctx);
                }
            }));
        });
    }

    fn probed(&mut self, result: Result<(), String>, unhealthy_after: u32) {
        let was = self.healthy;
        match &result {
            Ok(()) => {
                self.supervised.failures_in_a_row = 0;
                self.set_healthy(true);
            }
            Err(_) => {
                self.supervised.failures_in_a_row = self.supervised.failures_in_a_row.saturating_add(1);
                self.set_healthy(was && self.supervised.failures_in_a_row < unhealthy_after);
            }
        }
        if was != self.healthy {
            tracing::warn!(program = %self.placement.program, healthy = self.healthy, probe = ?result, "health changed");
            self.shared.nudge();
        }
    }

    fn instance_ended(&mut self, key: u64, how: &str, ctx: &mut Context<Self>) {
        if self.supervised.key != Some(key) {
            return;
        }
        tracing::warn!(program = %self.placement.program, how, "an instance ended by itself");
        let lived = self.shared.clock.now().saturating_sub(self.supervised.since);
        if lived >= LIVED_WELL.as_millis() as u64 {
            self.supervised.tries = 0;
        }
        self.up = None;
        self.set_healthy(false);
        self.supervised.forget();
        self.restart_later();
        self.tell_failed();
        self.shared.nudge();
        self.settle(ctx);
    }

    fn restart_later(&mut self) {
        let doubled = RESTART_FIRST.saturating_mul(1 << self.supervised.tries.min(10)).min(RESTART_MOST);
        self.supervised.tries = self.supervised.tries.saturating_add(1);
        self.supervised.restart_at = Some(self.shared.clock.now() + doubled.as_millis() as u64);
    }

    /// An instance that was to take a dead one's place did not start: what there is of it goes, and the next one waits longer.
    pub(super) fn restart_failed(&mut self, ctx: &mut Context<Self>) {
        self.restart_later();
        match self.mark_stopping() {
            Ok(()) => {
                let restart_at = self.supervised.restart_at;
                self.stop_instances(ctx);
                self.supervised.restart_at = restart_at;
            }
            Err(error) => tracing::error!(program = %self.placement.program, %error, "cannot save a mark"),
        }
    }

    /// What the placement rests on is there, or on its way: an instance where one should run, and its word to a placement
    /// that waits for it.
    pub(super) fn settle(&mut self, ctx: &mut Context<Self>) {
        let runs = matches!(self.placement.state, State::Open | State::Overlapping | State::Quiescing | State::Closed);
        if !runs || self.work.is_under_way() {
            return;
        }
        if self.up.is_some() {
            if self.is_state(State::Closed) && !self.placement.boot.ready {
                self.event(Event::Started, ctx);
            }
            return;
        }
        let due = self.supervised.restart_at.is_none_or(|at| at <= self.shared.clock.now());
        if let Some(release) = self.placement.release.clone().filter(|_| due) {
            self.slot.restarts.fetch_add(1, Relaxed);
            tracing::info!(program = %self.placement.program, tries = self.supervised.tries, "restarting");
            self.start_instance(release, ctx);
        }
    }
}
