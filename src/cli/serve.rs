//! Owns `neap serve-static`, and the hidden `neap launch-instance` by which a server starts an instance.
//! Must not know how files are served, nor how an instance is known.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::seams;

#[derive(Args, Debug)]
pub struct ServeStaticArgs {
    /// The directory to serve
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// The port of 127.0.0.1 to listen on
    #[arg(long, default_value = "8000", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Answers unknown paths with index.html
    #[arg(long)]
    pub spa: bool,
}

impl ServeStaticArgs {
    pub fn run(self) -> Result<(), Failure> {
        seams::serve_static(&self)
    }
}

/// What a server says to itself as it starts an instance; not for people.
#[derive(Args, Debug)]
pub struct LaunchInstanceArgs {
    /// How many files the program may have open
    #[arg(long)]
    pub open_files: Option<u64>,
    #[arg(last = true)]
    pub argv: Vec<OsString>,
}

impl LaunchInstanceArgs {
    pub fn run(self) -> Result<(), Failure> {
        seams::launch_instance(self.argv, self.open_files)
    }
}
