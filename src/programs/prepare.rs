//! Owns `prepare`: a release's own command (npm ci, a virtual environment), run before any gate closes.
//! Must not know which releases are prepared: `shelf.rs` keeps the mark.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::disk::DiskError;
use super::errand::{self, ErrandError};
use super::surroundings::{Surroundings, SurroundingsError};
use crate::domain::program::Manifest;

/// How long a release may take to prepare.
pub const TIMEOUT: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Surroundings(#[from] SurroundingsError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("prepare: {0}")]
    Errand(#[from] ErrandError),
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
    let Some(command) = around.prepare(manifest, dir)? else { return Ok(()) };
    around.make_dirs(&manifest.name)?;
    let ended = errand::run(&command, &around.log(&manifest.name, name), name, TIMEOUT).await?;
    match ended.well {
        true => Ok(()),
        false => Err(PrepareError::Failed(Failed { how: ended.how, lines: ended.lines })),
    }
}
