//! Owns `neap program`: programs, their active requests and logs, restart and removal.
//! Must not know how a program is run.

use clap::Subcommand;

use super::Ctx;
use super::component::unread_line;
use super::failure::Failure;
use super::logs::{self, Ask};
use super::out::{self, Format, count, or_dash};
use super::status::placement_line;
use super::unbuilt::not_built;
use super::upgrade::{self, Options, Wait};
use crate::domain::names::{ProgramName, ServerName};
use crate::wire::api::{ActiveRequests, ProgramView, RestartRequest, RippleOptions, RippleView, path};

#[derive(Subcommand, Debug)]
pub enum ProgramCommand {
    /// Lists programs
    Ls,
    /// Shows a program on all its servers
    Show { program: ProgramName },
    /// Lists the active requests of a program, oldest first
    Requests { program: ProgramName },
    /// Shows what a program's instances wrote
    Logs {
        program: ProgramName,
        /// Goes on with what they write from now
        #[arg(short, long)]
        follow: bool,
        /// Only of this server
        #[arg(long, value_name = "NAME")]
        server: Option<ServerName>,
        /// The last so many lines of each server
        #[arg(short = 'n', long, value_name = "N", default_value = "100",
              value_parser = clap::value_parser!(u32).range(1..=1_000))]
        lines: u32,
    },
    /// Restarts a program, server by server, and loses no request
    Restart {
        program: ProgramName,
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        wait: Wait,
    },
    /// Quiesces and drains a program on all its servers, then removes it
    Rm {
        program: ProgramName,
        #[command(flatten)]
        wait: Wait,
    },
    #[command(hide = true)]
    Apply { _file: Option<String> },
}

impl ProgramCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Ls => list(ctx).await,
            Self::Show { program } => show(ctx, &program).await,
            Self::Requests { program } => requests(ctx, &program).await,
            Self::Logs { program, follow, server, lines } => {
                let ask = Ask { program, server, lines };
                if follow { logs::follow(ctx, &ask).await } else { logs::print(ctx, &ask).await }
            }
            Self::Restart { program, options, wait } => restart(ctx, &program, &options, &wait).await,
            Self::Rm { program, wait } => remove(ctx, &program, &wait).await,
            Self::Apply { .. } => not_built("neap program apply"),
        }
    }
}

/// A path with a program in it.
pub fn at(pattern: &str, program: &ProgramName) -> String {
    pattern.replace("{program}", program.as_str())
}

async fn list(ctx: &Ctx) -> Result<(), Failure> {
    let programs = ctx.client.list::<ProgramView>(path::PROGRAMS, &[]).await?;
    ctx.out.list(&programs, |programs| {
        out::table(
            &["PROGRAM", "VERSION", "KIND", "SERVERS", "ACTIVE", "ROUTES"],
            programs.iter().map(|program| {
                let active: u64 = program.placements.iter().map(|placement| placement.active_requests).sum();
                vec![
                    program.name.to_string(),
                    or_dash(program.desired_version.as_ref()),
                    program.kind.clone(),
                    program.placements.len().to_string(),
                    active.to_string(),
                    program.routes.join(" "),
                ]
            }),
        )
    })
}

async fn show(ctx: &Ctx, program: &ProgramName) -> Result<(), Failure> {
    let program: ProgramView = ctx.client.get(&at(path::PROGRAM, program), &[]).await?;
    ctx.out.one(&program, text)
}

fn text(program: &ProgramView) -> String {
    let versions: Vec<String> = program.versions.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("program {} ({}), version {}", program.name, program.kind, or_dash(program.desired_version.as_ref())),
        format!("routes: {}", out::clean(&program.routes.join(" "))),
        format!("releases: {}", versions.join(" ")),
    ];
    lines.extend(program.ripple.iter().map(|id| format!("under way: neap ripple show {id}")));
    lines.push(out::table(
        &["SERVER", "PLACEMENT", "GENERATION", "ACTIVE", "OLDEST"],
        program.placements.iter().map(|placement| {
            let oldest = placement.oldest_request.as_ref();
            let oldest =
                oldest.map(|oldest| format!("{} {} {}", out::millis(oldest.age_ms), oldest.method, oldest.path));
            vec![
                placement.server.to_string(),
                placement_line(placement),
                placement.generation.to_string(),
                placement.active_requests.to_string(),
                or_dash(oldest),
            ]
        }),
    ));
    let uses = program.components.iter().filter(|component| component.quiesced);
    let uses: Vec<&str> = uses.map(|component| component.name.as_str()).collect();
    if !uses.is_empty() {
        lines.push(format!("components: {}", out::clean(&uses.join(" "))));
    }
    lines.extend(program.unread.iter().map(|unread| unread_line(unread).trim_start().to_owned()));
    for placement in &program.placements {
        lines.extend(placement.failure.iter().map(|why| format!("{}: {}", placement.server, out::clean_block(why))));
    }
    lines.join("\n")
}

async fn requests(ctx: &Ctx, program: &ProgramName) -> Result<(), Failure> {
    let requests: ActiveRequests = ctx.client.get(&at(path::PROGRAM_REQUESTS, program), &[]).await?;
    match ctx.out.format {
        Format::Json => ctx.out.json(&requests)?,
        Format::Ndjson => requests.items.iter().try_for_each(|item| ctx.out.json(item))?,
        Format::Table => ctx.out.text(&out::table(
            &["REQUEST", "SERVER", "AGE", "METHOD", "PATH"],
            requests.items.iter().map(|request| {
                vec![
                    request.id.clone(),
                    request.server.to_string(),
                    out::millis(request.age_ms),
                    request.method.clone(),
                    request.path.clone(),
                ]
            }),
        ))?,
    }
    tell_unanswered(ctx, &requests.unanswered);
    Ok(())
}

/// Says whose part is missing.
pub fn tell_unanswered(ctx: &Ctx, servers: &[ServerName]) {
    if !servers.is_empty() {
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        ctx.out.say(&format!("{} did not answer: {}", count(servers.len(), "server"), names.join(", ")));
    }
}

async fn restart(ctx: &Ctx, program: &ProgramName, options: &Options, wait: &Wait) -> Result<(), Failure> {
    if options.force {
        confirm(wait, &format!("requests of {program} that do not end in time will be cut"))?;
    }
    let request = RestartRequest { options: RippleOptions::from(options) };
    let ripple: RippleView = ctx.client.post(&at(path::PROGRAM_RESTART, program), &[], &request).await?;
    upgrade::attend(ctx, ripple, wait.detach).await
}

async fn remove(ctx: &Ctx, program: &ProgramName, wait: &Wait) -> Result<(), Failure> {
    confirm(wait, &format!("{program} will be removed from all its servers, and answered no more"))?;
    match ctx.client.delete::<RippleView>(&at(path::PROGRAM, program)).await? {
        Some(ripple) => upgrade::attend(ctx, ripple, wait.detach).await,
        None => {
            ctx.out.say(&format!("{program} is removed"));
            Ok(())
        }
    }
}

/// Asks before what cannot be taken back; where nobody can be asked, `--yes` must have been said.
pub fn confirm(wait: &Wait, what: &str) -> Result<(), Failure> {
    if wait.yes {
        return Ok(());
    }
    if !out::can_ask() {
        return Err(Failure::Usage(format!("{what}: say --yes to that")));
    }
    if out::confirm(&format!("{what}. Go on?")) { Ok(()) } else { Err(upgrade::declined()) }
}
