//! Owns `neap release`: push, list and remove releases.
//! Must not know what is in an archive.

use std::path::PathBuf;

use clap::Subcommand;

use super::Ctx;
use super::failure::Failure;
use super::out;
use super::seams::{self, Packed};
use super::unbuilt::not_built;
use crate::domain::names::{ProgramName, Version};
use crate::wire::api::{ReleaseView, path};

#[derive(Subcommand, Debug)]
pub enum ReleaseCommand {
    /// Packs a directory with a program.toml, and sends it to management
    Push {
        /// The directory, or a release already packed (.tar.zst)
        path: PathBuf,
        /// Overrides the manifest's version
        #[arg(long, value_name = "VERSION")]
        version: Option<Version>,
    },
    /// Lists releases, newest first
    Ls {
        /// Only those of this program
        program: Option<ProgramName>,
    },
    /// Removes a release that no server holds
    Rm { program: ProgramName, version: Version },
    #[command(hide = true)]
    Gc,
}

impl ReleaseCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Push { path, version } => {
                let release = push(ctx, &seams::pack(&path, version.as_ref())?).await?;
                ctx.out.one(&release, |release| release.sha256.to_string())
            }
            Self::Ls { program } => list(ctx, program).await,
            Self::Rm { program, version } => remove(ctx, &program, &version).await,
            Self::Gc => not_built("neap release gc"),
        }
    }
}

/// Sends a packed release; management checks that it arrives whole.
pub async fn push(ctx: &Ctx, packed: &Packed) -> Result<ReleaseView, Failure> {
    let sha256 = packed.sha256.to_string();
    let query =
        [("sha256", sha256.as_str()), ("program", packed.program.as_str()), ("version", packed.version.as_str())];
    let (new, release) = ctx.client.upload::<ReleaseView>(path::RELEASES, &query, &packed.file).await?;
    let did = if new { "pushed" } else { "already there:" };
    let size = out::bytes(release.size_bytes);
    ctx.out.say(&format!("{did} {} {} ({size}, sha256 {})", release.program, release.version, &sha256[..12]));
    Ok(release)
}

async fn list(ctx: &Ctx, program: Option<ProgramName>) -> Result<(), Failure> {
    let query: Vec<(&str, &str)> = program.iter().map(|program| ("program", program.as_str())).collect();
    let releases = ctx.client.list::<ReleaseView>(path::RELEASES, &query).await?;
    ctx.out.list(&releases, |releases| {
        out::table(
            &["PROGRAM", "VERSION", "SIZE", "PUSHED", "SHA256", "SERVERS"],
            releases.iter().map(|release| {
                vec![
                    release.program.to_string(),
                    release.version.to_string(),
                    out::bytes(release.size_bytes),
                    format!("{:.0}", release.pushed_at),
                    release.sha256.to_string()[..12].to_owned(),
                    release.servers.len().to_string(),
                ]
            }),
        )
    })
}

async fn remove(ctx: &Ctx, program: &ProgramName, version: &Version) -> Result<(), Failure> {
    let at = path::RELEASE.replace("{program}", program.as_str()).replace("{version}", version.as_str());
    ctx.client.delete::<serde_json::Value>(&at).await?;
    ctx.out.say(&format!("removed {program} {version}"));
    Ok(())
}
