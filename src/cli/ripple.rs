//! Owns `neap ripple`: list, show, watch and steer ripples, and show their receipts.
//! Must not know how a ripple is carried out.

use clap::Subcommand;

use super::Ctx;
use super::failure::{EXIT_FAILED, Failure};
use super::out::{self, Format, or_dash};
use super::watch::ripple_path;
use super::{receipt, upgrade, watch};
use crate::domain::names::{ProgramName, RippleId};
use crate::wire::api::{HookView, Receipt, RippleView, path};

#[derive(Subcommand, Debug)]
pub enum RippleCommand {
    /// Lists ripples, newest first
    Ls {
        /// Only those of this program
        program: Option<ProgramName>,
    },
    /// Shows a ripple, what it waits for, and what is next
    Show {
        id: RippleId,
        /// Watches until it has ended
        #[arg(short, long)]
        watch: bool,
    },
    /// Stops a ripple after what it is doing now; what is upgraded stays so
    Abort {
        id: RippleId,
        /// Does not wait for its end
        #[arg(long)]
        detach: bool,
    },
    /// Shows every admitted request and how it ended
    Receipt {
        id: RippleId,
        /// Exits with 1 unless nothing was lost
        #[arg(long)]
        exit_code: bool,
    },
    /// Lets what it is doing now end, and starts no further step until it is resumed
    Pause { id: RippleId },
    /// Goes on with a ripple that was paused
    Resume { id: RippleId },
    /// Lets a ripple go on after its canaries
    Promote { id: RippleId },
    /// Waits no longer for sessions to end: those left go on elsewhere
    Migrate { id: RippleId },
    /// Takes every server that a ripple touched back to what it had; stops the ripple first, if it runs
    Undo {
        id: RippleId,
        /// Does not wait for its end
        #[arg(long)]
        detach: bool,
    },
}

impl RippleCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Ls { program } => list(ctx, program).await,
            Self::Show { id, watch: false } => show(ctx, &id).await,
            Self::Show { id, watch: true } => {
                let ended = watch::follow(ctx, &id).await?;
                upgrade::conclude(ctx, &ended).await
            }
            Self::Abort { id, detach } => abort(ctx, &id, detach).await,
            Self::Receipt { id, exit_code } => show_receipt(ctx, &id, exit_code).await,
            Self::Pause { id } => steer(ctx, &id, "pause").await,
            Self::Resume { id } => steer(ctx, &id, "resume").await,
            Self::Promote { id } => steer(ctx, &id, "promote").await,
            Self::Migrate { id } => steer(ctx, &id, "migrate").await,
            Self::Undo { id, detach } => undo(ctx, &id, detach).await,
        }
    }
}

async fn list(ctx: &Ctx, program: Option<ProgramName>) -> Result<(), Failure> {
    let query: Vec<(&str, &str)> = program.iter().map(|program| ("program", program.as_str())).collect();
    let ripples = ctx.client.list::<RippleView>(path::RIPPLES, &query).await?;
    let (now, whole) = (jiff::Timestamp::now(), program.is_some());
    ctx.out.list(&ripples, |ripples| {
        out::table(
            &["RIPPLE", "PROGRAM", "KIND", "FROM", "TO", "STATE", "STARTED", "TOOK"],
            // A component's ripple stands for those of its programs.
            ripples.iter().filter(|ripple| whole || ripple.part_of.is_none()).map(|ripple| {
                vec![
                    ripple.id.to_string(),
                    out::clean(ripple.what()),
                    ripple.kind.to_string(),
                    or_dash(ripple.from.as_ref()),
                    or_dash(ripple.to.as_ref()),
                    ripple.state.to_string(),
                    format!("{} ago", out::ago(ripple.started_at, now)),
                    or_dash(ripple.ended_at.map(|ended| out::ago(ripple.started_at, ended))),
                ]
            }),
        )
    })
}

async fn show(ctx: &Ctx, id: &RippleId) -> Result<(), Failure> {
    let ripple: RippleView = ctx.client.get(&ripple_path(id), &[]).await?;
    ctx.out.one(&ripple, text)
}

/// A ripple as a person reads it.
pub fn text(ripple: &RippleView) -> String {
    let mut lines = vec![format!("ripple {}: {}", ripple.id, watch::title(ripple))];
    let asked = ripple.asked_by.as_deref().map(|by| format!(", asked for by {}", out::clean(by))).unwrap_or_default();
    let ended = ripple.ended_at.map(|ended| format!(", ended {ended:.0}")).unwrap_or_default();
    lines.push(format!("  started {:.0}{ended}{asked}", ripple.started_at));
    for step in &ripple.steps {
        lines.push(format!("  {}", watch::step_line(step)));
        lines.extend(step.judged.iter().map(|judged| format!("    {}", out::clean(judged))));
    }
    lines.extend(ripple.hooks.iter().flat_map(hook_lines));
    for step in &ripple.steps {
        if let Some(command) = &step.command {
            let how = command.failure.as_deref().unwrap_or("ended well");
            lines.push(format!(
                "  on {} ran: {} ({})",
                step.server,
                out::clean(&command.run.join(" ")),
                out::clean(how)
            ));
            lines.extend(command.output.iter().map(|line| format!("    {}", out::clean(line))));
        }
    }
    for part in &ripple.parts {
        lines.push(format!("  {}: {}", part.id, watch::title(part)));
    }
    lines.extend(ripple.part_of.iter().map(|whole| format!("  a part of ripple {whole}")));
    lines.extend(watch::outlook(ripple));
    lines.extend(ripple.undoes.iter().map(|undone| format!("  undoes ripple {undone}")));
    lines.extend(ripple.undone_by.iter().map(|undo| format!("  undone by ripple {undo}")));
    lines.extend(ripple.reason.iter().map(|reason| format!("  because {}", out::clean(reason))));
    if let Some(failure) = &ripple.failure {
        lines.extend(failure.log.iter().map(|line| format!("    {}", out::clean(line))));
    }
    if !ripple.events.is_empty() {
        lines.push("  what happened:".to_owned());
    }
    for event in &ripple.events {
        let server = event.server.as_ref().map(|server| format!("{server} ")).unwrap_or_default();
        lines.push(format!("    {:.0}  {server}{}", event.at, out::clean(&event.what)));
    }
    lines.join("\n")
}

/// A hook, and what it wrote.
fn hook_lines(hook: &HookView) -> Vec<String> {
    let at = hook.server.as_ref().map_or("management".to_owned(), ToString::to_string);
    let how = hook.how.as_deref().map(|how| format!(": {}", out::clean(how))).unwrap_or_default();
    let took = hook.took_ms.map(|took| format!(", {}", out::millis(took))).unwrap_or_default();
    let head = format!("  {} at {at} {}{how}{took}", hook.hook.as_str(), hook.state);
    [head].into_iter().chain(hook.log.iter().map(|line| format!("    {}", out::clean(line)))).collect()
}

async fn ask(ctx: &Ctx, id: &RippleId, action: &str) -> Result<RippleView, Failure> {
    let at = path::RIPPLE_ACTION.replace("{id}", id.as_str()).replace("{action}", action);
    ctx.client.post(&at, &[], &serde_json::json!({})).await
}

async fn steer(ctx: &Ctx, id: &RippleId, action: &str) -> Result<(), Failure> {
    let ripple = ask(ctx, id, action).await?;
    ctx.out.one(&ripple, text)
}

async fn abort(ctx: &Ctx, id: &RippleId, detach: bool) -> Result<(), Failure> {
    let mut ripple = ask(ctx, id, "abort").await?;
    let watched = !ripple.state.ended() && !detach;
    if watched {
        ripple = watch::follow(ctx, id).await?;
    }
    // As lines of JSON, each change was printed when it was seen.
    if !watched || ctx.out.format != Format::Ndjson {
        ctx.out.one(&ripple, text)?;
    }
    match ripple.state {
        state if state.ended() && state != crate::wire::api::RippleState::Aborted => {
            Err(Failure::Failed(format!("the ripple could not be aborted any more: it ended {state}")))
        }
        _ => Ok(()),
    }
}

async fn undo(ctx: &Ctx, id: &RippleId, detach: bool) -> Result<(), Failure> {
    let ripple = ask(ctx, id, "undo").await?;
    if ripple.id != *id {
        return upgrade::attend(ctx, ripple, detach).await;
    }
    ctx.out.say("it has changed nothing yet: it is aborted");
    abort(ctx, id, detach).await
}

async fn show_receipt(ctx: &Ctx, id: &RippleId, exit_code: bool) -> Result<(), Failure> {
    let ripple: RippleView = ctx.client.get(&ripple_path(id), &[]).await?;
    if !ripple.parts.is_empty() {
        return show_receipts(ctx, &ripple, exit_code).await;
    }
    let receipt: Receipt = ctx.client.get(&receipt::receipt_path(id), &[]).await?;
    ctx.out.one(&receipt, receipt::text)?;
    if exit_code && !receipt::clean(&receipt) { Err(Failure::Told(EXIT_FAILED)) } else { Ok(()) }
}

/// A component's ripple has a receipt for each of its programs.
async fn show_receipts(ctx: &Ctx, ripple: &RippleView, exit_code: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    for part in &ripple.parts {
        all.push(ctx.client.get::<Receipt>(&receipt::receipt_path(&part.id), &[]).await?);
    }
    let clean = all.iter().all(receipt::clean);
    let page = crate::wire::page::Page { items: all, next: None };
    ctx.out.list(&page, |receipts| receipts.iter().map(receipt::text).collect::<Vec<_>>().join("\n\n"))?;
    if exit_code && !clean { Err(Failure::Told(EXIT_FAILED)) } else { Ok(()) }
}
