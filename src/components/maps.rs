//! Owns what processes have in memory: the files that `/proc/PID/maps` names with code in them, those that were deleted or
//! replaced with them. Must not know which component a file is of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use crate::domain::components::{FileId, Unread};

const BYTES_MAX: u64 = 64 << 20;
/// Processes of one instance that are looked at.
const PROCESSES_MAX: usize = 4096;
const DELETED: &str = " (deleted)";

/// A file in a process's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// As the process knows it.
    pub path: String,
    pub deleted: bool,
    /// Where the kernel has the very file, whatever became of its name; not everybody may look there.
    pub itself: PathBuf,
    /// Under which the process's paths are: "" or `/proc/PID/root`.
    pub root: String,
}

/// What all of an instance's processes have in memory, by file, and what could not be looked at.
pub fn look(pids: &[u32]) -> (BTreeMap<FileId, Mapped>, Vec<Unread>) {
    let (mut mapped, mut unread) = (BTreeMap::new(), Vec::new());
    for pid in pids.iter().take(PROCESSES_MAX) {
        if let Err(error) = read(*pid, &mut mapped) {
            let new = unread_of(*pid, &error);
            if !unread.contains(&new) {
                unread.push(new);
            }
        }
    }
    if pids.len() > PROCESSES_MAX {
        let why = format!("at most {PROCESSES_MAX} are");
        unread.push(Unread { what: format!("{} more processes", pids.len() - PROCESSES_MAX), why });
    }
    (mapped, unread)
}

fn unread_of(pid: u32, error: &io::Error) -> Unread {
    let gone =
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    if gone {
        // Without its number: another of the kind says the same.
        return Unread {
            what: "the memory of a process".to_owned(),
            why: "it ended while it was looked at".to_owned(),
        };
    }
    Unread { what: format!("/proc/{pid}/maps"), why: error.to_string() }
}

fn read(pid: u32, mapped: &mut BTreeMap<FileId, Mapped>) -> io::Result<()> {
    let file = File::open(format!("/proc/{pid}/maps"))?;
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
    if namespace(&pid.to_string())? != namespace("self")? {
        return Err(io::Error::other("its files are in another mount namespace"));
    }
    let root = std::fs::read_link(format!("/proc/{pid}/root"))?;
    let root = if root.as_os_str() == "/" { String::new() } else { format!("/proc/{pid}/root") };
    let mut lines = 0_usize;
    for line in BufReader::new(file.take(BYTES_MAX)).split(b'\n') {
        lines += 1;
        if let Some((id, range, path)) = parse(&String::from_utf8_lossy(&line?)) {
            let (path, deleted) = path.strip_suffix(DELETED).map_or((path.as_str(), false), |path| (path, true));
            let itself = PathBuf::from(format!("/proc/{pid}/map_files/{range}"));
            let new = Mapped { path: path.to_owned(), deleted, itself, root: root.clone() };
            mapped.entry(id).or_insert(new);
        }
    }
    // A process that ends while it is read has nothing; none that runs has nothing.
    if lines == 0 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
}

/// The file of a line of proc_pid_maps(5) that has code, and its range as `map_files` names it.
fn parse(line: &str) -> Option<(FileId, String, String)> {
    let mut rest = line;
    let mut field = || {
        rest = rest.trim_start_matches(' ');
        let (field, left) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = left;
        field
    };
    let (range, rights, _offset, device, inode) = (field(), field(), field(), field(), field());
    let path = rest.trim_start_matches(' ');
    let special = ["/memfd:", "/dev/", "/SYSV", "/anon_hugepage", "/[aio]"];
    if !rights.contains('x') || !path.starts_with('/') || special.iter().any(|start| path.starts_with(start)) {
        return None;
    }
    let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
    let (major, minor) = device.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    let device = rustix::fs::makedev(number(major)?, number(minor)?);
    let (start, end) = range.split_once('-')?;
    let short = |digits: &str| Some(format!("{:x}", u64::from_str_radix(digits, 16).ok()?));
    let range = format!("{}-{}", short(start)?, short(end)?);
    // The one character that the kernel escapes.
    Some((FileId { device, inode }, range, path.replace("\\012", "\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::file;
    use std::path::Path;

    #[test]
    fn a_line_with_code_of_a_file_is_read_and_no_other() {
        let line = "00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b (deleted)";
        let (id, range, path) = parse(line).unwrap();
        assert_eq!((id.inode, range.as_str(), path.as_str()), (173_521, "400000-452000", "/usr/bin/a b (deleted)"));
        assert_eq!(id.device, rustix::fs::makedev(8, 2));
        for line in [
            "00400000-00452000 r--p 00000000 08:02 173521 /usr/bin/a",
            "7f00-7f01 rwxp 00000000 00:00 0 ",
            "7f00-7f01 r-xp 00000000 00:00 0 [vdso]",
            "7f00-7f01 rwxs 00000000 00:01 5 /memfd:jit (deleted)",
            "7f00-7f01 rwxs 00000000 00:05 5 /dev/zero (deleted)",
            "7f00-7f01 r-xp 00000000 x:y 5 /usr/bin/a",
            "zz r-xp 00000000 08:02 5 /usr/bin/a",
            "",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn this_process_has_its_own_executable_in_memory() {
        let (mapped, unread) = look(&[std::process::id()]);
        assert_eq!(unread, []);
        let own = std::env::current_exe().unwrap();
        let (id, _) = mapped.iter().find(|(_, one)| Path::new(&one.path) == own).unwrap();
        let disk = file::disk(&own).unwrap();
        assert_eq!(id.inode, disk.id.inode);
    }

    #[test]
    fn a_process_that_is_gone_is_said_plainly() {
        let (mapped, unread) = look(&[u32::MAX, u32::MAX - 1]);
        assert!(mapped.is_empty());
        let said: Vec<String> = unread.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["the memory of a process could not be read: it ended while it was looked at"]);
    }
}
