//! Owns the JSON files beside the records: written beside and renamed, so that there is always a whole one.
//! Must not know what is in them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Store, StoreError};

const EXPORT_DIR: &str = "export";

impl Store {
    /// Writes the state `name` as `export/NAME.json`. On disk when it returns; a reader sees the old or the new, never half.
    pub fn export<T: Serialize + ?Sized>(&self, name: &str, state: &T) -> Result<(), StoreError> {
        let path = self.export_path(name);
        let dir = self.shared.dir.join(EXPORT_DIR);
        fs::create_dir_all(&dir).map_err(StoreError::file(&dir))?;
        let json = serde_json::to_vec_pretty(state);
        let json = json.map_err(|source| StoreError::Write { tree: EXPORT_DIR, key: name.to_owned(), source })?;
        replace(&path, |file| file.write_all(&json))
    }

    /// Reads back what `export` wrote; `None`: nothing was ever exported.
    pub fn import<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let path = self.export_path(name);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::File { path, source }),
        };
        let state = serde_json::from_slice(&json);
        state.map_err(|source| StoreError::Record { tree: EXPORT_DIR, key: name.to_owned(), source }).map(Some)
    }

    /// Where the export of that name is.
    pub fn export_path(&self, name: &str) -> PathBuf {
        self.shared.dir.join(EXPORT_DIR).join(format!("{name}.json"))
    }
}

/// Writes a file beside `path`, flushes it, and puts it in its place.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> Result<(), StoreError> {
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let written = || -> io::Result<()> {
        let mut file = io::BufWriter::new(File::create(&beside)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(StoreError::file(path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes names in a directory last: a rename is not on disk before its directory is.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|file| file.sync_all()).map_err(StoreError::file(dir))
}
