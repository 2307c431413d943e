//! Owns the walk over a directory for the libraries in it: a release's own, or those of a virtual environment.
//! Must not know what they need.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Budget;

/// Directories below each other.
const DEPTH_MAX: usize = 64;

/// The libraries below a directory, by path; links are not followed. What a bound left out is the second part.
pub fn libraries(root: &Path, budget: &mut Budget) -> (Vec<PathBuf>, Option<String>) {
    let mut found = Vec::new();
    let mut left = vec![(root.to_owned(), 0)];
    let mut why = None;
    while let Some((dir, depth)) = left.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                why = Some(format!("{}: {error}", dir.display()));
                continue;
            }
        };
        for entry in entries.flatten() {
            if let Err(bound) = budget.file() {
                return (sorted(found), Some(bound));
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEPTH_MAX {
                left.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_library(&entry) {
                found.push(entry.path());
            }
        }
    }
    (sorted(found), why)
}

/// By its name; or it is executable, as linkers leave libraries, and has no name that says it is something else.
fn is_library(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy().into_owned();
    if name.ends_with(".so") || name.contains(".so.") || name.ends_with(".node") {
        return true;
    }
    let executable = || entry.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
    !name.contains('.') && executable()
}

fn sorted(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    paths
}
