//! Owns one node as a process: started, killed, frozen, started again, always with the same data.
//! Must not know its role's work.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Lines of a node's log that a failed test shows.
const SHOWN: usize = 60;

pub struct Node {
    pub name: String,
    pub data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    binary: PathBuf,
    child: Option<Child>,
    /// The process that has taken the place of the one that was started.
    heir: Option<i32>,
    /// Those that may have connections left.
    retired: Vec<i32>,
}

impl Node {
    /// A node that keeps all it has below `dir`; not started yet.
    pub fn new(dir: &Path, name: &str, role: &str, sets: &[String]) -> Self {
        let data = dir.join("data").join(name);
        let mut args = vec!["run".to_owned(), "--role".to_owned(), role.to_owned()];
        let own = [format!("node.name={name}"), format!("node.data_dir={}", data.display())];
        for set in own.iter().chain(sets) {
            args.extend(["--set".to_owned(), set.clone()]);
        }
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_neap"));
        Self {
            name: name.to_owned(),
            data,
            log: dir.join(format!("{name}.log")),
            args,
            binary,
            child: None,
            heir: None,
            retired: Vec::new(),
        }
    }

    /// Says another value than before, from the next start.
    pub fn set(&mut self, set: &str) {
        self.args.extend(["--set".to_owned(), set.to_owned()]);
    }

    /// Reads a file as well, from the next start.
    pub fn configure(&mut self, file: &Path) {
        self.args.extend(["--config".to_owned(), file.display().to_string()]);
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.binary);
        command.args(&self.args).env_clear().stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "LANG"));
        self.child = Some(command.spawn().unwrap());
    }

    pub fn runs(&mut self) -> bool {
        let child = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        // Another process may have taken its place.
        child || with_args(&self.args).next().is_some()
    }

    /// SIGKILL, and its end.
    pub fn kill9(&mut self) {
        // Also those that have taken its place, and those that they have left something to do.
        loop {
            let child = self.child.as_ref().map(|child| child.id() as i32);
            let others: Vec<i32> = with_args(&self.args).filter(|pid| Some(*pid) != child).collect();
            if others.is_empty() {
                break;
            }
            for pid in others {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        (self.heir, self.retired) = (None, Vec::new());
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.take().unwrap().wait().unwrap()
    }

    /// SIGSTOP: nothing of it runs, and its connections stay.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Runs a binary of its own from its next start on, below `dir`.
    pub fn own_binary(&mut self, dir: &Path) {
        self.binary = dir.join(format!("neap-of-{}", self.name));
        fs::hard_link(env!("CARGO_BIN_EXE_neap"), &self.binary).unwrap();
    }

    /// Puts another file in its binary's place, and has it hand over to that.
    pub fn hand_over_to(&mut self, new: &Path) {
        fs::rename(new, &self.binary).unwrap();
        self.signal(Signal::USR2);
    }

    /// The process that works now.
    pub fn pid(&self) -> i32 {
        let child = || self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id() as i32;
        self.heir.unwrap_or_else(child)
    }

    /// Another process has taken its place; waits until the old one has ended what it had.
    pub fn follow(&mut self) {
        let (old, until) = (self.pid(), Instant::now() + Duration::from_secs(60));
        let ended = |node: &mut Self| match node.heir {
            Some(heir) => !has_args(heir, &node.args),
            None => node.child.as_mut().unwrap().try_wait().unwrap().is_some(),
        };
        while !ended(self) {
            assert!(Instant::now() < until, "{} has not handed over\n{}", self.name, self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child = None;
        self.heir = with_args(&self.args).find(|pid| *pid != old);
        assert!(self.heir.is_some(), "{}: nobody has its place\n{}", self.name, self.tail());
    }

    /// Another process has taken its place; the old one may have connections left. `hops`: how often that was so.
    pub fn succeeded(&mut self, hops: usize) {
        let (old, until) = (self.pid(), Instant::now() + Duration::from_secs(60));
        while self.log().matches("another process has this one's place").count() < hops {
            assert!(Instant::now() < until, "{} has not handed over\n{}", self.name, self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        let new = with_args(&self.args).find(|pid| *pid != old && !self.retired.contains(pid));
        assert!(new.is_some(), "{}: nobody has its place\n{}", self.name, self.tail());
        self.retired.push(old);
        self.heir = new;
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// All that it said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The memory that its process holds, in bytes.
    pub fn resident(&self) -> u64 {
        let pid = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        format!("--- {} ({})\n{tail}\n", self.name, self.log.display())
    }
}

/// The processes that were started with these arguments and live.
fn with_args(args: &[String]) -> impl Iterator<Item = i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(move |pid| has_args(*pid, args))
}

/// Whether a process lives and was started with these arguments.
fn has_args(pid: i32, args: &[String]) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).skip(1).collect();
    words.len() > args.len() && args.iter().zip(&words).all(|(arg, word)| arg.as_bytes() == *word)
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Kills every process that carries the name of an instance and whose surroundings name this directory.
pub fn kill_instances_below(dir: &Path) {
    for pid in instances_below(dir) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes that nodes below this directory have started and that live.
pub fn instances_below(dir: &Path) -> Vec<i32> {
    let below = format!("{}/", dir.display());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |word: &str| environ.windows(word.len()).any(|part| part == word.as_bytes());
        has("NEAP_INSTANCE=") && has(&below)
    })
    .collect()
}
