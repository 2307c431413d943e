//! Owns unpacking: our own loop over an archive's entries, which trusts none of them.
//! Must not know manifests.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::{ArchiveError, BUFFER_BYTES, Packed, open, while_reading};
use crate::domain::names::Sha256;
use crate::programs::disk::{self, DiskError, Unfinished};
use crate::programs::tree::{BadEntry, Limits, Node, Tree, plain};

/// Bytes of one path, or of a link's target.
const NAME_BYTES_MAX: u64 = 4096;

/// Long names, which come in entries of their own before the entry that they name. Read here, not by the library,
/// which would take one of any size into memory.
#[derive(Default)]
struct Names {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Names {
    /// Takes the entry if it is a long name.
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, ArchiveError> {
        let place = match entry.header().entry_type() {
            tar::EntryType::GNULongName => &mut self.path,
            tar::EntryType::GNULongLink => &mut self.link,
            _ => return Ok(false),
        };
        if entry.size() > NAME_BYTES_MAX {
            return Err(BadEntry::new("a name", format!("is longer than {NAME_BYTES_MAX} bytes")).into());
        }
        let mut name = Vec::new();
        entry.read_to_end(&mut name).map_err(while_reading)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        *place = Some(name);
        Ok(true)
    }

    fn path<R: Read>(&self, entry: &tar::Entry<'_, R>) -> Vec<u8> {
        self.path.clone().unwrap_or_else(|| entry.path_bytes().into_owned())
    }
}

/// The SHA-256 of the tar in an archive file, its bounds checked; nothing is written.
pub fn digest(file: &Path, limits: &Limits) -> Result<Sha256, ArchiveError> {
    let mut tar = open(file, limits)?;
    io::copy(&mut tar, &mut io::sink()).map_err(while_reading)?;
    Ok(tar.finish().1)
}

/// One file of the top directory, up to `max` bytes; `None` when the archive has none of that name.
pub fn read_file(file: &Path, name: &str, max: u64, limits: &Limits) -> Result<Option<Vec<u8>>, ArchiveError> {
    let mut names = Names::default();
    let mut archive = tar::Archive::new(open(file, limits)?);
    // An entry may have two long names before it.
    for entry in archive.entries().map_err(while_reading)?.raw(true).take(3 * (limits.entries as usize + 1)) {
        let mut entry = entry.map_err(while_reading)?;
        if names.take(&mut entry)? {
            continue;
        }
        let path = std::mem::take(&mut names).path(&entry);
        if plain(&path)? != name || !entry.header().entry_type().is_file() {
            continue;
        }
        if entry.size() > max {
            return Err(BadEntry::new(name, format!("is larger than {max} bytes")).into());
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(while_reading)?;
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
    let mut archive = tar::Archive::new(open(file, limits)?);
    let mut tree = Tree::default();
    let mut names = Names::default();
    for entry in archive.entries().map_err(while_reading)?.raw(true) {
        let mut entry = entry.map_err(while_reading)?;
        if !names.take(&mut entry)? {
            unpack_entry(&mut entry, std::mem::take(&mut names), root, &mut tree, limits)?;
        }
    }
    let mut tar = archive.into_inner();
    io::copy(&mut tar, &mut io::sink()).map_err(while_reading)?;
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
    names: Names,
    root: &Path,
    tree: &mut Tree,
    limits: &Limits,
) -> Result<(), ArchiveError> {
    let path = plain(&names.path(entry))?;
    let kind = entry.header().entry_type();
    if path.is_empty() {
        return if kind.is_dir() { Ok(()) } else { Err(BadEntry::new("", "has no name").into()) };
    }
    let node = node_in_archive(entry, &path, names.link)?;
    for dir in tree.add(&path, node.clone(), limits)? {
        make_dir(&root.join(dir))?;
    }
    match node {
        Node::Dir => make_dir(&root.join(&path)),
        Node::File { size, executable } => write_file(entry, &root.join(&path), size, executable),
        Node::Link { .. } => Ok(()),
    }
}

fn node_in_archive<R: Read>(
    entry: &tar::Entry<'_, R>,
    path: &str,
    link: Option<Vec<u8>>,
) -> Result<Node, ArchiveError> {
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        return Ok(Node::Dir);
    }
    if kind.is_file() {
        let mode = entry.header().mode().map_err(while_reading)?;
        return Ok(Node::File { size: entry.size(), executable: mode & 0o111 != 0 });
    }
    if kind.is_symlink() {
        let target = link.or_else(|| entry.link_name_bytes().map(Cow::into_owned)).unwrap_or_default();
        let not_text = |_| BadEntry::new(path, "is a link whose target is not UTF-8");
        return Ok(Node::Link { target: String::from_utf8(target).map_err(not_text)? });
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
