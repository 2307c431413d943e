//! Owns watching a ripple until it ends, and telling a person how it goes: redrawn on a terminal, else a line a change.
//! Must not know how the ripple was asked for, nor what its end means.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Ctx;
use super::failure::Failure;
use super::out::{self, Format, Out};
use crate::domain::duration;
use crate::domain::names::RippleId;
use crate::wire::api::{RippleKind, RippleView, StepView, WaitingFor, path};

/// Between two looks at a ripple.
const POLL: Duration = Duration::from_millis(250);
/// How long management may be away before watching ends; the ripple survives its restart.
const PATIENCE: Duration = Duration::from_secs(60);
/// A line about a wait that goes on is repeated this often, when its words changed.
const REMIND: Duration = Duration::from_secs(10);

/// The path of one ripple.
pub fn ripple_path(id: &RippleId) -> String {
    path::RIPPLE.replace("{id}", id.as_str())
}

/// Watches until the ripple has ended. Ctrl-C detaches.
pub async fn follow(ctx: &Ctx, id: &RippleId) -> Result<RippleView, Failure> {
    tokio::select! {
        ended = until_ended(ctx, id) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::Detached(come_back("detached", id))),
    }
}

fn come_back(what: &str, id: &RippleId) -> String {
    format!(
        "{what}; ripple {id} goes on\n  come back to it with: neap ripple show {id} --watch\n  stop it with: neap ripple \
         abort {id}"
    )
}

async fn until_ended(ctx: &Ctx, id: &RippleId) -> Result<RippleView, Failure> {
    let mut teller = Teller::new(&ctx.out);
    let mut last: Option<RippleView> = None;
    let mut silent_since: Option<Instant> = None;
    loop {
        match ctx.client.get::<RippleView>(&ripple_path(id), &[]).await {
            Ok(seen) => {
                if silent_since.take().is_some() {
                    teller.note("management answers again");
                }
                let changed = last.as_ref() != Some(&seen);
                if changed && ctx.out.format == Format::Ndjson {
                    ctx.out.json(&seen)?;
                }
                teller.tell(&seen);
                if seen.state.ended() {
                    return Ok(seen);
                }
                last = Some(seen);
            }
            Err(failure) => bear(failure, &mut silent_since, &mut teller, id)?,
        }
        let left = ctx.client.time_left().unwrap_or(POLL);
        if left.is_zero() {
            return Err(Failure::TimedOut(come_back("--timeout ran out", id)));
        }
        tokio::time::sleep(left.min(POLL)).await;
    }
}

/// Management that is away may come back: the ripple goes on at its servers, and so does the watch, for a while.
fn bear(
    failure: Failure,
    silent_since: &mut Option<Instant>,
    teller: &mut Teller,
    id: &RippleId,
) -> Result<(), Failure> {
    let away = match &failure {
        Failure::Unreachable(_) => true,
        Failure::Refused(problem) => problem.status == 503,
        Failure::TimedOut(_) => return Err(Failure::TimedOut(come_back("--timeout ran out", id))),
        _ => false,
    };
    if !away {
        return Err(failure);
    }
    if silent_since.is_none() {
        teller.note(&format!("management does not answer; asking again for {}", duration::show(PATIENCE)));
    }
    if silent_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
        return Ok(());
    }
    match failure {
        Failure::Unreachable(said) => Err(Failure::Unreachable(format!("{said}\n{}", come_back("not watching", id)))),
        other => Err(other),
    }
}

/// Tells how a ripple goes, on standard error.
enum Teller {
    Silent,
    Lines { out: Out, told: Option<Box<RippleView>>, reminded: Instant },
    Bars { bars: MultiProgress, head: ProgressBar, steps: Vec<ProgressBar>, foot: ProgressBar },
}

impl Teller {
    fn new(out: &Out) -> Self {
        if out.quiet {
            return Self::Silent;
        }
        if !out.animated() {
            return Self::Lines { out: *out, told: None, reminded: Instant::now() };
        }
        let bars = MultiProgress::new();
        let spinner = if out.color { "{spinner:.cyan} {msg}" } else { "{spinner} {msg}" };
        let head = bars.add(ProgressBar::new_spinner().with_style(style(spinner)));
        head.enable_steady_tick(POLL);
        // Of several lines: `wide_msg` would cut them all to the width of one.
        let foot = bars.add(ProgressBar::new_spinner().with_style(style("{msg}")));
        Self::Bars { bars, head, steps: Vec::new(), foot }
    }

    fn note(&mut self, words: &str) {
        match self {
            Self::Silent => {}
            Self::Lines { out, .. } => out.say(words),
            Self::Bars { foot, .. } => foot.set_message(format!("  {words}")),
        }
    }

    fn tell(&mut self, seen: &RippleView) {
        match self {
            Self::Silent => {}
            Self::Lines { out, told, reminded } => {
                let remind = reminded.elapsed() >= REMIND;
                let lines = changes(told.as_deref(), seen, remind);
                if remind || !lines.is_empty() {
                    *reminded = Instant::now();
                }
                lines.iter().for_each(|line| out.say(line));
                *told = Some(Box::new(seen.clone()));
            }
            Self::Bars { bars, head, steps, foot } => {
                show(head, title(seen));
                while steps.len() < seen.steps.len() {
                    steps.push(bars.insert_before(foot, ProgressBar::new_spinner().with_style(style("{wide_msg}"))));
                }
                for (bar, step) in steps.iter().zip(&seen.steps) {
                    show(bar, format!("  {}", step_line(step)));
                }
                show(foot, outlook(seen).join("\n"));
                if seen.state.ended() {
                    foot.finish_and_clear();
                    steps.iter().for_each(ProgressBar::abandon);
                    head.finish_and_clear();
                }
            }
        }
    }
}

/// Redraws only what is new.
fn show(bar: &ProgressBar, words: String) {
    if bar.message() != words {
        bar.set_message(words);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// "upgrade shop 1.0.0 → 2.0.0: running".
pub fn title(ripple: &RippleView) -> String {
    let versions = match (&ripple.from, &ripple.to) {
        (Some(from), Some(to)) if from != to => format!(" {from} → {to}"),
        (_, Some(to)) => format!(" {to}"),
        (Some(from), None) => format!(" {from}"),
        (None, None) => String::new(),
    };
    format!("{} {}{versions}: {}", kind_word(ripple), out::clean(ripple.what()), ripple.state)
}

/// What its steps are of.
pub fn unit(ripple: &RippleView) -> &'static str {
    if ripple.is_of_nodes() { "node" } else { "server" }
}

fn kind_word(ripple: &RippleView) -> String {
    match ripple.kind {
        RippleKind::Component => "upgrade component".to_owned(),
        kind => kind.as_str().replace('_', " "),
    }
}

/// "server-1  upgraded  drain 1.2s, stop 12ms, start 80ms".
pub fn step_line(step: &StepView) -> String {
    let mut line = format!("{:<16} {:<10}", step.server, step.state);
    let times = &step.times;
    let phases = [
        ("drain", times.drain_ms),
        ("stop", times.stop_ms),
        ("command", times.command_ms),
        ("start", times.start_ms),
        ("probe", times.probe_ms),
        ("overlap", times.overlap_ms),
        ("old", times.old_ms),
        ("soak", times.soak_ms),
    ];
    let shown: Vec<String> =
        phases.iter().filter_map(|(name, ms)| ms.map(|ms| format!("{name} {}", out::millis(ms)))).collect();
    if !shown.is_empty() {
        line.push_str(&format!(" {}", shown.join(", ")));
    }
    if !step.programs.is_empty() {
        let programs: Vec<&str> = step.programs.iter().map(|program| program.as_str()).collect();
        line.push_str(&format!(" ({})", programs.join(", ")));
    }
    if let Some(reason) = &step.reason {
        line.push_str(&format!(" — {}", out::clean(reason)));
    }
    line.trim_end().to_owned()
}

/// What it waits for, what is next, and what would change it.
pub fn outlook(ripple: &RippleView) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(waiting) = &ripple.waiting_for {
        lines.push(format!("  waiting for {}", waiting_line(waiting)));
        lines.extend(waiting.command.iter().map(|command| format!("  to change that: {}", out::clean(command))));
    }
    lines.extend(ripple.next.iter().map(|next| format!("  next: {}", out::clean(next))));
    lines
}

fn waiting_line(waiting: &WaitingFor) -> String {
    let until = waiting.until.map(|until| format!(" (until {until:.0})")).unwrap_or_default();
    format!("{}{until}", out::clean(&waiting.detail))
}

/// Lines for what is new since `before`. A wait is told when it begins, and again with its new words when `remind`.
fn changes(before: Option<&RippleView>, now: &RippleView, remind: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if before.is_none_or(|before| before.state != now.state) {
        lines.push(title(now));
    }
    for (index, step) in now.steps.iter().enumerate() {
        let earlier = before.and_then(|before| before.steps.get(index)).map(|step| step.state);
        let silent = earlier.is_none() && step.state == crate::wire::api::StepState::Planned;
        if earlier != Some(step.state) && !silent {
            lines.push(format!("  {}", step_line(step)));
        }
    }
    let waits = |ripple: &RippleView| ripple.waiting_for.as_ref().map(|waiting| waiting.reason.clone());
    let details = |ripple: &RippleView| ripple.waiting_for.as_ref().map(|waiting| waiting.detail.clone());
    let new_wait = before.is_none_or(|before| waits(before) != waits(now));
    let new_words = before.is_none_or(|before| details(before) != details(now));
    if now.waiting_for.is_some() && (new_wait || (remind && new_words)) {
        lines.extend(outlook(now));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::api::StepState;

    fn ripple(json: serde_json::Value) -> RippleView {
        let mut whole = serde_json::json!({
            "id": "r1", "program": "shop", "kind": "upgrade", "from": "1.0.0", "to": "2.0.0", "state": "running",
            "waiting_for": null, "next": null, "reason": null, "asked_by": null, "ended_at": null,
            "started_at": "2026-01-01T00:00:00Z",
            "steps": [{"server": "server-1", "state": "planned", "from": "1.0.0", "to": "2.0.0", "reason": null}],
        });
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_line_is_told_for_each_change_and_none_for_none() {
        let first = ripple(serde_json::json!({}));
        assert_eq!(changes(None, &first, false), ["upgrade shop 1.0.0 → 2.0.0: running"]);
        assert_eq!(changes(Some(&first), &first, true), [""; 0]);
        let mut second = first.clone();
        second.steps[0].state = StepState::Upgraded;
        second.steps[0].times.drain_ms = Some(1_200);
        assert_eq!(changes(Some(&first), &second, false), ["  server-1         upgraded   drain 1.2s"]);
    }

    #[test]
    fn a_wait_is_told_with_its_reason_its_end_and_the_command_that_changes_it() {
        let wait = |age| {
            ripple(serde_json::json!({"waiting_for": {
                "reason": "active_requests", "detail": format!("2 active requests, oldest {age}s, GET /export"),
                "until": "2026-01-01T00:00:30Z", "command": "neap ripple abort r1"}, "next": "stop shop on server-1"}))
        };
        let before = ripple(serde_json::json!({}));
        assert_eq!(
            changes(Some(&before), &wait(1), false),
            [
                "  waiting for 2 active requests, oldest 1s, GET /export (until 2026-01-01T00:00:30Z)",
                "  to change that: neap ripple abort r1",
                "  next: stop shop on server-1",
            ]
        );
        assert_eq!(changes(Some(&wait(1)), &wait(2), false).len(), 0);
        assert_eq!(changes(Some(&wait(1)), &wait(2), true).len(), 3);
    }
}
