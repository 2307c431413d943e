//! Owns the question whether an instance is healthy: an HTTP GET or a TCP connect, once or until it has started.
//! Must not know gates: a health check never opens one (protocol P12).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::adopt::members;
use super::instance::{Exit, Instance};
use super::{logs, proc, sockets};
use crate::domain::duration;
use crate::domain::program::Health;

/// Between two probes of an instance that starts: a part of what it has taken so far, within bounds, so that what is up
/// is found up at once, and what takes long is not asked all the time. While nothing listens, a probe is a connect that the
/// kernel refuses, and costs next to nothing; what listens and is not healthy is asked less often.
const START_FIRST: Duration = Duration::from_millis(2);
const START_EVERY: Duration = Duration::from_millis(50);
const LISTENS_PART: u32 = 128;
const HEALTHY_PART: u32 = 32;
/// Lines of output that a failure shows.
pub const LINES_SHOWN: usize = 20;

/// Why one probe failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    #[error("nothing listens on port {port}")]
    Refused { port: u16 },
    #[error("GET {path} answered {status}")]
    Status { path: String, status: u16 },
    #[error("no answer{} within {}", .path.as_ref().map(|path| format!(" to GET {path}")).unwrap_or_default(), duration::show(*.after))]
    Timeout { path: Option<String>, after: Duration },
    #[error("the answer was no HTTP: {0}")]
    Broken(String),
}

/// Why an instance did not start, with the last lines of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    pub reason: StartReason,
    pub after: Duration,
    pub lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartReason {
    Exited(Exit),
    /// The start timeout ran out; `last` says what the last probe met.
    Unhealthy {
        last: ProbeFailure,
    },
    /// It runs, but nothing of it listens on its port; `others` are the ports that it does listen on.
    ListensOnNothing {
        port: u16,
        others: Vec<u16>,
    },
    /// Something answers on its port that is not of this instance.
    ForeignListener {
        port: u16,
    },
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = duration::show(self.after);
        match &self.reason {
            StartReason::Exited(exit) => write!(f, "it exited {after} after its start: {exit}"),
            StartReason::Unhealthy { last } => write!(f, "it did not become healthy within {after}: {last}"),
            StartReason::ListensOnNothing { port, others } if others.is_empty() => {
                write!(f, "within {after} it did not listen on its port {port}: it must use {{port}} or $PORT")
            }
            StartReason::ListensOnNothing { port, others } => {
                write!(f, "it listens on {others:?} and not on its port {port}: it must use {{port}} or $PORT")
            }
            StartReason::ForeignListener { port } => {
                write!(f, "another process answers on its port {port}")
            }
        }
    }
}

impl std::error::Error for StartFailure {}

/// Probes what takes requests at an address once.
pub async fn probe(addr: SocketAddr, health: &Health) -> Result<(), ProbeFailure> {
    probe_within(health.timeout, addr, health).await
}

/// Probes what something else starts until it is healthy; or tells what the last probe met at the start timeout.
pub async fn until_healthy(addr: SocketAddr, health: &Health) -> Result<(), ProbeFailure> {
    let began = Instant::now();
    loop {
        let left = health.start_timeout.saturating_sub(began.elapsed());
        match probe_within(health.timeout.min(left), addr, health).await {
            Ok(()) => return Ok(()),
            Err(failure) if began.elapsed() >= health.start_timeout => return Err(failure),
            Err(failure) => sleep(pause(began.elapsed(), Some(&failure))).await,
        }
    }
}

/// How long to wait before the next probe of what has taken so long to start, after what the last one met.
fn pause(taken: Duration, last: Option<&ProbeFailure>) -> Duration {
    let part = if matches!(last, Some(ProbeFailure::Refused { .. })) { LISTENS_PART } else { HEALTHY_PART };
    (taken / part).clamp(START_FIRST, START_EVERY)
}

async fn probe_within(limit: Duration, addr: SocketAddr, health: &Health) -> Result<(), ProbeFailure> {
    let port = addr.port();
    let outcome = timeout(limit, async {
        let stream = TcpStream::connect(addr).await;
        let stream = stream.map_err(|_| ProbeFailure::Refused { port })?;
        match &health.path {
            Some(path) => get(stream, addr, path).await,
            None => Ok(()),
        }
    });
    outcome.await.unwrap_or_else(|_| Err(ProbeFailure::Timeout { path: health.path.clone(), after: limit }))
}

/// A GET on a connection of its own; 2xx and 3xx are healthy.
async fn get(stream: TcpStream, addr: SocketAddr, path: &str) -> Result<(), ProbeFailure> {
    let broken = |error: hyper::Error| ProbeFailure::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = hyper::Request::get(path)
        .header(HOST, addr.to_string())
        .header(USER_AGENT, "neap-probe")
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ProbeFailure::Broken(error.to_string()))?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    };
    let status = answer.map_err(broken)?.status();
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(ProbeFailure::Status { path: path.to_owned(), status: status.as_u16() })
}

/// Probes a new instance until it is healthy. Fails as soon as its process ends, and at the start timeout.
pub async fn started(instance: &Instance, health: &Health, log: &Path) -> Result<Duration, StartFailure> {
    let began = Instant::now();
    let outcome = tokio::select! {
        biased;
        exit = instance.exited() => Err(StartReason::Exited(exit)),
        outcome = healthy(instance, health, began) => outcome,
    };
    match outcome {
        Ok(()) => Ok(began.elapsed()),
        Err(reason) => {
            let log = log.to_owned();
            let lines = tokio::task::spawn_blocking(move || logs::tail(&log, LINES_SHOWN)).await;
            Err(StartFailure { reason, after: began.elapsed(), lines: lines.unwrap_or_default() })
        }
    }
}

async fn healthy(instance: &Instance, health: &Health, began: Instant) -> Result<(), StartReason> {
    let port = instance.record().port;
    loop {
        // The last probe ends with the start timeout, but has a moment at least.
        let left = health.start_timeout.saturating_sub(began.elapsed()).max(START_EVERY);
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let outcome = probe_within(health.timeout.min(left), at, health).await;
        let late = began.elapsed() >= health.start_timeout;
        let next = pause(began.elapsed(), outcome.as_ref().err());
        if outcome.is_ok() || late {
            let listening = listening(instance).await;
            match (outcome, listening) {
                (Ok(()), Listening::Own | Listening::Unknown) => return Ok(()),
                (Ok(()), Listening::Foreign) if late => return Err(StartReason::ForeignListener { port }),
                (Ok(()), Listening::Nothing { others }) if late => {
                    return Err(StartReason::ListensOnNothing { port, others });
                }
                (Err(ProbeFailure::Refused { .. }), Listening::Nothing { others }) => {
                    return Err(StartReason::ListensOnNothing { port, others });
                }
                (Err(last), _) => return Err(StartReason::Unhealthy { last }),
                (Ok(()), _) => {}
            }
        }
        sleep(next.min(health.start_timeout)).await;
    }
}

enum Listening {
    Own,
    Foreign,
    Nothing {
        others: Vec<u16>,
    },
    /// We may not look.
    Unknown,
}

/// Who listens on the instance's port: the instance, another, or nobody?
async fn listening(instance: &Instance) -> Listening {
    let record = instance.record().clone();
    let look = move || {
        // Nearly always it is the leader itself, and nothing else has to be looked at.
        let own = proc::sockets(record.pid);
        if sockets::listens(record.port, |socket| own.contains(&socket.inode)).unwrap_or(false) {
            return Listening::Own;
        }
        let members = members(&record.name, Some((record.pid, record.start_time)), &[]);
        let inodes: Vec<u64> = members.iter().flat_map(|stat| proc::sockets(stat.pid)).collect();
        let Ok(all) = sockets::all(|socket| socket.state == sockets::State::Listen) else { return Listening::Unknown };
        let on_port: Vec<_> = all.iter().filter(|socket| socket.local.port() == record.port).collect();
        if on_port.iter().any(|socket| inodes.contains(&socket.inode)) {
            return Listening::Own;
        }
        let own = all.iter().filter(|socket| inodes.contains(&socket.inode));
        let mut others: Vec<u16> = own.map(|socket| socket.local.port()).collect();
        others.sort_unstable();
        others.dedup();
        if on_port.is_empty() {
            return Listening::Nothing { others };
        }
        // Only one who is seen to have the socket is another: where we may not look, the probe has to do.
        let holds = |stat: &proc::Stat| on_port.iter().any(|s| proc::sockets(stat.pid).contains(&s.inode));
        if proc::all().iter().any(holds) { Listening::Foreign } else { Listening::Unknown }
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(Listening::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_is_looked_at_often_until_it_listens_and_never_all_the_time() {
        let (refused, broken) = (ProbeFailure::Refused { port: 1 }, ProbeFailure::Broken(String::new()));
        let after = |millis, last| pause(Duration::from_millis(millis), last).as_micros();
        assert_eq!((after(0, Some(&refused)), after(0, Some(&broken))), (2_000, 2_000));
        assert_eq!((after(320, Some(&refused)), after(320, Some(&broken)), after(320, None)), (2_500, 10_000, 10_000));
        assert_eq!((after(60_000, Some(&refused)), after(60_000, Some(&broken))), (50_000, 50_000));
    }
}
