//! Owns a step's soak: how long the new version is watched, and by what it is judged. Must not know how judging works
//! (`judge.rs`), nor how time is counted (`soak.rs`).

use super::{Move, Moved};
use crate::domain::figures::Figures;
use crate::domain::names::ServerName;
use crate::domain::placement::{Millis, State};
use crate::domain::program::{RollbackOn, Strategy};
use crate::domain::ripple::hooks::{self, Hook, Need};
use crate::domain::ripple::judge::{self, Verdict};
use crate::domain::ripple::machine::Send;
use crate::domain::ripple::plan::RippleKind;
use crate::domain::ripple::soak::{RESTARTS_MAX, Soak, WITHOUT_TRAFFIC, look_every};
use crate::domain::ripple::wait::{Reason, Wait};
use crate::domain::ripple::{Asked, StepPhase};
use crate::domain::server_list::{Measured, Report};

/// A soak begins so long after a gate's opening where there was none open: as long as it was out of service, within these.
const BURST_MS: std::ops::RangeInclusive<Millis> = 2_000..=10_000;

impl Move<'_> {
    pub(super) fn soaking(&mut self, report: &Report, mut soak: Soak) -> Moved {
        if let Some(moved) = self.after_step(report) {
            return moved;
        }
        let since = soak.begin(self.now, self.burst(report));
        soak.enough |= self.ripple.asked == Asked::Abort;
        self.look(&mut soak);
        let verdict = self.judge(&mut soak);
        let restarted = soak.restarted(report.restarts);
        soak.keep(self.ripple.plan.policy.soak.as_millis() as Millis, self.now);
        self.set(StepPhase::Soaking { soak: soak.clone() });
        if report.state == State::Failed {
            let reason = report.failure.clone().unwrap_or_else(|| "the new version failed".to_owned());
            return self.give_up(reason);
        }
        if restarted >= RESTARTS_MAX && self.limits().is_some() {
            return self.give_up(format!("the new version ended by itself {restarted} times while it soaked"));
        }
        if let Some(bad) = verdict.as_ref().filter(|verdict| verdict.is_bad()) {
            let reason = bad.to_string();
            self.note(verdict);
            return self.give_up(reason);
        }
        let policy = &self.ripple.plan.policy;
        let wanted = policy.soak.as_millis() as Millis;
        let limit = since + wanted.saturating_mul(WITHOUT_TRAFFIC) + policy.unhealthy_limit.as_millis() as Millis;
        let serves = self.list.serves(&self.ripple.plan.program, &self.server());
        let (reason, until) = match (soak.wait(wanted, self.now), serves) {
            (None, true) => {
                self.note(verdict.or_else(|| self.not_judged(wanted, since)));
                return self.done();
            }
            (None, false) if self.now >= limit => {
                return self.give_up("the new version did not stay healthy through its soak".to_owned());
            }
            (None, false) => (Reason::Unhealthy, limit),
            (Some(soaks), _) => soaks,
        };
        Moved::Waits(Wait { server: Some(self.server()), reason, until: Some(until) }, self.measure(wanted))
    }

    /// What runs after each step comes before its soak, and is the first to judge the new version.
    fn after_step(&mut self, report: &Report) -> Option<Moved> {
        if report.state == State::Failed {
            return None;
        }
        match hooks::need(self.ripple, Hook::AfterStep, Some(&self.server())) {
            Need::Nothing => None,
            Need::Wait(wait) => Some(Moved::Waits(wait, Vec::new())),
            Need::Failed(reason) => Some(self.give_up(reason)),
        }
    }

    /// The new version is no good: nothing more is begun, and, where it is judged at all, the ripple undoes itself.
    fn give_up(&mut self, reason: String) -> Moved {
        if self.limits().is_some() {
            self.ripple.undoes_itself = true;
            self.ripple.asked = Asked::Abort;
        }
        self.fail(reason)
    }

    fn note(&mut self, verdict: Option<Verdict>) {
        if let Some(verdict) = verdict {
            self.ripple.verdicts.insert(self.server(), verdict);
        }
    }

    /// Why a soak is over without any verdict.
    fn not_judged(&self, wanted: Millis, since: Millis) -> Option<Verdict> {
        let limits = self.limits().filter(|_| wanted > 0)?;
        let (soaked_ms, wanted) = (self.now.saturating_sub(since), u64::from(limits.min_requests));
        Some(Verdict::TooFew { new: 0, old: 0, wanted, soaked_ms, untold: true })
    }

    fn limits(&self) -> Option<RollbackOn> {
        let plan = &self.ripple.plan;
        let new_component = plan.kind == RippleKind::Restart && plan.set.is_some();
        plan.policy.rollback_on.filter(|_| plan.kind == RippleKind::Upgrade || new_component)
    }

    /// What a server had counted when it was last asked, if that was within this soak.
    fn measured(&self, server: &ServerName, since: Millis) -> Option<&Measured> {
        let cell = self.list.cell(&self.ripple.plan.program, server)?;
        cell.measured.as_ref().filter(|measured| measured.at >= since)
    }

    /// How many answers the new version has given by now, as far as is known.
    fn look(&self, soak: &mut Soak) {
        let (Some(since), Some(to)) = (soak.since, self.target()) else { return };
        if let Some(measured) = self.measured(&self.server(), since) {
            let answers = measured.versions.get(&to.version).map_or(0, |figures| figures.answers);
            soak.look(measured.at, answers);
        }
    }

    /// The new version's figures since the soak began, against the old one's of the same time on the servers that are
    /// not upgraded yet; where there are too few of those, against what this server itself had counted of the old one.
    fn judge(&self, soak: &mut Soak) -> Option<Verdict> {
        let (limits, since) = (self.limits()?, soak.since?);
        if self.now < since {
            return None;
        }
        let server = self.server();
        let planned = &self.ripple.plan.steps[self.index];
        let (to, from) = (self.target()?.version.clone(), planned.from.as_ref()?.version.clone());
        // Of a component's set: the same version, on what it had before and on what it has now.
        let same = to == from;
        if same && self.ripple.plan.set.is_none() {
            return None;
        }
        let here = self.measured(&server, since)?;
        let of = |measured: &Measured, version| measured.versions.get(version).cloned().unwrap_or_default();
        let new = soak.since_begun(&server, of(here, &to));
        let mut old = Figures::default();
        for other in self.others() {
            if let Some(measured) = self.measured(&other, since) {
                old.add(&soak.since_begun(&other, of(measured, &from)));
            }
        }
        if old.answers < u64::from(limits.min_requests) {
            let earlier = if same { soak.before(&server) } else { of(here, &from) };
            old = if earlier.answers > old.answers { earlier } else { old };
        }
        Some(judge::judge(&limits, &new, &old).after(self.now.saturating_sub(since)))
    }

    /// Where nobody else serves, what routers have held comes all at once when the gate opens: how long those answers take
    /// tells of the hold, and not of the version. The longer the gate was closed, the more there is to be worked off.
    fn burst(&self, report: &Report) -> Millis {
        let policy = &self.ripple.plan.policy;
        let alone = policy.min_serving == 0 && self.ripple.plan.steps.len() <= policy.batch;
        let closes = policy.strategy == Strategy::Quiesce;
        if !alone || !closes || policy.soak.is_zero() || self.limits().is_none() {
            return 0;
        }
        let out = report.took.map_or(0, |took| took.drain_ms + took.stop_ms + took.start_ms + took.probe_ms);
        out.clamp(*BURST_MS.start(), *BURST_MS.end())
    }

    /// The servers whose steps have not begun, and that serve what they had.
    fn others(&self) -> Vec<ServerName> {
        let plan = &self.ripple.plan;
        let steps = self.ripple.steps.iter().zip(&plan.steps);
        let from = &plan.steps[self.index].from;
        let others = steps.filter(|(step, planned)| {
            **step == StepPhase::Pending && planned.from == *from && self.list.serves(&plan.program, &planned.server)
        });
        others.map(|(_, planned)| planned.server.clone()).collect()
    }

    /// Asks for counters, where the last answer is too old to go by.
    fn measure(&self, wanted: Millis) -> Vec<Send> {
        if wanted == 0 {
            return Vec::new();
        }
        let program = &self.ripple.plan.program;
        let due = |server: &ServerName| {
            let last = self.list.cell(program, server).and_then(|cell| cell.measured.as_ref());
            last.is_none_or(|measured| measured.at + look_every(wanted) <= self.now)
        };
        let others = if self.limits().is_some() { self.others() } else { Vec::new() };
        let asked = others.into_iter().chain([self.server()]).filter(due);
        asked.map(|server| Send::Measure { server, program: program.clone() }).collect()
    }
}
