//! Owns the archive of a release: a canonical tar (sorted, no times, no owners, fixed modes) in zstd, its SHA-256 that of
//! the tar. Unpacks nothing that could leave its directory, and shows nothing before it is verified.
//! Must not know manifests or where releases are kept.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256 as Hasher};

use super::disk::{self, DiskError, NotTaken};
use super::tree::{BadEntry, Limits};
use crate::domain::names::Sha256;

mod pack;
mod unpack;

pub use pack::pack;
pub use unpack::{digest, read_file, unpack};

const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Entry(#[from] BadEntry),
    #[error("the release is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the checksum is wrong: the archive is {found}, not {expected}; it was damaged or exchanged on its way")]
    Checksum { expected: Sha256, found: Sha256 },
    #[error("the archive is not a tar in zstd, or is damaged: {0}")]
    Damaged(io::Error),
    #[error("{0}")]
    Ignore(String),
    #[error("cannot pack: {0}")]
    Pack(io::Error),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<NotTaken> for ArchiveError {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Disk(error) => error.into(),
            NotTaken::TooLarge { limit } => Self::TooLarge { limit },
        }
    }
}

/// What an archive turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Of the canonical tar, uncompressed.
    pub sha256: Sha256,
    pub tar_bytes: u64,
    pub entries: u64,
}

type Tar = Hashing<zstd::Decoder<'static, BufReader<File>>>;

fn open(file: &Path, limits: &Limits) -> Result<Tar, ArchiveError> {
    let opened = File::open(file).map_err(DiskError::at("open", file))?;
    Ok(Hashing::new(zstd::Decoder::new(opened).map_err(DiskError::at("open", file))?, limits.bytes))
}

/// The limit hit, as an IO error on its way through the tar and zstd libraries.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct OverLimit(u64);

/// Whether a limit was hit, however deep the libraries wrapped it.
fn over_limit(error: &io::Error) -> Option<u64> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    for _ in 0..8 {
        let inner = at?;
        if let Some(OverLimit(limit)) = inner.downcast_ref() {
            return Some(*limit);
        }
        at = match inner.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => inner.source(),
        };
    }
    None
}

/// Sorts an error of reading an archive by its cause.
fn while_reading(error: io::Error) -> ArchiveError {
    over_limit(&error).map_or(ArchiveError::Damaged(error), |limit| ArchiveError::TooLarge { limit })
}

/// Sorts an error of writing an archive by its cause.
fn while_packing(error: io::Error, to: &Path) -> ArchiveError {
    match over_limit(&error) {
        Some(limit) => ArchiveError::TooLarge { limit },
        None if disk::is_full(&error) => DiskError::at("write", to)(error).into(),
        None => ArchiveError::Pack(error),
    }
}

/// Hashes and counts all that passes, and stops at a limit.
struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    bytes: u64,
    limit: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T, limit: u64) -> Self {
        Self { inner, hasher: Hasher::new(), bytes: 0, limit }
    }

    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limit {
            return Err(io::Error::other(OverLimit(self.limit)));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    fn finish(self) -> (T, Sha256, u64) {
        (self.inner, Sha256(self.hasher.finalize().into()), self.bytes)
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.pass(&buffer[..count])?;
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.pass(&buffer[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
