//! Owns packing: a directory to the canonical archive of a release.
//! Must not know manifests.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{ArchiveError, BUFFER_BYTES, Hashing, Packed, while_packing};
use crate::programs::disk::{DiskError, Unfinished};
use crate::programs::ignore::{self, Ignore};
use crate::programs::tree::{BadEntry, Limits, Node, Tree, plain};

/// Speed before size: a release is packed once and unpacked on every server.
const ZSTD_LEVEL: i32 = 3;
/// Directories within directories.
const DEPTH_MAX: usize = 100;

/// Packs the tree under `dir` into the file `to`, which appears whole or not at all. `replaced` gives files of the top
/// directory another content (a manifest whose version was overridden).
pub fn pack(dir: &Path, to: &Path, replaced: &[(&str, &[u8])], limits: &Limits) -> Result<Packed, ArchiveError> {
    let mut tree = read_tree(dir, limits)?;
    for (name, content) in replaced {
        tree.replace(name, content.len() as u64);
    }
    let unfinished = Unfinished::beside(to);
    let file = File::create_new(unfinished.path()).map_err(DiskError::at("create", unfinished.path()))?;
    let writing = |error| DiskError::at("write", to)(error);
    let zstd = zstd::Encoder::new(BufWriter::with_capacity(BUFFER_BYTES, file), ZSTD_LEVEL).map_err(writing)?;
    let mut tar = tar::Builder::new(Hashing::new(zstd, limits.bytes));
    for (path, node) in tree.entries() {
        let content = replaced.iter().find(|(name, _)| *name == path).map(|(_, content)| *content);
        append(&mut tar, dir, path, node, content).map_err(|error| while_packing(error, to))?;
    }
    let (zstd, sha256, tar_bytes) = tar.into_inner().map_err(|error| while_packing(error, to))?.finish();
    let file = zstd.finish().and_then(|out| out.into_inner().map_err(|e| e.into_error())).map_err(writing)?;
    file.sync_all().map_err(writing)?;
    unfinished.finish(to)?;
    Ok(Packed { sha256, tar_bytes, entries: tree.len() })
}

/// Reads a directory's tree, without what is ignored; refuses all that a release may not hold.
fn read_tree(dir: &Path, limits: &Limits) -> Result<Tree, ArchiveError> {
    let ignore = match fs::read_to_string(dir.join(ignore::FILE_NAME)) {
        Ok(text) => Ignore::parse(&text).map_err(ArchiveError::Ignore)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignore::default(),
        Err(error) => return Err(DiskError::at("read", dir.join(ignore::FILE_NAME))(error).into()),
    };
    let mut tree = Tree::default();
    let mut left = vec![(String::new(), 0)];
    while let Some((below, depth)) = left.pop() {
        let at = dir.join(&below);
        for entry in fs::read_dir(&at).map_err(DiskError::at("read", &at))? {
            let entry = entry.map_err(DiskError::at("read", &at))?;
            let name = [below.as_bytes(), b"/", entry.file_name().as_bytes()].concat();
            let path = plain(name.strip_prefix(b"/").unwrap_or(&name))?;
            let meta = entry.metadata().map_err(DiskError::at("read", entry.path()))?;
            if ignore.ignores(&path, meta.is_dir()) {
                continue;
            }
            let node = node_on_disk(&path, &meta, &entry.path())?;
            tree.add(&path, node, limits)?;
            if meta.is_dir() && depth >= DEPTH_MAX {
                return Err(BadEntry::new(path, format!("is more than {DEPTH_MAX} directories deep")).into());
            }
            if meta.is_dir() {
                left.push((path, depth + 1));
            }
        }
    }
    tree.check_links()?;
    Ok(tree)
}

fn node_on_disk(path: &str, meta: &fs::Metadata, at: &Path) -> Result<Node, ArchiveError> {
    let kind = meta.file_type();
    if kind.is_dir() {
        return Ok(Node::Dir);
    }
    if kind.is_file() {
        return Ok(Node::File { size: meta.len(), executable: meta.permissions().mode() & 0o111 != 0 });
    }
    if kind.is_symlink() {
        let target = fs::read_link(at).map_err(DiskError::at("read", at))?;
        let target = target.to_str().ok_or_else(|| BadEntry::new(path, "links to a name that is not UTF-8"))?;
        return Ok(Node::Link { target: target.to_owned() });
    }
    let why = "is neither a file, a directory nor a link: remove it, or name it in .neapignore";
    Err(BadEntry::new(path, why).into())
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    dir: &Path,
    path: &str,
    node: &Node,
    content: Option<&[u8]>,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match node {
        Node::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Node::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)
        }
        Node::File { size, executable } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            match content {
                Some(content) => tar.append_data(&mut header, path, content),
                None => append_file(tar, &mut header, &dir.join(path), path, *size),
            }
        }
    }
}

fn append_file<W: Write>(
    tar: &mut tar::Builder<W>,
    header: &mut tar::Header,
    at: &Path,
    path: &str,
    size: u64,
) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", at.display()));
    let file = File::options().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(at);
    let file = file.map_err(told)?;
    let changed = || io::Error::other(format!("{} changed while it was packed: pack it again", at.display()));
    if file.metadata().map_err(told)?.len() != size {
        return Err(changed());
    }
    let mut exact = Exact { inner: BufReader::with_capacity(BUFFER_BYTES, file).take(size), left: size };
    tar.append_data(header, path, &mut exact).map_err(told)?;
    if exact.left > 0 { Err(changed()) } else { Ok(()) }
}

/// Counts what is read, so that a file that shrinks is noticed.
struct Exact<R> {
    inner: io::Take<R>,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left -= count as u64;
        Ok(count)
    }
}
