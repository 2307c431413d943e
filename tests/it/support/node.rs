//! Owns one node as a process: started, killed, frozen, started again, always with the same data.
//! Must not know its role's work.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Lines of a node's log that a failed test shows.
const SHOWN: usize = 60;

pub struct Node {
    pub name: String,
    pub data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
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
        Self { name: name.to_owned(), data, log: dir.join(format!("{name}.log")), args, child: None }
    }

    /// Says another value than before, from the next start.
    pub fn set(&mut self, set: &str) {
        self.args.extend(["--set".to_owned(), set.to_owned()]);
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command.args(&self.args).env_clear().stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "LANG"));
        self.child = Some(command.spawn().unwrap());
    }

    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL, and its end.
    pub fn kill9(&mut self) {
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

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill_process(Pid::from_child(child), signal).unwrap();
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
