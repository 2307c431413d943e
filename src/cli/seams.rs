//! Owns the few calls from the command line into the floors below that are not over HTTP: to run a node, read a
//! configuration, pack a release, serve files, start an instance. Must not know how any of them is done.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::out::Out;
use super::run::Source;
use super::serve::ServeStaticArgs;
use super::unbuilt::not_built;
use crate::domain::names::{ProgramName, Sha256, Version};
use crate::wire::role::Role;

/// A release, ready to be sent.
pub struct Packed {
    pub program: ProgramName,
    pub version: Version,
    pub sha256: Sha256,
    /// The tar.zst.
    pub file: PathBuf,
}

pub fn run_node(_roles: &[Role], _source: &Source, _verbose: u8) -> Result<(), Failure> {
    not_built("neap run")
}

pub fn check_config(_out: &Out, _file: Option<&Path>) -> Result<(), Failure> {
    not_built("neap config check")
}

pub fn show_config(_out: &Out, _source: &Source, _origin: bool) -> Result<(), Failure> {
    not_built("neap config show")
}

pub fn pack(_path: &Path, _version: Option<&Version>) -> Result<Packed, Failure> {
    Err(Failure::NotBuilt("packing a release".to_owned()))
}

pub fn serve_static(_args: &ServeStaticArgs) -> Result<(), Failure> {
    not_built("neap serve-static")
}

pub fn launch_instance(_argv: Vec<OsString>) -> Result<(), Failure> {
    not_built("neap launch-instance")
}
