//! Owns the last of the four moves: what a step of the placement wants done, and it is on disk that it may be.
//! Must not know why.

use std::sync::Arc;

use actix::prelude::*;

use super::{Orphans, Program};
use crate::app_server::claims::{Admission, Target};
use crate::app_server::hands::{Started, Up};
use crate::app_server::records;
use crate::domain::names::{Generation, OperationId, Release};
use crate::domain::placement::{Effect, Event, Operation, Outcome, Phase, State};
use crate::domain::program::Manifest;
use crate::wire::messages::ToManagement;

/// Before what could not be stopped is stopped again.
pub(super) const STOP_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

impl Program {
    pub(super) fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::CloseGate(generation) => self.close_gate(generation),
                Effect::OpenGate(generation) => self.open_gate(generation),
                Effect::KnowGate(generation) => self.know_gate(generation),
                Effect::MigrateSessions => self.migrate_sessions(),
                Effect::Stop => {
                    self.stop_instances(ctx);
                    self.make_next_ready();
                }
                Effect::Start(release) => self.start_instance(release, ctx),
                Effect::StartBeside(release) => self.start_beside(release, ctx),
                Effect::Switch(generation) => self.switch(generation, ctx),
                Effect::StopBeside | Effect::StopOld => self.stop_marked(ctx),
                Effect::Await(set) => self.await_work(set, ctx),
                Effect::Report => {
                    self.shared.hands.let_go_of_ready(&self.placement.program, &self.keeper);
                    self.tell_end();
                }
            }
        }
        self.mend_gate();
    }

    fn close_gate(&mut self, generation: Generation) {
        if self.slot.admission().gate.word().is_open() {
            self.timing.closed(self.shared.clock.now());
        }
        self.slot.admission().gate.close(generation);
        self.quiesced_at = self.is_state(State::Quiescing).then(|| self.shared.clock.now());
        if self.quiesced_at.is_some() {
            self.shared.hands.foresee_stop(&self.keeper);
        }
        self.tell_drained();
        self.shared.nudge();
    }

    fn open_gate(&mut self, generation: Generation) {
        self.quiesced_at = None;
        self.timing.opened(self.shared.clock.now());
        self.slot.admission().gate.open(generation);
        self.shared.nudge();
    }

    /// A closed gate refuses with the placement's present generation.
    fn mend_gate(&self) {
        let admission = self.slot.admission();
        let word = admission.gate.word();
        if !word.is_open() && !word.is_known() && word.generation() != self.placement.generation {
            admission.gate.close(self.placement.generation);
        }
    }

    pub(super) fn stop_instances(&mut self, ctx: &mut Context<Self>) {
        self.timing.stopping(self.shared.clock.now());
        self.supervised.forget();
        (self.up, self.orphans) = (None, Orphans::default());
        self.set_healthy(false);
        // How far it is shows at once, not at the next heartbeat.
        self.shared.nudge();
        let number = self.work.give_up();
        let stopping = self.shared.hands.stop(self.keeper.clone());
        self.work(number, stopping, ctx, |program, stopped, ctx| match stopped {
            Ok(()) => {
                program.timing.stopped(program.shared.clock.now());
                program.event(Event::Stopped, ctx);
            }
            Err(why) => {
                tracing::error!(program = %program.placement.program, why, "an instance could not be stopped");
                let number = program.work.number;
                ctx.run_later(STOP_RETRY, move |program, ctx| {
                    if program.work.number == number {
                        program.stop_instances(ctx);
                    }
                });
            }
        });
    }

    /// The new version's process is made while the old one ends, and waits (protocol P9a). In a set it is other work
    /// that comes between.
    fn make_next_ready(&self) {
        let stops = |operation: &&Operation| operation.phase == Phase::Stopping && operation.set.is_none();
        let next = self.placement.operation.as_ref().filter(stops).and_then(|operation| operation.to.clone());
        let Some(release) = next else { return };
        if let Ok(Some(manifest)) = records::manifest(&self.shared.store, &self.placement.program, &release) {
            self.shared.hands.make_ready(Arc::new(manifest), release, self.keeper.clone());
        }
    }

    /// The set's work begins when its last member has stopped.
    fn await_work(&mut self, set: OperationId, ctx: &mut Context<Self>) {
        self.shared.nudge();
        let number = self.work.give_up();
        let (sets, program) = (self.shared.sets.clone(), self.placement.program.clone());
        let waiting = async move { Ok(sets.stopped(&set, &program).await) };
        self.work(number, waiting, ctx, |program, worked, ctx| {
            let result = worked.and_then(|worked| worked.failure.map_or(Ok(()), Err));
            program.event(Event::Worked(result), ctx);
        });
    }

    pub(super) fn start_instance(&mut self, release: Release, ctx: &mut Context<Self>) {
        self.shared.nudge();
        let number = self.work.give_up();
        let manifest = match records::manifest(&self.shared.store, &self.placement.program, &release) {
            Ok(Some(manifest)) => Arc::new(manifest),
            Ok(None) => {
                return self.start_later_failed(format!("release {} is not on this server", release.version), ctx);
            }
            Err(error) => return self.start_later_failed(format!("its manifest cannot be read: {error}"), ctx),
        };
        let retired = self.is_switched().then(|| self.shared.hands.retired(self.keeper.clone()));
        let starting = self.shared.hands.start(manifest.clone(), release.clone(), self.keeper.clone());
        let sets = self.shared.sets.clone();
        let both = async move {
            let old = match retired {
                Some(retired) => retired.await,
                None => Vec::new(),
            };
            sets.quiet().await;
            Ok((starting.await, old))
        };
        self.work(number, both, ctx, move |program, ended, ctx| match ended {
            Ok((started, old)) => {
                program.found_old(old, manifest.upgrade.drain_timeout);
                program.start_ended(started, release, manifest, ctx);
            }
            Err(why) => program.start_failed(why, ctx),
        });
    }

    /// Through the context, so that one step is over before the next begins.
    pub(super) fn start_later_failed(&mut self, why: String, ctx: &mut Context<Self>) {
        let number = self.work.number;
        self.work(number, std::future::ready(Err(why)), ctx, |program, why: Result<(), String>, ctx| {
            if let Err(why) = why {
                program.start_failed(why, ctx);
            }
        });
    }

    /// Does one thing to processes. A panic in it is an error of it; what was given up is not heard of.
    pub(super) fn work<T: 'static>(
        &mut self,
        number: u64,
        doing: impl Future<Output = Result<T, String>> + 'static,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Result<T, String>, &mut Context<Self>) + 'static,
    ) {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.work.task = Some(tokio::task::spawn_local(async move {
            // Nobody hears of work that was given up.
            let _ = tell.send(doing.await);
        }));
        let heard = told.into_actor(self).map(move |result, program, ctx| {
            if program.work.number == number {
                program.work.task = None;
                let panicked = |_| Err("neap made a mistake: the task panicked".to_owned());
                then(program, result.unwrap_or_else(panicked), ctx);
            }
        });
        ctx.spawn(heard);
    }

    fn start_ended(&mut self, started: Started, release: Release, manifest: Arc<Manifest>, ctx: &mut Context<Self>) {
        match started.and_then(|up| self.target(&up, release, &manifest).map(|target| (up, target))) {
            Ok((up, target)) => {
                self.timing.launched(up.launch.as_millis() as u64);
                self.install(up, target, manifest, ctx);
                self.event(Event::Started, ctx);
                self.shared.nudge();
            }
            Err(why) => self.start_failed(why, ctx),
        }
    }

    pub(super) fn start_failed(&mut self, why: String, ctx: &mut Context<Self>) {
        tracing::warn!(program = %self.placement.program, why, "an instance did not start");
        let decides = match self.placement.state {
            State::Upgrading => true,
            State::Closed => !self.placement.boot.ready,
            State::Overlapping => self.placement.overlap_begins(),
            State::Absent | State::Open | State::Quiescing | State::Failed => false,
        };
        if decides {
            self.event(Event::StartFailed(why), ctx);
        } else {
            self.restart_failed(ctx);
        }
    }

    /// Where the request path finds an instance.
    pub(super) fn target(&self, up: &Up, release: Release, manifest: &Manifest) -> Result<Target, String> {
        let row = self.shared.ledger.row(&self.placement.program, &release.version);
        let sessions = self.sessions_of(manifest, &release.version);
        Ok(Target {
            addr: up.addr,
            key: next_key(),
            release,
            request_timeout: manifest.request_timeout,
            body_limit: manifest.body_limit,
            row: row.map_err(|error| error.to_string())?,
            sessions,
        })
    }

    /// Points the slot to a new instance: its gate as the placement stands, the old one's closed (protocol P14).
    pub(super) fn install(&mut self, up: Up, target: Target, manifest: Arc<Manifest>, ctx: &mut Context<Self>) {
        let (key, generation) = (target.key, self.placement.generation);
        let admission = Admission::to(generation, target);
        if self.placement.state.takes_requests() {
            admission.gate.open(generation);
        } else if self.placement.is_known() {
            admission.gate.know(generation);
        }
        let old = self.slot.point(Arc::new(admission));
        old.gate.close(generation);
        self.retired.push(old);
        self.retired.retain(|admission| admission.active() > 0);
        let drain = manifest.upgrade.drain_timeout.as_millis() as u64;
        self.orphans = Orphans { count: up.life.orphans(), until: self.shared.clock.now() + drain };
        self.doubt_sessions(&manifest);
        self.supervise(key, &up, &manifest, ctx);
        (self.up, self.manifest) = (Some(up), Some(manifest));
        self.set_healthy(true);
    }

    /// Counts the orphans anew; those that outlast `drain_timeout` are told of, and waited for no longer (P9d).
    pub(super) fn count_orphans(&mut self) {
        if self.orphans.count == 0 {
            return;
        }
        let left = self.up.as_ref().map_or(0, |up| up.life.orphans());
        let over = self.shared.clock.now() >= self.orphans.until;
        if left > 0 && over {
            tracing::warn!(program = %self.placement.program, left,
                "connections of the node's earlier run outlast drain_timeout and are waited for no longer");
        }
        self.orphans.count = if over { 0 } else { left };
    }

    /// Says that the placement is drained, once a generation, as soon as it is.
    pub(super) fn tell_drained(&mut self) {
        let generation = self.placement.generation;
        let quiesced = self.is_state(State::Quiescing) && !self.placement.is_known();
        let drained = quiesced && self.active() == 0 && self.orphans.count == 0;
        if !drained || self.drained_told == Some(generation) {
            return;
        }
        self.drained_told = Some(generation);
        // What came in between the last claim and the closing of the gate.
        self.migrate_sessions();
        let report = self.report();
        tracing::info!(program = %report.program, %generation, "drained");
        self.shared.tell(&self.hint_key(), &ToManagement::Drained { report });
    }

    fn tell_end(&self) {
        let report = self.report();
        match report.ended.as_ref().map(|ended| &ended.outcome) {
            Some(Outcome::Upgraded) => {
                tracing::info!(program = %report.program, version = ?report.release, "upgraded");
                self.shared.tell(&self.hint_key(), &ToManagement::Upgraded { report });
            }
            Some(outcome) => {
                tracing::warn!(program = %report.program, ?outcome, "an operation ended");
                self.shared.tell(&self.hint_key(), &ToManagement::Failed { report });
            }
            None if report.failure.is_some() => self.tell_failed(),
            // It opened: the next heartbeat says so, and it goes at once.
            None => self.shared.nudge(),
        }
    }

    pub(super) fn tell_failed(&self) {
        self.shared.tell(&self.hint_key(), &ToManagement::Failed { report: self.report() });
    }

    fn hint_key(&self) -> String {
        format!("report/{}", self.placement.program)
    }
}

/// No two instances of this process's life have one.
fn next_key() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
