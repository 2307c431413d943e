//! Owns the parent's half of a launch (protocol P9a), in two steps: `spawn` makes a process that waits and can be
//! recorded; `go` lets it become the program. In between the caller puts the record on disk.
//! Must not know where records are kept.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;

use super::disk::DiskError;
use super::instance::{Instance, InstanceRecord, Mark, open_pidfd};
use super::ports::PortLease;
use super::surroundings::{Command, Surroundings, SurroundingsError};
use super::{launcher, open_files, output, proc};
use crate::domain::names::{Release, Sha256};
use crate::domain::program::Manifest;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(transparent)]
    Surroundings(#[from] SurroundingsError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot start the launcher {}: {source}", binary.display())]
    Launcher { binary: PathBuf, source: io::Error },
    #[error("the launcher ended before it became the program: {0}")]
    Ended(io::Error),
}

/// A process that waits for the word. Dropped without it, it ends by itself.
#[derive(Debug)]
pub struct Waiting {
    record: InstanceRecord,
    child: Option<Child>,
    word: Option<ChildStdin>,
    port: Option<PortLease>,
}

/// Starts the launcher of a new instance named `name`, of the release unpacked at `dir`.
pub async fn spawn(
    surroundings: &Surroundings,
    manifest: &Manifest,
    sha256: Sha256,
    dir: &Path,
    name: &str,
    port: PortLease,
) -> Result<Waiting, LaunchError> {
    let (around, manifest, dir, name) = (surroundings.clone(), manifest.clone(), dir.to_owned(), name.to_owned());
    let spawned = tokio::task::spawn_blocking(move || spawn_now(&around, &manifest, sha256, &dir, name, port)).await;
    spawned.unwrap_or_else(|error| Err(LaunchError::Ended(io::Error::other(error))))
}

fn spawn_now(
    around: &Surroundings,
    manifest: &Manifest,
    sha256: Sha256,
    dir: &Path,
    name: String,
    port: PortLease,
) -> Result<Waiting, LaunchError> {
    around.make_dirs(&manifest.name)?;
    let command = around.command(manifest, dir, &name, port.port())?;
    let log = around.log(&manifest.name, &name);
    let mut child = start_launcher(&around.binary, &command, &log)?;
    let word = child.stdin.take();
    // From here on a dropped `Waiting` ends and reaps the child.
    let mut waiting = Waiting {
        record: InstanceRecord {
            name,
            program: manifest.name.clone(),
            release: Release { version: manifest.version.clone(), sha256 },
            pid: child.id(),
            start_time: 0,
            boot_id: String::new(),
            port: port.port(),
            mark: Mark::Running,
        },
        child: Some(child),
        word,
        port: Some(port),
    };
    let gone = || LaunchError::Ended(io::ErrorKind::NotFound.into());
    waiting.record.start_time = proc::stat(waiting.record.pid).ok_or_else(gone)?.start_time;
    waiting.record.boot_id = proc::boot_id().map_err(LaunchError::Ended)?;
    Ok(waiting)
}

fn start_launcher(binary: &Path, command: &Command, log: &Path) -> Result<Child, LaunchError> {
    let out = output::open(log)?;
    let err = out.try_clone().map_err(DiskError::at("open", log))?;
    std::process::Command::new(binary)
        .arg(launcher::COMMAND)
        .args(open_files::given().map(|files| format!("{}={files}", launcher::OPEN_FILES)))
        .arg("--")
        .args(&command.argv)
        .env_clear()
        .envs(&command.env)
        .current_dir(&command.dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|source| LaunchError::Launcher { binary: binary.to_owned(), source })
}

impl Waiting {
    /// The record to put on disk before `go`.
    pub fn record(&self) -> &InstanceRecord {
        &self.record
    }

    /// Gives the word: the record is on disk.
    pub async fn go(mut self) -> Result<Arc<Instance>, LaunchError> {
        let ended = || LaunchError::Ended(io::ErrorKind::NotFound.into());
        // The hold is taken first: once the word is given, nothing may fail.
        let pidfd = open_pidfd(self.record.pid).map_err(LaunchError::Ended)?.ok_or_else(ended)?;
        let (Some(mut word), Some(port)) = (self.word.take(), self.port.take()) else { return Err(ended()) };
        let child = self.child.take();
        let instance = Instance::hold(self.record.clone(), pidfd, child, port).map_err(LaunchError::Ended)?;
        match word.write_all(&[launcher::GO]) {
            Ok(()) => Ok(instance),
            Err(error) => {
                drop(word);
                instance.exited().await;
                Err(LaunchError::Ended(error))
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // End of file, instead of the word: the launcher exits. KILL, so that reaping it never waits.
        self.word = None;
        if let Some(mut child) = self.child.take()
            && child.kill().and_then(|()| child.wait()).is_err()
        {
            tracing::warn!(pid = self.record.pid, "cannot reap a launcher");
        }
    }
}
