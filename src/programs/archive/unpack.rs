//! Owns unpacking: our own loop over an archive's entries, which trusts none of them.
//! Must not know manifests.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::{ArchiveError, BUFFER_BYTES, Packed, open, while_reading};
use crate::domain::names::Sha256;
use crate::programs::disk::{self, DiskError, Unfinished};
use crate::programs::tree::{BadEntry, Limits, Node, Tree, plain};

const LINK_BYTES_MAX: u64 = 4096;

/// The SHA-256 of the tar in an archive file, its bounds checked; nothing is written.
pub fn digest(file: &Path, limits: &Limits) -> Result<Sha256, ArchiveError> {
    let mut tar = open(file, limits)?;
    io::copy(&mut tar, &mut io::sink()).map_err(while_reading)?;
    Ok(tar.finish().1)
}

/// One file of the top directory, up to `max` bytes; `None` when the archive has none of that name.
pub fn read_file(file: &Path, name: &str, max: u64, limits: &Limits) -> Result<Option<Vec<u8>>, ArchiveError> {
    let damaged = while_reading;
    let mut archive = tar::Archive::new(open(file, limits)?);
    for entry in archive.entries().map_err(damaged)?.take(limits.entries as usize + 1) {
        let mut entry = entry.map_err(damaged)?;
        if plain(&entry.path_bytes())? != name || !entry.header().entry_type().is_file() {
            continue;
        }
        if entry.size() > max {
            return Err(BadEntry::new(name, format!("is larger than {max} bytes")).into());
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(damaged)?;
        return Ok(Some(content));
    }
    Ok(None)
}

/// Unpacks an archive into the new directory `to`. Nothing appears at `to` before every entry passed, the
/// SHA-256 is the expected one, and all is flushed; on any error nothing is left.
pub fn unpack(file: &Path, to: &Path, expected: Sha256, limits: &Limits) -> Result<Packed, ArchiveError> {
    let unfinished = Unfinished::beside(to);
    let root = unfinished.path();
    fs::create_dir(root).map_err(DiskError::at("create", root))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).map_err(DiskError::at("create", root))?;
    let damaged = while_reading;
    let mut archive = tar::Archive::new(open(file, limits)?);
    let mut tree = Tree::default();
    for entry in archive.entries().map_err(damaged)? {
        unpack_entry(&mut entry.map_err(damaged)?, root, &mut tree, limits)?;
    }
    let mut tar = archive.into_inner();
    io::copy(&mut tar, &mut io::sink()).map_err(damaged)?;
    let (_, found, tar_bytes) = tar.finish();
    if found != expected {
        return Err(ArchiveError::Checksum { expected, found });
    }
    tree.check_links()?;
    make_links(&tree, root)?;
    flush_tree(&tree, root)?;
    unfinished.finish(to)?;
    Ok(Packed { sha256: found, tar_bytes, entries: tree.len() })
}

/// Writes one directory or file; links are only noted, and made when all of them are known to stay inside.
fn unpack_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    root: &Path,
    tree: &mut Tree,
    limits: &Limits,
) -> Result<(), ArchiveError> {
    let path = plain(&entry.path_bytes())?;
    let kind = entry.header().entry_type();
    if path.is_empty() {
        return if kind.is_dir() { Ok(()) } else { Err(BadEntry::new("", "has no name").into()) };
    }
    let node = node_in_archive(entry, &path)?;
    for dir in tree.add(&path, node.clone(), limits)? {
        make_dir(&root.join(dir))?;
    }
    match node {
        Node::Dir => make_dir(&root.join(&path)),
        Node::File { size, executable } => write_file(entry, &root.join(&path), size, executable),
        Node::Link { .. } => Ok(()),
    }
}

fn node_in_archive<R: Read>(entry: &tar::Entry<'_, R>, path: &str) -> Result<Node, ArchiveError> {
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        return Ok(Node::Dir);
    }
    if kind.is_file() {
        let mode = entry.header().mode().map_err(while_reading)?;
        return Ok(Node::File { size: entry.size(), executable: mode & 0o111 != 0 });
    }
    if kind.is_symlink() {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = std::str::from_utf8(&target).ok().filter(|target| target.len() as u64 <= LINK_BYTES_MAX);
        let target = target.ok_or_else(|| BadEntry::new(path, "is a link whose target is too long or not UTF-8"))?;
        return Ok(Node::Link { target: target.to_owned() });
    }
    let why = match kind {
        tar::EntryType::Link => "is a hard link",
        tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => "is a device or a pipe",
        tar::EntryType::GNUSparse => "is a sparse file",
        _ => "is of a kind that releases do not have",
    };
    Err(BadEntry::new(path, format!("{why}: a release has files, directories and relative links")).into())
}

fn make_dir(at: &Path) -> Result<(), ArchiveError> {
    match fs::create_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(DiskError::at("create", at)(error).into()),
        _ => Ok(fs::set_permissions(at, fs::Permissions::from_mode(0o755)).map_err(DiskError::at("create", at))?),
    }
}

fn write_file<R: Read>(from: &mut R, at: &Path, size: u64, executable: bool) -> Result<(), ArchiveError> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(at)
        .map_err(DiskError::at("create", at))?;
    let mut buffer = vec![0; BUFFER_BYTES.min(size as usize + 1)];
    let mut left = size;
    while left > 0 {
        let count = from.read(&mut buffer).map_err(while_reading)?;
        if count == 0 {
            return Err(ArchiveError::Damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all(&buffer[..count]).map_err(DiskError::at("write", at))?;
        left -= count as u64;
    }
    // Whatever the umask took away.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(DiskError::at("write", at))?;
    Ok(file.sync_data().map_err(DiskError::at("flush", at))?)
}

fn make_links(tree: &Tree, root: &Path) -> Result<(), ArchiveError> {
    for (path, node) in tree.entries() {
        if let Node::Link { target } = node {
            symlink(target, root.join(path)).map_err(DiskError::at("create", root.join(path)))?;
        }
    }
    Ok(())
}

fn flush_tree(tree: &Tree, root: &Path) -> Result<(), ArchiveError> {
    for (path, _) in tree.entries().filter(|(_, node)| **node == Node::Dir) {
        disk::flush_dir(&root.join(path))?;
    }
    Ok(disk::flush_dir(root)?)
}
