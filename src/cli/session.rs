//! Owns `neap session`: sessions, leafed through, shown and ended. Must not know how a session begins or moves.

use clap::{Subcommand, ValueEnum};

use super::Ctx;
use super::failure::Failure;
use super::out;
use crate::domain::names::{ProgramName, ServerName, Version};
use crate::domain::session::SessionId;
use crate::wire::api::{SessionKeysView, SessionView, path};
use crate::wire::page::Page;

#[derive(Subcommand, Debug)]
pub enum SessionCommand {
    /// Lists a program's sessions, the newest first; those of the last second may be missing
    Ls {
        #[arg(required_unless_present = "component")]
        program: Option<ProgramName>,
        /// Only those at a server where their program uses this component
        #[arg(long)]
        component: Option<String>,
        /// Only those at home on this server
        #[arg(long, value_name = "SERVER")]
        on: Option<ServerName>,
        /// Only those of this version
        #[arg(long)]
        version: Option<Version>,
        /// By when they began, or by their last request
        #[arg(long, value_enum, default_value = "age")]
        sort: By,
        /// How many to show; what follows is asked for with --cursor
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows a session: where it is at home, since when, and how much the program keeps in it
    Show { program: ProgramName, id: SessionId },
    /// Makes a new key for the cookies of sessions; those made with the one before count until the next time
    RollKeys,
    /// Ends a session, with its data: its cookie is good for nothing any more
    End { program: ProgramName, id: SessionId },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum By {
    Age,
    Seen,
}

impl SessionCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Ls { program, component, on, version, sort, limit, cursor } => {
                let mut query = vec![("limit", limit.to_string())];
                query.extend(program.map(|program| ("program", program.to_string())));
                query.extend(component.map(|component| ("component", component)));
                query.push(("sort", if matches!(sort, By::Age) { "age" } else { "seen" }.to_owned()));
                query.extend(on.map(|server| ("server", server.to_string())));
                query.extend(version.map(|version| ("version", version.to_string())));
                query.extend(cursor.map(|cursor| ("cursor", cursor)));
                list(ctx, &query).await
            }
            Self::Show { program, id } => {
                let session: SessionView = ctx.client.get(&session_path(&program, id), &[]).await?;
                ctx.out.one(&session, text)
            }
            Self::RollKeys => {
                let keys: SessionKeysView =
                    ctx.client.post(path::SESSION_KEYS_ROLL, &[], &serde_json::json!({})).await?;
                ctx.out.say(&format!("sessions' cookies are made with key {} from now on", keys.number));
                Ok(())
            }
            Self::End { program, id } => {
                let _: Option<serde_json::Value> = ctx.client.delete(&session_path(&program, id)).await?;
                ctx.out.say(&format!("session {id} of {program} has ended"));
                Ok(())
            }
        }
    }
}

fn session_path(program: &ProgramName, id: SessionId) -> String {
    path::SESSION.replace("{program}", program.as_str()).replace("{id}", &id.to_string())
}

async fn list(ctx: &Ctx, query: &[(&str, String)]) -> Result<(), Failure> {
    let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let page: Page<SessionView> = ctx.client.get(path::SESSIONS, &query).await?;
    let now = jiff::Timestamp::now();
    ctx.out.list(&page, |sessions| {
        out::table(
            &["SESSION", "PROGRAM", "SERVER", "VERSION", "BEGUN", "LAST REQUEST", "ACTIVE"],
            sessions.iter().map(|session| {
                vec![
                    session.id.to_string(),
                    session.program.to_string(),
                    session.server.to_string(),
                    session.version.to_string(),
                    format!("{} ago", out::ago(session.begun_at, now)),
                    format!("{} ago", out::ago(session.seen_at, now)),
                    session.active_requests.to_string(),
                ]
            }),
        )
    })?;
    if let Some(next) = &page.next {
        ctx.out.say(&format!("there are more: --cursor {next}"));
    }
    Ok(())
}

fn text(session: &SessionView) -> String {
    let now = jiff::Timestamp::now();
    let mut lines = vec![
        format!("session {} of {}", session.id, session.program),
        format!("  at home       on {}, version {}", session.server, session.version),
        format!("  begun         {:.0}, {} ago", session.begun_at, out::ago(session.begun_at, now)),
        format!("  last request  {:.0}, {} ago", session.seen_at, out::ago(session.seen_at, now)),
        format!("  active        {}", session.active_requests),
    ];
    lines.extend(session.data.iter().map(|data| format!("  data          {}", out::bytes(data.bytes))));
    lines.join("\n")
}
