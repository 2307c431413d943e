//! Owns how a store is opened: the lock, the check of what is there, and what happens to one that does not open.
//! Must not know what the records mean.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::sealed::unseal;
use super::tally::Tally;
use super::{Store, StoreError, Tree, full_key, guarded};

const RECORDS_DIR: &str = "sled";
const LOG_FILE: &str = "sled/db";
const LARGE_DIR: &str = "sled/blobs";
const RECORDS_TREE: &str = "records";
const LOCK_FILE: &str = "lock";
const ASIDE: &str = "aside";
/// How long the lock of a process that just died, or of a store just dropped, may take to go away.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Bounds of a store; see `[store.limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Memory for records that were read.
    pub cache_bytes: u64,
    /// Stores that did not open and were moved aside: as many are kept, the oldest go.
    pub kept_aside: usize,
    /// Records whose keys begin so are not read at the start: they may be a million, and large. One of them that is not what was
    /// written counts as none when it is read.
    pub late: Option<(Tree, &'static str)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, kept_aside: 5, late: None }
    }
}

/// A store that is open, and what had to be done for it.
pub struct Opened {
    pub store: Store,
    /// The records are gone, and why, and where the old ones are: rebuild from the export and raise an event.
    pub recovered: Option<String>,
}

/// What all clones of a `Store` share. The lock goes last.
pub(super) struct Shared {
    pub records: sled::Tree,
    pub db: sled::Db,
    pub dir: PathBuf,
    /// sled's file.
    log: File,
    /// Large records' own files, of those that are known to be on disk.
    large: Mutex<BTreeSet<OsString>>,
    /// Held for as long as a save takes: counts follow each other on disk.
    tally: Mutex<Tally>,
    _lock: File,
}

impl Shared {
    /// Makes a batch last.
    pub fn apply(&self, mut batch: sled::Batch) -> Result<(), StoreError> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.count(&mut batch);
        self.records.apply_batch(batch)?;
        self.flush()?;
        tally.note();
        Ok(())
    }

    /// Puts on disk all that was written. sled's own flush asks the kernel for `sync_file_range`, which leaves the
    /// file's length and the disk's cache to chance: enough against the process's death, not against the machine's.
    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        self.log.sync_data().map_err(StoreError::file(self.dir.join(LOG_FILE)))?;
        let dir = self.dir.join(LARGE_DIR);
        self.sync_large(&dir).map_err(StoreError::file(dir))
    }

    /// sled writes records of over 128 KiB to files of their own and never syncs those.
    fn sync_large(&self, dir: &Path) -> io::Result<()> {
        let mut known = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            present.insert(entry?.file_name());
        }
        let new: Vec<_> = present.difference(&known).collect();
        for name in &new {
            match File::open(dir.join(name)) {
                Ok(file) => file.sync_data()?,
                // Another save has outdated it meanwhile, and sled removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if !new.is_empty() {
            File::open(dir)?.sync_all()?;
        }
        *known = present;
        Ok(())
    }
}

impl Store {
    /// Opens the store in the directory `dir`, made if it is not there. One that does not open is moved aside under a
    /// name with `stamp` (a time, for people) in it. A store that another process has open, or a directory
    /// that may not be written, is an error: there is nothing wrong with the records.
    pub fn open(dir: impl AsRef<Path>, stamp: &str, options: Options) -> Result<Opened, StoreError> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(StoreError::file(dir))?;
        let lock = lock(dir)?;
        let mut tally = Tally::open(dir)?;
        let (opened, recovered) = match open_whole(dir, &tally, options) {
            Err(error) if is_environment(&error) => return Err(error),
            Err(error) => {
                let aside = move_aside(dir, stamp, options.kept_aside)?;
                let why = format!("the store could not be used ({error}); it was moved to {}", aside.display());
                (open_checked(&dir.join(RECORDS_DIR), options)?, Some(why))
            }
            Ok(opened) => (opened, None),
        };
        let (db, records) = opened;
        guarded(|| tally.go_on(&records))?;
        let log = File::open(dir.join(LOG_FILE)).map_err(StoreError::file(dir.join(LOG_FILE)))?;
        let (large, tally) = (Mutex::default(), Mutex::new(tally));
        let shared = Shared { records, db, dir: dir.to_owned(), log, large, tally, _lock: lock };
        // The first save of this run: the directory's names last from here on.
        guarded(|| shared.apply(sled::Batch::default()))?;
        super::export::sync_dir(&dir.join(RECORDS_DIR))?;
        super::export::sync_dir(dir)?;
        Ok(Opened { store: Store { shared: Arc::new(shared) }, recovered })
    }
}

/// Opens the records and misses none.
fn open_whole(dir: &Path, tally: &Tally, options: Options) -> Result<(sled::Db, sled::Tree), StoreError> {
    let (db, records) = open_checked(&dir.join(RECORDS_DIR), options)?;
    match guarded(|| tally.missing(&records))? {
        0 => Ok((db, records)),
        missing => Err(StoreError::Failed(format!("its last {missing} saves are missing"))),
    }
}

/// Takes the lock of the directory, so that sled's own complaint about a second process never looks like damage.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(StoreError::file(&path))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse(dir.to_owned())),
            Err(errno) => return Err(StoreError::File { path, source: errno.into() }),
        }
    }
}

/// Opens sled and reads every record once, but for those that are late, so that damage shows now and not in the middle of
/// a ripple.
fn open_checked(path: &Path, options: Options) -> Result<(sled::Db, sled::Tree), StoreError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match open_once(path, options) {
            // A store dropped in this process may hold sled's lock for a moment more.
            Err(StoreError::Failed(why)) if why.contains("could not acquire lock") && Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            result => return result,
        }
    }
}

fn open_once(path: &Path, options: Options) -> Result<(sled::Db, sled::Tree), StoreError> {
    guarded(|| {
        let config = sled::Config::new().path(path).cache_capacity(options.cache_bytes).flush_every_ms(None);
        let db = config.open().map_err(|error| match error {
            sled::Error::Io(source) if is_environment_kind(source.kind()) => {
                StoreError::File { path: path.to_owned(), source }
            }
            other => StoreError::from(other),
        })?;
        let records = db.open_tree(RECORDS_TREE)?;
        match options.late.map(|(tree, prefix)| full_key(tree, prefix).into_bytes()) {
            None => check(records.iter())?,
            Some(late) => {
                let mut behind = late.clone();
                // A key is text: no byte of it is the last that there is.
                if let Some(last) = behind.last_mut() {
                    *last += 1;
                }
                check(records.range(..late))?;
                check(records.range(behind..))?;
            }
        }
        Ok((db, records))
    })
}

fn check(records: sled::Iter) -> Result<(), StoreError> {
    for record in records {
        let (key, value) = record?;
        let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(&value).is_ok();
        if std::str::from_utf8(&key).is_err() || !(unseal(&value).is_some() || is_json()) {
            return Err(StoreError::Failed("a record is not what was written".to_owned()));
        }
    }
    Ok(())
}

/// Is it the disk or its rights, rather than the records?
fn is_environment(error: &StoreError) -> bool {
    matches!(error, StoreError::File { .. } | StoreError::InUse(_)) || error.is_disk_full()
}

fn is_environment_kind(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(kind, PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

fn move_aside(dir: &Path, stamp: &str, kept: usize) -> Result<PathBuf, StoreError> {
    let aside = free_name(&dir.join(format!("{RECORDS_DIR}.{ASIDE}-{stamp}")));
    let from = dir.join(RECORDS_DIR);
    fs::rename(&from, &aside).map_err(StoreError::file(from))?;
    let mut old: Vec<_> = fs::read_dir(dir)
        .map_err(StoreError::file(dir))?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{RECORDS_DIR}.{ASIDE}-")))
        .map(|entry| (entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()))
        .filter(|(_, path)| *path != aside)
        .collect();
    old.sort();
    let excess = (old.len() + 1).saturating_sub(kept.max(1));
    for (_, path) in old.into_iter().take(excess) {
        fs::remove_dir_all(&path).map_err(StoreError::file(path))?;
    }
    Ok(aside)
}

/// The path itself or, where it is taken, the first free one of `path.2`, `path.3` …
pub(super) fn free_name(path: &Path) -> PathBuf {
    let numbered = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    if path.exists() { (2..).map(numbered).find(|path| !path.exists()).unwrap_or_default() } else { path.to_owned() }
}
