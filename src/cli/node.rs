//! Owns `neap node`: nodes, listed and shown. Must not know how a node is watched.

use clap::{Args, Subcommand};

use super::Ctx;
use super::failure::Failure;
use super::out::{self, or_dash};
use super::unbuilt::not_built;
use crate::domain::names::NodeName;
use crate::wire::api::{NodeView, path};
use crate::wire::role::Role;

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Lists nodes
    Ls,
    /// Shows a node
    Show { node: NodeName },
    #[command(hide = true)]
    Drain(Name),
    #[command(hide = true)]
    Resume(Name),
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
            Self::Drain(_) => not_built("neap node drain"),
            Self::Resume(_) => not_built("neap node resume"),
            Self::Rm(_) => not_built("neap node rm"),
        }
    }
}

async fn list(ctx: &Ctx) -> Result<(), Failure> {
    let nodes = ctx.client.list::<NodeView>(path::NODES, &[]).await?;
    let now = jiff::Timestamp::now();
    ctx.out.list(&nodes, |nodes| {
        out::table(
            &["NODE", "ROLES", "ADDRESS", "STATE", "FOR", "LOAD", "ACTIVE", "PROGRAMS"],
            nodes.iter().map(|node| {
                let load = node.load.as_ref();
                vec![
                    node.name.to_string(),
                    roles(node),
                    node.address.clone(),
                    node.state.to_string(),
                    out::ago(node.since, now),
                    or_dash(load.map(|load| format!("{:.1}/{}", load.cores_used, load.cores))),
                    or_dash(load.map(|load| load.active_requests)),
                    programs(node),
                ]
            }),
        )
    })
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
    ];
    if node.roles.contains(&Role::AppServer) {
        lines.push(format!("  sealed    {}", if node.sealed { "yes" } else { "no" }));
        lines.push(format!("  programs  {}", programs(node)));
    }
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        lines.push(format!("  labels    {}", out::clean(&labels.join(" "))));
    }
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
