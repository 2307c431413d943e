//! Measures a list of sessions as servers and management have it: a million of them by default. Prints one JSON object.
//! `scripts/bench sessions` runs it in release.
//!
//! ```text
//! bytes_per_session    resident memory, with the list's own index, wheel and changes taken
//! arrive_ns            one request of a session: found, heard of, finished
//! page_ms              the first page of 50, by age and by last request
//! expire_ms            one look in which up to a quarter is idle, and one in which nothing is
//! changes_ms           taking 2,000 changes, as a batch is made
//! save_ms, restore_ms  the whole list to its own store, and from there after it is opened again (open_ms)
//! ```

use std::path::Path;
use std::time::Instant;

use neap::domain::names::{ServerName, Version};
use neap::domain::session::{Place, SessionId};
use neap::domain::session_list::{Bounds, Query, Session, SessionList, Sort};
use neap::store::{Change, Options, Store, Tree};

const T: u64 = 1_764_000_000_000;
const IDLE: u64 = 30 * 60_000;
/// Records that one save holds, as the writer's batches do.
const SAVE: usize = 20_000;

fn main() {
    let count: u128 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile_dir();
    let before = resident();
    let mut list = begun(count);
    drop(list.take_changes(usize::MAX));
    let bytes = resident().saturating_sub(before) as f64 / count as f64;
    let (arrive_ns, changes_ms) = arrivals(&mut list, count);
    let page = |sort| timed(|| list.page(&Query { servers: None, version: None, sort, after: None, limit: 51 })).0;
    let (page_age_ms, page_seen_ms) = (page(Sort::Age), page(Sort::Seen));
    let (save_ms, open_ms, restore_ms, restored) = disk(&list, &dir);
    let (expire_some_ms, expired) = timed(|| list.expire(T + IDLE + count as u64 / 4, usize::MAX));
    let (expire_none_ms, none) = timed(|| list.expire(T + IDLE + count as u64 / 4, usize::MAX));
    let _ = std::fs::remove_dir_all(&dir);
    assert_eq!((none, restored), (0, count as usize));
    println!(
        "{{\"sessions\": {count}, \"bytes_per_session\": {bytes:.0}, \"arrive_ns\": {arrive_ns:.0}, \"changes_ms\": {changes_ms:.2}, \
         \"page_age_ms\": {page_age_ms:.2}, \"page_seen_ms\": {page_seen_ms:.2}, \"expired\": {expired}, \
         \"expire_some_ms\": {expire_some_ms:.2}, \"expire_none_ms\": {expire_none_ms:.3}, \"save_ms\": {save_ms:.0}, \
         \"open_ms\": {open_ms:.0}, \"restore_ms\": {restore_ms:.0}}}"
    );
}

fn place() -> Place {
    Place { server: ServerName::new("app-1").unwrap(), version: Version::new("1.4.2").unwrap() }
}

/// As good as random.
fn id(number: u128) -> SessionId {
    SessionId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// A session a millisecond.
fn begun(count: u128) -> SessionList {
    let (mut list, place) = (SessionList::new(Bounds { idle: IDLE, sessions: count as usize }), place());
    for number in 0..count {
        let now = T + number as u64;
        assert!(list.begin(id(number), &place, now));
        list.finish(id(number), now);
    }
    list
}

/// Nanoseconds of one request, and milliseconds of taking a batch; the times of those heard of stay as they were.
fn arrivals(list: &mut SessionList, count: u128) -> (f64, f64) {
    let (place, asked) = (place(), 200_000.min(count));
    let (took, ()) = timed(|| {
        for number in 0..asked {
            let number = number.wrapping_mul(7_919) % count;
            let now = T + number as u64;
            let _ = list.arrive(id(number), now, &place, now);
            list.finish(id(number), now);
        }
    });
    let (batch, _) = timed(|| list.take_changes(2_000));
    drop(list.take_changes(usize::MAX));
    (took * 1e6 / asked as f64, batch)
}

fn disk(list: &SessionList, dir: &Path) -> (f64, f64, f64, usize) {
    let open = || Store::open(dir, "now", Options::default()).unwrap().store;
    let store = open();
    let (save_ms, ()) = timed(|| {
        let all: Vec<Session> = list.all().collect();
        for part in all.chunks(SAVE) {
            let put =
                |session: &Session| Change::bytes(Tree::Sessions, format!("list/shop/{}", session.id), session.pack());
            store.save(part.iter().map(put).collect()).unwrap();
        }
    });
    drop(store);
    let (open_ms, store) = timed(open);
    let mut again = SessionList::new(list.bounds());
    let (restore_ms, ()) = timed(|| {
        store
            .each(Tree::Sessions, "list/", |key, value| {
                let id = key.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap();
                again.restore(&Session::unpack(id, value).unwrap());
            })
            .unwrap();
    });
    (save_ms, open_ms, restore_ms, again.count())
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed().as_secs_f64() * 1e3, done)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

fn tempfile_dir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("neap-session-list-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
