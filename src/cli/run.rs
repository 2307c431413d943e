//! Owns `neap run`: which roles, which configuration. Must not know what a role does.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::seams;
use crate::wire::role::Role;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// What this node does: router, app-server, management, or several with commas; none: all three, on loopback
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub role: Vec<Role>,
    #[command(flatten)]
    pub source: Source,
}

/// Where a node's configuration comes from, beside defaults and environment.
#[derive(Args, Debug)]
pub struct Source {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one value, such as node.name=server-1
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl RunArgs {
    pub fn run(self, verbose: u8) -> Result<(), Failure> {
        seams::run_node(&self.role, &self.source, verbose)
    }
}
