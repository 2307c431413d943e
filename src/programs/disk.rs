//! Owns how files come to be whole on disk: written beside, flushed, renamed, the directory flushed.
//! Must not know what the files hold.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What a name begins with while it is not whole yet; nothing with it is ever used.
pub const UNFINISHED: &str = ".unfinished-";

/// An IO error with the path and what was tried.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {}", path.display(), explain(source))]
pub struct DiskError {
    pub what: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl DiskError {
    pub fn at(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { what, path, source }
    }

    /// Whether there was no room.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Whether an IO error means that there is no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn explain(error: &io::Error) -> String {
    if is_full(error) {
        return "the disk is full; what was written has been removed: free some room and try again".to_owned();
    }
    error.to_string()
}

/// A file or directory that is removed unless it is made whole.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    done: bool,
}

impl Unfinished {
    /// A new name beside `target`.
    pub fn beside(target: &Path) -> Self {
        let name = format!("{UNFINISHED}{}", ulid::Ulid::new());
        Self { path: target.with_file_name(name), done: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames it to `target` and flushes the directory above.
    pub fn finish(mut self, target: &Path) -> Result<(), DiskError> {
        fs::rename(&self.path, target).map_err(DiskError::at("put in place", target))?;
        self.done = true;
        flush_dir(target.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            remove_any(&self.path);
        }
    }
}

/// A file that is being received: of bounded size, beside its place until whoever receives it says that it is right.
#[derive(Debug)]
pub struct Arriving {
    unfinished: Unfinished,
    file: File,
    bytes: u64,
    limit: u64,
}

/// Why a piece of it was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("it has more than {limit} bytes")]
    TooLarge { limit: u64 },
}

impl Arriving {
    /// Begins to receive a file of at most `limit` bytes that is to lie in a directory.
    pub fn in_dir(dir: &Path, limit: u64) -> Result<Self, DiskError> {
        let unfinished = Unfinished::beside(&dir.join("arriving"));
        let file = File::create_new(unfinished.path()).map_err(DiskError::at("create", unfinished.path()))?;
        Ok(Self { unfinished, file, bytes: 0, limit })
    }

    pub fn write(&mut self, piece: &[u8]) -> Result<(), NotTaken> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.limit {
            return Err(NotTaken::TooLarge { limit: self.limit });
        }
        Ok(self.file.write_all(piece).map_err(DiskError::at("write", self.unfinished.path()))?)
    }

    /// Where it lies while it is received: for a look at it before it is put in place.
    pub fn path(&self) -> &Path {
        self.unfinished.path()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lets everybody read and run it.
    pub fn make_runnable(&self) -> Result<(), DiskError> {
        let may_run = fs::Permissions::from_mode(0o755);
        self.file.set_permissions(may_run).map_err(DiskError::at("make runnable", self.unfinished.path()))
    }

    /// Flushes it and puts it in place; nobody has it open for writing then. Who receives it has verified it.
    pub fn put(self, target: &Path) -> Result<(), DiskError> {
        let Self { unfinished, file, .. } = self;
        file.sync_all().map_err(DiskError::at("flush", unfinished.path()))?;
        drop(file);
        unfinished.finish(target)
    }
}

/// Flushes a directory's entries.
pub fn flush_dir(dir: &Path) -> Result<(), DiskError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(DiskError::at("flush", dir))
}

/// Removes a file or a whole directory; what cannot be removed is left to the next clean-up.
pub fn remove_any(path: &Path) {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return,
    };
    if let Err(error) = gone {
        tracing::warn!(path = %path.display(), %error, "cannot remove");
    }
}

/// Removes what an earlier run left unfinished in a directory.
pub fn sweep_unfinished(dir: &Path) -> Result<(), DiskError> {
    for entry in fs::read_dir(dir).map_err(DiskError::at("read", dir))? {
        let entry = entry.map_err(DiskError::at("read", dir))?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove_any(&entry.path());
        }
    }
    Ok(())
}
