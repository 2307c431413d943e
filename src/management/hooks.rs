//! Owns how management runs the hooks that go with a ripple as a whole: the release is unpacked and prepared here for it.
//! Must not know when one is due: `Leader` says so, and each is asked for until it has ended.

use std::path::PathBuf;

use crate::domain::names::{NodeName, ProgramName};
use crate::domain::program::Manifest;
use crate::domain::ripple::hooks::{HookEnd, HookOrder};
use crate::programs::disk::DiskError;
use crate::programs::prepare::{self, PrepareError};
use crate::programs::shelf::{Rooms, Shelf};
use crate::programs::surroundings::Surroundings;
use crate::programs::{adopt, hook, instance, stop};

/// Runs hooks. Cheap to clone.
#[derive(Clone)]
pub struct Hooks {
    around: Surroundings,
    scope: String,
    shelf: Shelf,
    rooms: Rooms,
}

impl Hooks {
    /// `data_dir` is the node's.
    pub fn open(binary: PathBuf, node: NodeName, data_dir: PathBuf, shelf: Shelf) -> Result<Self, DiskError> {
        let rooms = Rooms::open(data_dir.join("hooks"))?;
        // Not the scope of a server in the same process, which ends what it does not know.
        let scope = instance::scope(&node, &data_dir.join("hooks"));
        Ok(Self { around: Surroundings { binary, node, data_dir, sessions: None }, scope, shelf, rooms })
    }

    /// Ends what an earlier run of this management left running.
    pub async fn clear(&self) {
        let scope = self.scope.clone();
        let strays = tokio::task::spawn_blocking(move || adopt::strays(&scope, &[])).await.unwrap_or_default();
        let mut names: Vec<String> = strays.into_iter().map(|stray| stray.instance).collect();
        names.dedup();
        for name in names {
            match stop::kill_stray(&name).await {
                Ok(count) => tracing::warn!(name, count, "ended a hook that an earlier run left behind"),
                Err(error) => tracing::warn!(name, %error, "cannot end a hook of an earlier run"),
            }
        }
    }

    /// Runs one to its end.
    pub async fn run(&self, program: &ProgramName, manifest: &Manifest, order: &HookOrder) -> HookEnd {
        match self.ready(program, manifest, order).await {
            Ok(dir) => {
                let name = instance::new_name(&self.scope, program);
                let end = hook::run(&self.around, manifest, &dir, &name, order).await;
                if let Err(error) = self.rooms.sweep(program, &[order.release.sha256]) {
                    tracing::warn!(%error, "releases unpacked for hooks stay");
                }
                end
            }
            Err(why) => HookEnd::lost(why),
        }
    }

    async fn ready(&self, program: &ProgramName, manifest: &Manifest, order: &HookOrder) -> Result<PathBuf, String> {
        let sha256 = order.release.sha256;
        let dir = match self.rooms.path(program, sha256) {
            Some(dir) => dir,
            None => {
                let gone = || format!("management does not keep release {} any more", order.release.version);
                let archive = self.shelf.path(program, sha256).ok_or_else(gone)?;
                let (rooms, program) = (self.rooms.clone(), program.clone());
                let unpacked = tokio::task::spawn_blocking(move || rooms.unpack(&program, sha256, &archive)).await;
                unpacked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
            }
        };
        if !self.rooms.is_prepared(program, sha256) {
            let name = instance::new_name(&self.scope, program);
            match prepare::prepare(&self.around, manifest, &dir, &name).await {
                Ok(()) => self.rooms.set_prepared(program, sha256).map_err(|error| error.to_string())?,
                Err(PrepareError::Failed(failed)) => {
                    let lines = failed.lines.join("\n");
                    return Err(format!("its release cannot be prepared at management: {failed}\n{lines}"));
                }
                Err(error) => return Err(format!("its release cannot be prepared at management: {error}")),
            }
        }
        Ok(dir)
    }
}
