//! Owns the commands that go with a ripple: before and after it once, at management; before and after each step, on its
//! server. Each runs at most once in a ripple, and its end decides. Must not know how a command is run.

use serde::{Deserialize, Serialize};

use super::machine::{self, Send};
use super::plan::RippleKind;
use super::wait::{Reason, Wait};
use super::{Asked, Ripple, RippleState, StepPhase};
use crate::domain::names::{Release, RippleId, ServerName, Version};
use crate::domain::placement::Millis;
use crate::domain::program::Hooks;
use crate::domain::server_list::ServerList;

/// When a command runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    BeforeRipple,
    BeforeStep,
    AfterStep,
    /// When the last old instance has stopped.
    AfterRipple,
}

impl Hook {
    /// Its key in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeRipple => "before_ripple",
            Self::BeforeStep => "before_step",
            Self::AfterStep => "after_step",
            Self::AfterRipple => "after_ripple",
        }
    }

    /// Its command; empty: there is none.
    pub fn argv(self, hooks: &Hooks) -> &[String] {
        match self {
            Self::BeforeRipple => &hooks.before_ripple,
            Self::BeforeStep => &hooks.before_step,
            Self::AfterStep => &hooks.after_step,
            Self::AfterRipple => &hooks.after_ripple,
        }
    }
}

/// The hooks that a manifest has. A ripple that takes back, catches up or removes has none: it does not depend on them.
pub fn planned(kind: RippleKind, hooks: &Hooks) -> Vec<Hook> {
    let all = [Hook::BeforeRipple, Hook::BeforeStep, Hook::AfterStep, Hook::AfterRipple];
    let wanted = matches!(kind, RippleKind::Install | RippleKind::Upgrade | RippleKind::Restart);
    all.into_iter().filter(|hook| wanted && !hook.argv(hooks).is_empty()).collect()
}

/// What a hook is told of the ripple.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HookOrder {
    pub ripple: RippleId,
    pub kind: RippleKind,
    pub hook: Hook,
    /// Whose command it is.
    pub release: Release,
    /// What was desired before: of the step's server, or of the program.
    pub from: Option<Version>,
}

/// A hook that was begun.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HookRun {
    pub hook: Hook,
    /// `None`: at management.
    pub server: Option<ServerName>,
    /// `None`: it runs, or is about to.
    pub end: Option<HookEnd>,
}

/// How a hook ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HookEnd {
    pub well: bool,
    /// "exit status 0", or why it never ran.
    pub how: String,
    /// The last lines that it wrote.
    pub lines: Vec<String>,
    pub took_ms: Millis,
}

impl HookEnd {
    /// One that did not come to an end of its own.
    pub fn lost(how: impl Into<String>) -> Self {
        Self { well: false, how: how.into(), lines: Vec::new(), took_ms: 0 }
    }
}

/// Whether something has to wait for a hook.
pub(super) enum Need {
    Nothing,
    Wait(Wait),
    Failed(String),
}

/// Begins a hook where it is planned and was not begun; tells whether it has to be waited for.
pub(super) fn need(ripple: &mut Ripple, hook: Hook, server: Option<&ServerName>) -> Need {
    if !ripple.plan.policy.hooks.contains(&hook) {
        return Need::Nothing;
    }
    let begun = ripple.hooks.iter().find(|run| run.hook == hook && run.server.as_ref() == server);
    match begun.map(|run| &run.end) {
        Some(Some(end)) if end.well => Need::Nothing,
        Some(Some(end)) => Need::Failed(failure(hook, end)),
        Some(None) => Need::Wait(waits(hook, server)),
        None => {
            ripple.hooks.push(HookRun { hook, server: server.cloned(), end: None });
            Need::Wait(waits(hook, server))
        }
    }
}

fn waits(hook: Hook, server: Option<&ServerName>) -> Wait {
    Wait { server: server.cloned(), reason: Reason::Hook { hook }, until: None }
}

/// Why, then what it wrote, as with instances that do not start.
fn failure(hook: Hook, end: &HookEnd) -> String {
    let lines =
        if end.lines.is_empty() { String::new() } else { format!("; its last lines:\n{}", end.lines.join("\n")) };
    format!("{} failed: {}{lines}", hook.as_str(), end.how)
}

/// Whether no step may begin: `before_ripple` has not ended well. It is not begun where the ripple is to stop.
pub(super) fn hold(ripple: &mut Ripple) -> Option<Wait> {
    let begun = ripple.hooks.iter().any(|run| run.hook == Hook::BeforeRipple);
    if !begun && ripple.asked != Asked::Nothing {
        return None;
    }
    match need(ripple, Hook::BeforeRipple, None) {
        Need::Wait(wait) => Some(wait),
        Need::Nothing | Need::Failed(_) => None,
    }
}

/// Why the ripple as a whole cannot go on.
pub(super) fn before_ripple_failed(ripple: &Ripple) -> Option<String> {
    let run = ripple.hooks.iter().find(|run| run.hook == Hook::BeforeRipple)?;
    run.end.as_ref().filter(|end| !end.well).map(|end| failure(Hook::BeforeRipple, end))
}

/// A hook that was begun and has not ended: it is waited for, also by a ripple that is to stop.
pub(super) fn running(ripple: &Ripple) -> Option<Wait> {
    let run = ripple.hooks.iter().find(|run| run.end.is_none())?;
    Some(waits(run.hook, run.server.as_ref()))
}

/// A server that is down for long tells nothing of its hook any more.
pub(super) fn lose(ripple: &mut Ripple, list: &ServerList, now: Millis) {
    let silent = |name: &ServerName| {
        list.servers.get(name).is_none_or(|server| !server.up && server.heard_at + machine::DOWN_PATIENCE_MS <= now)
    };
    for run in ripple.hooks.iter_mut().filter(|run| run.end.is_none()) {
        if run.server.as_ref().is_some_and(silent) {
            run.end = Some(HookEnd::lost("its server went down"));
        }
    }
}

/// What keeps hooks running, and asks for their ends.
pub(super) fn sends(ripple: &Ripple) -> Vec<Send> {
    let open = ripple.hooks.iter().filter(|run| run.end.is_none());
    let orders = open.filter_map(|run| {
        let of_server = |server: &ServerName| ripple.plan.steps.iter().find(|step| step.server == *server);
        let from = match &run.server {
            Some(server) => of_server(server)?.from.as_ref(),
            None => ripple.plan.was.as_ref(),
        };
        let order = HookOrder {
            ripple: ripple.plan.id.clone(),
            kind: ripple.plan.kind,
            hook: run.hook,
            release: ripple.plan.to.clone()?,
            from: from.map(|release| release.version.clone()),
        };
        Some(Send::Hook { server: run.server.clone(), program: ripple.plan.program.clone(), order })
    });
    orders.collect()
}

/// A server on which the program is not what the ripple brings, as far as is known, and which may run an old instance.
fn old_instance(ripple: &Ripple, list: &ServerList) -> Option<ServerName> {
    let cells = list.cells.get(&ripple.plan.program)?;
    let old = |server: &ServerName| match list.observed(&ripple.plan.program, server) {
        Some(seen) => seen.release.is_some() && (seen.release != ripple.plan.to || seen.operation.is_some()),
        None => !list.servers.get(server).is_some_and(|server| server.up && server.sealed.is_some()),
    };
    cells.keys().find(|server| old(server)).cloned()
}

/// Every step is over, and well: what is left to wait for before the ripple has ended well, or why it has not.
pub(super) fn at_the_end(ripple: &mut Ripple, list: &ServerList) -> Result<Option<Wait>, String> {
    let brought = ripple.steps.contains(&StepPhase::Done);
    if !brought || !ripple.plan.policy.hooks.contains(&Hook::AfterRipple) {
        return Ok(None);
    }
    if let Some(server) = old_instance(ripple, list) {
        return Ok(Some(Wait { server: Some(server), reason: Reason::OldInstance, until: None }));
    }
    match need(ripple, Hook::AfterRipple, None) {
        Need::Nothing => Ok(None),
        Need::Wait(wait) => Ok(Some(wait)),
        Need::Failed(reason) => Err(reason),
    }
}

impl Ripple {
    /// A hook has ended; answers whether this ripple waited for it.
    pub fn hooked(&mut self, hook: Hook, server: Option<&ServerName>, end: HookEnd) -> bool {
        let waiting =
            self.hooks.iter_mut().find(|run| run.hook == hook && run.server.as_ref() == server && run.end.is_none());
        waiting.map(|run| run.end = Some(end)).is_some()
    }

    /// Management has begun anew: what it ran itself has gone with it, and nobody knows how far it was.
    pub fn forget_hooks(&mut self) {
        for run in self.hooks.iter_mut().filter(|run| run.server.is_none() && run.end.is_none()) {
            run.end = Some(HookEnd::lost("management stopped while it ran"));
        }
    }

    /// Whether servers have what it brings, although a command that should have come last failed.
    pub fn has_brought_all(&self) -> bool {
        let through = |step: &StepPhase| matches!(step, StepPhase::Done | StepPhase::Skipped { .. });
        let failed = self.hooks.iter().any(|run| run.hook == Hook::AfterRipple && run.end.is_some());
        self.state == RippleState::Failed && failed && self.steps.iter().all(through)
    }
}
