//! Owns how a file becomes a component: its package, neap itself, an interpreter's own library, or the file by the name
//! that it is loaded by; and which version it is. Must not know who uses it.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::closure::{Elfs, real};
use super::packages::{Package, Packages};
use super::{elf, file, python};
use crate::domain::components::{Component, ComponentVersion, Disk, Kind, VersionBy};
use crate::domain::names::ComponentName;

/// The name of neap itself.
const NEAP: &str = "neap";
/// What the package manager calls files on their way in and out.
const ON_THE_WAY: [&str; 2] = [".dpkg-new", ".dpkg-tmp"];
/// Versions that are remembered; with more, all are forgotten.
const REMEMBERED_MAX: usize = 20_000;

/// Versions of files, by what they are on disk.
pub type Versions = HashMap<Disk, Option<ComponentVersion>>;

pub struct Namer<'r> {
    pub packages: &'r mut Packages,
    pub elfs: &'r mut Elfs,
    pub versions: &'r mut Versions,
    pub neap: &'r Path,
    pub file_size: u64,
}

impl Namer<'_> {
    /// The component of a file, or of one that was there under this name; `None`: its name is none for a component, or
    /// nobody could say in time which package has it.
    pub fn component(&mut self, path: &Path) -> Option<Component> {
        let real = real(path);
        let names = names(&real);
        let package = names.iter().find_map(|name| self.packages.owner(name).cloned());
        let (name, kind) = if real == self.neap {
            (NEAP.to_owned(), Kind::Node)
        } else if let Some(package) = package {
            return packaged(&package);
        } else if !names.iter().all(|name| self.packages.is_known(name)) {
            return None;
        } else if let Some((dir, _)) = python::runtime(&real) {
            (file::text(&dir), Kind::File)
        } else {
            (file::text(&self.loaded_as(&real)), Kind::File)
        };
        let mut component = Component { name: ComponentName::new(name).ok()?, kind, version: None };
        component.version = self.version_now(&component);
        Some(component)
    }

    /// A component that a manifest names: a package, or the path of a file.
    pub fn declared(&mut self, name: &ComponentName) -> Component {
        let of_file = || Path::new(name.as_str()).is_absolute() && Path::new(name.as_str()).exists();
        let found = match self.packages.named(name.as_str(), self.file_size) {
            Some(package) => packaged(&package),
            None if name.as_str() == NEAP => self.component(self.neap),
            None if of_file() => self.component(Path::new(name.as_str())),
            None => None,
        };
        found.unwrap_or(Component { name: name.clone(), kind: Kind::Declared, version: None })
    }

    /// Its version on disk as it is now.
    pub fn version_now(&mut self, component: &Component) -> Option<ComponentVersion> {
        let path = Path::new(component.name.as_str());
        match component.kind {
            Kind::Package => packaged(&self.packages.named(component.name.as_str(), self.file_size)?)?.version,
            Kind::Node => self.version_of(self.neap),
            Kind::File if path.is_dir() => self.version_of(&python::runtime(&path.join("os.py"))?.1),
            Kind::File => self.version_of(path),
            Kind::Declared => None,
        }
    }

    /// The build id of a file, else its SHA-256.
    fn version_of(&mut self, path: &Path) -> Option<ComponentVersion> {
        let disk = file::disk(path)?;
        if self.versions.len() >= REMEMBERED_MAX {
            self.versions.clear();
        }
        if let Some(known) = self.versions.get(&disk) {
            return known.clone();
        }
        let build = self.elfs.read(path).ok().flatten().and_then(|elf| elf.build_id.clone());
        let version = match build {
            Some(text) => Some(ComponentVersion { by: VersionBy::BuildId, text }),
            None => sha256(path, self.file_size).map(|text| ComponentVersion { by: VersionBy::Sha256, text }),
        };
        self.versions.insert(disk, version.clone());
        version
    }

    /// The name that a library is loaded by, beside it, where that is a link to it: that one stays when the library is
    /// upgraded.
    fn loaded_as(&mut self, real_path: &Path) -> PathBuf {
        let soname = self.elfs.read(real_path).ok().flatten().and_then(|elf| elf.soname.clone());
        let named = soname.filter(|name| !name.contains('/')).map(|name| real_path.with_file_name(name));
        if let Some(named) = named.filter(|named| real(named) == real_path) {
            return named;
        }
        if real_path.exists() {
            return real_path.to_owned();
        }
        // It is gone. Under a shorter name its successor may be there.
        let shorter = names(real_path).into_iter().skip(1).map(PathBuf::from);
        shorter.into_iter().find(|path| path.exists()).unwrap_or_else(|| real_path.to_owned())
    }
}

/// The build that is in memory, read from the kernel's own hold on it; not everybody may.
pub fn running(itself: &Path) -> Option<ComponentVersion> {
    let text = elf::read(itself).ok()??.build_id?;
    Some(ComponentVersion { by: VersionBy::BuildId, text })
}

/// What a file may be on record as: itself; without the package manager's own endings; and, of one that is gone, by
/// shorter and shorter names, as links to libraries have them.
pub fn names(path: &Path) -> Vec<String> {
    let text = file::text(path);
    let mut name = ON_THE_WAY.iter().find_map(|end| text.strip_suffix(end)).unwrap_or(&text);
    let mut names = vec![name.to_owned()];
    if path.exists() {
        return names;
    }
    while let Some((shorter, number)) = name.rsplit_once('.') {
        let library = shorter.ends_with(".so") || shorter.contains(".so.");
        if !library || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        names.push(shorter.to_owned());
        name = shorter;
    }
    names
}

fn packaged(package: &Package) -> Option<Component> {
    let version = package.version.clone().map(|text| ComponentVersion { by: VersionBy::Package, text });
    Some(Component { name: ComponentName::new(&package.name).ok()?, kind: Kind::Package, version })
}

fn sha256(path: &Path, most: u64) -> Option<String> {
    let (file, meta) = file::open(path).ok()?;
    if meta.len() > most {
        return None;
    }
    let (mut hasher, mut file, mut chunk) = (Sha256::new(), file.take(most), vec![0; 256 << 10]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(read) => hasher.update(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_gone_is_looked_for_under_shorter_names() {
        let gone = |path: &str| names(Path::new(path));
        assert_eq!(
            gone("/none/liba.so.1.0.2"),
            ["/none/liba.so.1.0.2", "/none/liba.so.1.0", "/none/liba.so.1", "/none/liba.so"]
        );
        assert_eq!(gone("/none/liba.so.3.dpkg-new"), ["/none/liba.so.3", "/none/liba.so"]);
        assert_eq!(gone("/none/python3.11"), ["/none/python3.11"]);
        assert_eq!(names(Path::new("/")), ["/"]);
    }
}
