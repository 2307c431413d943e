//! Owns commands that people give for a server as a whole: argv, bounded in time, their last lines kept. One outlives
//! the node's process, as a package manager should not be killed half-way. Must not know what a command is for.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::time::timeout;

use super::instance::Exit;
use super::{logs, output, proc};
use crate::domain::duration;
use crate::domain::placement::{LINES_KEPT, Work, Worked};

/// Between two looks at a command that an earlier run of the node started.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// By what a command's process is known again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    pub pid: u32,
    pub start_time: u64,
    pub boot_id: String,
}

/// A command that runs.
pub struct Running {
    child: Child,
    pub known: Known,
    log: PathBuf,
    within: Duration,
    began: Instant,
}

/// Starts a command in `dir`, with what every process of a node has around it; `log` takes what it writes.
pub fn start(work: &Work, dir: &Path, log: &Path) -> Result<Running, String> {
    let Some((program, args)) = work.run.split_first() else { return Err("there is no command to run".to_owned()) };
    let file = |error: &dyn std::fmt::Display| format!("its output cannot be kept: {error}");
    let out = output::open(log).map_err(|error| file(&error))?;
    let err = out.try_clone().map_err(|error| file(&error))?;
    let began = Instant::now();
    let child = tokio::process::Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into()))
        .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
        .env("LANG", "C.UTF-8")
        .current_dir(dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|error| format!("\"{program}\" cannot be run: {error}"))?;
    let pid = child.id().unwrap_or_default();
    let start_time = proc::stat(pid).map_or(0, |stat| stat.start_time);
    let boot_id = proc::boot_id().unwrap_or_default();
    let known = Known { pid, start_time, boot_id };
    Ok(Running { child, known, log: log.to_owned(), within: work.within, began })
}

impl Running {
    /// Waits for its end. At the end of its time, it and its process group are killed.
    pub async fn ended(mut self) -> Worked {
        let failure = match timeout(self.within, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => None,
            Ok(Ok(status)) => Some(format!("the command ended with {}", Exit::from(status))),
            Ok(Err(error)) => Some(format!("the command cannot be waited for: {error}")),
            Err(_) => {
                kill_group(self.known.pid);
                let _ = self.child.wait().await;
                Some(format!("the command was not done within {}, and was killed", duration::show(self.within)))
            }
        };
        let lines = logs::tail(&self.log, LINES_KEPT);
        // What it wrote is in its outcome now.
        let _ = std::fs::remove_file(&self.log);
        Worked { failure, lines, took_ms: self.began.elapsed().as_millis() as u64 }
    }
}

fn kill_group(pid: u32) {
    let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if let Err(error) = kill_process_group(group, Signal::KILL) {
        tracing::warn!(pid, %error, "a command's process group cannot be killed");
    }
}

/// Waits for the end of a command that an earlier run of the node started, at most as long as it may take; then it is
/// killed. How it ended is not known.
pub async fn outlived(known: &Known, work: &Work, log: &Path) -> Worked {
    let began = Instant::now();
    let alive = || {
        let same_boot = proc::boot_id().is_ok_and(|boot| boot == known.boot_id);
        same_boot && proc::stat(known.pid).is_some_and(|stat| !stat.ended && stat.start_time == known.start_time)
    };
    while alive() {
        if began.elapsed() >= work.within {
            kill_group(known.pid);
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    unknown(log, began.elapsed())
}

/// How a command ended of which the node saw no end.
pub fn unknown(log: &Path, took: Duration) -> Worked {
    let failure = Some("the node ended while the command ran: how it ended is not known".to_owned());
    let lines = logs::tail(log, LINES_KEPT);
    let _ = std::fs::remove_file(log);
    Worked { failure, lines, took_ms: took.as_millis() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(run: &[&str], within: Duration) -> Work {
        Work { run: run.iter().map(|word| (*word).to_owned()).collect(), within }
    }

    async fn run(words: &[&str], within: Duration) -> Result<Worked, String> {
        let dir = tempfile::tempdir().unwrap();
        Ok(start(&work(words, within), dir.path(), &dir.path().join("log"))?.ended().await)
    }

    #[tokio::test]
    async fn a_commands_end_and_its_last_lines_are_told() {
        let long = Duration::from_secs(60);
        let well = run(&["sh", "-c", "echo one; echo two >&2"], long).await.unwrap();
        assert_eq!((well.failure, well.lines), (None, vec!["one".to_owned(), "two".to_owned()]));
        let bad = run(&["sh", "-c", "echo no; exit 3"], long).await.unwrap();
        assert_eq!(bad.failure.as_deref(), Some("the command ended with exit status 3"));
        let missing = run(&["/nowhere/at-all"], long).await.unwrap_err();
        assert!(missing.starts_with("\"/nowhere/at-all\" cannot be run: "), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_what_it_started() {
        let hung = run(&["sh", "-c", "sleep 600 & echo $!; wait"], Duration::from_millis(300)).await.unwrap();
        assert_eq!(hung.failure.as_deref(), Some("the command was not done within 300ms, and was killed"));
        let child: u32 = hung.lines[0].parse().unwrap();
        let gone = || proc::stat(child).is_none_or(|stat| stat.ended);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(gone());
    }

    #[tokio::test]
    async fn a_command_that_outlives_its_node_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (work, log) =
            (work(&["sh", "-c", "echo begun; sleep 0.5"], Duration::from_secs(60)), dir.path().join("log"));
        let Running { known, mut child, .. } = start(&work, dir.path(), &log).unwrap();
        // Reaped by what takes the node's place as its parent.
        let reaping = tokio::spawn(async move { child.wait().await });
        let worked = outlived(&known, &work, &log).await;
        assert!(worked.failure.unwrap().contains("not known"));
        assert_eq!(worked.lines, ["begun"]);
        reaping.await.unwrap().unwrap();
    }
}
