//! Owns `neap status`: servers × programs, and every ripple under way.
//! Must not know how the cluster is watched.

use std::time::Duration;

use clap::Args;

use super::Ctx;
use super::failure::Failure;
use super::out::{self, Format};
use super::watch;
use crate::domain::names::{NodeName, ProgramName};
use crate::wire::api::{NodeState, NodeView, PlacementState, PlacementView, StatusView, path};
use crate::wire::role::Role;

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Shows it again whenever it changes
    #[arg(short, long)]
    watch: bool,
}

impl StatusArgs {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        if !self.watch {
            let status: StatusView = ctx.client.get(path::STATUS, &[]).await?;
            return ctx.out.one(&status, text);
        }
        tokio::select! {
            ended = keep_showing(ctx) => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure::Detached(String::new())),
        }
    }
}

async fn keep_showing(ctx: &Ctx) -> Result<(), Failure> {
    let redraw = ctx.out.format == Format::Table && std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut shown: Option<StatusView> = None;
    loop {
        let status: StatusView = ctx.client.get(path::STATUS, &[]).await?;
        let same = shown.as_ref().is_some_and(|shown| StatusView { at: shown.at, ..status.clone() } == *shown);
        match (redraw, same) {
            (true, _) => ctx.out.text(&format!("{CLEAR}{}", text(&status)))?,
            (false, false) => ctx.out.one(&status, |status| format!("{:.0}\n{}\n", status.at, text(status)))?,
            (false, true) => {}
        }
        shown = Some(status);
        let left = ctx.client.time_left().unwrap_or(POLL);
        if left.is_zero() {
            return Err(Failure::TimedOut("--timeout ran out".to_owned()));
        }
        tokio::time::sleep(left.min(POLL)).await;
    }
}

/// The cluster on a page.
pub fn text(status: &StatusView) -> String {
    let mut parts = vec![grid(status)];
    let others = status.nodes.iter().filter(|node| !node.roles.contains(&Role::AppServer));
    let others: Vec<String> = others.map(|node| node_line(node, status.revision)).collect();
    if !others.is_empty() {
        parts.push(others.join("\n"));
    }
    for ripple in &status.ripples {
        let mut lines = vec![format!("ripple {}: {}", ripple.id, watch::title(ripple))];
        lines.extend(ripple.steps.iter().map(|step| format!("  {}", watch::step_line(step))));
        lines.extend(watch::outlook(ripple));
        parts.push(lines.join("\n"));
    }
    parts.join("\n\n")
}

fn grid(status: &StatusView) -> String {
    let servers: Vec<&NodeView> = status.nodes.iter().filter(|node| node.roles.contains(&Role::AppServer)).collect();
    if servers.is_empty() {
        return "no server has registered yet: start one with `neap run --role app-server`".to_owned();
    }
    let mut header = vec!["SERVER".to_owned(), "STATE".to_owned()];
    header.extend(status.programs.iter().map(|program| match &program.desired_version {
        Some(version) => format!("{} ({version})", program.name),
        None => program.name.to_string(),
    }));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = servers.iter().map(|server| {
        let mut row = vec![server.name.to_string(), super::node::state(server)];
        row.extend(status.programs.iter().map(|program| cell(status, &server.name, &program.name)));
        row
    });
    out::table(&header, rows)
}

fn cell(status: &StatusView, server: &NodeName, program: &ProgramName) -> String {
    let found = status.placements.iter().find(|cell| &cell.server == server && &cell.program == program);
    found.map_or_else(|| "-".to_owned(), placement_line)
}

/// "1.0.0 quiescing, 2 active", and nothing that is as it should be.
pub fn placement_line(placement: &PlacementView) -> String {
    let mut words = vec![match &placement.version {
        Some(version) => format!("{version} {}", placement.state),
        None => placement.state.to_string(),
    }];
    if placement.drained && placement.state == PlacementState::Quiescing {
        words.push("drained".to_owned());
    } else if placement.active_requests > 0 {
        words.push(format!("{} active", placement.active_requests));
    }
    if placement.state == PlacementState::Open && !placement.healthy {
        words.push("unhealthy".to_owned());
    }
    if placement.desired_version.is_some() && placement.desired_version != placement.version {
        words.push(format!("wants {}", out::or_dash(placement.desired_version.as_ref())));
    }
    words.join(", ")
}

fn node_line(node: &NodeView, revision: u64) -> String {
    let roles: Vec<&str> = node.roles.iter().map(|role| role.as_str()).collect();
    let mut line = format!("{} {} at {}: {}", roles.join("+"), node.name, node.address, node.state);
    match node.revision {
        Some(held) if held != revision && node.state == NodeState::Up => {
            line.push_str(&format!(", holds revision {held} of {revision}"));
        }
        _ => {}
    }
    line
}
