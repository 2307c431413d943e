//! Owns `neap program logs`: the last lines that instances wrote, and those that they write from now.
//! Must not know where lines are kept.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Ctx;
use super::failure::Failure;
use super::out::{self, Format};
use super::program::{at, tell_unanswered};
use crate::domain::names::{ProgramName, ServerName};
use crate::wire::api::{LogLine, Logs, path};

/// Between two looks at logs that are followed.
const POLL: Duration = Duration::from_millis(500);
/// Lines of each server that are looked at, to find where those begin that are new.
const WINDOW: u32 = 1_000;

/// What of the logs is asked for.
pub struct Ask {
    pub program: ProgramName,
    pub server: Option<ServerName>,
    pub lines: u32,
}

impl Ask {
    async fn get(&self, ctx: &Ctx, lines: u32, cursor: Option<&str>) -> Result<Logs, Failure> {
        let lines = lines.to_string();
        let mut query = vec![("lines", lines.as_str())];
        query.extend(self.server.as_ref().map(|server| ("server", server.as_str())));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        ctx.client.get(&at(path::PROGRAM_LOGS, &self.program), &query).await
    }
}

/// Prints the last lines.
pub async fn print(ctx: &Ctx, ask: &Ask) -> Result<(), Failure> {
    let logs = ask.get(ctx, ask.lines, None).await?;
    match ctx.out.format {
        Format::Json => ctx.out.json(&logs)?,
        Format::Ndjson | Format::Table => print_lines(ctx, &logs.items)?,
    }
    tell_unanswered(ctx, &logs.unanswered);
    Ok(())
}

fn print_lines<'a>(ctx: &Ctx, lines: impl IntoIterator<Item = &'a LogLine>) -> Result<(), Failure> {
    lines.into_iter().try_for_each(|line| match ctx.out.format {
        Format::Json | Format::Ndjson => ctx.out.json(line),
        Format::Table => {
            let version = line.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
            ctx.out.text(&format!("{}{version} | {}", line.server, out::clean(&line.line)))
        }
    })
}

/// Prints the last lines, and new ones as they are written, until Ctrl-C.
pub async fn follow(ctx: &Ctx, ask: &Ask) -> Result<(), Failure> {
    tokio::select! {
        ended = keep_printing(ctx, ask) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::Detached(String::new())),
    }
}

async fn keep_printing(ctx: &Ctx, ask: &Ask) -> Result<(), Failure> {
    let mut tails: BTreeMap<ServerName, Vec<String>> = BTreeMap::new();
    let mut cursor: Option<String> = None;
    let mut first = true;
    loop {
        let logs = ask.get(ctx, WINDOW, cursor.as_deref()).await?;
        let by_server = by_server(&logs.items);
        for (server, lines) in by_server {
            let written: Vec<String> = lines.iter().map(|line| line.line.clone()).collect();
            let new = match tails.get(&server) {
                Some(before) if cursor.is_none() => new_from(before, &written),
                // What was there before is shown as far as asked for; a server that is heard of late shows all.
                None if first => lines.len().saturating_sub(ask.lines as usize),
                _ => 0,
            };
            print_lines(ctx, lines[new..].iter().copied())?;
            tails.insert(server, written);
        }
        if first {
            tell_unanswered(ctx, &logs.unanswered);
        }
        (cursor, first) = (logs.next.or(cursor), false);
        let left = ctx.client.time_left().unwrap_or(POLL);
        if left.is_zero() {
            return Err(Failure::TimedOut("--timeout ran out".to_owned()));
        }
        tokio::time::sleep(left.min(POLL)).await;
    }
}

fn by_server(lines: &[LogLine]) -> BTreeMap<ServerName, Vec<&LogLine>> {
    let mut servers: BTreeMap<ServerName, Vec<&LogLine>> = BTreeMap::new();
    for line in lines {
        servers.entry(line.server.clone()).or_default().push(line);
    }
    servers
}

/// Where the lines begin in `now` that are not at the end of `before`: the longest overlap of both counts.
fn new_from(before: &[String], now: &[String]) -> usize {
    let longest = before.len().min(now.len());
    (0..=longest).rev().find(|&shared| before[before.len() - shared..] == now[..shared]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_since_is_new() {
        let lines = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (before, now, new) in [
            ("", "a b", 0),
            ("a b", "a b", 2),
            ("a b c", "b c d", 2),
            ("a b", "c d", 0),
            ("a", "a b", 1),
            ("a a", "a a", 2),
        ] {
            assert_eq!(new_from(&lines(before), &lines(now)), new, "{before} / {now}");
        }
    }
}
