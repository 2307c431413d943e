//! Owns what an instance is: its record, by which it is known over a node's runs, and the handle on its process.
//! Must not know how it is launched, probed or stopped, nor where its record is kept.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::ports::PortLease;
use super::proc;
use crate::domain::names::{NodeName, ProgramName, Release};
use crate::domain::program::StopSignal;

/// The variable by which a process tells whose instance it is.
pub const VARIABLE: &str = "NEAP_INSTANCE";

/// An instance as its node remembers it. On disk before the instance becomes the program (protocol P9a).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Unique; also in the environment of the instance and of all that it starts.
    pub name: String,
    pub program: ProgramName,
    pub release: Release,
    pub pid: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
    pub boot_id: String,
    pub port: u16,
    pub mark: Mark,
}

impl Mark {
    /// Whether the instance is to be stopped, and nothing else.
    pub fn stops(self) -> bool {
        matches!(self, Self::Stopping | Self::TakenBack)
    }
}

/// What was decided about an instance, on disk before it is done (protocol P9b). Only a running one is adopted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    Running,
    Stopping,
    TakenBack,
    /// Started beside one that runs: not adopted before it has taken over (protocol P14).
    Beside,
    /// Another has taken over from it; what it was asked before may still be going on.
    Retired,
}

/// A node's own part of its instances' names: `<node>.<part of its data directory's hash>`, so that two nodes of one
/// name on a machine never take each other's processes for theirs.
pub fn scope(node: &NodeName, data_dir: &std::path::Path) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let hex: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{node}.{hex}")
}

/// A name for a new instance; no two are alike.
pub fn new_name(scope: &str, program: &ProgramName) -> String {
    format!("{scope}.{program}.{}", ulid::Ulid::new())
}

/// How an instance ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Status(i32),
    Signal(i32),
    /// It was adopted: its status went to another parent.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exit status {status}"),
            Exit::Signal(signal) => write!(f, "killed by signal {signal}"),
            Exit::Unknown => write!(f, "exit status unknown"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Status(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }
    }
}

/// A hold on a living (or just ended) instance: its pidfd, so never another process of the same id. Dropping it
/// leaves the process alone.
#[derive(Debug)]
pub struct Instance {
    record: InstanceRecord,
    pidfd: AsyncFd<OwnedFd>,
    /// `None` for an adopted one.
    child: Option<Mutex<Child>>,
    exit: OnceLock<Exit>,
    /// Freed when the last hold goes.
    _port: PortLease,
}

impl Instance {
    /// Takes hold of a process by its record. The caller checked who it is *after* this pidfd was opened.
    pub(super) fn hold(
        record: InstanceRecord,
        pidfd: OwnedFd,
        child: Option<Child>,
        port: PortLease,
    ) -> io::Result<Arc<Self>> {
        // SAFETY: an `OwnedFd` always gives the same descriptor, and keeps it open until the `AsyncFd` drops it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE)? };
        let child = child.map(Mutex::new);
        Ok(Arc::new(Self { record, pidfd, child, exit: OnceLock::new(), _port: port }))
    }

    /// The record as it was when the hold was taken: its `mark` is the caller's to keep.
    pub fn record(&self) -> &InstanceRecord {
        &self.record
    }

    pub fn is_adopted(&self) -> bool {
        self.child.is_none()
    }

    /// Waits until the process has ended.
    pub async fn exited(&self) -> Exit {
        if let Some(exit) = self.exit.get() {
            return *exit;
        }
        // A pidfd is readable from the process's end on, for ever: its readiness is never cleared.
        match self.pidfd.readable().await {
            Ok(mut guard) => guard.retain_ready(),
            // The runtime is going away, and this task with it.
            Err(_) => std::future::pending().await,
        }
        *self.exit.get_or_init(|| self.reap())
    }

    /// How the process ended, if it has.
    pub fn try_exited(&self) -> Option<Exit> {
        // Not to be seen is not gone: reaping one that lives would wait for its end.
        let gone = proc::look(self.record.pid)
            .is_ok_and(|found| found.is_none_or(|stat| stat.ended || stat.start_time != self.record.start_time));
        (self.exit.get().is_some() || gone).then(|| *self.exit.get_or_init(|| self.reap()))
    }

    /// Sends a signal to the leader, and to nothing else; one that has ended gets none.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn reap(&self) -> Exit {
        let Some(child) = &self.child else { return Exit::Unknown };
        let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        status.map_or(Exit::Unknown, Exit::from)
    }
}

/// Opens the pidfd of a process; `None` when there is none.
pub(super) fn open_pidfd(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The kernel's signal for the manifest's.
pub fn kernel_signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
    }
}
