//! Owns the few calls from the command line into the floors below that are not over HTTP: to run a node, read a
//! configuration, pack a release, serve files, start an instance. Must not know how any of them is done.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::out::Out;
use super::run::Source;
use super::serve::ServeStaticArgs;
use crate::config::{self, Loaded};
use crate::domain::manifest::FILE_NAME;
use crate::domain::names::{ProgramName, Sha256, Version};
use crate::node;
use crate::programs::{launcher, release, static_files};
use crate::wire::role::Role;

/// A release, ready to be sent; its file goes when it is dropped.
pub struct Packed {
    pub program: ProgramName,
    pub version: Version,
    pub sha256: Sha256,
    /// The tar.zst.
    pub file: PathBuf,
    made: bool,
}

impl Drop for Packed {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

fn load(roles: &[Role], source: &Source) -> Result<Loaded, Failure> {
    let mut sets = source.set.clone();
    if !roles.is_empty() {
        let names: Vec<String> = roles.iter().map(|role| format!("\"{role}\"")).collect();
        sets.push(format!("node.roles=[{}]", names.join(", ")));
    }
    config::load(source.config.as_deref(), &sets, config::environment())
        .map_err(|error| Failure::Usage(error.to_string()))
}

/// Runs a node until it is told to stop.
pub fn run_node(roles: &[Role], source: &Source, verbose: u8) -> Result<(), Failure> {
    node::run(load(roles, source)?, verbose).map_err(|error| match error {
        node::NodeError::Start(said) => Failure::Usage(said),
        node::NodeError::Failed(said) => Failure::Failed(said),
    })
}

/// Checks a node's configuration or, told by its name, a program's manifest.
pub fn check_config(out: &Out, file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file.filter(|file| file.file_name().is_some_and(|name| name == FILE_NAME)) else {
        config::load(file, &[], config::environment()).map_err(|error| Failure::Usage(error.to_string()))?;
        out.say("the configuration is valid");
        return Ok(());
    };
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (manifest, _) = release::read_dir(dir, None).map_err(|error| Failure::Usage(error.to_string()))?;
    out.say(&format!("the manifest of {} {} is valid", manifest.name, manifest.version));
    Ok(())
}

pub fn show_config(out: &Out, source: &Source, origin: bool) -> Result<(), Failure> {
    let loaded = load(&[], source)?;
    out.one(&loaded.show(), |_| loaded.to_toml(origin))
}

/// Packs a directory, or takes a release that is packed already.
pub fn pack(path: &Path, version: Option<&Version>) -> Result<Packed, Failure> {
    let usage = |error: release::ReleaseError| Failure::Usage(error.to_string());
    if path.is_file() {
        if version.is_some() {
            return Err(Failure::Usage(
                "a packed release has its version already: --version is for directories".into(),
            ));
        }
        let manifest = release::manifest_in(path).map_err(usage)?;
        let sha256 = crate::programs::archive::digest(path, &crate::programs::tree::LIMITS)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let (program, version) = (manifest.name, manifest.version);
        return Ok(Packed { program, version, sha256, file: path.to_owned(), made: false });
    }
    let file =
        std::env::temp_dir().join(format!("neap-{}-{}.tar.zst", std::process::id(), crate::link::identity::new_id()));
    let packed = release::pack(path, version, &file);
    if packed.is_err() {
        let _ = std::fs::remove_file(&file);
    }
    let (manifest, packed) = packed.map_err(usage)?;
    Ok(Packed { program: manifest.name, version: manifest.version, sha256: packed.sha256, file, made: true })
}

pub fn serve_static(args: &ServeStaticArgs) -> Result<(), Failure> {
    let mut words: Vec<OsString> = vec!["--root".into(), args.root.clone().into()];
    words.extend(["--port".into(), args.port.to_string().into()]);
    words.extend(args.spa.then(|| "--spa".into()));
    static_files::main(&words)
}

pub fn launch_instance(argv: Vec<OsString>) -> Result<(), Failure> {
    launcher::main(argv)
}
