//! Owns what the kernel tells of processes (`/proc`): who they are, when they started, what they carry.
//! Must not know instances' records, or signals.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Processes of one machine that are looked at.
const PROCESSES_MAX: usize = 1 << 20;

/// What tells one process from all others of this boot, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// It has ended and waits to be reaped.
    pub ended: bool,
}

/// The identity of this boot of the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A process as it is now; `None` when there is none of that id, or when we cannot look.
pub fn stat(pid: u32) -> Option<Stat> {
    look(pid).ok().flatten()
}

/// A process as it is now. An error says nothing about it: there may be no descriptor left to look with.
pub fn look(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(parse_stat(pid, &text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // It ended between the opening and the reading.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields as in proc_pid_stat(5); the name in parentheses may itself hold anything, so the last one closes it.
fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let ended = matches!(*fields.first()?, "Z" | "X" | "x");
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { pid, parent: number(1)? as u32, group: number(2)? as u32, start_time: number(19)?, ended })
}

/// A variable of the environment that a process was started with; `None` too when we may not look.
pub fn variable(pid: u32, name: &str) -> Option<String> {
    variable_of(&environ(pid)?, name)
}

/// The environment that a process was started with; `None` when we may not look, or while it becomes another program.
pub fn environ(pid: u32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok().filter(|environ| !environ.is_empty())
}

pub fn variable_of(environ: &[u8], name: &str) -> Option<String> {
    let mut variables = environ.split(|byte| *byte == 0);
    let value = variables.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// The words of a process's command line; none while it becomes another program.
pub fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    words.filter(|_| !line.is_empty()).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// All processes that have not ended.
pub fn all() -> Vec<Stat> {
    all_but(&HashSet::new())
}

/// All processes that have not ended and have none of these ids.
pub fn all_but(known: &HashSet<u32>) -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let new = pids.take(PROCESSES_MAX).filter(|pid| !known.contains(pid));
    new.filter_map(stat).filter(|stat| !stat.ended).collect()
}

/// A process, and the clock ticks that it has used, with those of its children that it has reaped.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub stat: Stat,
    pub ticks: u64,
}

/// All processes that have not ended, with what they have used.
pub fn all_times() -> Vec<Times> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let times = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let stat = parse_stat(pid, &text).filter(|stat| !stat.ended)?;
        let fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
        // utime, stime, cutime, cstime
        let ticks = fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Times { stat, ticks })
    };
    pids.take(PROCESSES_MAX).filter_map(times).collect()
}

/// The inodes of a process's open sockets; empty too when we may not look.
pub fn sockets(pid: u32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let text = target.as_os_str().as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?.to_vec();
        String::from_utf8(text).ok()?.parse().ok()
    };
    entries.flatten().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read_right() {
        let text = "7 (a) Z 1 (x) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        assert_eq!(parse_stat(7, text), Some(Stat { pid: 7, parent: 1, group: 42, start_time: 987_654, ended: false }));
        assert_eq!(parse_stat(7, "7 (a"), None);
    }

    #[test]
    fn this_process_is_found_with_its_environment() {
        let own = stat(std::process::id()).unwrap();
        assert!(!own.ended && all().contains(&own));
        assert_eq!((look(own.pid).unwrap(), look(u32::MAX).unwrap()), (Some(own), None));
        assert_eq!(variable(own.pid, "PATH"), std::env::var("PATH").ok());
        assert_eq!(variable(own.pid, "PAT"), None);
        assert_eq!(words(own.pid), std::env::args().collect::<Vec<_>>());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
