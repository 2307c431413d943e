//! Owns `neap node`: nodes, listed, shown, taken out of service and back. Must not know how a node is watched.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Ctx;
use super::failure::Failure;
use super::out::{self, or_dash};
use super::unbuilt::not_built;
use crate::domain::names::NodeName;
use crate::wire::api::{DrainRequest, NodeView, path};
use crate::wire::role::Role;

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Lists nodes
    Ls,
    /// Shows a node
    Show { node: NodeName },
    /// Closes all gates of a server, and waits until no request is left; they stay closed until it is resumed
    Drain {
        node: NodeName,
        /// Also where too few other servers would serve
        #[arg(long)]
        force: bool,
        /// Does not wait until it is drained
        #[arg(long)]
        detach: bool,
    },
    /// Has a drained server serve again
    Resume {
        node: NodeName,
        /// Does not wait until all its gates are open
        #[arg(long)]
        detach: bool,
    },
    #[command(hide = true)]
    Rm(Name),
}

#[derive(Args, Debug)]
pub struct Name {
    _node: Option<String>,
}

impl NodeCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Ls => list(ctx).await,
            Self::Show { node } => {
                let node: NodeView = ctx.client.get(&path::NODE.replace("{node}", node.as_str()), &[]).await?;
                ctx.out.one(&node, text)
            }
            Self::Drain { node, force, detach } => drain(ctx, &node, force, detach).await,
            Self::Resume { node, detach } => resume(ctx, &node, detach).await,
            Self::Rm(_) => not_built("neap node rm"),
        }
    }
}

/// Between two looks at a drain.
const POLL: Duration = Duration::from_millis(250);

async fn drain(ctx: &Ctx, node: &NodeName, force: bool, detach: bool) -> Result<(), Failure> {
    let at = path::NODE_DRAIN.replace("{node}", node.as_str());
    let begun: NodeView = ctx.client.post(&at, &[], &DrainRequest { force }).await?;
    let over = |view: &NodeView| view.drain.as_ref().is_some_and(|drain| drain.drained);
    let seen = if detach { begun } else { follow(ctx, node, begun, over).await? };
    ctx.out.one(&seen, text)?;
    ctx.out.say(&format!("{node} stays out of service until: neap node resume {node}"));
    Ok(())
}

async fn resume(ctx: &Ctx, node: &NodeName, detach: bool) -> Result<(), Failure> {
    let at = path::NODE_RESUME.replace("{node}", node.as_str());
    let begun: NodeView = ctx.client.post(&at, &[], &serde_json::json!({})).await?;
    let seen = if detach { begun } else { follow(ctx, node, begun, |view| view.drain.is_none()).await? };
    ctx.out.one(&seen, text)
}

/// Waits until it is so, and says what it waits for. Ctrl-C detaches.
async fn follow(
    ctx: &Ctx,
    node: &NodeName,
    begun: NodeView,
    is_so: impl Fn(&NodeView) -> bool,
) -> Result<NodeView, Failure> {
    let come_back = |what: &str| format!("{what}; it goes on\n  look at it with: neap node show {node}");
    let waiting = async {
        let (mut seen, mut told) = (begun, String::new());
        while !is_so(&seen) {
            let words = drain_lines(&seen).join("\n");
            if words != told {
                ctx.out.say(&words);
                told = words;
            }
            let left = ctx.client.time_left().unwrap_or(POLL);
            if left.is_zero() {
                return Err(Failure::TimedOut(come_back("--timeout ran out")));
            }
            tokio::time::sleep(left.min(POLL)).await;
            seen = ctx.client.get(&path::NODE.replace("{node}", node.as_str()), &[]).await?;
        }
        Ok(seen)
    };
    tokio::select! {
        seen = waiting => seen,
        _ = tokio::signal::ctrl_c() => Err(Failure::Detached(come_back("detached"))),
    }
}

/// How far a drain is, and what it waits for.
fn drain_lines(node: &NodeView) -> Vec<String> {
    let Some(drain) = &node.drain else { return Vec::new() };
    let word = match (drain.resumed, drain.drained) {
        (true, _) => "opens its gates again",
        (false, true) => "drained",
        (false, false) => "drains",
    };
    let mut lines = vec![format!("  service   {word}")];
    for one in drain.programs.iter().filter(|one| !one.drained && !drain.resumed) {
        lines.push(format!("    {} {}, {} active", one.program, one.state, one.active_requests));
    }
    lines.extend(drain.waiting_for.iter().map(|wait| format!("    waiting for {}", out::clean(&wait.detail))));
    lines
}

async fn list(ctx: &Ctx) -> Result<(), Failure> {
    let nodes = ctx.client.list::<NodeView>(path::NODES, &[]).await?;
    let now = jiff::Timestamp::now();
    ctx.out.list(&nodes, |nodes| {
        out::table(
            &["NODE", "ROLES", "ADDRESS", "NEAP", "STATE", "FOR", "LOAD", "ACTIVE", "PROGRAMS"],
            nodes.iter().map(|node| {
                let load = node.load.as_ref();
                vec![
                    node.name.to_string(),
                    roles(node),
                    node.address.clone(),
                    neap(node),
                    state(node),
                    out::ago(node.since, now),
                    or_dash(load.map(|load| format!("{:.1}/{}", load.cores_used, load.cores))),
                    or_dash(load.map(|load| load.active_requests)),
                    programs(node),
                ]
            }),
        )
    })
}

/// Up, down, or out of service.
pub fn state(node: &NodeView) -> String {
    match &node.drain {
        Some(drain) if drain.resumed => format!("{}, resumes", node.state),
        Some(drain) if drain.drained => format!("{}, drained", node.state),
        Some(_) => format!("{}, drains", node.state),
        None => node.state.to_string(),
    }
}

/// Which neap it runs: "0.1.0+ab12cd34".
pub fn neap(node: &NodeView) -> String {
    let version = out::clean(&node.version);
    node.binary.map_or(version.to_string(), |sha256| format!("{version}+{}", &sha256.to_string()[..8]))
}

fn roles(node: &NodeView) -> String {
    node.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(",")
}

fn programs(node: &NodeView) -> String {
    let names: Vec<String> = node.programs.iter().map(ToString::to_string).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(" ") }
}

fn text(node: &NodeView) -> String {
    let mut lines = vec![
        format!("node {} ({})", node.name, roles(node)),
        format!("  address   {}", out::clean(&node.address)),
        format!("  state     {} since {:.0}", node.state, node.since),
        format!("  run       {}", or_dash(node.run.as_ref())),
        format!("  neap      {}, protocol {}", neap(node), node.protocol),
    ];
    if node.roles.contains(&Role::AppServer) {
        lines.push(format!("  sealed    {}", if node.sealed { "yes" } else { "no" }));
        lines.push(format!("  programs  {}", programs(node)));
    }
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        lines.push(format!("  labels    {}", out::clean(&labels.join(" "))));
    }
    lines.extend(drain_lines(node));
    if let Some(load) = &node.load {
        lines.push(format!(
            "  load      {:.1} of {} cores, {} of memory, {} active",
            load.cores_used,
            load.cores,
            out::bytes(load.memory_bytes),
            load.active_requests
        ));
    }
    lines.extend(node.revision.map(|revision| format!("  revision  {revision} of the Server List")));
    lines.join("\n")
}
