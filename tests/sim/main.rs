//! A simulator of clusters with many servers and programs: one management, servers that are shells around the domain's own
//! `Placement`, a network that loses, repeats and delays, people who ask for ripples and change their minds, and faults.
//! A seed decides everything, so that one that fails can be played again:
//!
//! ```text
//! cargo test --release --test sim                                   10,000 seeds of 5 servers × 4 programs, and a large one
//! NEAP_SIM="seed=7 servers=1000 programs=200" cargo test --release --test sim by_hand -- --nocapture
//! ```

mod people;
mod server;
mod sets;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use world::{Settings, Sim};

fn play(settings: &Settings) -> world::Counts {
    let mut sim = Sim::new(settings);
    match sim.play() {
        Ok(counts) => counts,
        Err(why) => panic!(
            "{why}\nto play it again: NEAP_SIM=\"{settings} log\" cargo test --release --test sim by_hand -- --nocapture"
        ),
    }
}

/// As many as are run in a release; fewer where nothing is optimised.
const SEEDS: u64 = if cfg!(debug_assertions) { 200 } else { 10_000 };

#[test]
fn ten_thousand_seeds_of_five_servers_and_four_programs_break_nothing() {
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let counts = std::thread::scope(|scope| {
        let work = || {
            let mut all = world::Counts::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SEEDS {
                    return all;
                }
                all.add(&play(&Settings { seed, ..Settings::default() }));
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = world::Counts::default();
        for worker in workers {
            match worker.join() {
                Ok(counts) => all.add(&counts),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    println!("{SEEDS} seeds in {:.0} s: {counts:?}", begun.elapsed().as_secs_f64());
    // It is no proof unless all of it has happened.
    let happened = [
        counts.upgraded,
        counts.undone,
        counts.aborted,
        counts.failed,
        counts.crashes,
        counts.restarts,
        counts.overlaps,
        counts.works,
        counts.sets,
        counts.sets_undone,
        counts.sets_failed,
    ];
    assert!(happened.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn a_thousand_servers_and_two_hundred_programs_take_seconds() {
    let begun = Instant::now();
    let (servers, programs) = if cfg!(debug_assertions) { (100, 20) } else { (1_000, 200) };
    let counts = play(&Settings { seed: 1, servers, programs, ..Settings::default() });
    println!("{servers} servers × {programs} programs in {:.1} s: {counts:?}", begun.elapsed().as_secs_f64());
    assert!(counts.upgraded > 0, "{counts:?}");
}

#[test]
fn by_hand() {
    let Ok(asked) = std::env::var("NEAP_SIM") else { return };
    let settings: Settings = asked.parse().unwrap_or_else(|why| panic!("NEAP_SIM: {why}"));
    let begun = Instant::now();
    let counts = play(&settings);
    println!("{settings}: {counts:#?}\n{:.1} s", begun.elapsed().as_secs_f64());
}
