//! Measures a list of sessions as servers and management have it: a million of them by default. Prints one JSON object.
//! `scripts/bench sessions` runs it in release.
//!
//! ```text
//! bytes_per_session    resident memory, with the list's own index, wheel and changes taken
//! arrive_ns            one request of a session: found, heard of, finished
//! page_ms              the first page of 50, by age and by last request
//! expire_ms            one look in which up to a quarter is idle, and one in which nothing is
//! changes_ms           taking 2,000 changes, as a batch is made
//! save_ms, batch_ms    the whole list to its own store; then 20,000 changes more, the longest of 40 such batches
//! begin_ms             from there after that: the store is opened (open_ms), and the list read
//! ```

use std::path::Path;
use std::time::Instant;

use neap::domain::names::{ProgramName, ServerName, Version};
use neap::domain::session::{Place, SessionId};
use neap::domain::session_list::{
    Bounds, Query, Session, SessionList, Sort, Unpacker, session_key, session_key_of_text,
};
use neap::store::packed::{Former, Packed};
use neap::store::{Options, Store, Tree};

const T: u64 = 1_764_000_000_000;
const IDLE: u64 = 30 * 60_000;
/// Sessions that one save holds, as the writer's batches do.
const SAVE: usize = 20_000;
const BATCHES: usize = 40;

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
    let Disk { save_ms, batch_ms, open_ms, begin_ms, restored } = disk(&list, &dir);
    let (expire_some_ms, expired) = timed(|| list.expire(T + IDLE + count as u64 / 4, usize::MAX));
    let (expire_none_ms, none) = timed(|| list.expire(T + IDLE + count as u64 / 4, usize::MAX));
    let _ = std::fs::remove_dir_all(&dir);
    assert_eq!((none, restored), (0, count as usize));
    println!(
        "{{\"sessions\": {count}, \"bytes_per_session\": {bytes:.0}, \"arrive_ns\": {arrive_ns:.0}, \"changes_ms\": {changes_ms:.2}, \
         \"page_age_ms\": {page_age_ms:.2}, \"page_seen_ms\": {page_seen_ms:.2}, \"expired\": {expired}, \
         \"expire_some_ms\": {expire_some_ms:.2}, \"expire_none_ms\": {expire_none_ms:.3}, \"save_ms\": {save_ms:.0}, \
         \"batch_ms\": {batch_ms:.0}, \"open_ms\": {open_ms:.0}, \"begin_ms\": {begin_ms:.0}}}"
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

/// What was measured of a list's store.
struct Disk {
    save_ms: f64,
    batch_ms: f64,
    open_ms: f64,
    begin_ms: f64,
    restored: usize,
}

fn disk(list: &SessionList, dir: &Path) -> Disk {
    let open = || Store::open(dir, "now", Options::default()).unwrap().store;
    let former = Former { prefix: "list/", key: session_key_of_text };
    let program: ProgramName = "shop".parse().unwrap();
    let store = open();
    let mut packed = Packed::open_or_convert(&store, Tree::Sessions, former, |_, _| {}).unwrap();
    let (save_ms, ()) = timed(|| {
        let all: Vec<Session> = list.all().collect();
        for part in all.chunks(SAVE) {
            let is = |session: &Session| (session_key(&program, session.id), Some(session.pack()));
            store.save(packed.batch(part.iter().map(is))).unwrap();
        }
    });
    let batch_ms = (0..BATCHES).map(|_| {
        let some: Vec<Session> =
            list.all().filter(|_| rand::random_ratio(SAVE.min(list.count()) as u32, list.count() as u32)).collect();
        let is = |session: &Session| (session_key(&program, session.id), Some(session.pack()));
        timed(|| store.save(packed.batch(some.iter().map(is))).unwrap()).0
    });
    let batch_ms = batch_ms.fold(0.0, f64::max);
    drop((packed, store));
    let (open_ms, store) = timed(open);
    let mut again = SessionList::new(list.bounds());
    let (restore_ms, ()) = timed(|| {
        let mut unpacker = Unpacker::default();
        Packed::open_or_convert(&store, Tree::Sessions, former, |key, value| {
            again.restore(&unpacker.read(key, value).unwrap().1);
        })
        .unwrap();
    });
    Disk { save_ms, batch_ms, open_ms, begin_ms: open_ms + restore_ms, restored: again.count() }
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
