//! Owns how a release comes to be ready here before any gate closes (protocol P10): fetched from management, verified,
//! unpacked, prepared, its manifest kept. Must not know when it will run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::Server;
use super::messages::held_releases;
use crate::app_server::machine::{Machine, with_lines};
use crate::app_server::program::Tell;
use crate::app_server::records;
use crate::domain::names::{ProgramName, Release, Sha256};
use crate::domain::program::Manifest;
use crate::link::client::Client;
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

/// How far it has come. A failure is told once; whoever asks again has it tried again.
pub enum Progress {
    UnderWay,
    Failed(String),
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
        match self.prepares.remove(&key) {
            Some(Progress::UnderWay) => {
                self.prepares.insert(key, Progress::UnderWay);
                return Ok(Prepared::Preparing);
            }
            Some(Progress::Failed(reason)) => return Ok(Prepared::Failed { reason }),
            None if self.shared.hands.is_ready(&program, &release) => return Ok(Prepared::Ready),
            None => {}
        }
        let under_way = self.prepares.values().filter(|progress| matches!(progress, Progress::UnderWay)).count();
        if under_way >= PREPARES_MAX {
            return Err(Problem::new(Code::Unavailable, format!("{under_way} releases are being prepared; ask again")));
        }
        self.prepares.insert(key.clone(), Progress::UnderWay);
        let preparer = self.preparer.clone();
        let task = tokio::task::spawn_local(async move { preparer.run(&program, &release, manifest).await });
        ctx.spawn(task.into_actor(self).map(move |ended, server, ctx| server.prepared(key, ended, ctx)));
        Ok(Prepared::Preparing)
    }

    fn prepared(
        &mut self,
        key: Preparing,
        ended: Result<Result<(), String>, tokio::task::JoinError>,
        ctx: &mut Context<Self>,
    ) {
        let ended = ended.unwrap_or_else(|error| Err(format!("neap made a mistake: {error}")));
        match ended {
            Ok(()) => {
                tracing::info!(program = %key.0, sha256 = ?key.1, "a release is ready");
                self.prepares.remove(&key);
                self.sweep(key, ctx);
            }
            Err(reason) => {
                tracing::warn!(program = %key.0, sha256 = ?key.1, reason, "a release could not be prepared");
                self.prepares.insert(key, Progress::Failed(reason));
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
    async fn run(&self, program: &ProgramName, release: &Release, manifest: Manifest) -> Result<(), String> {
        let dir = match self.machine.rooms().path(program, release.sha256) {
            Some(dir) => dir,
            None => self.fetch(program, release.sha256).await?,
        };
        if !self.machine.rooms().is_prepared(program, release.sha256) {
            let name = instance::new_name(self.machine.scope(), program);
            match prepare::prepare(self.machine.around(), &manifest, &dir, &name).await {
                Ok(()) => {}
                Err(PrepareError::Failed(failed)) => {
                    return Err(with_lines(&format!("prepare failed: {failed}"), &failed.lines));
                }
                Err(error) => return Err(error.to_string()),
            }
            let noted = self.machine.rooms().set_prepared(program, release.sha256);
            noted.map_err(|error| error.to_string())?;
        }
        let held = HeldManifest { release: release.clone(), manifest };
        records::save_manifest(&self.store, program, &held)
            .map_err(|error| format!("its manifest cannot be saved: {error}"))
    }

    /// Asks each management in turn; the last one's reason is told.
    async fn fetch(&self, program: &ProgramName, sha256: Sha256) -> Result<PathBuf, String> {
        let mut why = "no management is configured to fetch it from".to_owned();
        for management in &self.management {
            let url = format!("{management}/api/v1/releases/{program}/{sha256}/archive");
            match tokio::time::timeout(self.fetch_timeout, self.fetch_from(&url, program, sha256)).await {
                Ok(Ok(dir)) => return Ok(dir),
                Ok(Err(error)) => why = error,
                Err(_) => {
                    let after = crate::domain::duration::show(self.fetch_timeout);
                    why = format!("{management} did not send it within {after}");
                }
            }
        }
        Err(why)
    }

    async fn fetch_from(&self, url: &str, program: &ProgramName, sha256: Sha256) -> Result<PathBuf, String> {
        fn told(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        let incoming = self.shelf.receive(program).map_err(told)?;
        let file = tokio::fs::File::options().write(true).open(incoming.path()).await;
        let mut file = file.map_err(told)?;
        self.client.fetch(url, &mut file, self.release_size).await.map_err(told)?;
        file.sync_all().await.map_err(told)?;
        let (rooms, shelf, program) = (self.machine.rooms().clone(), self.shelf.clone(), program.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            let held = incoming.finish(sha256).map_err(told)?;
            let dir = rooms.unpack(&program, sha256, &held.path).map_err(told)?;
            // The archive has done its part; management has it.
            if let Err(error) = shelf.remove(&program, sha256) {
                tracing::warn!(%error, "an unpacked archive stays");
            }
            Ok(dir)
        });
        unpacking.await.map_err(told)?
    }
}
