//! Owns the files that instances write their output to: opened for appending, bounded in size and number.
//! Must not know what is in them (`logs.rs` reads them).
//!
//! An instance writes straight to its file and never knows of rotation: its node may die, and be replaced, while it writes.
//! So the file stays, and only its head goes: what is older than half the bound is copied to `<file>.1`, then a
//! hole is punched in its place. Nothing that is being written is lost, and offsets never move. Where a file
//! system cannot punch holes, the file is copied and truncated instead (what is written in between is lost then).

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom as At};

use super::disk::{self, DiskError};

/// Bounds of a program's output on one server.
#[derive(Clone, Copy, Debug)]
pub struct OutputLimits {
    /// Bytes of the file that is written to, until its head is moved away.
    pub file_bytes: u64,
    /// Older files kept beside it.
    pub rotated: usize,
    /// Instances that have ended, whose files are kept.
    pub instances: usize,
}

/// 10 MiB and two older files an instance; five instances.
pub const LIMITS: OutputLimits = OutputLimits { file_bytes: 10 << 20, rotated: 2, instances: 5 };
const SUFFIX: &str = ".log";

/// Opens an instance's file for appending.
pub fn open(path: &Path) -> Result<File, DiskError> {
    File::options().append(true).create(true).mode(0o600).open(path).map_err(DiskError::at("open", path))
}

/// Moves the head of a file away when it is over its bound. Says whether it did.
pub fn rotate(path: &Path, limits: &OutputLimits) -> Result<bool, DiskError> {
    let mut file = File::options().read(true).write(true).open(path).map_err(DiskError::at("open", path))?;
    let end = file.metadata().map_err(DiskError::at("read", path))?.len();
    let start = data_start(&file, end).map_err(DiskError::at("read", path))?;
    if end - start <= limits.file_bytes {
        return Ok(false);
    }
    let cut = cut_after_line(&mut file, end - limits.file_bytes / 2, end).map_err(DiskError::at("read", path))?;
    if limits.rotated > 0 {
        shift(path, limits.rotated)?;
        // A program that wrote faster than it was looked at loses the oldest, not the bound.
        let from = start.max(cut.saturating_sub(limits.file_bytes));
        copy(&mut file, from, cut, &rotated(path, 1)).map_err(DiskError::at("rotate", path))?;
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(&file, flags, 0, cut) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            copy_truncate(&mut file, cut, path, limits).map_err(DiskError::at("rotate", path)).map(|()| true)
        }
        Err(error) => Err(DiskError::at("rotate", path)(error.into())),
    }
}

/// Where the file's data begins: after the hole that rotation left.
pub(super) fn data_start(file: &File, end: u64) -> io::Result<u64> {
    let mut at = match rustix::fs::seek(file, At::Data(0)) {
        Ok(at) => at,
        Err(rustix::io::Errno::NXIO) => return Ok(end),
        Err(_) => 0,
    };
    // A hole reaches whole blocks only; the rest of it reads as zeros.
    let mut block = [0; 4096];
    while at < end {
        let count = std::os::unix::fs::FileExt::read_at(file, &mut block, at)?;
        if count == 0 {
            return Ok(at);
        }
        match block[..count].iter().position(|byte| *byte != 0) {
            Some(zeros) => return Ok(at + zeros as u64),
            None => at += count as u64,
        }
    }
    Ok(end)
}

/// The place after the first line end at or after `from`, or `from` where the line is long.
fn cut_after_line(file: &mut File, from: u64, end: u64) -> io::Result<u64> {
    let mut block = [0; 4096];
    let count = std::os::unix::fs::FileExt::read_at(file, &mut block, from)?;
    let line_end = block[..count].iter().position(|byte| *byte == b'\n');
    Ok(line_end.map_or(from, |at| from + at as u64 + 1).min(end))
}

fn copy(file: &mut File, from: u64, to: u64, target: &Path) -> io::Result<()> {
    let mut out = File::options().write(true).create(true).truncate(true).mode(0o600).open(target)?;
    file.seek(SeekFrom::Start(from))?;
    io::copy(&mut file.take(to - from), &mut out).map(|_| ())
}

/// Keeps the tail too, since the whole file goes.
fn copy_truncate(file: &mut File, cut: u64, path: &Path, limits: &OutputLimits) -> io::Result<()> {
    if limits.rotated > 0 {
        let mut out = File::options().append(true).create(true).mode(0o600).open(rotated(path, 1))?;
        file.seek(SeekFrom::Start(cut))?;
        io::copy(&mut file.take(limits.file_bytes), &mut out)?;
    }
    file.set_len(0)
}

fn rotated(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn shift(path: &Path, count: usize) -> Result<(), DiskError> {
    for number in (1..count).rev() {
        let (from, to) = (rotated(path, number), rotated(path, number + 1));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(DiskError::at("rotate", from)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The instances' files of a directory, the newest instance first (their names end in the time they were made).
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_file(path)).collect();
    files.sort();
    files.reverse();
    files
}

fn is_file(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(SUFFIX))
}

/// Keeps the output of all programs of a server within its bounds. To be called on a timer, off the threads that
/// serve requests; `root` is the directory of the programs' directories, `living` are instances' names.
pub fn tend(root: &Path, living: &[String], limits: &OutputLimits) {
    let Ok(programs) = fs::read_dir(root) else { return };
    for dir in programs.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        for file in files(&dir) {
            if let Err(error) = rotate(&file, limits) {
                tracing::warn!(%error, "output is not within its bound");
            }
        }
        sweep(&dir, living, limits);
    }
}

/// Removes the files of ended instances beyond the bound; `living` are instances' names.
pub fn sweep(dir: &Path, living: &[String], limits: &OutputLimits) {
    let lives = |path: &PathBuf| {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        living.iter().any(|living| living == name)
    };
    for old in files(dir).into_iter().filter(|path| !lives(path)).skip(limits.instances) {
        (1..=limits.rotated).for_each(|number| disk::remove_any(&rotated(&old, number)));
        disk::remove_any(&old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const SMALL: OutputLimits = OutputLimits { file_bytes: 64 * 1024, rotated: 2, instances: 1 };

    #[test]
    fn rotation_bounds_a_file_that_is_written_to_and_loses_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut writer = open(&path).unwrap();
        let (mut line, mut moved) = (0, String::new());
        for _ in 0..4 {
            while !rotate(&path, &SMALL).unwrap() {
                for _ in 0..1000 {
                    writeln!(writer, "line {line}").unwrap();
                    line += 1;
                }
            }
            moved.push_str(&fs::read_to_string(rotated(&path, 1)).unwrap());
        }
        let (file, end) = (File::open(&path).unwrap(), fs::metadata(&path).unwrap().len());
        let start = data_start(&file, end).unwrap();
        assert!(start > 0 && end - start <= SMALL.file_bytes);
        let rest = fs::read(&path).unwrap()[start as usize..].to_vec();
        let all = moved + &String::from_utf8(rest).unwrap();
        assert!(all.lines().enumerate().all(|(number, text)| text == format!("line {number}")));
        assert_eq!(all.lines().count(), line);
        assert!(!rotated(&path, 3).exists());
    }

    #[test]
    fn all_programs_output_is_tended_at_once() {
        let root = tempfile::tempdir().unwrap();
        for program in ["mail", "shop"] {
            fs::create_dir(root.path().join(program)).unwrap();
            fs::write(root.path().join(program).join("a.1.log"), "x\n").unwrap();
            fs::write(root.path().join(program).join("a.2.log"), "x\n".repeat(100_000)).unwrap();
        }
        tend(root.path(), &["a.2".to_owned()], &OutputLimits { instances: 0, ..SMALL });
        for program in ["mail", "shop"] {
            let left = files(&root.path().join(program));
            assert_eq!(left, [root.path().join(program).join("a.2.log")]);
            assert!(rotated(&left[0], 1).is_file());
        }
        tend(Path::new("/none"), &[], &SMALL);
    }

    #[test]
    fn files_of_ended_instances_are_bounded_and_those_of_living_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.1.log", "a.2.log", "a.3.log", "a.3.log.1"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        sweep(dir.path(), &["a.1".to_owned()], &SMALL);
        assert_eq!(files(dir.path()), [dir.path().join("a.3.log"), dir.path().join("a.1.log")]);
    }
}
