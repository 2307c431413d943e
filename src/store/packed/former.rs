//! Owns how entries that earlier releases wrote as a record each become packed ones. Must not know what they mean.

use super::{PAGE_CUT, Pace, Packed, Records, Writer, page_key};
use crate::store::{Change, Store, StoreError, Tree};

/// Says that entries are packed. Until then what there is of pages is of a conversion that did not end.
const FORM: &str = "packed/form";
const PACKED: &str = "packed/";
/// Records that one save removes, and bytes that it writes.
const REMOVED_MAX: usize = 20_000;
const WRITTEN_MAX: usize = 1 << 20;

/// Where entries were, and what the keys are now, given what they were after that; in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    pub prefix: &'static str,
    pub key: fn(&str) -> Option<Vec<u8>>,
}

impl Packed<(Store, Tree)> {
    /// Opens a store of this form or of the former one, and shows every entry once. A store of the former one is converted:
    /// whenever that is cut off, it begins again.
    pub fn open_or_convert(
        store: &Store,
        tree: Tree,
        former: Former,
        take: impl FnMut(&[u8], &[u8]),
    ) -> Result<Self, StoreError> {
        if store.get::<bool>(tree, FORM)?.is_none() {
            remove_all(store, tree, PACKED)?;
            convert(store, tree, former)?;
            store.put(tree, FORM, &true)?;
        }
        remove_all(store, tree, former.prefix)?;
        Self::open((store.clone(), tree), tree, Pace::default(), take)
    }
}

fn remove_all(store: &Store, tree: Tree, prefix: &str) -> Result<(), StoreError> {
    loop {
        let keys = store.some_keys(tree, prefix, None, REMOVED_MAX)?;
        if keys.is_empty() {
            return Ok(());
        }
        store.save(keys.into_iter().map(|key| Change::remove(tree, key)).collect())?;
    }
}

fn convert(store: &Store, tree: Tree, former: Former) -> Result<(), StoreError> {
    let mut pages = Pages {
        store,
        tree,
        start: Vec::new(),
        last: Vec::new(),
        page: Writer::default(),
        saves: Vec::new(),
        bytes: 0,
    };
    let (mut done, mut unreadable) = (Ok(()), 0_u64);
    (store.clone(), tree).each(former.prefix, &mut |key, value| {
        let key = (former.key)(&key[former.prefix.len()..]).filter(|key| *key > pages.last || pages.last.is_empty());
        match key {
            Some(key) if done.is_ok() => done = pages.push(key, value),
            Some(_) => {}
            None => unreadable += 1,
        }
    })?;
    done?;
    if unreadable > 0 {
        tracing::warn!(unreadable, "entries of an earlier release cannot be read, and are left out");
    }
    pages.end_page();
    pages.save()
}

/// Pages that are written in order.
struct Pages<'a> {
    store: &'a Store,
    tree: Tree,
    start: Vec<u8>,
    last: Vec<u8>,
    page: Writer,
    saves: Vec<Change>,
    bytes: usize,
}

impl Pages<'_> {
    fn push(&mut self, key: Vec<u8>, value: &[u8]) -> Result<(), StoreError> {
        if self.page.len() >= PAGE_CUT {
            self.end_page();
            self.start = key.clone();
        }
        self.page.push(&key, Some(value));
        self.last = key;
        if self.bytes > WRITTEN_MAX { self.save() } else { Ok(()) }
    }

    fn end_page(&mut self) {
        let page = std::mem::take(&mut self.page);
        if !page.is_empty() {
            self.bytes += page.len();
            self.saves.push(Change::bytes(self.tree, page_key(&self.start), page.bytes().to_vec()));
        }
    }

    fn save(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.store.save(std::mem::take(&mut self.saves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    const FORMER: Former = Former { prefix: "list/", key: |key| Some(key.as_bytes().to_vec()) };

    fn entries(store: &Store) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        Packed::open_or_convert(store, Tree::Sessions, FORMER, |key, value| {
            found.push((String::from_utf8(key.to_vec()).unwrap(), value.to_vec()));
        })
        .unwrap();
        found
    }

    #[test]
    fn what_an_earlier_release_wrote_is_packed_at_once_also_after_being_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "now", Options::default()).unwrap().store;
        let old = |number: u32| (format!("shop/{number:06}"), number.to_be_bytes().repeat(5));
        let put = |(key, value)| Change::bytes(Tree::Sessions, format!("list/{key}"), value);
        store.save((0..5_000).map(|number| put(old(number))).collect()).unwrap();
        store.put(Tree::Sessions, "list-of-others", &1).unwrap();
        // As left by a conversion that was cut off.
        store.save(vec![Change::bytes(Tree::Sessions, page_key(b"shop/000007"), vec![0xff; 9])]).unwrap();
        let expected: Vec<_> = (0..5_000).map(old).collect();
        assert_eq!(entries(&store), expected);
        assert_eq!(store.keys(Tree::Sessions, "list/").unwrap(), [""; 0]);
        assert_eq!(store.get::<u32>(Tree::Sessions, "list-of-others").unwrap(), Some(1));
        let pages = store.keys(Tree::Sessions, super::super::PAGES).unwrap().len();
        assert!((5_000 * 30 / 2 / PAGE_CUT..200).contains(&pages), "{pages}");
        // Cut off between the end and the removal of what there was before.
        store.save(vec![put(old(9_999))]).unwrap();
        assert_eq!(entries(&store), expected);
        assert_eq!(store.keys(Tree::Sessions, "list/").unwrap(), [""; 0]);
    }

    #[test]
    fn a_new_store_is_of_this_form() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "now", Options::default()).unwrap().store;
        assert_eq!(entries(&store), []);
        assert_eq!(store.get::<bool>(Tree::Sessions, FORM).unwrap(), Some(true));
    }
}
