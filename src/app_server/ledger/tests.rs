//! Counting, cutting, and what a death leaves.

use std::rc::Rc;

use super::*;

const TOLD: Told<'static> = Told { id: b"r1", method: b"GET", path: b"/export" };

fn open(dir: &Path, seats: usize) -> Opened {
    Ledger::open(dir, NodeName::new("s1").unwrap(), 3, seats, "now").unwrap()
}

fn seat(ledger: &Kept<Ledger>, row: &Row) -> Option<Seat> {
    Ledger::seat(ledger, row, TOLD, Instant::now())
}

fn row(ledger: &Arc<Ledger>, program: &str, version: &str) -> Arc<Row> {
    ledger.row(&ProgramName::new(program).unwrap(), &Version::new(version).unwrap()).unwrap()
}

fn counts(ledger: &Ledger) -> Counts {
    ledger.cut(&RunId::new("r").unwrap()).entries[0].counts
}

#[test]
fn every_request_ends_in_exactly_one_count_and_the_account_balances() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Rc::new(Arc::new(open(dir.path(), 10).ledger));
    let row = row(&ledger, "shop", "1.0");
    let sat = || seat(&ledger, &row).unwrap();
    sat().end(End::Completed { server_error: false });
    sat().end(End::Completed { server_error: true });
    sat().end(End::ClientLeft);
    sat().end(End::Cut);
    drop(sat());
    sat().withdraw();
    let active = sat();
    ledger.refused(&row);
    let expected = Counts {
        admitted: 6,
        active: 1,
        completed: 2,
        completed_5xx: 1,
        client_left: 1,
        cut: 1,
        failed: 1,
        refused: 1,
        ..Counts::default()
    };
    assert_eq!(counts(&ledger), expected);
    active.end(End::Failed);
    assert_eq!((counts(&ledger).admitted, counts(&ledger).active, counts(&ledger).failed), (6, 0, 2));
}

#[test]
fn requests_of_a_dead_process_are_named_and_counted_once() {
    let (living, dead) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = Rc::new(Arc::new(open(living.path(), 10).ledger));
    let row = row(&ledger, "shop", "1.0");
    let _active = seat(&ledger, &row).unwrap();
    seat(&ledger, &row).unwrap().end(End::Cut);
    // What the files hold at this moment is what a kill leaves.
    for file in ["counts", "active"] {
        std::fs::copy(living.path().join(file), dead.path().join(file)).unwrap();
    }
    for (died, failed) in [(1, 1), (0, 1)] {
        let opened = open(dead.path(), 10);
        assert_eq!(opened.died.len(), died);
        if let Some(failure) = opened.died.first() {
            assert_eq!((failure.request_id.as_str(), failure.path.as_str()), ("r1", "/export"));
        }
        opened.ledger.bury();
        let counts = counts(&opened.ledger);
        assert_eq!((counts.failed, counts.cut, counts.active, counts.admitted), (failed, 1, 0, 2));
    }
}

#[test]
fn used_up_seats_are_told_and_freed_ones_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Rc::new(Arc::new(open(dir.path(), 2).ledger));
    let row = row(&ledger, "shop", "1.0");
    let first = seat(&ledger, &row).unwrap();
    let second = seat(&ledger, &row);
    assert!(second.is_some() && seat(&ledger, &row).is_none());
    assert_eq!(ledger.active_total(), 2);
    first.end(End::ClientLeft);
    assert!(seat(&ledger, &row).is_some());
}

#[test]
fn a_cut_ends_the_requests_of_its_program_alone_and_the_long_lived_first() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Rc::new(Arc::new(open(dir.path(), 10).ledger));
    let (shop, mail) = (row(&ledger, "shop", "1.0"), row(&ledger, "mail", "1.0"));
    let (short, long, other) = (seat(&ledger, &shop), seat(&ledger, &shop), seat(&ledger, &mail));
    let (short, long, other) = (short.unwrap(), long.unwrap(), other.unwrap());
    let mut nudges = ledger.nudge().take();
    long.set_long_lived();
    let name = ProgramName::new("shop").unwrap();
    assert_eq!(ledger.cut_requests(&name, true, 0), 1);
    assert_eq!([&short, &long, &other].map(Seat::is_cut), [false, true, false]);
    assert!(nudges.has_changed().unwrap());
    nudges.borrow_and_update();
    assert_eq!(ledger.cut_requests(&name, false, 0), 2);
    assert_eq!([&short, &long, &other].map(Seat::is_cut), [true, true, false]);
    assert!(nudges.has_changed().unwrap());
    assert_eq!(ledger.active(&name, 10).len(), 2);
    assert_eq!(ledger.oldest(&name).unwrap().path, "/export");
    drop((short, long));
    assert!(ledger.oldest(&name).is_none());
    let next = [(); 10].map(|()| seat(&ledger, &shop));
    assert!(next.iter().flatten().count() == 9 && !next.iter().flatten().any(Seat::is_cut), "a cut is for one request");
}

#[test]
fn the_oldest_row_that_nobody_holds_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Rc::new(Arc::new(open(dir.path(), 2).ledger));
    let held = row(&ledger, "shop", "1.0");
    for version in ["2.0", "3.0", "4.0"] {
        row(&ledger, "shop", version);
    }
    let cut = ledger.cut(&RunId::new("r").unwrap());
    let mut versions: Vec<_> = cut.entries.iter().map(|entry| entry.version.clone().unwrap().to_string()).collect();
    versions.sort();
    assert_eq!(versions, ["1.0", "3.0", "4.0"]);
    assert_eq!(held.index(), row(&ledger, "shop", "1.0").index());
    let _all = [row(&ledger, "shop", "3.0"), row(&ledger, "shop", "4.0")];
    let full = ledger.row(&ProgramName::new("mail").unwrap(), &Version::new("1").unwrap());
    assert!(full.unwrap_err().to_string().contains("ledger_rows"));
}

#[test]
fn long_words_are_cut_to_their_room() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Rc::new(Arc::new(open(dir.path(), 2).ledger));
    let row = row(&ledger, "shop", "1.0");
    let path = format!("/{}", "é".repeat(200));
    let told = Told { id: b"r1", method: b"PROPPATCHPROPPATCH", path: path.as_bytes() };
    let _seat = Ledger::seat(&ledger, &row, told, Instant::now()).unwrap();
    let active = ledger.active(&ProgramName::new("shop").unwrap(), 10);
    assert!(path.starts_with(&active[0].path) && active[0].path.len() > 140);
    assert_eq!(active[0].method, "PROPPATCHPROPPAT");
}

#[test]
fn names_of_failures_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path(), 2).ledger;
    for _ in 0..FAILURES_MAX + 5 {
        ledger.fail(&ProgramName::new("shop").unwrap(), TOLD, "why");
    }
    assert_eq!(ledger.cut(&RunId::new("r").unwrap()).failures.len(), FAILURES_MAX);
}

#[test]
fn what_many_threads_count_is_counted_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(dir.path(), 64).ledger);
    let row = row(&ledger, "shop", "1.0");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let ledger = Rc::new(ledger.clone());
                for n in 0..100 {
                    let seat = seat(&ledger, &row).unwrap();
                    seat.end(End::Completed { server_error: n % 10 == 0 });
                }
                ledger.refused(&row);
            });
        }
        let mut last = 0;
        while last < 2_000 {
            let now = counts(&ledger);
            assert!(now.completed >= last && now.admitted == now.completed + now.active);
            last = now.completed;
        }
    });
    let now = counts(&ledger);
    assert_eq!((now.completed, now.completed_5xx, now.refused, now.active), (2_000, 200, 20, 0));
}

#[test]
fn texts_are_read_as_they_were_written_whatever_was_there() {
    let words: Vec<std::sync::atomic::AtomicU64> = (0..3).map(|_| u64::MAX.into()).collect();
    for text in ["", "a", "12345678", "123456789", "123456789012345678901234", "éééé"] {
        let length = rows::write_text(&words, text.as_bytes());
        assert_eq!(rows::read_text(&words, length), text);
    }
    assert_eq!(rows::write_text(&words, "x".repeat(30).as_bytes()), 24);
}
