//! Owns where releases lie on a node's disk: archives on a shelf (`releases/<program>/<sha>.tar.zst`), and unpacked
//! ones in rooms (`programs/<program>/<sha>/`). What is there is whole and verified.
//! Must not know which releases are in use: the caller says so.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::archive::{self, ArchiveError};
use super::disk::{self, Arriving, DiskError, UNFINISHED, Unfinished};
use super::tree::{BadEntry, LIMITS};
use crate::domain::names::{ProgramName, Sha256};

/// Releases of a program that are kept, beside those in use.
pub const KEPT: usize = 5;
/// Programs and releases that are listed at most.
const LISTED_MAX: usize = 100_000;
const SUFFIX: &str = ".tar.zst";

/// The archives that a node keeps.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: PathBuf,
}

/// One release on the shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub sha256: Sha256,
    pub path: PathBuf,
    pub bytes: u64,
    pub since: SystemTime,
}

impl Shelf {
    /// Opens `<data_dir>/releases`, made where it is missing; removes what an earlier run left unfinished.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        Ok(Self { root: open(root.into())? })
    }

    /// Begins to receive an archive; it is on the shelf when `Incoming::finish` says so.
    pub fn receive(&self, program: &ProgramName) -> Result<Incoming, DiskError> {
        let dir = self.root.join(program.as_str());
        fs::create_dir_all(&dir).map_err(DiskError::at("create", &dir))?;
        Ok(Incoming { file: Arriving::in_dir(&dir, LIMITS.bytes)?, dir })
    }

    /// Puts an archive file that lies elsewhere on this machine onto the shelf.
    pub fn put(&self, program: &ProgramName, from: &Path, expected: Sha256) -> Result<Held, ArchiveError> {
        let mut incoming = self.receive(program)?;
        let mut file = File::open(from).map_err(DiskError::at("open", from))?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = std::io::Read::read(&mut file, &mut buffer).map_err(DiskError::at("read", from))?;
            if count == 0 {
                return incoming.finish(expected);
            }
            incoming.write(&buffer[..count])?;
        }
    }

    /// The archive of a release, where it is held.
    pub fn path(&self, program: &ProgramName, sha256: Sha256) -> Option<PathBuf> {
        let path = self.root.join(program.as_str()).join(format!("{sha256}{SUFFIX}"));
        path.is_file().then_some(path)
    }

    /// A program's releases, newest first.
    pub fn list(&self, program: &ProgramName) -> Result<Vec<Held>, DiskError> {
        list(&self.root.join(program.as_str()), SUFFIX)
    }

    /// The programs that have releases here.
    pub fn programs(&self) -> Result<Vec<ProgramName>, DiskError> {
        programs(&self.root)
    }

    pub fn remove(&self, program: &ProgramName, sha256: Sha256) -> Result<(), DiskError> {
        remove(&self.root.join(program.as_str()).join(format!("{sha256}{SUFFIX}")))
    }

    /// Removes all but the newest five and those in use; answers what went.
    pub fn sweep(&self, program: &ProgramName, in_use: &[Sha256]) -> Result<Vec<Sha256>, DiskError> {
        sweep(self.list(program)?, in_use)
    }
}

/// An archive that is being received.
#[derive(Debug)]
pub struct Incoming {
    dir: PathBuf,
    file: Arriving,
}

impl Incoming {
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ArchiveError> {
        Ok(self.file.write(chunk)?)
    }

    /// Where it lies while it is received: for a look at its manifest before it is put in place.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The SHA-256 of what was received.
    pub fn digest(&self) -> Result<Sha256, ArchiveError> {
        archive::digest(self.path(), &LIMITS)
    }

    /// Verifies the archive, flushes it and puts it in place; a wrong one is removed.
    pub fn finish(self, expected: Sha256) -> Result<Held, ArchiveError> {
        let found = self.digest()?;
        if found != expected {
            return Err(ArchiveError::Checksum { expected, found });
        }
        let path = self.dir.join(format!("{expected}{SUFFIX}"));
        let bytes = self.file.bytes();
        self.file.put(&path)?;
        Ok(Held { sha256: expected, path, bytes, since: SystemTime::now() })
    }
}

/// The unpacked releases of a server.
#[derive(Clone, Debug)]
pub struct Rooms {
    root: PathBuf,
}

/// The file beside a room that says that its release is prepared too.
const PREPARED: &str = ".prepared";

impl Rooms {
    /// Opens `<data_dir>/programs`, made where it is missing; removes what an earlier run left unfinished.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        Ok(Self { root: open(root.into())? })
    }

    /// Unpacks an archive into its room; one that is there already is left as it is.
    pub fn unpack(&self, program: &ProgramName, sha256: Sha256, archive: &Path) -> Result<PathBuf, ArchiveError> {
        if let Some(dir) = self.path(program, sha256) {
            return Ok(dir);
        }
        let above = self.root.join(program.as_str());
        fs::create_dir_all(&above).map_err(DiskError::at("create", &above))?;
        let dir = above.join(sha256.to_string());
        if let Err(error) = archive::unpack(archive, &dir, sha256, &LIMITS) {
            // Another may have unpacked the same release meanwhile: its room is as good.
            return self.path(program, sha256).ok_or(error);
        }
        if !dir.join(crate::domain::manifest::FILE_NAME).is_file() {
            disk::remove_any(&dir);
            return Err(BadEntry::new("program.toml", "is missing from the release").into());
        }
        Ok(dir)
    }

    /// A release's directory, where it is unpacked.
    pub fn path(&self, program: &ProgramName, sha256: Sha256) -> Option<PathBuf> {
        let dir = self.root.join(program.as_str()).join(sha256.to_string());
        dir.is_dir().then_some(dir)
    }

    /// Whether `prepare` ran to its end for this release.
    pub fn is_prepared(&self, program: &ProgramName, sha256: Sha256) -> bool {
        self.mark(program, sha256).is_file()
    }

    /// Notes, on disk, that `prepare` ran to its end.
    pub fn set_prepared(&self, program: &ProgramName, sha256: Sha256) -> Result<(), DiskError> {
        let mark = self.mark(program, sha256);
        File::create(&mark).and_then(|file| file.sync_all()).map_err(DiskError::at("write", &mark))?;
        disk::flush_dir(mark.parent().unwrap_or(&self.root))
    }

    /// A program's unpacked releases, newest first.
    pub fn list(&self, program: &ProgramName) -> Result<Vec<Held>, DiskError> {
        list(&self.root.join(program.as_str()), "")
    }

    /// The programs that have releases here.
    pub fn programs(&self) -> Result<Vec<ProgramName>, DiskError> {
        programs(&self.root)
    }

    /// Removes a release's directory; the caller knows that nothing runs from it.
    pub fn remove(&self, program: &ProgramName, sha256: Sha256) -> Result<(), DiskError> {
        disk::remove_any(&self.mark(program, sha256));
        remove(&self.root.join(program.as_str()).join(sha256.to_string()))
    }

    /// Removes all but the newest five and those in use; answers what went.
    pub fn sweep(&self, program: &ProgramName, in_use: &[Sha256]) -> Result<Vec<Sha256>, DiskError> {
        let gone = sweep(self.list(program)?, in_use)?;
        gone.iter().for_each(|sha256| disk::remove_any(&self.mark(program, *sha256)));
        Ok(gone)
    }

    fn mark(&self, program: &ProgramName, sha256: Sha256) -> PathBuf {
        self.root.join(program.as_str()).join(format!("{sha256}{PREPARED}"))
    }
}

fn open(root: PathBuf) -> Result<PathBuf, DiskError> {
    fs::create_dir_all(&root).map_err(DiskError::at("create", &root))?;
    let root = root.canonicalize().map_err(DiskError::at("open", &root))?;
    for entry in fs::read_dir(&root).map_err(DiskError::at("read", &root))?.take(LISTED_MAX) {
        let entry = entry.map_err(DiskError::at("read", &root))?;
        if entry.path().is_dir() {
            disk::sweep_unfinished(&entry.path())?;
        }
    }
    Ok(root)
}

fn programs(root: &Path) -> Result<Vec<ProgramName>, DiskError> {
    let entries = fs::read_dir(root).map_err(DiskError::at("read", root))?.take(LISTED_MAX);
    let names = entries.flatten().filter_map(|entry| ProgramName::new(entry.file_name().to_str()?).ok());
    let mut names: Vec<ProgramName> = names.collect();
    names.sort();
    Ok(names)
}

fn list(dir: &Path, suffix: &str) -> Result<Vec<Held>, DiskError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut held = Vec::new();
    for entry in fs::read_dir(dir).map_err(DiskError::at("read", dir))?.take(LISTED_MAX) {
        let entry = entry.map_err(DiskError::at("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let sha256 = name.strip_suffix(suffix).and_then(|sha| sha.parse::<Sha256>().ok());
        let (Some(sha256), false) = (sha256, name.starts_with(UNFINISHED)) else { continue };
        let meta = entry.metadata().map_err(DiskError::at("read", entry.path()))?;
        let since = meta.modified().map_err(DiskError::at("read", entry.path()))?;
        held.push(Held { sha256, path: entry.path(), bytes: meta.len(), since });
    }
    held.sort_by_key(|held| std::cmp::Reverse((held.since, held.sha256)));
    Ok(held)
}

/// Moves a release out of sight in one step, then removes it: a crash leaves it whole or unfinished, never partly there.
fn remove(path: &Path) -> Result<(), DiskError> {
    let unfinished = Unfinished::beside(path);
    match fs::rename(path, unfinished.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sweep(held: Vec<Held>, in_use: &[Sha256]) -> Result<Vec<Sha256>, DiskError> {
    let mut gone = Vec::new();
    for old in held.into_iter().skip(KEPT).filter(|held| !in_use.contains(&held.sha256)) {
        remove(&old.path)?;
        gone.push(old.sha256);
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::archive;

    fn release(dir: &Path, content: &str) -> (PathBuf, Sha256) {
        let src = dir.join("src");
        fs::create_dir_all(&src).unwrap();
        fs::write(src.join("program.toml"), content).unwrap();
        let file = dir.join("packed");
        let packed = archive::pack(&src, &file, &[], &LIMITS).unwrap();
        (file, packed.sha256)
    }

    fn shop() -> ProgramName {
        ProgramName::new("shop").unwrap()
    }

    #[test]
    fn an_archive_is_on_the_shelf_only_when_it_is_whole_and_right() {
        let dir = tempfile::tempdir().unwrap();
        let (file, sha) = release(dir.path(), "a");
        let shelf = Shelf::open(dir.path().join("releases")).unwrap();
        let wrong = shelf.put(&shop(), &file, Sha256([0; 32])).unwrap_err().to_string();
        assert!(wrong.contains("the checksum is wrong"), "{wrong}");
        assert_eq!(shelf.path(&shop(), sha), None);
        let mut half = shelf.receive(&shop()).unwrap();
        half.write(b"half").unwrap();
        assert!(shelf.list(&shop()).unwrap().is_empty());
        drop(half);
        let held = shelf.put(&shop(), &file, sha).unwrap();
        assert_eq!(shelf.path(&shop(), sha), Some(held.path.clone()));
        assert_eq!(fs::read_dir(held.path.parent().unwrap()).unwrap().count(), 1, "nothing unfinished is left");
        assert_eq!(shelf.programs().unwrap(), [shop()]);
        shelf.remove(&shop(), sha).unwrap();
        assert!(shelf.list(&shop()).unwrap().is_empty());
    }

    #[test]
    fn what_a_killed_node_left_unfinished_is_removed_at_the_next_open() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("releases/shop");
        fs::create_dir_all(program.join(format!("{UNFINISHED}dir/x"))).unwrap();
        fs::write(program.join(format!("{UNFINISHED}file")), "x").unwrap();
        Shelf::open(dir.path().join("releases")).unwrap();
        assert_eq!(fs::read_dir(program).unwrap().count(), 0);
    }

    #[test]
    fn the_newest_five_and_those_in_use_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().join("releases")).unwrap();
        let shas: Vec<Sha256> = (0..8)
            .map(|number: u64| {
                let (file, sha) = release(dir.path(), &number.to_string());
                let held = shelf.put(&shop(), &file, sha).unwrap();
                let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number);
                File::options().write(true).open(held.path).unwrap().set_modified(at).unwrap();
                sha
            })
            .collect();
        let gone = shelf.sweep(&shop(), &[shas[1]]).unwrap();
        assert_eq!(gone, [shas[2], shas[0]]);
        assert_eq!(shelf.list(&shop()).unwrap().len(), 6);
    }

    #[test]
    fn a_release_is_unpacked_once_and_its_mark_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, sha) = release(dir.path(), "a");
        let rooms = Rooms::open(dir.path().join("programs")).unwrap();
        let room = rooms.unpack(&shop(), sha, &file).unwrap();
        assert_eq!(rooms.unpack(&shop(), sha, Path::new("/none")).unwrap(), room);
        assert!(!rooms.is_prepared(&shop(), sha));
        rooms.set_prepared(&shop(), sha).unwrap();
        assert!(rooms.is_prepared(&shop(), sha));
        assert_eq!(rooms.list(&shop()).unwrap().len(), 1);
        rooms.remove(&shop(), sha).unwrap();
        assert!(rooms.path(&shop(), sha).is_none() && !rooms.is_prepared(&shop(), sha));
        assert!(!room.exists());
    }
}
