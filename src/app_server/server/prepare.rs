//! Owns how a release comes to be ready here before any gate closes (protocol P10): fetched from management, verified,
//! unpacked, prepared, its manifest kept. Must not know when it will run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::Server;
use super::messages::held_releases;
use crate::app_server::living::with_lines;
use crate::app_server::machine::Machine;
use crate::app_server::program::Tell;
use crate::app_server::records;
use crate::domain::names::{ProgramName, Release, Sha256};
use crate::domain::program::Manifest;
use crate::link::client::{Client, LinkError};
use crate::programs::aside::aside;
use crate::programs::instance;
use crate::programs::prepare::{self, PrepareError};
use crate::programs::shelf::Shelf;
use crate::store::Store;
use crate::wire::messages::{HeldManifest, Prepared};
use crate::wire::problem::{Code, Problem};

/// Releases that are being prepared at once; more wait their turn at management.
const PREPARES_MAX: usize = 16;

/// What is being prepared.
pub type Preparing = (ProgramName, Sha256);

/// Times that a release is fetched in vain, one after the other, before that is a failure. Management asks again.
const FETCHES_MAX: u8 = 5;
/// How long a failure is told; who asks later, perhaps for another ripple, has it tried again.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// How far it has come. A failure is told once; whoever asks again has it tried again.
pub enum Progress {
    /// After so many fetches in vain.
    UnderWay(u8),
    /// Management was lost on the way, so many times: the next who asks has it fetched again.
    Interrupted(u8),
    Failed(String, Instant),
}

/// Why a release is not ready.
pub enum Trouble {
    /// Management was lost on the way; another try may do.
    Passing(String),
    Lasting(String),
}

impl Trouble {
    fn lasting(error: impl std::fmt::Display) -> Self {
        Self::Lasting(error.to_string())
    }
}

impl From<LinkError> for Trouble {
    fn from(error: LinkError) -> Self {
        let passing = match &error {
            LinkError::Unreachable { .. } | LinkError::TimedOut { .. } | LinkError::Broken { .. } => true,
            LinkError::Refused(problem) => problem.status >= 500,
            LinkError::BadUrl { .. } | LinkError::TooLarge { .. } | LinkError::Write { .. } => false,
        };
        if passing { Self::Passing(error.to_string()) } else { Self::lasting(error) }
    }
}

/// Prepares releases. Cheap to clone.
#[derive(Clone)]
pub struct Preparer {
    pub machine: Machine,
    pub client: Client,
    pub management: Vec<String>,
    /// Archives lie here until they are unpacked.
    pub shelf: Arc<Shelf>,
    pub store: Store,
    pub fetch_timeout: Duration,
    pub release_size: u64,
}

impl Server {
    pub(super) fn prepare(
        &mut self,
        program: ProgramName,
        release: Release,
        manifest: Manifest,
        ctx: &mut Context<Self>,
    ) -> Result<Prepared, Problem> {
        check(&program, &release, &manifest)?;
        let key = (program.clone(), release.sha256);
        let tries = match self.prepares.remove(&key) {
            Some(Progress::UnderWay(tries)) => {
                self.prepares.insert(key, Progress::UnderWay(tries));
                return Ok(Prepared::Preparing);
            }
            Some(Progress::Failed(reason, at)) if at.elapsed() < TOLD_FOR => return Ok(Prepared::Failed { reason }),
            Some(Progress::Interrupted(tries)) => tries,
            _ if self.shared.hands.is_ready(&program, &release) => return Ok(Prepared::Ready),
            _ => 0,
        };
        let under_way = self.prepares.values().filter(|progress| matches!(progress, Progress::UnderWay(_))).count();
        if under_way >= PREPARES_MAX {
            return Err(Problem::new(Code::Unavailable, format!("{under_way} releases are being prepared; ask again")));
        }
        self.prepares.insert(key.clone(), Progress::UnderWay(tries));
        let preparer = self.preparer.clone();
        let task = tokio::task::spawn_local(async move { preparer.run(&program, &release, manifest).await });
        ctx.spawn(task.into_actor(self).map(move |ended, server, ctx| server.prepared(key, ended, ctx)));
        Ok(Prepared::Preparing)
    }

    fn prepared(
        &mut self,
        key: Preparing,
        ended: Result<Result<(), Trouble>, tokio::task::JoinError>,
        ctx: &mut Context<Self>,
    ) {
        let ended = ended.unwrap_or_else(|error| Err(Trouble::Lasting(format!("neap made a mistake: {error}"))));
        let tries = match self.prepares.get(&key) {
            Some(Progress::UnderWay(tries)) => tries.saturating_add(1),
            _ => 1,
        };
        match ended {
            Ok(()) => {
                tracing::info!(program = %key.0, sha256 = ?key.1, "a release is ready");
                self.prepares.remove(&key);
                self.sweep(key, ctx);
            }
            Err(Trouble::Passing(reason)) if tries < FETCHES_MAX => {
                tracing::info!(program = %key.0, sha256 = ?key.1, reason, tries, "a release was not fetched yet");
                self.prepares.insert(key, Progress::Interrupted(tries));
            }
            Err(Trouble::Passing(reason) | Trouble::Lasting(reason)) => {
                tracing::warn!(program = %key.0, sha256 = ?key.1, reason, "a release could not be prepared");
                self.prepares.insert(key, Progress::Failed(reason, Instant::now()));
            }
        }
        self.shared.nudge();
    }
}

impl Server {
    /// Removes unpacked releases of a program beyond the newest: none that runs, is wanted, or is being prepared.
    fn sweep(&self, (program, new): Preparing, ctx: &mut Context<Self>) {
        let under_way = self.prepares.keys().filter(|(of, _)| *of == program).map(|(_, sha256)| *sha256);
        let mut in_use: Vec<Sha256> = under_way.chain([new]).collect();
        let told = self.programs.get(&program).map(|actor| actor.send(Tell).timeout(super::TELL_WAIT));
        let rooms = self.preparer.machine.rooms().clone();
        let sweeping = async move {
            if let Some(told) = told {
                // Who does not say what it holds keeps everything.
                let Ok(report) = told.await else { return };
                in_use.extend(held_releases(&report).into_iter().map(|release| release.sha256));
            }
            let swept = tokio::task::spawn_blocking(move || rooms.sweep(&program, &in_use)).await;
            match swept {
                Ok(Ok(gone)) if gone.is_empty() => {}
                Ok(Ok(gone)) => tracing::info!(?gone, "old releases were removed"),
                Ok(Err(error)) => tracing::warn!(%error, "old releases could not be removed"),
                Err(error) => tracing::error!(%error, "removing old releases ended"),
            }
        };
        ctx.spawn(sweeping.into_actor(self));
    }
}

fn check(program: &ProgramName, release: &Release, manifest: &Manifest) -> Result<(), Problem> {
    if manifest.name == *program && manifest.version == release.version {
        return Ok(());
    }
    let detail =
        format!("the manifest is of {} {}, and not of {program} {}", manifest.name, manifest.version, release.version);
    Err(Problem::new(Code::BadRequest, detail))
}

impl Preparer {
    async fn run(&self, program: &ProgramName, release: &Release, manifest: Manifest) -> Result<(), Trouble> {
        let dir = match self.machine.rooms().path(program, release.sha256) {
            Some(dir) => dir,
            None => self.fetch(program, release.sha256).await?,
        };
        if !self.machine.rooms().is_prepared(program, release.sha256) {
            let name = instance::new_name(self.machine.scope(), program);
            match prepare::prepare(self.machine.around(), &manifest, &dir, &name).await {
                Ok(()) => {}
                Err(PrepareError::Failed(failed)) => {
                    return Err(Trouble::Lasting(with_lines(&format!("prepare failed: {failed}"), &failed.lines)));
                }
                Err(error) => return Err(Trouble::lasting(error)),
            }
            let noted = self.machine.rooms().set_prepared(program, release.sha256);
            noted.map_err(Trouble::lasting)?;
        }
        let held = HeldManifest { release: release.clone(), manifest };
        records::save_manifest(&self.store, program, &held)
            .map_err(|error| Trouble::Lasting(format!("its manifest cannot be saved: {error}")))
    }

    /// Asks each management in turn; the last one's reason is told.
    async fn fetch(&self, program: &ProgramName, sha256: Sha256) -> Result<PathBuf, Trouble> {
        let mut why = Trouble::Lasting("no management is configured to fetch it from".to_owned());
        for management in &self.management {
            let url = format!("{management}/api/v1/releases/{program}/{sha256}/archive");
            match tokio::time::timeout(self.fetch_timeout, self.fetch_from(&url, program, sha256)).await {
                Ok(Ok(dir)) => return Ok(dir),
                Ok(Err(error)) => why = error,
                Err(_) => {
                    let after = crate::domain::duration::show(self.fetch_timeout);
                    why = Trouble::Lasting(format!("{management} did not send it within {after}"));
                }
            }
        }
        Err(why)
    }

    async fn fetch_from(&self, url: &str, program: &ProgramName, sha256: Sha256) -> Result<PathBuf, Trouble> {
        let incoming = self.shelf.receive(program).map_err(Trouble::lasting)?;
        let file = tokio::fs::File::options().write(true).open(incoming.path()).await;
        let mut file = file.map_err(Trouble::lasting)?;
        self.client.fetch(url, &mut file, self.release_size).await?;
        file.sync_all().await.map_err(Trouble::lasting)?;
        let (rooms, shelf, program) = (self.machine.rooms().clone(), self.shelf.clone(), program.clone());
        // Nobody's request waits for it.
        let unpacking = aside("unpack", move || {
            let held = incoming.finish(sha256).map_err(Trouble::lasting)?;
            let dir = rooms.unpack(&program, sha256, &held.path).map_err(Trouble::lasting)?;
            // The archive has done its part; management has it.
            if let Err(error) = shelf.remove(&program, sha256) {
                tracing::warn!(%error, "an unpacked archive stays");
            }
            Ok(dir)
        });
        unpacking.await.map_err(Trouble::lasting)?
    }
}
