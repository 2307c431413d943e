//! Owns `neap config`: a node's configuration, checked and shown. Must not know what a value does.

use std::path::PathBuf;

use clap::Subcommand;

use super::failure::Failure;
use super::out::Out;
use super::run::Source;
use super::seams;
use super::unbuilt::not_built;

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Checks a node's configuration, or a program's manifest, and says what is wrong where
    Check {
        /// The file; none: what `neap run` would use
        file: Option<PathBuf>,
    },
    /// Shows the configuration that `neap run` would use
    Show {
        #[command(flatten)]
        source: Source,
        /// Tells where each value came from
        #[arg(long)]
        origin: bool,
    },
    #[command(hide = true)]
    Schema,
}

impl ConfigCommand {
    pub fn run(self, out: &Out) -> Result<(), Failure> {
        match self {
            Self::Check { file } => seams::check_config(out, file.as_deref()),
            Self::Show { source, origin } => seams::show_config(out, &source, origin),
            Self::Schema => not_built("neap config schema"),
        }
    }
}
