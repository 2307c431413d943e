//! Owns how a program that something else runs is brought to a version, stopped and started: by its own commands. Of its
//! processes nothing is known; what is on record is which release its commands have brought. Must not know placements.

use std::rc::Rc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;

use super::hands::{Keeper, Life, Up};
use super::living::with_lines;
use crate::domain::names::{ProgramName, Release};
use crate::domain::program::{External, Health, Manifest};
use crate::programs::instance::{self, InstanceRecord, Mark};
use crate::programs::shelf::Rooms;
use crate::programs::surroundings::Surroundings;
use crate::programs::{errand, probe};

/// Where its commands run.
pub struct Ground<'a> {
    pub around: &'a Surroundings,
    pub rooms: &'a Rooms,
    pub scope: &'a str,
}

impl Ground<'_> {
    /// Brings the release, where no command has yet, and waits until it is healthy.
    pub async fn start(
        &self,
        manifest: &Manifest,
        external: &External,
        release: &Release,
        keeper: &Keeper,
    ) -> Result<Up, String> {
        let began = Instant::now();
        let (mut brought, mut others) = (None, Vec::new());
        for record in keeper.all() {
            match record.mark == Mark::Running && record.release == *release && brought.is_none() {
                true => brought = Some(record),
                false => others.push(record.name),
            }
        }
        if brought.is_none() {
            for (what, argv) in [("upgrade", &external.upgrade), ("start", &external.start)] {
                self.run(manifest, external, release, what, argv).await?;
            }
            let record = self.record(&manifest.name, release, external);
            keeper.add(&record).map_err(|error| format!("its record cannot be saved: {error}"))?;
        }
        let launch = began.elapsed();
        for name in others {
            keeper.forget(&name).map_err(|error| format!("a record cannot be removed: {error}"))?;
        }
        probe::until_healthy(external.addr, &manifest.health)
            .await
            .map_err(|failure| format!("it did not become healthy within its start_timeout: {failure}"))?;
        tracing::info!(program = %manifest.name, version = %release.version, at = %external.addr, "an external program is up");
        let life = Rc::new(Elsewhere { addr: external.addr, health: manifest.health.clone() });
        Ok(Up { addr: external.addr, launch, life })
    }

    /// Runs its `stop`, if it has one, then forgets what was brought.
    pub async fn end(
        &self,
        manifest: &Manifest,
        external: &External,
        record: &InstanceRecord,
        keeper: &Keeper,
    ) -> Result<(), String> {
        self.run(manifest, external, &record.release, "stop", &external.stop).await?;
        keeper.forget(&record.name).map_err(|error| format!("its record cannot be removed: {error}"))
    }

    async fn run(
        &self,
        manifest: &Manifest,
        external: &External,
        release: &Release,
        what: &str,
        argv: &[String],
    ) -> Result<(), String> {
        if argv.is_empty() {
            return Ok(());
        }
        let gone = || format!("release {} of {} is not unpacked here", release.version, manifest.name);
        let dir = self.rooms.path(&manifest.name, release.sha256).ok_or_else(gone)?;
        let told = |error: &dyn std::fmt::Display| format!("{what}: {error}");
        self.around.make_dirs(&manifest.name).map_err(|error| told(&error))?;
        let command = self.around.errand(manifest, &dir, argv).map_err(|error| told(&error))?;
        let name = instance::new_name(self.scope, &manifest.name);
        let log = self.around.log(&manifest.name, &name);
        let ended = errand::run_and_leave(&command, &log, external.timeout).await.map_err(|error| told(&error))?;
        match ended.well {
            true => Ok(()),
            false => Err(with_lines(&format!("{what} failed: {}", ended.how), &ended.lines)),
        }
    }

    /// What its commands have brought; no process of ours.
    fn record(&self, program: &ProgramName, release: &Release, external: &External) -> InstanceRecord {
        InstanceRecord {
            name: instance::new_name(self.scope, program),
            program: program.clone(),
            release: release.clone(),
            pid: 0,
            start_time: 0,
            boot_id: String::new(),
            port: external.addr.port(),
            mark: Mark::Running,
        }
    }
}

/// A program that runs elsewhere: only its probes tell of it.
struct Elsewhere {
    addr: std::net::SocketAddr,
    health: Health,
}

impl Life for Elsewhere {
    fn ended(&self) -> LocalBoxFuture<'static, String> {
        // Whoever runs it starts it again.
        Box::pin(std::future::pending())
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let (addr, health) = (self.addr, self.health.clone());
        Box::pin(async move { probe::probe(addr, &health).await.map_err(|failure| failure.to_string()) })
    }

    fn orphans(&self) -> u64 {
        0
    }
}
