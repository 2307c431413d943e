//! Owns waiting for what ripples and placements become. Must not know why a test waits.

use std::time::Duration;

use neap::wire::api::{PlacementState, PlacementView, RippleState, RippleView, StepState};

use super::cluster::Cluster;
use super::{SOON, until};

/// How long a ripple over three servers may take on a busy machine.
pub const RIPPLE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Waits until a step of the ripple is in this state; answers with its server.
    #[track_caller]
    pub fn until_step(&self, id: &str, state: StepState) -> String {
        until(&format!("a step of {id} is {state}"), RIPPLE, || {
            let ripple = self.ripple(id)?;
            assert!(!ripple.state.ended(), "it ended before a step was {state}: {}", show(&ripple));
            let step = ripple.steps.iter().find(|step| step.state == state);
            step.map(|step| step.server.to_string()).ok_or_else(|| show(&ripple))
        })
    }

    /// Waits until it is no longer just planned, so that all that clients ask from now on is in its receipt.
    #[track_caller]
    pub fn until_running(&self, id: &str) {
        until(&format!("{id} runs"), SOON, || {
            let ripple = self.ripple(id)?;
            if ripple.state == RippleState::Planned { Err(show(&ripple)) } else { Ok(()) }
        });
    }

    /// Waits for its end, whatever it is.
    #[track_caller]
    pub fn until_ended(&self, id: &str) -> RippleView {
        until(&format!("{id} ends"), RIPPLE, || {
            let ripple = self.ripple(id)?;
            if ripple.state.ended() { Ok(ripple) } else { Err(show(&ripple)) }
        })
    }

    /// Waits until it is upgraded.
    #[track_caller]
    pub fn until_upgraded(&self, id: &str) -> RippleView {
        let ended = self.until_ended(id);
        assert_eq!(ended.state, RippleState::Upgraded, "{}", show(&ended));
        ended
    }

    /// Waits until the program is open and healthy at this version on so many servers, and on no other otherwise.
    #[track_caller]
    pub fn until_serves(&self, program: &str, version: &str, servers: usize) {
        until(&format!("{program} {version} serves on {servers} servers"), SOON, || {
            let placements = self.placements(program)?;
            let well = placements.iter().filter(|placement| serves(placement, version)).count();
            if well == servers && placements.len() == servers { Ok(()) } else { Err(format!("{placements:#?}")) }
        });
    }

    /// Waits until one placement is as said.
    #[track_caller]
    pub fn until_placed(&self, program: &str, server: &str, what: &str, is: impl Fn(&PlacementView) -> bool) {
        until(&format!("{program} on {server} is {what}"), SOON, || {
            let placements = self.placements(program)?;
            let found = placements.iter().find(|placement| placement.server.as_str() == server);
            if found.is_some_and(&is) { Ok(()) } else { Err(format!("{found:#?}")) }
        });
    }
}

pub fn serves(placement: &PlacementView, version: &str) -> bool {
    placement.state == PlacementState::Open
        && placement.healthy
        && placement.version.as_ref().is_some_and(|runs| runs.as_str() == version)
}

/// A ripple in a few lines.
pub fn show(ripple: &RippleView) -> String {
    let mut text = format!("ripple {} of {}: {}", ripple.id, ripple.what(), ripple.state);
    for step in &ripple.steps {
        text.push_str(&format!("\n  {} {} {}", step.server, step.state, step.reason.as_deref().unwrap_or_default()));
    }
    if let Some(waiting) = &ripple.waiting_for {
        text.push_str(&format!("\n  waits: {} {}", waiting.reason, waiting.detail));
    }
    if let Some(reason) = &ripple.reason {
        text.push_str(&format!("\n  {reason}"));
    }
    if let Some(failure) = &ripple.failure {
        text.push_str(&format!("\n  {failure:?}"));
    }
    text
}
