//! Owns `neap upgrade`: the plan, the question, the ripple, and what its end means to whoever asked.
//! Must not know how a plan is made.

use std::time::Duration;

use clap::Args;

use super::Ctx;
use super::component_upgrade::ComponentArgs;
use super::failure::{EXIT_CHANGES, EXIT_FAILED, Failure};
use super::out::{self, Format, count, or_dash};
use super::{node_upgrade, plan, receipt, watch};
use crate::domain::duration;
use crate::domain::manifest::BATCH_MAX;
use crate::domain::names::{ProgramName, ServerName, Version};
use crate::domain::program::{Promote, Scope, Strategy};
use crate::wire::api::{
    HookState, NodeState, NodeView, PlacementState, PlacementView, PlanView, ProgramView, RippleKind, RippleOptions,
    RippleState, RippleView, StepState, UpgradeRequest, path,
};

#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// The program to upgrade
    #[arg(required_unless_present = "component")]
    pub program: Option<ProgramName>,
    /// The version that all its servers shall run
    #[arg(long, value_name = "VERSION", required_unless_present = "component")]
    pub to: Option<Version>,
    #[command(flatten)]
    pub component: ComponentArgs,
    #[command(flatten)]
    pub how: How,
}

/// What `upgrade`, `deploy` and `program restart` have in common.
#[derive(Args, Debug, Clone)]
pub struct How {
    #[command(flatten)]
    pub options: Options,
    /// Shows what would be done, and does nothing
    #[arg(long)]
    pub plan: bool,
    /// With --plan: exits with 3 if there are changes to make
    #[arg(long, requires = "plan")]
    pub exit_code: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// What a ripple does otherwise than its manifest says.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// quiesce: close the gate, drain, stop, start; overlap: start beside, switch in one step, then drain and stop
    #[arg(long, value_name = "HOW")]
    pub strategy: Option<Strategy>,
    /// Servers at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_MAX)))]
    pub batch: Option<u32>,
    /// So many servers first; then it waits to be promoted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(BATCH_MAX)))]
    pub canary: Option<u32>,
    /// Who lets it go on after the canaries: auto, once they are through their soaks, or manual
    #[arg(long, value_name = "WHO")]
    pub promote: Option<Promote>,
    /// Placements that must stay open and healthy all through
    #[arg(long, value_name = "N")]
    pub min_serving: Option<u32>,
    /// How long routers keep requests while no server can take them
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub hold: Option<Duration>,
    /// How long a closed gate waits for its last requests
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub drain_timeout: Option<Duration>,
    /// Time under real traffic after a step before the next
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub soak: Option<Duration>,
    /// Cuts what has not ended after the drain timeout, and counts it
    #[arg(long)]
    pub force: bool,
    /// What a step takes out of service: program, or, to compare, server: all of its programs
    #[arg(long, value_name = "WHAT", default_value = "program")]
    pub scope: Scope,
}

#[derive(Args, Debug, Clone)]
pub struct Wait {
    /// Starts it and does not wait for its end
    #[arg(long)]
    pub detach: bool,
    /// Asks no question
    #[arg(short, long)]
    pub yes: bool,
}

impl From<&Options> for RippleOptions {
    fn from(options: &Options) -> Self {
        let ms = |given: Option<Duration>| given.map(|given| u64::try_from(given.as_millis()).unwrap_or(u64::MAX));
        Self {
            strategy: options.strategy,
            batch: options.batch,
            canary: options.canary,
            promote: options.promote,
            min_serving: options.min_serving,
            hold_ms: ms(options.hold),
            drain_timeout_ms: ms(options.drain_timeout),
            soak_ms: ms(options.soak),
            force: options.force,
            scope: options.scope,
        }
    }
}

impl UpgradeArgs {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        if let Some(name) = self.component.component.clone() {
            return self.component.run(ctx, &name, &self.how).await;
        }
        let (Some(program), Some(to)) = (self.program, self.to) else {
            return Err(Failure::Usage("name the program, and its version with --to".to_owned()));
        };
        let request = UpgradeRequest { program, to, options: RippleOptions::from(&self.how.options), plan: None };
        upgrade(ctx, request, &self.how).await
    }
}

/// Plans, asks, starts, watches.
pub async fn upgrade(ctx: &Ctx, mut request: UpgradeRequest, how: &How) -> Result<(), Failure> {
    let plan: PlanView = ctx.client.post(path::RIPPLES, &[("dry_run", "true")], &request).await?;
    if how.plan {
        return show_plan(ctx, &plan, how.exit_code);
    }
    if plan.steps.is_empty() && plan.skipped.is_empty() {
        return nothing_to_do(ctx, &plan);
    }
    if ask(ctx, &plan, &how.wait)? {
        request.plan = Some(plan.id);
    }
    let ripple: RippleView = ctx.client.post(path::RIPPLES, &[], &request).await?;
    attend(ctx, ripple, how.wait.detach).await
}

fn show_plan(ctx: &Ctx, plan: &PlanView, exit_code: bool) -> Result<(), Failure> {
    ctx.out.one(plan, plan::text)?;
    if exit_code && !plan.steps.is_empty() { Err(Failure::Told(EXIT_CHANGES)) } else { Ok(()) }
}

fn nothing_to_do(ctx: &Ctx, plan: &PlanView) -> Result<(), Failure> {
    if ctx.out.format != Format::Table {
        ctx.out.json(plan)?;
    }
    ctx.out.say(&plan::text(plan));
    Ok(())
}

/// Asks before anything is cut; whether a person has seen this very plan and said yes.
fn ask(ctx: &Ctx, plan: &PlanView, wait: &Wait) -> Result<bool, Failure> {
    if wait.yes || !plan.force {
        return Ok(false);
    }
    let question =
        format!("{} will be cut after {}", "requests that have not ended", out::millis(plan.drain_timeout_ms));
    if !out::can_ask() {
        return Err(Failure::Usage(format!("with --force, {question}: say --yes to that")));
    }
    ctx.out.say(&plan::text(plan));
    if out::confirm(&format!("{question}. Go on?")) { Ok(true) } else { Err(declined()) }
}

/// A person said no.
pub fn declined() -> Failure {
    Failure::Failed("not confirmed, nothing was done".to_owned())
}

/// Waits for a ripple that was just started, unless told not to.
pub async fn attend(ctx: &Ctx, ripple: RippleView, detach: bool) -> Result<(), Failure> {
    if !detach || ripple.state.ended() {
        let ended = if ripple.state.ended() { ripple } else { watch::follow(ctx, &ripple.id).await? };
        return conclude(ctx, &ended).await;
    }
    ctx.out.one(&ripple, |ripple| ripple.id.to_string())?;
    ctx.out.say(&format!("started; watch it with: neap ripple show {} --watch", ripple.id));
    Ok(())
}

/// What the end of a ripple means: success only if what was asked for is what runs.
pub async fn conclude(ctx: &Ctx, ripple: &RippleView) -> Result<(), Failure> {
    if ctx.out.format == Format::Json {
        ctx.out.json(ripple)?;
    }
    let well = match ripple.state {
        RippleState::Upgraded => true,
        RippleState::Undone => ripple.kind == RippleKind::Undo,
        _ => false,
    };
    if !well {
        out::complain(&failure_text(ripple));
        if let Some(met) = receipt::met(ctx, ripple).await {
            out::complain(&format!("  {met}"));
        }
        return Err(Failure::Told(EXIT_FAILED));
    }
    if ripple.steps.is_empty() {
        let reason = ripple.reason.as_deref().unwrap_or("nothing to do");
        ctx.out.say(&out::clean(reason));
        return Ok(());
    }
    let mut wrong = node_upgrade::not_so(ctx, ripple).await?;
    for part in [ripple].into_iter().chain(&ripple.parts).filter(|part| part.to.is_some() && part.program.is_some()) {
        wrong.extend(not_so(ctx, part).await?);
    }
    ctx.out.say(&success_text(ripple));
    match &ripple.parts[..] {
        [] => receipt::sum_up(ctx, ripple).await?,
        parts => {
            for part in parts {
                ctx.out.say(&format!("{}:", part.what()));
                receipt::sum_up(ctx, part).await?;
            }
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(format!("but not all of it runs:\n{}", wrong.join("\n"))))
    }
}

/// Where, of the servers that are up, something other than the target runs.
async fn not_so(ctx: &Ctx, ripple: &RippleView) -> Result<Vec<String>, Failure> {
    let program: ProgramView = ctx.client.get(&path::PROGRAM.replace("{program}", ripple.what()), &[]).await?;
    let nodes = ctx.client.list::<NodeView>(path::NODES, &[]).await?.items;
    let up = |name: &ServerName| nodes.iter().any(|node| &node.name == name && node.state == NodeState::Up);
    let target = |name: &ServerName| {
        let step = ripple.steps.iter().find(|step| &step.server == name && step.state != StepState::Skipped);
        step.and_then(|step| step.to.as_ref())
    };
    let is_so = |placement: &&PlacementView| match target(&placement.server) {
        Some(to) if up(&placement.server) => {
            placement.version.as_ref() == Some(to) && placement.state == PlacementState::Open && placement.healthy
        }
        _ => true,
    };
    let wrong = program.placements.iter().filter(|placement| !is_so(placement));
    Ok(wrong
        .map(|placement| {
            let health = if placement.healthy { "" } else { ", unhealthy" };
            let runs = or_dash(placement.version.as_ref());
            format!("  {} runs {runs}, {}{health}", placement.server, placement.state)
        })
        .collect())
}

fn success_text(ripple: &RippleView) -> String {
    let done = ripple.steps.iter().filter(|step| step.state != StepState::Skipped).count();
    let took = ripple.ended_at.map(|ended| format!(" in {}", out::ago(ripple.started_at, ended))).unwrap_or_default();
    let mut text = format!("{} on {}{took}", watch::title(ripple), count(done, watch::unit(ripple)));
    for step in ripple.steps.iter().filter(|step| step.state == StepState::Skipped) {
        let reason = step.reason.as_deref().unwrap_or("it is down; it is caught up before it serves");
        text.push_str(&format!("\n  skipped {}: {}", step.server, out::clean(reason)));
    }
    for step in &ripple.steps {
        if let Some(judged) = step.judged.as_ref().filter(|judged| judged.starts_with("not judged")) {
            text.push_str(&format!("\n  {}: {}", step.server, out::clean(judged)));
        }
    }
    text
}

/// Why it ended otherwise: the reason, the exit status, the program's last lines, and what to do next.
pub fn failure_text(ripple: &RippleView) -> String {
    let mut lines = vec![format!("error: {}", watch::title(ripple))];
    // One reason often comes from more than one place; it is told once.
    let mut told: Vec<String> = Vec::new();
    let mut new = |reason: Option<&String>| {
        let reason = out::clean(reason?);
        let is_new = !told.iter().any(|earlier| earlier.contains(&reason));
        is_new.then(|| told.push(reason.clone())).map(|()| reason)
    };
    lines.extend(new(ripple.reason.as_ref()).map(|reason| format!("  {reason}")));
    for step in &ripple.steps {
        lines.extend(new(step.reason.as_ref()).map(|reason| format!("  {}: {reason}", step.server)));
        if let Some(command) = step.command.as_ref().filter(|command| command.failure.is_some()) {
            lines.push(format!("  on {} ran: {}", step.server, out::clean(&command.run.join(" "))));
            lines.extend(command.output.iter().map(|line| format!("    {}", out::clean(line))));
        }
    }
    for hook in ripple.hooks.iter().filter(|hook| hook.state == HookState::Failed && !hook.log.is_empty()) {
        lines.push(format!("  {} wrote:", hook.hook.as_str()));
        lines.extend(hook.log.iter().map(|line| format!("    {}", out::clean(line))));
    }
    if let Some(failure) = &ripple.failure {
        let status = failure.exit_status.as_deref().map(|status| format!(" ({})", out::clean(status)));
        let reason = new(Some(&failure.reason)).map(|reason| format!(": {reason}"));
        lines.push(format!(
            "  {} {} failed on {}{}{}",
            failure_of(ripple),
            failure.version,
            failure.server,
            reason.unwrap_or_default(),
            status.unwrap_or_default(),
        ));
        lines.push(if failure.log.is_empty() { "  it wrote nothing" } else { "  its last lines:" }.to_owned());
        lines.extend(failure.log.iter().map(|line| format!("    {}", out::clean(line))));
    }
    lines.push(format!("  next: {}", next_command(ripple)));
    let upgraded = ripple.steps.iter().filter(|step| step.state == StepState::Upgraded).count();
    if upgraded > 0 && ripple.undone_by.is_none() && ripple.kind == RippleKind::Upgrade {
        lines.push(format!(
            "  to take back what is upgraded ({}): neap ripple undo {}",
            count(upgraded, "server"),
            ripple.id
        ));
    }
    lines.join("\n")
}

fn next_command(ripple: &RippleView) -> String {
    let (id, program) = (&ripple.id, failure_of(ripple));
    match (&ripple.failure, ripple.state) {
        (Some(failure), _) => format!("neap program logs {program} --server {}", failure.server),
        (None, RippleState::Aborted) if ripple.program.is_some() => format!("neap program show {program}"),
        (None, _) => format!("neap ripple show {id}"),
    }
}

/// The program that failed; of a component's ripple, one of its parts.
fn failure_of(ripple: &RippleView) -> &str {
    ripple.parts.iter().find(|part| part.failure.is_some()).unwrap_or(ripple).what()
}
