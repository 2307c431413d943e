//! Owns how a manifest is written: the text of `program.toml` to a valid `Manifest`, or to errors that name the
//! place and the cure. Must not know files: the text comes in as an argument.

mod argv;
mod kind;
mod paths;
mod reader;
mod routes;
mod sections;
mod session;
pub mod size;

use std::fmt;

use super::names::Version;
use super::program::Manifest;

pub use argv::{Facts, substitute};
pub use kind::variable_problem;
pub use sections::BATCH_MAX;

/// The name of the manifest in a release's directory.
pub const FILE_NAME: &str = "program.toml";
/// Bytes that a manifest may have.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Errors of one manifest that are told at once.
pub const ERRORS_MAX: usize = 50;

/// One mistake in a manifest. Line and column count from 1, the column in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    pub line: u32,
    pub column: u32,
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// All mistakes found in one manifest, in the order of their places; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors {
    /// The file, as the user knows it.
    pub file: String,
    pub errors: Vec<ManifestError>,
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let end = if index + 1 < self.errors.len() { "\n" } else { "" };
            write!(f, "{}:{error}{end}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// Reads the text of a manifest; `file` is only its name in errors.
pub fn parse(file: &str, text: &str) -> Result<Manifest, ManifestErrors> {
    let mut reader = reader::Reader::new(text);
    let manifest = sections::read(&mut reader);
    match (manifest, reader.into_errors()) {
        (Some(manifest), errors) if errors.is_empty() => Ok(manifest),
        (_, errors) => Err(ManifestErrors { file: file.to_owned(), errors }),
    }
}

/// The same text with another version, everything else untouched (`deploy --version`).
pub fn with_version(file: &str, text: &str, version: &Version) -> Result<String, ManifestErrors> {
    parse(file, text)?;
    let span = reader::top_level_span(text, "version").unwrap_or(0..0);
    Ok(format!("{}\"{version}\"{}", &text[..span.start], &text[span.end..]))
}

#[cfg(test)]
mod tests;
