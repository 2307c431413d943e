//! Owns what people ask that concerns sessions: not to wait for them, and another key. Must not know HTTP.

use super::asks::{begin_now, ended, leads, note_asked, unknown};
use super::control::{About, Control};
use super::tag_keys;
use crate::domain::names::RippleId;
use crate::wire::problem::Problem;

/// A ripple waits no longer for sessions to end.
pub fn migrate(control: &mut Control, id: &RippleId, asked_by: Option<String>) -> Result<(), Problem> {
    leads(control)?;
    control.ripples.get(id).ok_or_else(|| unknown(id))?;
    begin_now(control, id);
    let running = control.leader.ripples.get_mut(id).filter(|ripple| !ripple.state.is_over());
    running.ok_or_else(|| ended(id))?.migrates = true;
    note_asked(control, id, "told not to wait for sessions", asked_by.as_deref());
    Ok(())
}

/// A new key for sessions' tags; which it is.
pub fn roll_keys(control: &mut Control) -> Result<u32, Problem> {
    leads(control)?;
    control.tag_keys = tag_keys::roll(&control.tag_keys);
    let number = control.tag_keys.number;
    let message = format!("sessions' tags are made with key {number} from now on");
    control.event("session_keys_rolled", message, About::default());
    Ok(number)
}
