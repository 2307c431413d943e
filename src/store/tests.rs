use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use super::mapped::Mapped;
use super::*;
use crate::wire::problem::Code;

const CHILD_DIR: &str = "NEAP_TEST_STORE_DIR";

fn open(dir: &Path) -> Opened {
    Store::open(dir, "20260101T000000Z", Options::default()).unwrap()
}

/// Runs one test of this file in a process of its own, told the directory, until it has printed `lines` lines.
fn child(test: &str, dir: &Path, lines: usize) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::tests::{test}"), "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let last = said.filter_map(|line| line.split("saved ").nth(1).map(str::to_owned)).nth(lines).unwrap();
    (child, last)
}

#[test]
#[ignore = "the child of the test below"]
fn child_saves_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir)).store;
    for number in 0..1_000_000_u64 {
        let pair = ["a", "b"].map(|key| Change::put(Tree::Control, key, &number).unwrap());
        store.save(pair.into()).unwrap();
        println!("\nsaved {number}");
    }
}

#[test]
fn what_was_saved_is_there_after_sigkill_whole() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let (mut child, last) = child("child_saves_until_it_is_killed", dir.path(), 20 * round);
        child.kill().unwrap();
        child.wait().unwrap();
        let Opened { store, recovered } = open(dir.path());
        assert_eq!(recovered, None);
        let [a, b] = ["a", "b"].map(|key| store.get::<u64>(Tree::Control, key).unwrap().unwrap());
        assert_eq!(a, b, "two changes of one save");
        assert!(a >= last.parse().unwrap(), "{a} is older than {last}, which was said to be saved");
    }
}

#[test]
#[ignore = "the child of the test below"]
fn child_counts_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let mapped = Mapped::open(Path::new(&dir).join("words"), 1, 16, "t").unwrap().mapped;
    for number in 0..10_000_000_u64 {
        mapped.words()[3].store(number, Ordering::Relaxed);
        println!("\nsaved {number}");
    }
}

#[test]
fn mapped_words_survive_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, last) = child("child_counts_until_it_is_killed", dir.path(), 50);
    let path = dir.path().join("words");
    assert!(matches!(Mapped::open(&path, 1, 16, "t"), Err(StoreError::InUse(_))));
    child.kill().unwrap();
    child.wait().unwrap();
    let opened = Mapped::open(&path, 1, 16, "t").unwrap();
    assert!(!opened.created);
    assert!(opened.mapped.words()[3].load(Ordering::Relaxed) >= last.parse().unwrap());
}

#[test]
fn mapped_words_of_another_layout_are_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("words");
    let first = Mapped::open(&path, 1, 16, "t").unwrap();
    assert!(first.created && first.aside.is_none());
    first.mapped.words()[15].store(7, Ordering::Relaxed);
    drop(first);
    for (layout, words) in [(2, 16), (2, 32)] {
        let opened = Mapped::open(&path, layout, words, "t").unwrap();
        assert!(opened.created && opened.aside.unwrap().exists());
        assert_eq!(opened.mapped.words().len(), words);
        assert!(opened.mapped.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
    std::fs::write(&path, b"").unwrap();
    assert!(Mapped::open(&path, 2, 32, "t").unwrap().aside.is_some());
}

#[test]
fn records_are_read_back_by_key_and_by_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).store;
    store.put(Tree::Ripples, "b/2", "two").unwrap();
    store.put(Tree::Ripples, "b/1", "one").unwrap();
    store.put(Tree::Ripples, "c", "three").unwrap();
    store.put(Tree::History, "b/1", "other").unwrap();
    let found = store.scan::<String>(Tree::Ripples, "b/").unwrap();
    assert_eq!(found, [("b/1".to_owned(), "one".to_owned()), ("b/2".to_owned(), "two".to_owned())]);
    let some = |after, most| store.some_keys(Tree::Ripples, "b/", after, most).unwrap();
    assert_eq!((some(None, 1), some(Some("b/1"), 9)), (vec!["b/1".to_owned()], vec!["b/2".to_owned()]));
    assert_eq!((some(Some("b/11"), 9), some(Some("b/2"), 9)), (vec!["b/2".to_owned()], vec![]));
    store.remove(Tree::Ripples, "b/1").unwrap();
    assert_eq!(store.keys(Tree::Ripples, "").unwrap(), ["b/2", "c"]);
    assert_eq!(store.get::<String>(Tree::Ripples, "b/1").unwrap(), None);
    let error = store.get::<u64>(Tree::Ripples, "c").unwrap_err().to_string();
    assert!(error.contains("ripples/c"), "{error}");
}

#[test]
fn a_large_record_is_in_a_file_of_its_own_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).store;
    for round in 0..3_u8 {
        store.put(Tree::Control, "list", &vec![round; 1 << 20]).unwrap();
    }
    assert!(std::fs::read_dir(dir.path().join("sled/blobs")).unwrap().next().is_some());
    drop(store);
    let Opened { store, recovered } = open(dir.path());
    assert_eq!(recovered, None);
    assert_eq!(store.get::<Vec<u8>>(Tree::Control, "list").unwrap(), Some(vec![2; 1 << 20]));
}

#[test]
fn a_second_opener_is_refused_and_nothing_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(Store::open(dir.path(), "t", Options::default()), Err(StoreError::InUse(_))));
    first.store.put(Tree::Control, "a", &1).unwrap();
    drop(first);
    let again = open(dir.path());
    assert_eq!(again.recovered, None);
    assert_eq!(again.store.get::<u64>(Tree::Control, "a").unwrap(), Some(1));
}

fn damage(dir: &Path, how: impl Fn(&mut Vec<u8>)) {
    let path = dir.join("sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    how(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_store_is_recovered_and_its_export_is_still_there() {
    let damages: [fn(&mut Vec<u8>); 3] = [|bytes| bytes.fill(0xa5), |bytes| bytes.fill(0), |bytes| bytes.clear()];
    for (number, how) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).store;
        store.put(Tree::Control, "a", &1).unwrap();
        store.export("server-list", &["a"]).unwrap();
        drop(store);
        damage(dir.path(), how);
        let Opened { store, recovered } = open(dir.path());
        assert!(recovered.is_some(), "damage {number} went unseen");
        assert_eq!(store.get::<u64>(Tree::Control, "a").unwrap(), None);
        assert_eq!(store.import::<Vec<String>>("server-list").unwrap().unwrap(), ["a"]);
        store.put(Tree::Control, "a", &2).unwrap();
        drop(store);
        assert_eq!(open(dir.path()).recovered, None, "once is enough");
    }
}

#[test]
fn damage_anywhere_either_does_no_harm_or_is_told() {
    for offset in (0..40_000).step_by(1_999) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).store;
        for number in 0..300_u64 {
            store.put(Tree::Control, format!("key-{number}"), &vec![number; 20]).unwrap();
        }
        drop(store);
        damage(dir.path(), |bytes| bytes.iter_mut().skip(offset).take(64).for_each(|byte| *byte ^= 0xff));
        let Opened { store, recovered } = open(dir.path());
        let kept = store.keys(Tree::Control, "").unwrap().len();
        assert_eq!(kept, if recovered.is_some() { 0 } else { 300 }, "damage at {offset}: {recovered:?}");
    }
}

#[test]
fn of_records_that_are_read_late_a_damaged_one_is_as_none_and_the_others_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let late = Options { late: Some((Tree::Sessions, "data/")), ..Options::default() };
    let open = |options| Store::open(dir.path(), "20260101T000000Z", options).unwrap();
    let store = open(late).store;
    let some = ["data", "data/a", "data/b", "data0"].map(|key| Change::bytes(Tree::Sessions, key, vec![7; 9]));
    store.save(some.into()).unwrap();
    let spoil = |store: &Store, key: &str| {
        store.shared.records.insert(full_key(Tree::Sessions, key), b"\x00neither").unwrap();
        store.put(Tree::Control, "a", &1).unwrap();
    };
    spoil(&store, "data/a");
    drop(store);
    let Opened { store, recovered } = open(late);
    assert_eq!((recovered, store.get_bytes(Tree::Sessions, "data/a").unwrap()), (None, None));
    assert_eq!(store.get_bytes(Tree::Sessions, "data/b").unwrap(), Some(vec![7; 9]));
    spoil(&store, "data0");
    drop(store);
    assert!(open(late).recovered.is_some(), "what is not late is read at the start");
}

#[test]
fn a_store_whose_snapshot_is_rubbish_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(dir.path().join("sled/conf"), b"rubbish of more than eight bytes").unwrap();
    let why = open(dir.path()).recovered.unwrap();
    assert!(why.contains("sled.aside-20260101T000000Z"), "{why}");
    assert!(dir.path().join("sled.aside-20260101T000000Z").is_dir());
}

#[test]
fn stores_moved_aside_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { kept_aside: 2, ..Options::default() };
    for _ in 0..4 {
        drop(Store::open(dir.path(), "t", options).unwrap());
        std::fs::write(dir.path().join("sled/conf"), b"rubbish of more than eight bytes").unwrap();
    }
    let aside = std::fs::read_dir(dir.path()).unwrap().filter_map(Result::ok);
    assert_eq!(aside.filter(|entry| entry.file_name().to_string_lossy().contains("aside")).count(), 2);
}

#[test]
fn a_backup_restores_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let store = open(&dir.path().join("store")).store;
    store.put(Tree::Control, "a", &1).unwrap();
    store.put(Tree::Programs, "shop", &["x"]).unwrap();
    assert_eq!(store.backup(&file).unwrap(), 2);
    store.put(Tree::Control, "b", &2).unwrap();
    assert_eq!(store.restore(&file).unwrap(), 2);
    assert_eq!(store.keys(Tree::Control, "").unwrap(), ["a"]);
    let whole = std::fs::read_to_string(&file).unwrap();
    for bad in [&whole[..whole.len() - 14], "", "{}", "{\"neap_store_backup\":9}"] {
        std::fs::write(&file, bad).unwrap();
        assert!(matches!(store.restore(&file), Err(StoreError::Backup { .. })), "{bad}");
        assert_eq!(store.keys(Tree::Control, "").unwrap(), ["a"]);
    }
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture a_save_costs"]
fn a_save_costs() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = open(dir.path()).store;
    let started = std::time::Instant::now();
    for number in 0..200_u64 {
        store.put(Tree::Control, format!("key/{}", number % 20), &vec![number; 50]).unwrap();
    }
    println!("{:?} a save", started.elapsed() / 200);
}

/// The directory that the variable names must be empty, on a disk of a few megabytes.
#[test]
#[ignore = "needs a small disk of its own"]
fn a_full_disk_is_an_error_and_what_was_saved_stays() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir)).store;
    let save = |number: u64| store.put(Tree::History, format!("{number:06}"), &vec![number; 500]);
    let (saved, error) = (0..100_000).find_map(|number| save(number).err().map(|error| (number, error))).unwrap();
    assert!(saved > 0 && error.is_disk_full(), "{error}");
    assert_eq!(error.problem().code, Code::DiskFull);
    assert!(store.put(Tree::Control, "a", &1).is_err(), "nothing is said to be saved from then on");
    assert_eq!(store.get::<Vec<u64>>(Tree::History, "000000").unwrap(), Some(vec![0; 500]));
    drop(store);
    match Store::open(Path::new(&dir), "t", Options::default()) {
        Ok(Opened { store, recovered }) => {
            assert_eq!(recovered, None);
            assert!(store.keys(Tree::History, "").unwrap().len() as u64 >= saved);
        }
        Err(error) => assert!(error.is_disk_full(), "{error}"),
    }
}
