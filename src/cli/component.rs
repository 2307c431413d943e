//! Owns `neap component`: what programs use, listed, shown with its evidence, and looked for again.
//! Must not know how a use is found out.

use clap::Subcommand;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Ctx;
use super::failure::Failure;
use super::out::{self, Format, or_dash};
use crate::domain::components::{ComponentVersion, Kind, Source, VersionBy};
use crate::domain::names::ProgramName;
use crate::wire::api::{ComponentSummary, ComponentUse, ComponentView, ScanView, UnreadPart, path};

/// Digits of a build id or a SHA-256 that a table shows.
const DIGITS: usize = 12;
/// Names that one cell of a table shows.
const NAMED: usize = 4;

#[derive(Subcommand, Debug)]
pub enum ComponentCommand {
    /// Lists components, and the programs that use each
    Ls {
        /// Only where an instance runs with a component that has since been replaced on disk
        #[arg(long)]
        stale: bool,
    },
    /// Shows who uses a component, on which server, and how that is known
    Show {
        /// Its name, or a file of its own
        component: String,
    },
    /// Has every server look again
    Scan,
}

impl ComponentCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Ls { stale: false } => list(ctx).await,
            Self::Ls { stale: true } => list_stale(ctx).await,
            Self::Show { component } => show(ctx, &component).await,
            Self::Scan => scan(ctx).await,
        }
    }
}

async fn list(ctx: &Ctx) -> Result<(), Failure> {
    let components = ctx.client.list::<ComponentSummary>(path::COMPONENTS, &[]).await?;
    ctx.out.list(&components, |components| {
        out::table(
            &["COMPONENT", "KIND", "VERSION", "PROGRAMS", "COULD LOAD IT", "SERVERS", "STALE"],
            components.iter().map(|one| {
                let versions: Vec<String> = one.versions.iter().map(version).collect();
                vec![
                    one.name.to_string(),
                    kind(one.kind).to_owned(),
                    if versions.is_empty() { "-".to_owned() } else { versions.join(" ") },
                    names(&one.programs),
                    names(&one.can_load),
                    one.servers.len().to_string(),
                    if one.stale.is_empty() { "-".to_owned() } else { one.stale.len().to_string() },
                ]
            }),
        )
    })
}

async fn list_stale(ctx: &Ctx) -> Result<(), Failure> {
    let components = ctx.client.list::<ComponentSummary>(path::COMPONENTS, &[("stale", "true")]).await?;
    ctx.out.list(&components, |components| {
        out::table(
            &["COMPONENT", "PROGRAM", "SERVER", "RUNS", "ON DISK", "FILE", "WHY"],
            components.iter().flat_map(|one| {
                one.stale.iter().map(|stale| {
                    vec![
                        one.name.to_string(),
                        stale.program.to_string(),
                        stale.server.to_string(),
                        or_dash(stale.running.as_ref().map(version)),
                        or_dash(stale.on_disk.as_ref().map(version)),
                        stale.file.clone(),
                        stale.why.to_string(),
                    ]
                })
            }),
        )
    })
}

async fn show(ctx: &Ctx, component: &str) -> Result<(), Failure> {
    let escaped = utf8_percent_encode(component, NON_ALPHANUMERIC).to_string();
    let view: ComponentView = ctx.client.get(&path::COMPONENT.replace("{component}", &escaped), &[]).await?;
    ctx.out.one(&view, text)
}

fn text(view: &ComponentView) -> String {
    let mut lines = vec![format!("component {} ({})", out::clean(view.name.as_str()), kind(view.kind))];
    for one in &view.uses {
        lines.push(String::new());
        lines.extend(use_lines(one));
    }
    if !view.unread.is_empty() {
        lines.push(String::new());
        lines.push("others may use it unseen:".to_owned());
        lines.extend(view.unread.iter().map(unread_line));
    }
    lines.join("\n")
}

fn use_lines(one: &ComponentUse) -> Vec<String> {
    let quiesced = if one.quiesced { "an upgrade of it quiesces" } else { "an upgrade of it does not quiesce" };
    let on_disk = or_dash(one.version.as_ref().map(version));
    let mut lines = vec![
        format!("{quiesced} {} {} on {}", one.program, one.program_version, one.server),
        format!("  on disk   {}", out::clean(&on_disk)),
    ];
    if let Some(stale) = &one.stale {
        let running = stale.running.as_ref().map_or("another".to_owned(), version);
        lines.push(format!("  runs      {}, for {} was {}", out::clean(&running), out::clean(&stale.file), stale.why));
    }
    lines.extend(one.evidence.iter().map(|evidence| {
        let loadable = if evidence.can_load { " (only if the program asks for it)" } else { "" };
        format!("  {:<9} {}{loadable}", source(evidence.source), out::clean(&evidence.text))
    }));
    lines
}

/// A line on what could not be looked at.
pub fn unread_line(unread: &UnreadPart) -> String {
    let UnreadPart { program, server, what, why } = unread;
    format!("  {program} on {server}: {} could not be read: {}", out::clean(what), out::clean(why))
}

async fn scan(ctx: &Ctx) -> Result<(), Failure> {
    let scan: ScanView = ctx.client.post(path::COMPONENT_SCAN, &[], &serde_json::json!({})).await?;
    match ctx.out.format {
        Format::Json | Format::Ndjson => ctx.out.json(&scan)?,
        Format::Table => ctx.out.text(&out::table(
            &["SERVER", "PROGRAMS", "COMPONENTS", "STALE", "UNREAD"],
            scan.servers.iter().map(|one| {
                let counts = [one.programs, one.components, one.stale, one.unread.len()];
                [one.server.to_string()].into_iter().chain(counts.map(|count| count.to_string())).collect()
            }),
        ))?,
    }
    scan.servers.iter().flat_map(|one| &one.unread).for_each(|unread| ctx.out.say(&unread_line(unread)));
    super::program::tell_unanswered(ctx, &scan.unanswered);
    if scan.unanswered.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed("not every server has looked again".to_owned()))
    }
}

/// A version as a person reads it.
pub fn version(version: &ComponentVersion) -> String {
    let short: String = version.text.chars().take(DIGITS).collect();
    match version.by {
        VersionBy::Package => version.text.clone(),
        VersionBy::BuildId => format!("build {short}"),
        VersionBy::Sha256 => format!("sha256 {short}"),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Package => "package",
        Kind::File => "file",
        Kind::Node => "node",
        Kind::Declared => "declared",
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Declared => "declared",
        Source::Static => "static",
        Source::Observed => "observed",
    }
}

fn names(programs: &[ProgramName]) -> String {
    let first: Vec<&str> = programs.iter().take(NAMED).map(ProgramName::as_str).collect();
    match programs.len() {
        0 => "-".to_owned(),
        number if number > NAMED => format!("{} and {} more", first.join(" "), number - NAMED),
        _ => first.join(" "),
    }
}
