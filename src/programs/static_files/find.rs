//! Owns which file a path means.
//! Must not know HTTP beyond the path and the encodings that a client takes.

use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::Site;

const INDEX: &str = "index.html";
/// The only name with a dot in front that is served (RFC 8615).
const WELL_KNOWN: &str = ".well-known";
/// Encodings of files that lie beside the plain ones, best first.
const ENCODINGS: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];

/// What a path leads to.
#[derive(Debug)]
pub enum Found {
    File(Box<Opened>),
    /// A directory asked for without its last slash: the relative place to go to.
    Directory {
        location: String,
    },
    Nothing,
}

/// A file to send.
#[derive(Debug)]
pub struct Opened {
    pub file: File,
    pub meta: Metadata,
    /// The file on disk, encoded or not.
    pub path: PathBuf,
    /// The name that tells its type.
    pub plain: PathBuf,
    pub encoding: Option<&'static str>,
    /// Whether other clients may get another encoding.
    pub varies: bool,
}

/// Finds the file of a request's raw path. Blocks on the disk.
pub fn find(site: &Site, raw: &str, takes: &dyn Fn(&str) -> bool) -> Found {
    let Some(relative) = plain(raw) else { return Found::Nothing };
    let mut path = site.root.join(&relative);
    if path.is_dir() {
        if !raw.ends_with('/') {
            let last = raw.rsplit('/').next().unwrap_or_default();
            return Found::Directory { location: format!("./{last}/") };
        }
        path.push(INDEX);
    } else if raw.ends_with('/') {
        path.push("."); // A file is no directory.
    }
    open(site, &path, takes)
        .or_else(|| site.spa.then(|| open(site, &site.root.join(INDEX), takes)).flatten())
        .map_or(Found::Nothing, |opened| Found::File(Box::new(opened)))
}

/// The relative path that a raw one means; `None` for one that is never served.
fn plain(raw: &str) -> Option<PathBuf> {
    let decoded = percent_decode_str(raw).decode_utf8().ok()?;
    if decoded.contains(['\0', '\\']) {
        return None;
    }
    let mut path = PathBuf::new();
    for part in decoded.split('/').filter(|part| !part.is_empty()) {
        if part.starts_with('.') && part != WELL_KNOWN {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

fn open(site: &Site, path: &Path, takes: &dyn Fn(&str) -> bool) -> Option<Opened> {
    let encoded = ENCODINGS.map(|(encoding, suffix)| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{suffix}"));
        (encoding, PathBuf::from(name))
    });
    let varies = encoded.iter().any(|(_, path)| path.is_file());
    for (encoding, beside) in encoded.iter().filter(|(encoding, path)| takes(encoding) && path.is_file()) {
        if let Some((file, meta)) = open_inside(site, beside) {
            let plain = path.to_owned();
            return Some(Opened { file, meta, path: beside.clone(), plain, encoding: Some(encoding), varies });
        }
    }
    let (file, meta) = open_inside(site, path)?;
    Some(Opened { file, meta, path: path.to_owned(), plain: path.to_owned(), encoding: None, varies })
}

/// A regular file under the root, its links followed.
fn open_inside(site: &Site, path: &Path) -> Option<(File, Metadata)> {
    let real = fs::canonicalize(path).ok()?;
    if !real.starts_with(&site.root) {
        return None;
    }
    let file = File::open(real).ok()?;
    let meta = file.metadata().ok()?;
    meta.is_file().then_some((file, meta))
}
