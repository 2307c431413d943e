//! Owns which steps are canaries, and when the steps after them may begin. Must not know how a step goes.

use super::wait::Reason;
use super::{Ripple, StepPhase};
use crate::domain::program::Promote;

/// What the steps after the canaries wait for.
pub enum Hold {
    /// The canaries are under way, and tell by themselves what they wait for.
    UnderWay,
    Promotion(Reason),
}

/// Whether no further step may begin until the canaries are promoted. The first steps to begin are the canaries: one
/// whose server is down is none. Promotes them, where nobody has to.
pub fn hold(ripple: &mut Ripple) -> Option<Hold> {
    let canaries = ripple.plan.policy.canary;
    if canaries == 0 || ripple.promoted {
        return None;
    }
    let begun = |step: &&StepPhase| !matches!(step, StepPhase::Pending | StepPhase::Skipped { .. });
    let begun: Vec<&StepPhase> = ripple.steps.iter().filter(begun).collect();
    if begun.len() < canaries {
        return None;
    }
    if !begun.iter().all(|step| step.is_over()) {
        return Some(Hold::UnderWay);
    }
    match ripple.plan.policy.promote {
        Promote::Auto => {
            ripple.promoted = true;
            None
        }
        Promote::Manual => Some(Hold::Promotion(Reason::Promotion { canaries: begun.len() })),
    }
}
