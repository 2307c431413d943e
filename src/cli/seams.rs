//! Owns the few calls from the command line into the floors below that are not over HTTP: to run a node, read a
//! configuration, pack a release, serve files, start an instance. Must not know how any of them is done.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::out::{Format, Out};
use super::run::Source;
use super::serve::ServeStaticArgs;
use crate::config::{self, ConfigError, Loaded};
use crate::domain::manifest;
use crate::domain::names::{ProgramName, Sha256, Version};
use crate::node::{self, NodeError};
use crate::programs::archive::{self, ArchiveError};
use crate::programs::binaries;
use crate::programs::release::{self, ReleaseError};
use crate::programs::tree::LIMITS;
use crate::programs::{launcher, static_files};
use crate::wire::page::Page;
use crate::wire::role::Role;

/// Says which neap this is.
pub fn about(out: &Out) -> Result<(), Failure> {
    let about = binaries::about();
    out.json(&serde_json::json!({"version": about.version, "protocol": about.protocol}))
}

/// The SHA-256 of a file.
pub fn digest(file: &Path) -> Result<Sha256, Failure> {
    binaries::digest(file).map_err(|error| Failure::Usage(error.to_string()))
}

/// Runs a node until it is told to stop.
pub fn run_node(roles: &[Role], source: &Source, verbose: u8) -> Result<(), Failure> {
    node::run(load(roles, source)?, verbose).map_err(|error| match error {
        NodeError::Start(said) => Failure::Usage(said),
        NodeError::Failed(said) => Failure::Failed(said),
    })
}

fn load(roles: &[Role], source: &Source) -> Result<Loaded, Failure> {
    let mut sets = source.set.clone();
    if !roles.is_empty() {
        let names: Vec<String> = roles.iter().map(|role| format!("\"{role}\"")).collect();
        sets.push(format!("node.roles=[{}]", names.join(", ")));
    }
    Ok(config::load(source.config.as_deref(), &sets, config::environment())?)
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(format!("the configuration is not valid\n{error}"))
    }
}

/// Checks a configuration, or a manifest where that is what the file is.
pub fn check_config(out: &Out, file: Option<&Path>) -> Result<(), Failure> {
    let manifest =
        file.filter(|file| file.is_dir() || file.file_name().is_some_and(|name| name == manifest::FILE_NAME));
    match manifest {
        Some(file) => {
            let dir = if file.is_dir() {
                file
            } else {
                file.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."))
            };
            release::read_dir(dir, None)?;
        }
        None => {
            config::load(file, &[], config::environment())?;
        }
    }
    let what = file.map_or("the configuration".to_owned(), |file| file.display().to_string());
    out.one(&serde_json::json!({"valid": true, "what": what}), |_| format!("{what} is valid"))
}

/// Shows the configuration that a node would run with.
pub fn show_config(out: &Out, source: &Source, origin: bool) -> Result<(), Failure> {
    let loaded = load(&[], source)?;
    match out.format {
        Format::Table => out.text(loaded.to_toml(origin).trim_end()),
        Format::Json | Format::Ndjson => out.list(&Page::whole(loaded.show()), |_| String::new()),
    }
}

/// A release, ready to be sent.
pub struct Packed {
    pub program: ProgramName,
    pub version: Version,
    pub sha256: Sha256,
    /// The tar.zst.
    pub file: PathBuf,
    /// Where it was packed; gone when this is dropped.
    _dir: Option<OwnDir>,
}

/// Packs a directory, or takes an archive that was packed before.
pub fn pack(path: &Path, version: Option<&Version>) -> Result<Packed, Failure> {
    if path.is_file() {
        return take_packed(path, version);
    }
    let dir = OwnDir::new().map_err(|error| {
        Failure::Failed(format!("no directory can be made in {}: {error}", std::env::temp_dir().display()))
    })?;
    let file = dir.0.join("release.tar.zst");
    let (manifest, packed) = release::pack(path, version, &file)?;
    Ok(Packed { program: manifest.name, version: manifest.version, sha256: packed.sha256, file, _dir: Some(dir) })
}

fn take_packed(file: &Path, version: Option<&Version>) -> Result<Packed, Failure> {
    let manifest = release::manifest_in(file).map_err(|error| match error {
        ReleaseError::Archive(ArchiveError::Disk(_)) => Failure::from(error),
        other => Failure::Usage(format!("{}: {other}", file.display())),
    })?;
    if version.is_some_and(|version| *version != manifest.version) {
        return Err(Failure::Usage(format!(
            "{} is packed as version {}: --version works with a directory",
            file.display(),
            manifest.version
        )));
    }
    let sha256 = archive::digest(file, &LIMITS).map_err(ReleaseError::from)?;
    Ok(Packed { program: manifest.name, version: manifest.version, sha256, file: file.to_owned(), _dir: None })
}

impl From<ReleaseError> for Failure {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Disk(_) | ReleaseError::Archive(ArchiveError::Disk(_) | ArchiveError::Pack(_)) => {
                Self::Failed(error.to_string())
            }
            _ => Self::Usage(error.to_string()),
        }
    }
}

/// A directory that only this user may look into, for a release may hold secrets. Gone when dropped.
struct OwnDir(PathBuf);

impl OwnDir {
    fn new() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("neap-{}", ulid::Ulid::new()));
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        // What stays is in the system's directory for such things, and is cleared away with it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Serves a directory until told to stop.
pub fn serve_static(args: &ServeStaticArgs) -> Result<(), Failure> {
    let site = static_files::Site { root: args.root.clone(), spa: args.spa, port: args.port };
    actix_web::rt::System::new().block_on(static_files::serve(site)).map_err(|error| {
        Failure::Failed(format!("cannot serve {} on port {}: {error}", args.root.display(), args.port))
    })
}

/// Waits for the word, then becomes the program.
pub fn launch_instance(argv: Vec<OsString>, open_files: Option<u64>) -> Result<(), Failure> {
    launcher::main(argv, open_files)
}
