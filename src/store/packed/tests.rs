//! Owns the tests of packed entries: held against a plain map, through batches, folds, and deaths after any save.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::sealed::unseal;
use super::*;

const TREE: Tree = Tree::Sessions;
/// So that a few hundred entries are folded again and again, in many steps.
const PACE: Pace = Pace { journal: 3_000, step: 1 };

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk that keeps what was saved, each save whole.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

impl Records for Disk {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.borrow().get(key).cloned())
    }

    fn each(&self, prefix: &str, take: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        let records = self.0.borrow();
        let found = records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        found.for_each(|(key, record)| take(key, record));
        Ok(())
    }
}

impl Disk {
    fn save(&self, changes: Vec<Change>) {
        for Change { key, value, .. } in changes {
            match value {
                Some(value) => self.0.borrow_mut().insert(key, unseal(&value).unwrap().to_vec()),
                None => self.0.borrow_mut().remove(&key),
            };
        }
    }

    fn bytes(&self, prefix: &str) -> usize {
        let mut bytes = 0;
        self.each(prefix, &mut |_, record| bytes += record.len()).unwrap();
        bytes
    }

    /// Opens it, with what it shows.
    fn open(&self) -> (Packed<Disk>, Map) {
        let (mut found, mut last) = (Map::new(), None);
        let packed = Packed::open(self.clone(), TREE, PACE, |key, value| {
            assert!(last.as_deref() < Some(key), "in order, each once");
            last = Some(key.to_vec());
            found.insert(key.to_vec(), value.to_vec());
        });
        (packed.unwrap(), found)
    }
}

fn key(number: u16) -> Vec<u8> {
    format!("{}/{:04x}", if number.is_multiple_of(3) { "mail" } else { "shop" }, number.wrapping_mul(40_503))
        .into_bytes()
}

/// What entries become, by their numbers.
type Batch = Vec<(u16, Option<u8>)>;

/// Batches of changes, each with whether the node dies after it was saved.
fn batches() -> impl Strategy<Value = Vec<(Batch, bool)>> {
    let change = (0..600_u16, prop_oneof![4 => (0..40_u8).prop_map(Some), 1 => Just(None)]);
    vec((vec(change, 0..60), proptest::bool::weighted(0.1)), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn entries_are_those_of_a_plain_map_whenever_the_node_dies(batches in batches()) {
        let (disk, mut map) = (Disk::default(), Map::new());
        let (mut packed, _) = disk.open();
        for (batch, dies) in batches {
            let changes: Vec<_> = batch
                .iter()
                .map(|(number, value)| (key(*number), value.map(|value| vec![value; usize::from(value)])))
                .collect();
            for (key, value) in changes.clone() {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
            disk.save(packed.batch(changes));
            let (again, found) = disk.open();
            prop_assert_eq!(&found, &map);
            prop_assert_eq!(again.pages_bytes, packed.pages_bytes);
            prop_assert_eq!(&again.pages, &packed.pages);
            prop_assert_eq!(again.journal_bytes, packed.journal_bytes);
            if dies {
                packed = again;
            }
        }
    }
}

#[test]
fn a_journal_and_its_records_are_bounded_and_so_is_what_a_step_writes() {
    let disk = Disk::default();
    let (mut packed, _) = disk.open();
    let mut folds = 0;
    for round in 0..3_000_u32 {
        let was_folding = packed.fold.is_some();
        let number = |n: u32| (round * 7 + n * 13) as u16 % 2_000;
        let changes = packed.batch((0..5).map(|n| (key(number(n)), Some(round.to_be_bytes().repeat(6)))));
        let written: usize = changes.iter().filter_map(|change| change.value.as_ref()).map(Vec::len).sum();
        assert!(written < 4 * PAGE_MAX + packed.pages_bytes / 8, "{written}");
        disk.save(changes);
        folds += usize::from(was_folding && packed.fold.is_none());
        let journal = disk.bytes(JOURNAL);
        assert_eq!(journal, packed.journal_bytes);
        assert!(journal < 2 * (PACE.journal + packed.pages_bytes / 4) + 8 * PAGE_MAX, "{journal}");
    }
    assert!(folds > 10, "{folds}");
    let count = (packed.next - packed.first) as usize;
    assert!(count <= packed.journal_bytes / RECORD_MIN + 2, "{count} records");
    let pages = packed.pages.len();
    assert!((packed.pages_bytes / PAGE_MAX..=packed.pages_bytes / 2_000 + 1).contains(&pages), "{pages}");
    // All go: so do the pages.
    for _ in 0..200 {
        disk.save(packed.batch((0..2_000).map(|number| (key(number), None))));
    }
    let (packed, found) = disk.open();
    assert_eq!((found.len(), packed.pages.len(), packed.pages_bytes), (0, 0, 0));
}

#[test]
fn a_page_that_is_not_what_was_written_is_an_error_and_stops_folds_alone() {
    let disk = Disk::default();
    let (mut packed, _) = disk.open();
    let save = |packed: &mut Packed<Disk>, from: u16| {
        disk.save(packed.batch((from..from + 200).map(|number| (key(number), Some(vec![1; 20])))));
    };
    (0..8).for_each(|_| save(&mut packed, 0));
    let page = disk.0.borrow().keys().find(|key| key.starts_with(PAGES)).cloned().unwrap();
    disk.0.borrow_mut().insert(page, vec![0xff; 9]);
    (0..8).for_each(|_| save(&mut packed, 100));
    assert!(packed.stuck);
    let kept = disk.0.borrow().keys().filter(|key| key.starts_with(JOURNAL)).count();
    assert!(kept > 1, "what was written since is there");
    assert!(Packed::open(disk, TREE, PACE, |_, _| {}).is_err());
}
