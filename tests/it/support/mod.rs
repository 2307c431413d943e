//! Owns what end-to-end tests stand on: clusters of real processes, programs to upgrade, traffic and its account.
//! Must not know what any one test shows.

mod block;
pub mod cluster;
pub mod http;
pub use http::Answer;
pub mod kept;
pub mod load;
pub mod node;
pub mod release;
pub mod tls;
pub mod watch;
pub mod wire;

use std::time::{Duration, Instant};

/// How long a condition may take to come true on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until the condition answers `Ok`; after `deadline`, fails with what it last said.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= end => panic!("not within {deadline:?}: {what}\n{last}"),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Runs what waits for many things at once.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
