//! Owns what a component is, and how a program is said to use one: edges from program to component, each with its
//! evidence, of three sources that are kept apart. Must not know where any of it was read.
//!
//! What is quiesced for a component are the programs that it is declared for, those that were observed with it since
//! their instance started, and those in the closure of whose executable, interpreter or own libraries it is. What an
//! interpreter merely *can* load is shown, and no more.

mod compile;
mod list;
pub mod loader;
mod observed;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use compile::{Compiled, Sighting, compile};
pub use list::{ComponentsList, Taken, Use};
pub use observed::{Disk, FileId, Memory, Seen};

use super::names::{ComponentName, ProgramName, Release};

/// Files of one component that an edge names.
pub const FILES_NAMED: usize = 8;

/// How a component is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Of the system's package manager.
    Package,
    /// A file, or the link that leads to it, that no package has.
    File,
    /// neap's own binary.
    Node,
    /// Known by name only, from a manifest.
    Declared,
}

/// What a component's version was taken from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionBy {
    Package,
    BuildId,
    Sha256,
}

/// A component's version, compared for equality only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ComponentVersion {
    pub by: VersionBy,
    pub text: String,
}

/// A component on one server, as far as it is the same for all programs there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Component {
    pub name: ComponentName,
    pub kind: Kind,
    /// As it is on disk; `None`: nothing tells.
    pub version: Option<ComponentVersion>,
}

/// Where an edge is known from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The manifest says so.
    Declared,
    /// Files say so: what they need, and where the loader finds it.
    Static,
    /// A process of the instance has, or had, it in memory.
    Observed,
}

/// How the next file of a chain is reached from the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The first word of the program's command.
    Command,
    /// A `#!` line.
    Interpreter,
    /// A `#!` line that has `env` look for it.
    Env,
    /// The loader that an executable names.
    Loader,
    /// LD_PRELOAD, or /etc/ld.so.preload.
    Preload,
    /// Needed, and found by the rule of the loader that the word names.
    Rpath,
    LibraryPath,
    Runpath,
    Cache,
    DefaultDir,
    /// Needed by a path, not a name.
    Path,
    /// `pyvenv.cfg` names it.
    Venv,
    /// A library of the release itself.
    Release,
    /// A module that comes with an interpreter.
    Module,
    /// In a process's memory.
    Mapped,
    /// The manifest's `[components] uses`.
    Uses,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            How::Command => "command",
            How::Interpreter => "#!",
            How::Env => "#! env",
            How::Loader => "loader",
            How::Preload => "preload",
            How::Rpath => "rpath",
            How::LibraryPath => "LD_LIBRARY_PATH",
            How::Runpath => "runpath",
            How::Cache => "cache",
            How::DefaultDir => "default directory",
            How::Path => "path",
            How::Venv => "pyvenv.cfg",
            How::Release => "in the release",
            How::Module => "module",
            How::Mapped => "mapped",
            How::Uses => "uses",
        })
    }
}

/// One file on the way from a program to a component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Hop {
    /// As it is asked for: "bin/server", "libssl.so.3".
    pub name: String,
    pub how: How,
}

/// Why a program is said to use a component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Evidence {
    pub source: Source,
    /// An interpreter could load it, should the program ask for it: no reason to quiesce.
    pub can_load: bool,
    /// From the program on; the last one is the component's.
    pub chain: Vec<Hop>,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, hop) in self.chain.iter().enumerate() {
            let arrow = if number > 0 { " → " } else { "" };
            match hop.how {
                How::Command => write!(f, "{arrow}{}", hop.name)?,
                how => write!(f, "{arrow}{} ({how})", hop.name)?,
            }
        }
        Ok(())
    }
}

/// How a file in an instance's memory differs from what is on disk under its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replaced {
    /// Nothing is there any more.
    Deleted,
    /// Another file is there.
    Replaced,
    /// The same file, with other content.
    Rewritten,
    /// The component's link leads to another file.
    Relinked,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Replaced::Deleted => "deleted",
            Replaced::Replaced => "replaced",
            Replaced::Rewritten => "rewritten in place",
            Replaced::Relinked => "its link leads elsewhere",
        })
    }
}

/// An instance runs with a component that is not the one on disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Stale {
    /// What it has in memory.
    pub file: String,
    pub why: Replaced,
    /// The version in memory; `None`: it was replaced before anybody looked.
    pub running: Option<ComponentVersion>,
}

/// A program uses a component, or could.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Edge {
    #[serde(flatten)]
    pub component: Component,
    /// At most `FILES_NAMED`.
    pub files: Vec<String>,
    /// Of each source the shortest.
    pub evidence: Vec<Evidence>,
    pub stale: Option<Stale>,
}

impl Edge {
    /// Whether an upgrade of the component has to quiesce the program.
    pub fn quiesces(&self) -> bool {
        self.evidence.iter().any(|evidence| !evidence.can_load)
    }
}

/// What could not be looked at. The program may use more than is known.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Unread {
    pub what: String,
    pub why: String,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be read: {}", self.what, self.why)
    }
}

/// What one program on one server uses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Usage {
    pub program: ProgramName,
    pub release: Release,
    /// By component's name.
    pub edges: Vec<Edge>,
    pub unread: Vec<Unread>,
}

#[cfg(test)]
mod tests;
