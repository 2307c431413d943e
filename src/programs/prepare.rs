//! Owns `prepare`: a release's own command (npm ci, a virtual environment), run before any gate closes.
//! Must not know which releases are prepared: `shelf.rs` keeps the mark.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::timeout;

use super::disk::DiskError;
use super::instance::Exit;
use super::probe::LINES_SHOWN;
use super::surroundings::{Surroundings, SurroundingsError};
use super::{logs, output, stop};
use crate::domain::program::Manifest;

/// How long a release may take to prepare.
pub const TIMEOUT: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Surroundings(#[from] SurroundingsError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot run prepare's \"{program}\": {source}")]
    Run { program: String, source: std::io::Error },
    #[error("prepare failed: {0}")]
    Failed(Failed),
}

/// How `prepare` failed, with the last lines of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub how: String,
    pub lines: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.how)
    }
}

/// Runs a release's `prepare`, if it has one, in its directory. `name` is a new instance name: what is started
/// carries it, and nothing of it is left afterwards.
pub async fn prepare(around: &Surroundings, manifest: &Manifest, dir: &Path, name: &str) -> Result<(), PrepareError> {
    let Some(mut command) = around.prepare(manifest, dir)? else { return Ok(()) };
    around.make_dirs(&manifest.name)?;
    command.env.insert(super::instance::VARIABLE.to_owned(), name.to_owned());
    let log = around.log(&manifest.name, name);
    let out = output::open(&log)?;
    let err = out.try_clone().map_err(DiskError::at("open", &log))?;
    let Some((program, args)) = command.argv.split_first() else { return Ok(()) };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .envs(&command.env)
        .current_dir(&command.dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| PrepareError::Run { program: program.clone(), source })?;
    let how = match timeout(TIMEOUT, child.wait()).await {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(status)) => Some(Exit::from(status).to_string()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("not done within {}", crate::domain::duration::show(TIMEOUT))),
    };
    // Also what it left behind in the background.
    if let Err(error) = stop::kill_stray(name).await {
        tracing::warn!(%error, "prepare left processes behind");
    }
    match how {
        None => Ok(()),
        Some(how) => Err(PrepareError::Failed(Failed { how, lines: logs::tail(&log, LINES_SHOWN) })),
    }
}
