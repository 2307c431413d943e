//! Owns counters that outlive the process: a file of 64-bit words, mapped into memory (protocol P9c). What was stored
//! in a word is there after SIGKILL; only the machine's death can lose it. Must not know what the words count.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;

use super::StoreError;
use super::open::free_name;

const MAGIC: u64 = u64::from_le_bytes(*b"neapwrd1");
/// Words before the first of the caller's: magic, layout, number of words; a cache line in all.
const HEAD_WORDS: usize = 8;
const WORD: usize = size_of::<AtomicU64>();

/// A file of words shared with whoever maps it next.
#[derive(Debug)]
pub struct Mapped {
    map: MmapRaw,
    words: usize,
    // Holds the lock: two processes that count in one file would each believe the other's.
    _file: File,
}

/// A mapped file that is open, and where an unfit one went.
#[derive(Debug)]
pub struct OpenedMap {
    pub mapped: Mapped,
    /// The file is new: there was none, or the one there was did not fit and was moved aside.
    pub created: bool,
    pub aside: Option<PathBuf>,
}

impl Mapped {
    /// Maps `words` words of the file `path`. `layout` is the caller's number for what the words mean: a file of another
    /// layout or length is moved aside (with `stamp` in its name) and a new one, all zeros, takes its place.
    pub fn open(path: impl AsRef<Path>, layout: u64, words: usize, stamp: &str) -> Result<OpenedMap, StoreError> {
        let path = path.as_ref();
        let mut aside = None;
        if path.exists() {
            let file = open_locked(path)?;
            if let Some(mapped) = Self::fit(file, path, layout, words)? {
                return Ok(OpenedMap { mapped, created: false, aside });
            }
            let to = free_name(&PathBuf::from(format!("{}.aside-{stamp}", path.display())));
            fs::rename(path, &to).map_err(StoreError::file(path))?;
            aside = Some(to);
        }
        let mapped = Self::create(path, layout, words)?;
        Ok(OpenedMap { mapped, created: true, aside })
    }

    fn fit(file: File, path: &Path, layout: u64, words: usize) -> Result<Option<Self>, StoreError> {
        let len = file.metadata().map_err(StoreError::file(path))?.len();
        if len != bytes(words) as u64 {
            return Ok(None);
        }
        let mapped = Self::map(file, path, words)?;
        let head = |word: usize| mapped.all()[word].load(std::sync::atomic::Ordering::Relaxed);
        let fits = head(0) == MAGIC && head(1) == layout && head(2) == words as u64;
        Ok(fits.then_some(mapped))
    }

    /// Makes the file beside and renames it: there is never one without its head. Its blocks are allocated, so that a
    /// full disk is an error here and not a fault signal later.
    fn create(path: &Path, layout: u64, words: usize) -> Result<Self, StoreError> {
        let beside = PathBuf::from(format!("{}.new", path.display()));
        if beside.exists() {
            fs::remove_file(&beside).map_err(StoreError::file(&beside))?;
        }
        let file = open_locked(&beside)?;
        let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes(words) as u64);
        match allocated {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                file.set_len(bytes(words) as u64).map_err(StoreError::file(&beside))?
            }
            other => other.map_err(|errno| StoreError::File { path: beside.clone(), source: errno.into() })?,
        }
        let mapped = Self::map(file, &beside, words)?;
        for (word, value) in [MAGIC, layout, words as u64].into_iter().enumerate() {
            mapped.all()[word].store(value, std::sync::atomic::Ordering::Relaxed);
        }
        mapped.flush()?;
        fs::rename(&beside, path).map_err(StoreError::file(path))?;
        Ok(mapped)
    }

    fn map(file: File, path: &Path, words: usize) -> Result<Self, StoreError> {
        let map = MmapRaw::map_raw(&file).map_err(StoreError::file(path))?;
        Ok(Self { map, words, _file: file })
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, writable, `HEAD_WORDS + words` words long and lives as long as `self`;
        // every bit pattern is an `AtomicU64`, and all access in this process and others is by atomics.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), HEAD_WORDS + self.words) }
    }

    /// The caller's words.
    pub fn words(&self) -> &[AtomicU64] {
        &self.all()[HEAD_WORDS..]
    }

    /// Writes the words to the disk, against the machine's death. Not needed against the process's.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.map.flush().map_err(StoreError::file("mapped words"))
    }
}

fn bytes(words: usize) -> usize {
    (HEAD_WORDS + words) * WORD
}

fn open_locked(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(StoreError::file(path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(path.to_owned())),
        Err(errno) => Err(StoreError::File { path: path.to_owned(), source: errno.into() }),
    }
}
