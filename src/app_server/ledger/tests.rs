//! Counting, cutting, and what a death leaves.

use super::*;

const TOLD: Told<'static> = Told { id: "r1", method: "GET", path: "/export" };

fn open(dir: &Path, seats: usize) -> Opened {
    Ledger::open(dir, NodeName::new("s1").unwrap(), 3, seats, "now").unwrap()
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
    let ledger = Arc::new(open(dir.path(), 10).ledger);
    let row = row(&ledger, "shop", "1.0");
    let seat = || ledger.seat(&row, TOLD, &Cut::new()).unwrap();
    seat().end(End::Completed { server_error: false });
    seat().end(End::Completed { server_error: true });
    seat().end(End::ClientLeft);
    seat().end(End::Cut);
    drop(seat());
    seat().withdraw();
    let active = seat();
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
    let ledger = Arc::new(open(living.path(), 10).ledger);
    let row = row(&ledger, "shop", "1.0");
    let _active = ledger.seat(&row, TOLD, &Cut::new()).unwrap();
    ledger.seat(&row, TOLD, &Cut::new()).unwrap().end(End::Cut);
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
    let ledger = Arc::new(open(dir.path(), 2).ledger);
    let row = row(&ledger, "shop", "1.0");
    let first = ledger.seat(&row, TOLD, &Cut::new()).unwrap();
    let second = ledger.seat(&row, TOLD, &Cut::new());
    assert!(second.is_some() && ledger.seat(&row, TOLD, &Cut::new()).is_none());
    assert_eq!(ledger.active_total(), 2);
    first.end(End::ClientLeft);
    assert!(ledger.seat(&row, TOLD, &Cut::new()).is_some());
}

#[test]
fn a_cut_ends_the_requests_of_its_program_alone_and_the_long_lived_first() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(dir.path(), 10).ledger);
    let (shop, mail) = (row(&ledger, "shop", "1.0"), row(&ledger, "mail", "1.0"));
    let cuts = [Cut::new(), Cut::new(), Cut::new()];
    let short = ledger.seat(&shop, TOLD, &cuts[0]).unwrap();
    let long = ledger.seat(&shop, TOLD, &cuts[1]).unwrap();
    let _other = ledger.seat(&mail, TOLD, &cuts[2]).unwrap();
    long.set_long_lived();
    let name = ProgramName::new("shop").unwrap();
    assert_eq!(ledger.cut_requests(&name, true), 1);
    assert_eq!(cuts.each_ref().map(|cut| cut.is_cut()), [false, true, false]);
    assert_eq!(ledger.cut_requests(&name, false), 2);
    assert_eq!(cuts.each_ref().map(|cut| cut.is_cut()), [true, true, false]);
    assert_eq!(ledger.active(&name, 10).len(), 2);
    assert_eq!(ledger.oldest(&name).unwrap().path, "/export");
    drop((short, long));
    assert!(ledger.oldest(&name).is_none());
}

#[test]
fn the_oldest_row_that_nobody_holds_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(dir.path(), 2).ledger);
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
    let ledger = Arc::new(open(dir.path(), 2).ledger);
    let row = row(&ledger, "shop", "1.0");
    let path = format!("/{}", "é".repeat(200));
    let told = Told { id: "r1", method: "PROPPATCHPROPPATCH", path: &path };
    let _seat = ledger.seat(&row, told, &Cut::new()).unwrap();
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
