//! Owns records that carry a tag, which rises with every write, and that are written on a condition of it: nobody
//! overwrites what he has not seen. Must not know whose data they are.

use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;

use super::behind::{Asker, Edit, Write};
use super::{Store, StoreError, Tree};
use crate::wire::sessions::{Condition, DataTag, Datum};

/// Such records of one tree.
#[derive(Clone)]
pub struct Tagged {
    store: Store,
    tree: Tree,
    asker: Asker,
}

/// What becomes of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It gets a new tag.
    Data(Vec<u8>),
    /// As does its removal, where there is something to remove.
    Remove,
    /// As it was written elsewhere, if that is later than what is here.
    Written(Datum),
    /// As it is where that is decided, whatever is here.
    Is(Datum),
}

/// What became of it; on disk, where anything did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Is(DataTag),
    /// `None`: there never was any.
    Removed(Option<DataTag>),
    /// The condition does not hold: that is how it is now.
    Stale(Option<DataTag>),
}

impl Tagged {
    pub fn new(store: Store, tree: Tree, asker: Asker) -> Self {
        Self { store, tree, asker }
    }

    /// The record as it is on disk.
    pub fn get(&self, key: &str) -> Result<Option<Datum>, StoreError> {
        let packed = self.store.get_bytes(self.tree, key)?;
        let known = packed.as_deref().and_then(DataTag::unpack);
        Ok(known.map(|(tag, data)| Datum { tag, data: data.map(<[u8]>::to_vec) }))
    }

    /// Writes or removes it where the condition holds, in one step; it is on disk when this returns.
    pub async fn write(&self, key: String, condition: Condition, what: What) -> Result<Outcome, StoreError> {
        let (outcome, chance) = (Arc::new(OnceLock::new()), rand::random());
        let seen = Arc::clone(&outcome);
        let edit: Edit = Box::new(move |before| {
            let now = before.and_then(DataTag::unpack).map(|(tag, data)| (tag, data.is_some()));
            let (became, write) = decide(now, &condition, what, chance);
            // Nobody else sets it.
            let _ = seen.set(became);
            write
        });
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |saved| drop(tell.send(saved)));
        self.asker.edit(self.tree, key, edit, done)?;
        let lost = || StoreError::Failed("the node is stopping".to_owned());
        told.await.map_err(|_| lost())??;
        outcome.get().copied().ok_or_else(lost)
    }
}

/// `now`: the tag of what is here, and whether that is data or a removal.
fn decide(now: Option<(DataTag, bool)>, condition: &Condition, what: What, chance: u32) -> (Outcome, Option<Write>) {
    let last = now.map(|(tag, _)| tag);
    let shown = now.and_then(|(tag, is_there)| is_there.then_some(tag));
    let write = |tag: DataTag, data: Option<&[u8]>| {
        let outcome = if data.is_some() { Outcome::Is(tag) } else { Outcome::Removed(Some(tag)) };
        (outcome, Some(Write::Put(tag.pack(data))))
    };
    match what {
        What::Written(Datum { tag, .. }) if last.is_some_and(|last| last >= tag) => (Outcome::Stale(shown), None),
        What::Written(Datum { tag, data }) | What::Is(Datum { tag, data }) => write(tag, data.as_deref()),
        What::Data(_) | What::Remove if !condition.holds(shown) => (Outcome::Stale(shown), None),
        What::Data(data) => write(DataTag::after(last, chance), Some(&data)),
        What::Remove if shown.is_none() => (Outcome::Removed(last), None),
        What::Remove => write(DataTag::after(last, chance), None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::super::behind::Behind;
    use super::*;
    use std::time::Duration;

    fn tagged(dir: &std::path::Path) -> (Tagged, Behind) {
        let store = Store::open(dir, "now", Options::default()).unwrap().store;
        let behind = Behind::begin(store.clone(), "t", Duration::from_secs(60), Box::new(Vec::new)).unwrap();
        (Tagged::new(store, Tree::Sessions, behind.asker()), behind)
    }

    #[tokio::test]
    async fn of_two_who_saw_the_same_one_alone_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (tagged, _behind) = tagged(dir.path());
        let write = |condition, data: &str| tagged.write("a".into(), condition, What::Data(data.into()));
        let Outcome::Is(first) = write(Condition::IsNew, "one").await.unwrap() else { panic!() };
        let (a, b) = tokio::join!(write(Condition::Is(vec![first]), "two"), write(Condition::Is(vec![first]), "three"));
        let won = [a.unwrap(), b.unwrap()].into_iter().filter(|outcome| matches!(outcome, Outcome::Is(_))).count();
        assert_eq!(won, 1);
        assert_eq!(
            write(Condition::IsNew, "four").await.unwrap(),
            Outcome::Stale(tagged.get("a").unwrap().map(|a| a.tag))
        );
    }

    #[tokio::test]
    async fn what_was_written_elsewhere_counts_where_it_is_later() {
        let dir = tempfile::tempdir().unwrap();
        let (tagged, _behind) = tagged(dir.path());
        let at = |number| DataTag { number, chance: 7 };
        let datum = |number, data: &str| Datum { tag: at(number), data: Some(data.into()) };
        let write = |datum| tagged.write("a".into(), Condition::Always, What::Written(datum));
        assert_eq!(write(datum(5, "five")).await.unwrap(), Outcome::Is(at(5)));
        assert_eq!(write(datum(4, "four")).await.unwrap(), Outcome::Stale(Some(at(5))));
        assert_eq!(tagged.get("a").unwrap(), Some(datum(5, "five")));
        tagged.write("b".into(), Condition::Always, What::Is(datum(5, "5"))).await.unwrap();
        tagged.write("b".into(), Condition::IsNew, What::Is(datum(1, "1"))).await.unwrap();
        assert_eq!(tagged.get("b").unwrap(), Some(datum(1, "1")), "begun anew where it is decided");
        let kept = tagged.write("a".into(), Condition::Is(vec![at(4)]), What::Remove).await.unwrap();
        assert_eq!(kept, Outcome::Stale(Some(at(5))));
    }

    #[tokio::test]
    async fn what_was_removed_stays_so_until_it_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (tagged, _behind) = tagged(dir.path());
        let write = |condition, what| tagged.write("a".into(), condition, what);
        assert_eq!(write(Condition::Always, What::Remove).await.unwrap(), Outcome::Removed(None));
        assert_eq!(tagged.get("a").unwrap(), None);
        let Outcome::Is(first) = write(Condition::IsNew, What::Data(vec![1])).await.unwrap() else { panic!() };
        let removal = write(Condition::Is(vec![first]), What::Remove).await.unwrap();
        let Outcome::Removed(Some(second)) = removal else { panic!("{removal:?}") };
        assert!(second > first);
        assert_eq!(tagged.get("a").unwrap(), Some(Datum { tag: second, data: None }));
        assert_eq!(write(Condition::IsThere, What::Remove).await.unwrap(), Outcome::Stale(None));
        // Told late by one who has not heard of the removal.
        let late = What::Written(Datum { tag: first, data: Some(vec![1]) });
        assert_eq!(write(Condition::Always, late).await.unwrap(), Outcome::Stale(None));
        let Outcome::Is(third) = write(Condition::IsNew, What::Data(vec![3])).await.unwrap() else { panic!() };
        assert!(third > second);
        let gone = DataTag { number: 9, chance: 0 };
        let elsewhere = What::Written(Datum { tag: gone, data: None });
        assert_eq!(write(Condition::Always, elsewhere).await.unwrap(), Outcome::Removed(Some(gone)));
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_the_store_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (tagged, _behind) = tagged(dir.path());
            let outcome = tagged.write("a".into(), Condition::Always, What::Data(vec![9; 1 << 20])).await.unwrap();
            assert!(matches!(outcome, Outcome::Is(_)));
        }
        let (tagged, _behind) = tagged(dir.path());
        assert_eq!(tagged.get("a").unwrap().unwrap().data.unwrap().len(), 1 << 20);
    }
}
