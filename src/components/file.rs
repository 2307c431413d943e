//! Owns how a file that nobody vouches for is opened and read: it never blocks, and never more than asked.
//! Must not know what is in it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::domain::components::{Disk, FileId};

/// Opens a plain file; a pipe, a device or a directory is an error, and none of them blocks.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    Ok((file, meta))
}

/// Reads up to `most` bytes at `offset`; fewer where the file ends.
pub fn read_at(file: &File, offset: u64, most: usize) -> io::Result<Vec<u8>> {
    // Further than any file reaches.
    if offset > i64::MAX as u64 - most as u64 {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; most];
    let mut got = 0;
    while got < most {
        match file.read_at(&mut bytes[got..], offset.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

/// Reads a small file of text whole; one larger than `most` is an error.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let (file, _) = open(path)?;
    let mut text = Vec::new();
    file.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {most} bytes")));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What there is under a path, through links; `None`: nothing, or it cannot be looked at.
pub fn disk(path: &Path) -> Option<Disk> {
    std::fs::metadata(path).ok().map(|meta| disk_of(&meta))
}

pub fn disk_of(meta: &Metadata) -> Disk {
    let modified = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Disk { id: FileId { device: meta.dev(), inode: meta.ino() }, size: meta.size(), modified }
}

/// A path as text; one that is not UTF-8 is shown, and not found again.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
