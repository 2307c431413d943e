//! Owns how files come to be whole on disk: written beside, flushed, renamed, the directory flushed.
//! Must not know what the files hold.

use std::fs::{self, File};
use std::io;
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
