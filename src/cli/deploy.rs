//! Owns `neap deploy`: a release from a directory, then the upgrade to it.
//! Must not know how a release is packed, nor how an upgrade goes.

use std::path::PathBuf;

use clap::Args;

use super::Ctx;
use super::failure::Failure;
use super::upgrade::{self, How};
use super::{release, seams};
use crate::domain::names::Version;
use crate::wire::api::{RippleOptions, UpgradeRequest};

#[derive(Args, Debug)]
pub struct DeployArgs {
    /// The directory that holds program.toml and the program's files
    pub dir: PathBuf,
    /// Overrides the manifest's version
    #[arg(long, value_name = "VERSION")]
    pub version: Option<Version>,
    #[command(flatten)]
    pub how: How,
}

impl DeployArgs {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        let packed = seams::pack(&self.dir, self.version.as_ref())?;
        let release = release::push(ctx, &packed).await?;
        let options = RippleOptions::from(&self.how.options);
        let request = UpgradeRequest { program: release.program, to: release.version, options, plan: None };
        upgrade::upgrade(ctx, request, &self.how).await
    }
}
