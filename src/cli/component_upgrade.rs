//! Owns `neap upgrade --component`: the plan with its evidence, the question, the ripple. Must not know how it is made.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Ctx;
use super::failure::{EXIT_CHANGES, Failure};
use super::out::{self, Format, count, or_dash};
use super::upgrade::{How, attend, declined};
use super::{component, node_upgrade, words};
use crate::domain::duration;
use crate::domain::names::ProgramName;
use crate::domain::program::Promote;
use crate::wire::api::{ComponentPlanView, ComponentUpgradeRequest, RippleOptions, RippleView, path};

/// What is asked of a component.
#[derive(Args, Debug)]
pub struct ComponentArgs {
    /// Upgrades a component of the servers' software: quiesces just the programs that use it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["program", "to"])]
    pub component: Option<String>,
    /// The command that takes the component back, in quotes; it is run if the ripple undoes itself, or is undone
    #[arg(long, value_name = "CMD", requires = "component")]
    pub undo_run: Option<String>,
    /// How long the command may take on a server; then it is killed, and has failed
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "component")]
    pub run_timeout: Option<Duration>,
    /// The command that upgrades it, run on each server while its programs are stopped; takes all words that follow
    #[arg(
        long,
        value_name = "CMD",
        num_args = 1..,
        allow_hyphen_values = true,
        requires = "component",
        conflicts_with = "program"
    )]
    pub run: Vec<String>,
    /// Of the component neap: the binary that all nodes shall run
    #[arg(long, value_name = "FILE", requires = "component", conflicts_with_all = ["run", "undo_run", "run_timeout"])]
    pub binary: Option<PathBuf>,
}

impl ComponentArgs {
    pub async fn run(self, ctx: &Ctx, name: &str, how: &How) -> Result<(), Failure> {
        if let Some(binary) = &self.binary {
            return node_upgrade::run(ctx, name, binary, how).await;
        }
        if self.run.is_empty() {
            return Err(Failure::Usage(format!("say what upgrades {}: --run CMD, or --binary FILE", out::clean(name))));
        }
        let undo_run = self.undo_run.as_deref().map(words::split).transpose();
        let undo_run = undo_run.map_err(|why| Failure::Usage(format!("--undo-run: {why}")))?;
        let within_ms = self.run_timeout.map(|given| u64::try_from(given.as_millis()).unwrap_or(u64::MAX));
        let options = RippleOptions::from(&how.options);
        let mut request = ComponentUpgradeRequest { run: self.run, undo_run, within_ms, options, plan: None };
        let escaped = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        let at = path::COMPONENT_UPGRADE.replace("{component}", &escaped);
        let plan: ComponentPlanView = ctx.client.post(&at, &[("dry_run", "true")], &request).await?;
        if how.plan {
            ctx.out.one(&plan, text)?;
            return if how.exit_code { Err(Failure::Told(EXIT_CHANGES)) } else { Ok(()) };
        }
        ask(ctx, &plan, how.wait.yes)?;
        request.plan = Some(plan.id);
        let ripple: RippleView = ctx.client.post(&at, &[], &request).await?;
        attend(ctx, ripple, how.wait.detach).await
    }
}

/// Asks before anything is cut.
fn ask(ctx: &Ctx, plan: &ComponentPlanView, yes: bool) -> Result<(), Failure> {
    let forced: Vec<&str> = plan.programs.iter().filter(|one| one.force).map(|one| one.program.as_str()).collect();
    if yes || forced.is_empty() {
        if !ctx.out.quiet && ctx.out.format == Format::Table {
            ctx.out.say(&text(plan));
        }
        return Ok(());
    }
    let question = format!("requests of {} that have not ended will be cut", forced.join(", "));
    if !out::can_ask() {
        return Err(Failure::Usage(format!("with --force, {question}: say --yes to that")));
    }
    ctx.out.say(&text(plan));
    if out::confirm(&format!("{question}. Go on?")) { Ok(()) } else { Err(declined()) }
}

/// A plan as a person reads it: who is quiesced where, and how that is known.
pub fn text(plan: &ComponentPlanView) -> String {
    let at_once = if plan.batch > 1 { format!(", up to {} at a time", plan.batch) } else { String::new() };
    let mut lines = vec![
        format!(
            "plan {}: upgrade {} on {}{at_once}",
            plan.id,
            out::clean(plan.component.as_str()),
            count(plan.steps.len(), "server")
        ),
        format!("runs {}", out::clean(&plan.run.join(" "))),
        match &plan.undo_run {
            Some(words) => format!("takes it back with {}", out::clean(&words.join(" "))),
            None => "has no command that takes it back (--undo-run)".to_owned(),
        },
        out::table(
            &["STEP", "SERVER", "QUIESCED TOGETHER", "ACTIVE"],
            plan.steps.iter().enumerate().map(|(index, step)| {
                let programs: Vec<&str> = step.programs.iter().map(ProgramName::as_str).collect();
                vec![
                    (index + 1).to_string(),
                    step.server.to_string(),
                    programs.join(" "),
                    step.active_requests.to_string(),
                ]
            }),
        ),
        out::table(
            &["PROGRAM", "VERSION", "KEEPS", "DRAINS UP TO", "SOAKS", "BECAUSE"],
            plan.programs.iter().map(|one| {
                vec![
                    one.program.to_string(),
                    or_dash(one.version.as_ref()),
                    format!("{} serving", one.min_serving),
                    format!("{}{}", out::millis(one.drain_timeout_ms), if one.force { ", then cuts" } else { "" }),
                    out::millis(one.soak_ms),
                    out::clean(&one.evidence),
                ]
            }),
        ),
    ];
    if plan.canary > 0 {
        let then = match plan.promote {
            Promote::Auto => "goes on when they are through their soaks",
            Promote::Manual => "waits for `neap ripple promote`",
        };
        lines.push(format!("upgrades {} first, as canaries, and {then}", count(plan.canary as usize, "server")));
    }
    if !plan.unanswered.is_empty() {
        let names: Vec<&str> = plan.unanswered.iter().map(|name| name.as_str()).collect();
        lines.push(format!("{} did not look again: what was known before is taken", names.join(", ")));
    }
    if !plan.unread.is_empty() {
        lines.push("others may use it unseen, and are not touched:".to_owned());
        lines.extend(plan.unread.iter().map(component::unread_line));
    }
    lines.join("\n")
}
