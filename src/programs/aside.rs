//! Owns work that gives way to requests: it has a thread of its own, which gets a processor when those that serve leave it
//! one. Must not know what the work is.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Below the threads that serve, of nice(2): where all processors are busy, a tenth of what one of them gets.
const STEPS_DOWN: i32 = 10;

/// Does the work and answers with what came of it. An error: there is no thread, or the work panicked.
pub async fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (say, said) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Of this thread alone, as Linux has it; it ends with the work, since nothing leads up again. Where it fails, the
        // work does not give way.
        let _ = rustix::process::nice(STEPS_DOWN);
        let _ = say.send(work());
    })?;
    said.await.map_err(|_| io::Error::other("neap made a mistake: the work panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this thread.
    fn niceness() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields = stat.rsplit(')').next().unwrap();
        fields.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn the_work_gives_way_and_who_waits_for_it_does_not() {
        let before = niceness();
        let (name, nice) =
            aside("unpack", || (thread::current().name().unwrap().to_owned(), niceness())).await.unwrap();
        assert_eq!((name.as_str(), nice, niceness()), ("unpack", (before + STEPS_DOWN).min(19), before));
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error() {
        let done: io::Result<()> = aside("unpack", || panic!("on purpose")).await;
        assert!(done.is_err());
    }
}
