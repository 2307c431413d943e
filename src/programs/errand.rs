//! Owns commands that are run to their end: within a time, their output kept, nothing of them left behind.
//! Must not know what they are for.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::disk::DiskError;
use super::instance::{Exit, VARIABLE};
use super::probe::LINES_SHOWN;
use super::surroundings::Command;
use super::{logs, output, stop};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status was 0.
    pub well: bool,
    /// "exit status 0", or that it took too long.
    pub how: String,
    /// The last lines that it wrote.
    pub lines: Vec<String>,
    pub took: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot run \"{program}\": {source}")]
    Run { program: String, source: std::io::Error },
}

/// Runs a command. `name` is a new instance name: what is started carries it, and nothing of it is left afterwards.
pub async fn run(command: &Command, log: &Path, name: &str, within: Duration) -> Result<Ended, ErrandError> {
    let ended = until_ended(command, log, Some(name), within).await?;
    // Also what it left behind in the background.
    if let Err(error) = stop::kill_stray(name).await {
        tracing::warn!(%error, name, "a command left processes behind");
    }
    Ok(ended)
}

/// Runs a command that may leave something running, which is what it is for: that carries no name of ours, or it would
/// be ended as a stray.
pub async fn run_and_leave(command: &Command, log: &Path, within: Duration) -> Result<Ended, ErrandError> {
    until_ended(command, log, None, within).await
}

async fn until_ended(
    command: &Command,
    log: &Path,
    name: Option<&str>,
    within: Duration,
) -> Result<Ended, ErrandError> {
    let began = Instant::now();
    let out = output::open(log)?;
    let err = out.try_clone().map_err(DiskError::at("open", log))?;
    let program = command.argv.first().cloned().unwrap_or_default();
    let mut child = tokio::process::Command::new(&program)
        .args(command.argv.iter().skip(1))
        .env_clear()
        .envs(&command.env)
        .envs(name.map(|name| (VARIABLE, name)))
        .current_dir(&command.dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ErrandError::Run { program, source })?;
    let (well, how) = match timeout(within, child.wait()).await {
        Ok(Ok(status)) => (status.success(), Exit::from(status).to_string()),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, format!("not done within {}", crate::domain::duration::show(within))),
    };
    Ok(Ended { well, how, lines: logs::tail(log, LINES_SHOWN), took: began.elapsed() })
}
