//! Owns the end of an instance: the signal to its leader, the grace, then KILL to all that is its own.
//! Must not know why it ends. The caller put the mark *stopping* or *taken back* on disk before (protocol P9b).

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::time::{Instant, sleep, timeout};

use super::adopt::{self, Look};
use super::instance::{Exit, Instance, InstanceRecord, kernel_signal, open_pidfd};
use super::proc::{self, Stat};
use crate::domain::program::StopSignal;

/// How often what is left of an instance is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long killed processes may take to go: one that waits for a disk cannot be hurried.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub exit: Exit,
    /// The grace was not enough, for the leader or for what it started.
    pub killed: bool,
    pub after: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error("cannot signal process {pid}: {source}")]
    Signal { pid: u32, source: io::Error },
    #[error("processes {pids:?} of instance {instance} are still there {KILL_WAIT:?} after KILL")]
    StillThere { instance: String, pids: Vec<u32> },
}

/// All that is known of an instance's processes, to find them all.
struct Quarry {
    name: String,
    leader: Option<(u32, u64)>,
    /// Seen to be its own while its leader lived: a child that left its group and its environment is found by its parent
    /// only.
    seen: Vec<Stat>,
    strangers: Strangers,
}

/// The ids of processes that are not its own, and since when that is known. Not looked at again for a moment: what ends
/// there leaves its number to nobody so soon, and whoever waits for the end of an instance waits for this look.
struct Strangers {
    ids: HashSet<u32>,
    since: Instant,
}

/// For so long nobody else has the number of a process that was there.
const NUMBERS_LAST: Duration = Duration::from_secs(1);

impl Quarry {
    fn new(name: &str, leader: Option<(u32, u64)>) -> Self {
        let strangers = Strangers { ids: HashSet::new(), since: Instant::now() };
        Self { name: name.to_owned(), leader, seen: Vec::new(), strangers }
    }
}

/// What was seen of an instance's processes while it served: a stop that is foreseen need not look first.
#[derive(Clone, Debug, Default)]
pub struct Foreseen(Vec<Stat>);

/// Looks for all that an instance has started, before it is known whether it is stopped.
pub async fn foresee(instance: &Instance) -> Foreseen {
    let record = instance.record();
    let leader = Some((record.pid, record.start_time));
    Foreseen(Quarry::new(&record.name, leader).look().await)
}

/// Stops an instance and waits until nothing of it is left. One that has ended already is only cleaned up after.
pub async fn stop(
    instance: &Instance,
    signal: StopSignal,
    grace: Duration,
    foreseen: Option<Foreseen>,
) -> Result<Stopped, StopError> {
    let (began, record) = (Instant::now(), instance.record());
    let refused = |source| StopError::Signal { pid: record.pid, source };
    let leader = Some((record.pid, record.start_time));
    let mut quarry = Quarry::new(&record.name, leader);
    let looks = foreseen.is_some();
    quarry.seen = match foreseen {
        Some(Foreseen(seen)) => seen,
        None => quarry.look().await,
    };
    instance.signal(kernel_signal(signal)).map_err(refused)?;
    let mut killed = false;
    let exited = timeout(grace.saturating_sub(began.elapsed()), instance.exited());
    // What has been started since is looked for while it ends.
    let exited = if looks {
        let (exited, since) = futures_util::future::join(exited, quarry.look()).await;
        quarry.seen.extend(since);
        exited
    } else {
        exited.await
    };
    if exited.is_err() {
        killed = true;
        let since = quarry.look().await;
        quarry.seen.extend(since);
        instance.signal(Signal::KILL).map_err(refused)?;
    }
    // What it started has the rest of the grace.
    let left = if killed { Duration::ZERO } else { grace.saturating_sub(began.elapsed()) };
    if !quarry.gone_within(left).await {
        killed = true;
        quarry.kill().await?;
    }
    match timeout(KILL_WAIT, instance.exited()).await {
        Ok(exit) => Ok(Stopped { exit, killed, after: began.elapsed() }),
        Err(_) => Err(StopError::StillThere { instance: record.name.clone(), pids: vec![record.pid] }),
    }
}

/// Kills whatever is left of a recorded instance, in its process group or under its name, and waits until it is gone:
/// for an instance whose leader has ended. Answers how many there were.
pub async fn kill_rest(record: &InstanceRecord) -> Result<usize, StopError> {
    let same_boot = proc::boot_id().is_ok_and(|boot| boot == record.boot_id);
    let leader = same_boot.then_some((record.pid, record.start_time));
    Quarry::new(&record.name, leader).kill().await
}

/// Kills all that carries an instance's name which no record knows.
pub async fn kill_stray(instance: &str) -> Result<usize, StopError> {
    Quarry::new(instance, None).kill().await
}

impl Quarry {
    async fn kill(mut self) -> Result<usize, StopError> {
        let (began, mut count) = (Instant::now(), 0);
        loop {
            let left = self.look().await;
            count = count.max(left.len());
            if left.is_empty() {
                return Ok(count);
            }
            if began.elapsed() > KILL_WAIT {
                let pids = left.iter().map(|stat| stat.pid).collect();
                return Err(StopError::StillThere { instance: self.name, pids });
            }
            left.iter().for_each(kill);
            self.seen = left;
            sleep(LOOK_EVERY).await;
        }
    }

    async fn gone_within(&mut self, grace: Duration) -> bool {
        let began = Instant::now();
        loop {
            self.seen = self.look().await;
            if self.seen.is_empty() {
                return true;
            }
            if began.elapsed() >= grace {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Looks through all processes, off the thread that serves requests.
    async fn look(&mut self) -> Vec<Stat> {
        if self.strangers.since.elapsed() >= NUMBERS_LAST {
            self.strangers = Strangers { ids: HashSet::new(), since: Instant::now() };
        }
        let (name, leader, seen, ids) = (self.name.clone(), self.leader, self.seen.clone(), self.strangers.ids.clone());
        let looked = tokio::task::spawn_blocking(move || adopt::look(&name, leader, &seen, &ids)).await;
        let Look { members, strangers } = looked.unwrap_or(Look { members: Vec::new(), strangers: Vec::new() });
        self.strangers.ids.extend(strangers);
        members
    }
}

/// Kills a process if it is still the one that was seen.
fn kill(seen: &Stat) {
    let Ok(Some(pidfd)) = open_pidfd(seen.pid) else { return };
    if proc::stat(seen.pid).is_some_and(|now| now.start_time == seen.start_time)
        && let Err(error) = pidfd_send_signal(&pidfd, Signal::KILL)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid = seen.pid, %error, "cannot kill");
    }
}
