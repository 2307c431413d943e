//! Owns the look at certificates' files: what changed is read again, what is broken is told, and the ones before stay.
//! Must not know who serves with them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use super::certificates::{Certificates, Files};
use super::pair::{MAX_FILE_BYTES, Pair};

/// From here on the log says that a certificate is about to run out.
const RUNS_OUT_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How often it says so.
const SAID_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// A thread that looks at the files, and may wait for them. It ends after this is dropped; a file system that hangs is
/// not waited for.
pub struct Watch {
    _stop: mpsc::Sender<()>,
}

impl Watch {
    pub fn begin(certificates: Arc<Certificates>, every: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let mut watcher = Watcher::new(certificates);
        let look = move || {
            watcher.say_what_runs_out(SystemTime::now());
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                watcher.look();
                watcher.say_what_runs_out(SystemTime::now());
            }
        };
        std::thread::Builder::new().name("certificates".to_owned()).spawn(look)?;
        Ok(Self { _stop: stop })
    }
}

/// What a look at files compares: what is in them, and who may read them. Times are too coarse, and tell of less.
type Print = [Option<(u64, u32)>; 2];

fn print(files: &Files) -> Print {
    let one = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        let mut hasher = DefaultHasher::new();
        if meta.is_file() && meta.len() <= MAX_FILE_BYTES {
            std::fs::read(path).ok()?.hash(&mut hasher);
        } else {
            meta.len().hash(&mut hasher);
        }
        Some((hasher.finish(), meta.permissions().mode()))
    };
    [one(&files.cert), one(&files.key)]
}

/// What is known of each certificate's files.
struct Known {
    /// As they were when last read.
    read: Print,
    /// As they were at the last look.
    seen: Print,
    problem: Option<String>,
    said: Option<SystemTime>,
}

pub(super) struct Watcher {
    certificates: Arc<Certificates>,
    known: Vec<Known>,
}

impl Watcher {
    pub fn new(certificates: Arc<Certificates>) -> Self {
        let known = |files: &Files| {
            let print = print(files);
            Known { read: print, seen: print, problem: None, said: None }
        };
        let known = certificates.files().iter().map(known).collect();
        Self { certificates, known }
    }

    /// Reads again what has changed since it was read, and not since the last look: certificate and key are written one
    /// after the other. What could not be used is tried at every look.
    pub fn look(&mut self) {
        for (number, known) in self.known.iter_mut().enumerate() {
            let files = &self.certificates.files()[number];
            let now = print(files);
            let settled = std::mem::replace(&mut known.seen, now) == now;
            if !settled || (now == known.read && known.problem.is_none()) {
                continue;
            }
            known.read = now;
            match files.load() {
                Ok(pair) => {
                    said(files, &pair);
                    known.problem = None;
                    known.said = None;
                    self.certificates.replace(number, Arc::new(pair));
                }
                Err(error) => {
                    let problem = error.to_string();
                    if known.problem.as_ref() != Some(&problem) {
                        tracing::error!(
                            cert = %files.cert.display(), key = %files.key.display(), problem,
                            "a certificate cannot be used: the one before is served on"
                        );
                        known.problem = Some(problem.clone());
                        self.certificates.tell(number, Some(problem));
                    }
                }
            }
        }
    }

    pub fn say_what_runs_out(&mut self, now: SystemTime) {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        for (known, status) in self.known.iter_mut().zip(self.certificates.status()) {
            let again = known.said.is_none_or(|said| now.duration_since(said).is_ok_and(|since| since >= SAID_AGAIN));
            let left = status.not_after - seconds;
            if !again || left > RUNS_OUT_SOON.as_secs() as i64 {
                continue;
            }
            known.said = Some(now);
            let (cert, until) = (status.cert.display(), time(status.not_after));
            if left <= 0 {
                tracing::error!(certificate = status.title, %cert, until, "a certificate has run out: clients refuse it");
            } else {
                tracing::warn!(certificate = status.title, %cert, until, "a certificate runs out soon");
            }
        }
    }
}

fn said(files: &Files, pair: &Pair) {
    let (cert, until) = (files.cert.display(), time(pair.not_after));
    tracing::info!(certificate = pair.title(), %cert, until, "a certificate was read again, and is served now");
}

/// As people read it.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
