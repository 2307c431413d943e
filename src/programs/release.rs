//! Owns what makes an archive a release: a valid manifest at its top, and what that manifest names.
//! Must not know where releases are kept, or the cluster.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::archive::{self, ArchiveError, Packed};
use super::disk::DiskError;
use super::tree::LIMITS;
use crate::domain::manifest::{self, FILE_NAME, ManifestErrors, TEXT_BYTES_MAX};
use crate::domain::names::Version;
use crate::domain::program::{Kind, Manifest};

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("{} has no program.toml: a release is a directory with that file at its top", .0.display())]
    NoManifest(PathBuf),
    #[error("{}: program.toml is not UTF-8", .0.display())]
    NotText(PathBuf),
    #[error("{0}")]
    Manifest(#[from] ManifestErrors),
    #[error("program.toml names {what} \"{given}\", which is {problem}")]
    Content { what: &'static str, given: String, problem: &'static str },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Reads and checks the manifest of a directory; `version` overrides its own.
pub fn read_dir(dir: &Path, version: Option<&Version>) -> Result<(Manifest, String), ReleaseError> {
    let path = dir.join(FILE_NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReleaseError::NoManifest(dir.to_owned())),
        Err(error) => return Err(DiskError::at("read", path)(error).into()),
    };
    let text = String::from_utf8(bytes).map_err(|_| ReleaseError::NotText(path.clone()))?;
    let file = path.display().to_string();
    let text = version.map_or_else(|| Ok(text.clone()), |version| manifest::with_version(&file, &text, version))?;
    let manifest = manifest::parse(&file, &text)?;
    check_content(dir, &manifest)?;
    Ok((manifest, text))
}

/// Packs a directory into the file `to`. The same directory gives the same release.
pub fn pack(dir: &Path, version: Option<&Version>, to: &Path) -> Result<(Manifest, Packed), ReleaseError> {
    let (manifest, text) = read_dir(dir, version)?;
    let replaced: &[(&str, &[u8])] = &[(FILE_NAME, text.as_bytes())];
    Ok((manifest, archive::pack(dir, to, replaced, &LIMITS)?))
}

/// The manifest inside a release's archive.
pub fn manifest_in(file: &Path) -> Result<Manifest, ReleaseError> {
    let none = || ReleaseError::NoManifest(file.to_owned());
    let bytes = archive::read_file(file, FILE_NAME, TEXT_BYTES_MAX as u64, &LIMITS)?.ok_or_else(none)?;
    let text = String::from_utf8(bytes).map_err(|_| ReleaseError::NotText(file.to_owned()))?;
    Ok(manifest::parse(FILE_NAME, &text)?)
}

/// What the manifest names must be there, save what `prepare` may still make.
fn check_content(dir: &Path, manifest: &Manifest) -> Result<(), ReleaseError> {
    match &manifest.kind {
        Kind::Static(files) if !dir.join(&files.root).is_dir() => Err(ReleaseError::Content {
            what: "the root",
            given: files.root.clone(),
            problem: "no directory of this release",
        }),
        Kind::Static(_) | Kind::External(_) => Ok(()),
        Kind::Process(process) => {
            let program = &process.command[0];
            let own = program.contains('/') && !program.starts_with('/') && !program.contains('{');
            let there = !own || !process.prepare.is_empty() || dir.join(program).is_file();
            let problem = "no file of this release";
            there.then_some(()).ok_or(ReleaseError::Content { what: "the command", given: program.clone(), problem })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "name = 'site'\nversion = '1'\nroutes = ['*/']\n[static]\nroot = 'public'\n";
    const SHOP: &str = "name = 'shop'\nversion = '1'\nroutes = ['*/']\n[process]\ncommand = ['./server']\n";

    fn dir(manifest: &str, files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), manifest).unwrap();
        for file in files {
            fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            fs::write(dir.path().join(file), "x").unwrap();
        }
        dir
    }

    #[test]
    fn a_release_tells_its_manifest_and_an_overridden_version_is_in_it() {
        let src = dir(SITE, &["public/index.html"]);
        let out = tempfile::tempdir().unwrap();
        let version = Version::new("2").unwrap();
        let (manifest, _) = pack(src.path(), Some(&version), &out.path().join("r")).unwrap();
        assert_eq!(manifest.version, version);
        assert_eq!(manifest_in(&out.path().join("r")).unwrap(), manifest);
        assert_eq!(read_dir(src.path(), None).unwrap().0.version.as_str(), "1");
    }

    #[test]
    fn a_directory_that_is_no_release_is_refused_with_the_cure() {
        let told = |dir: &tempfile::TempDir| read_dir(dir.path(), None).unwrap_err().to_string();
        assert!(told(&tempfile::tempdir().unwrap()).contains("has no program.toml"));
        assert!(told(&dir("name = 1", &[])).contains("program.toml:1:8: \"name\" in the manifest must be a string"));
        assert!(told(&dir(SITE, &[])).contains("names the root \"public\", which is no directory of this release"));
        assert!(told(&dir(SHOP, &[])).contains("names the command \"./server\", which is no file"));
        assert!(read_dir(dir(SHOP, &["server"]).path(), None).is_ok());
        assert!(read_dir(dir(&format!("{SHOP}prepare = ['make']"), &[]).path(), None).is_ok());
    }
}
