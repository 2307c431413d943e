//! Owns records that carry a tag, which rises with every write, and that are written on a condition of it: nobody
//! overwrites what he has not seen. Must not know whose data they are.

use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;

use super::behind::{Asker, Edit, Write};
use super::{Store, StoreError, Tree};
use crate::wire::sessions::{Condition, DataTag};

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
    /// As it was written elsewhere, if that is later than what is here.
    Written(DataTag, Vec<u8>),
    /// As it is where that is decided, whatever is here.
    Is(DataTag, Vec<u8>),
    Remove,
}

/// What became of it; on disk, where anything did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Is(DataTag),
    Removed,
    /// The condition does not hold: that is how it is now.
    Stale(Option<DataTag>),
}

impl Tagged {
    pub fn new(store: Store, tree: Tree, asker: Asker) -> Self {
        Self { store, tree, asker }
    }

    /// The record as it is on disk.
    pub fn get(&self, key: &str) -> Result<Option<(DataTag, Vec<u8>)>, StoreError> {
        let packed = self.store.get_bytes(self.tree, key)?;
        Ok(packed.as_deref().and_then(DataTag::unpack).map(|(tag, data)| (tag, data.to_vec())))
    }

    /// Writes or removes it where the condition holds, in one step; it is on disk when this returns.
    pub async fn write(&self, key: String, condition: Condition, what: What) -> Result<Outcome, StoreError> {
        let (outcome, chance) = (Arc::new(OnceLock::new()), rand::random());
        let seen = Arc::clone(&outcome);
        let edit: Edit = Box::new(move |before| {
            let now = before.and_then(DataTag::unpack).map(|(tag, _)| tag);
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

fn decide(now: Option<DataTag>, condition: &Condition, what: What, chance: u32) -> (Outcome, Option<Write>) {
    match what {
        What::Written(tag, _) if now.is_some_and(|now| now >= tag) => (Outcome::Stale(now), None),
        What::Written(tag, data) | What::Is(tag, data) => (Outcome::Is(tag), Some(Write::Put(tag.pack(&data)))),
        What::Data(_) | What::Remove if !condition.holds(now) => (Outcome::Stale(now), None),
        What::Data(data) => {
            let tag = DataTag::after(now, chance);
            (Outcome::Is(tag), Some(Write::Put(tag.pack(&data))))
        }
        What::Remove => (Outcome::Removed, now.map(|_| Write::Remove)),
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
            Outcome::Stale(tagged.get("a").unwrap().map(|a| a.0))
        );
    }

    #[tokio::test]
    async fn what_was_written_elsewhere_counts_where_it_is_later() {
        let dir = tempfile::tempdir().unwrap();
        let (tagged, _behind) = tagged(dir.path());
        let at = |number| DataTag { number, chance: 7 };
        let write = |tag, data: &str| tagged.write("a".into(), Condition::Always, What::Written(tag, data.into()));
        assert_eq!(write(at(5), "five").await.unwrap(), Outcome::Is(at(5)));
        assert_eq!(write(at(4), "four").await.unwrap(), Outcome::Stale(Some(at(5))));
        assert_eq!(tagged.get("a").unwrap(), Some((at(5), b"five".to_vec())));
        tagged.write("b".into(), Condition::Always, What::Is(at(5), vec![5])).await.unwrap();
        tagged.write("b".into(), Condition::IsNew, What::Is(at(1), vec![1])).await.unwrap();
        assert_eq!(tagged.get("b").unwrap(), Some((at(1), vec![1])), "begun anew where it is decided");
        let gone = tagged.write("a".into(), Condition::Is(vec![at(4)]), What::Remove).await.unwrap();
        assert_eq!(gone, Outcome::Stale(Some(at(5))));
        assert_eq!(tagged.write("a".into(), Condition::Always, What::Remove).await.unwrap(), Outcome::Removed);
        assert_eq!(tagged.get("a").unwrap(), None);
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
        assert_eq!(tagged.get("a").unwrap().unwrap().1.len(), 1 << 20);
    }
}
