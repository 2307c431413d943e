//! Owns `neap upgrade --component neap --binary`: the binary sent, the plan, the ripple. Must not know how a node takes it.

use std::path::Path;

use super::Ctx;
use super::failure::{EXIT_CHANGES, Failure};
use super::out::{self, Format, count, or_dash};
use super::upgrade::{How, attend};
use super::{node, seams, watch};
use crate::domain::names::ProgramName;
use crate::wire::api::{
    BinaryPlanView, BinaryUpgradeRequest, BinaryView, NodeState, NodeView, RippleView, StepState, path,
};
use crate::wire::problem::Code;

/// What is upgraded by a binary, and nothing else.
const NEAP: &str = "neap";

/// Sends a binary to management, and has all nodes take it.
pub async fn run(ctx: &Ctx, component: &str, file: &Path, how: &How) -> Result<(), Failure> {
    if component != NEAP {
        return Err(Failure::Usage(format!(
            "--binary is of the component {NEAP}: {} is upgraded by a command, --run",
            out::clean(component)
        )));
    }
    let sha256 = seams::digest(file)?.to_string();
    let (new, binary) = ctx.client.upload::<BinaryView>(path::BINARIES, &[("sha256", &sha256)], file).await?;
    let did = if new { "pushed" } else { "already there:" };
    ctx.out.say(&format!("{did} neap {} ({})", binary.version, out::bytes(binary.size_bytes)));
    let at = path::BINARY_UPGRADE.replace("{sha256}", &sha256);
    let mut request = BinaryUpgradeRequest { force: how.options.force, plan: None };
    let plan: BinaryPlanView = match ctx.client.post(&at, &[("dry_run", "true")], &request).await {
        Err(Failure::Refused(problem)) if problem.code == Code::NothingToDo => {
            ctx.out.say(&out::clean(&problem.detail));
            return Ok(());
        }
        other => other?,
    };
    if how.plan {
        ctx.out.one(&plan, text)?;
        return if how.exit_code { Err(Failure::Told(EXIT_CHANGES)) } else { Ok(()) };
    }
    if !ctx.out.quiet && ctx.out.format == Format::Table {
        ctx.out.say(&text(&plan));
    }
    request.plan = Some(plan.id);
    let ripple: RippleView = ctx.client.post(&at, &[], &request).await?;
    attend(ctx, ripple, how.wait.detach).await
}

/// A plan as a person reads it.
pub fn text(plan: &BinaryPlanView) -> String {
    let lines = [
        format!("plan {}: neap {} on {}, one after the other", plan.id, plan.to, count(plan.steps.len(), "node")),
        out::table(
            &["STEP", "NODE", "ROLES", "FROM", "TO", "DOES", "ACTIVE"],
            plan.steps.iter().enumerate().map(|(index, step)| {
                let programs: Vec<&str> = step.programs.iter().map(ProgramName::as_str).collect();
                let does = match &step.skipped {
                    Some(why) => format!("skipped: {}", out::clean(why)),
                    None if step.nothing_to_do => "has it already".to_owned(),
                    None if programs.is_empty() => "hands over".to_owned(),
                    None => format!("quiesces {}, hands over, reopens", programs.join(" ")),
                };
                vec![
                    (index + 1).to_string(),
                    step.node.to_string(),
                    step.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(","),
                    or_dash(step.from.as_ref()),
                    step.to.to_string(),
                    does,
                    step.active_requests.to_string(),
                ]
            }),
        ),
        "programs are adopted by the new process, not restarted".to_owned(),
    ];
    lines.join("\n")
}

/// What each node runs by now; answers with those that are up and run something else.
pub async fn not_so(ctx: &Ctx, ripple: &RippleView) -> Result<Vec<String>, Failure> {
    if !ripple.is_of_nodes() {
        return Ok(Vec::new());
    }
    let nodes = ctx.client.list::<NodeView>(path::NODES, &[]).await?.items;
    let mut wrong = Vec::new();
    for step in ripple.steps.iter().filter(|step| step.state == StepState::Upgraded) {
        let node = nodes.iter().find(|node| node.name == step.server && node.state == NodeState::Up);
        let runs = node.map(node::neap);
        if runs.is_some() && runs != step.to.as_ref().map(ToString::to_string) {
            wrong.push(format!("  {} runs neap {}", step.server, or_dash(runs)));
        }
        ctx.out.say(&format!("  {}", watch::step_line(step)));
    }
    Ok(wrong)
}
