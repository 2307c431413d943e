//! Floor 2, components: what files and processes of one machine tell of what a program uses. Reads ELF files, `#!` lines,
//! the loader's cache, virtual environments, processes' maps and the package manager's records.
//! Must not know instances or servers: it is told a command, a directory and the ids of processes. It starts nothing,
//! loads nothing and executes nothing of what it reads, and takes none of it to be well-formed.

mod closure;
mod command;
mod elf;
mod file;
mod ldcache;
mod look;
mod maps;
mod naming;
mod packages;
mod python;
mod release;

use std::time::{Duration, Instant};

pub use look::{Look, Reader, Subject};

/// Bounds of one look at one program; see `[app_server.limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Components of one program.
    pub components: usize,
    /// Files that are looked at, those of the release with them.
    pub files: usize,
    /// Libraries that need each other, one below the other.
    pub depth: usize,
    /// Bytes of one file that are read, for its SHA-256 or as a record of the package manager.
    pub file_size: u64,
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let time = Duration::from_secs(5);
        Self { components: 512, files: 200_000, depth: 64, file_size: 256 << 20, time }
    }
}

/// What is left of one look.
#[derive(Debug)]
struct Budget {
    limits: Limits,
    files: usize,
    until: Instant,
}

impl Budget {
    fn new(limits: Limits) -> Self {
        Self { limits, files: limits.files, until: Instant::now() + limits.time }
    }

    /// Takes one file's place; the error says which bound is reached.
    fn file(&mut self) -> Result<(), String> {
        self.time()?;
        let Some(left) = self.files.checked_sub(1) else {
            return Err(format!("over {} files; raise [app_server.limits] component_files", self.limits.files));
        };
        self.files = left;
        Ok(())
    }

    fn time(&self) -> Result<(), String> {
        if Instant::now() < self.until {
            return Ok(());
        }
        let after = crate::domain::duration::show(self.limits.time);
        Err(format!("not done within {after}; raise [app_server.limits] component_time"))
    }
}

#[cfg(test)]
mod tests;
