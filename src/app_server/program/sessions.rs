//! Owns what a drain waits for beside requests: the sessions that have to stay with this instance (protocol P16).
//! Must not know how a request tells of its session.

use std::sync::Arc;

use super::Program;
use crate::app_server::stay::{self, Sessions};
use crate::domain::ledger::Sessions as Left;
use crate::domain::names::{Generation, Version};
use crate::domain::placement::{State, Sticky};
use crate::domain::program::Manifest;
use crate::domain::server_list::SessionsLeft;

impl Program {
    /// What requests to a new instance need to know.
    pub(super) fn sessions_of(&self, manifest: &Manifest, version: &Version) -> Option<Arc<Sessions>> {
        let (name, program) = (self.shared.identity.name.clone(), self.placement.program.clone());
        let list = || self.shared.sessions.program(&program);
        Sessions::of(manifest, &name, version, &self.shared.tag_keys, list)
    }

    /// Of an instance that may have run before this run of the node, not every session need be listed.
    pub(super) fn doubt_sessions(&mut self, manifest: &Manifest) {
        if let (Some(rule), State::Closed) = (manifest.sticky(), self.placement.state) {
            // An instance of the node's earlier run may have begun sessions that were not on disk when that ended.
            let idle = u64::try_from(rule.idle.as_millis()).unwrap_or(u64::MAX);
            self.sessions_uncertain_until = stay::now().saturating_add(idle);
        }
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        self.slot.admission().target.as_ref()?.sessions.clone()
    }

    /// What a drain has to know of sessions; `None`: nothing keeps it waiting.
    pub(super) fn sticky(&self) -> Option<Sticky> {
        let rule = self.manifest.as_ref()?.sticky()?;
        let sessions = self.sessions()?;
        let certain = stay::now() >= self.sessions_uncertain_until;
        // In this order: a request under way may begin a session, and is counted until it has.
        let over = certain && self.active() == 0 && sessions.list.count() == 0;
        Some(Sticky { deadline: rule.deadline, over })
    }

    pub(super) fn sessions_left(&self) -> Option<SessionsLeft> {
        let until = self.placement.known_until?;
        let sessions = self.sessions()?;
        let figures = sessions.list.figures(stay::now());
        Some(SessionsLeft { figures, deadline_in_ms: until.saturating_sub(self.shared.clock.now()) })
    }

    pub(super) fn know_gate(&mut self, generation: Generation) {
        self.quiesced_at = None;
        self.slot.admission().gate.know(generation);
        self.shared.nudge();
    }

    /// Those that are left go on elsewhere: this server lists them no more. By force they are cut: they were still waited for.
    pub(super) fn migrate_sessions(&mut self) {
        if self.manifest.as_ref().is_none_or(|manifest| manifest.sticky().is_none()) {
            return;
        }
        let Some(sessions) = self.sessions() else { return };
        let left = sessions.list.migrate_all(stay::now()) as u64;
        if left > 0 {
            let forced = self.is_state(State::Upgrading);
            tracing::info!(program = %self.placement.program, left, forced, "sessions go on elsewhere");
            let (migrated, cut) = if forced { (0, left) } else { (left, 0) };
            self.count_sessions(Left { migrated, cut, ..Left::default() });
        }
    }

    /// Counts those that ended since the last time.
    pub(super) fn count_finished_sessions(&self) {
        if let Some(sessions) = self.sessions() {
            self.count_sessions(Left { finished: sessions.list.take_finished(), ..Left::default() });
        }
    }

    fn count_sessions(&self, left: Left) {
        if let Some(target) = &self.slot.admission().target {
            self.shared.ledger.sessions(&target.row, left);
        }
    }
}
