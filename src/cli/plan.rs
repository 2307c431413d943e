//! Owns how a plan is shown before it is started. Must not know how it is asked for.

use super::out::{self, count, or_dash};
use crate::domain::names::ProgramName;
use crate::domain::program::{Promote, Strategy};
use crate::wire::api::{Carries, PlanView, PlannedStep, RippleKind};

/// A plan as a person reads it.
pub fn text(plan: &PlanView) -> String {
    let skipped = plan.skipped.iter().map(|step| format!("skips {}: {}", step.server, out::clean(&step.reason)));
    if plan.steps.is_empty() {
        let mut lines = vec![format!("nothing to do: {} {} runs on all its servers", plan.program, plan.to)];
        lines.extend(skipped);
        return lines.join("\n");
    }
    let at_once = match (plan.kind, plan.batch) {
        (RippleKind::Install, _) => ", all at once".to_owned(),
        (_, batch) if batch > 1 => format!(", up to {batch} at a time"),
        _ => String::new(),
    };
    let mut lines = vec![
        format!(
            "plan {}: {} {} to {} on {}{at_once}",
            plan.id,
            plan.kind,
            plan.program,
            plan.to,
            count(plan.steps.len(), "server")
        ),
        out::table(
            &["STEP", "SERVER", "FROM", "TO", "ACTIVE", "DRAINS IN ABOUT", "CARRIED MEANWHILE"],
            plan.steps.iter().enumerate().map(|(index, step)| {
                vec![
                    (index + 1).to_string(),
                    step.server.to_string(),
                    or_dash(step.from.as_ref()),
                    step.to.to_string(),
                    active_text(step),
                    or_dash(step.expected_drain_ms.map(out::millis)),
                    or_dash(step.carries.as_ref().map(carries_text)),
                ]
            }),
        ),
    ];
    lines.extend(skipped);
    if plan.canary > 0 {
        let then = match plan.promote {
            Promote::Auto => "goes on when they are through their soaks",
            Promote::Manual => "waits for `neap ripple promote`",
        };
        lines.push(format!("upgrades {} first, as canaries, and {then}", count(plan.canary as usize, "server")));
    }
    if plan.strategy == Strategy::Overlap {
        let how = "starts the new version beside the old one, and switches in one step: nothing leaves service";
        lines.push(how.to_owned());
    }
    if !plan.aside.is_empty() {
        let names: Vec<&str> = plan.aside.iter().map(ProgramName::as_str).collect();
        lines.push(format!("takes {} out of service with it, server by server", names.join(", ")));
    }
    lines.push(format!(
        "keeps at least {} serving; drains up to {}{}, holds up to {}, soaks {}",
        plan.min_serving,
        out::millis(plan.drain_timeout_ms),
        if plan.force { ", then cuts what is left" } else { ", then gives up" },
        out::millis(plan.hold_ms),
        out::millis(plan.soak_ms),
    ));
    lines.join("\n")
}

/// Requests, and sessions where a drain waits for them.
fn active_text(step: &PlannedStep) -> String {
    match step.sessions {
        0 => step.active_requests.to_string(),
        sessions => format!("{}, and {}", step.active_requests, count(sessions as usize, "session")),
    }
}

/// "server-2: 1.30 of 2 cores, 1.60 allowed: it waits".
fn carries_text(carries: &Carries) -> String {
    let cores = |milli: u32| format!("{:.2}", f64::from(milli) / 1_000.0);
    let most = carries.most_milli;
    let allowed = if most > 0 { format!(", {} allowed", cores(most)) } else { String::new() };
    let waits = if most > 0 && carries.would_milli > most { ": it would wait" } else { "" };
    format!("{}: {} of {} cores{allowed}{waits}", carries.server, cores(carries.would_milli), carries.cores)
}
