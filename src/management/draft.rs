//! Owns how it is found which records differ from what is on disk. Must not know what they mean.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use sha2::Digest;

use super::records::RippleRecord;
use crate::domain::names::{ProgramName, RippleId, ServerName, Sha256};
use crate::domain::placement::Desired;
use crate::domain::server_list::{Cell, Unanswered};
use crate::store::{Change, StoreError, Tree};

pub type Key = (Tree, String);

/// One save in the making.
pub struct Draft<'a> {
    pub saved: &'a HashMap<Key, Sha256>,
    pub seen: HashMap<Key, Sha256>,
    pub changes: Vec<Change>,
}

impl Draft<'_> {
    /// Takes in a record: written if it is another than what is on disk.
    pub fn record<T: Serialize>(&mut self, tree: Tree, key: String, record: &T) -> Result<(), StoreError> {
        let write = |source| StoreError::Write { tree: tree.as_str(), key: key.clone(), source };
        let text = serde_json::value::to_raw_value(record).map_err(write)?;
        let digest = Sha256(sha2::Sha256::digest(text.get().as_bytes()).into());
        if self.saved.get(&(tree, key.clone())) != Some(&digest) {
            self.changes.push(Change::put(tree, key.clone(), &text)?);
        }
        self.seen.insert((tree, key), digest);
        Ok(())
    }

    /// A ripple that has its receipt does not change any more. `before`: as it was saved.
    pub fn ripple(
        &mut self,
        id: &RippleId,
        record: &RippleRecord,
        before: Option<&RippleRecord>,
    ) -> Result<(), StoreError> {
        let key = (Tree::Ripples, format!("ripple/{id}"));
        match self.saved.get(&key).copied() {
            Some(digest) if digest == CLOSED || before == Some(record) => self.seen.insert(key, digest),
            _ => {
                self.record(key.0, key.1.clone(), record)?;
                record.receipt.as_ref().and_then(|_| self.seen.insert(key, CLOSED))
            }
        };
        Ok(())
    }
}

/// Stands for the digest of a record that does not change any more.
const CLOSED: Sha256 = Sha256([0; 32]);

pub type Cells = BTreeMap<ProgramName, BTreeMap<ServerName, Cell>>;

/// What is on disk of the Server List's cells. They may be two hundred thousand, and are looked at in every turn: none is
/// written out only to be found the same.
#[derive(Default)]
pub struct SavedCells(BTreeMap<ProgramName, BTreeMap<ServerName, Saved>>);

struct Saved {
    desired: Option<Desired>,
    unanswered: Option<Unanswered>,
}

/// A cell that is another than on disk; `None`: it is gone.
pub type Differs<'a> = (ProgramName, ServerName, Option<&'a Cell>);

impl SavedCells {
    pub fn differ<'a>(&self, now: &'a Cells) -> Vec<Differs<'a>> {
        let (mut differ, mut still) = (Vec::new(), 0);
        for (program, cells) in now {
            let saved = self.0.get(program);
            for (server, cell) in cells {
                let saved = saved.and_then(|saved| saved.get(server));
                still += usize::from(saved.is_some());
                let same = |saved: &Saved| saved.desired == cell.desired && saved.unanswered == cell.unanswered;
                if !saved.is_some_and(same) {
                    differ.push((program.clone(), server.clone(), Some(cell)));
                }
            }
        }
        if still < self.0.values().map(BTreeMap::len).sum::<usize>() {
            let is_gone = |program, server| now.get(program).is_none_or(|cells| !cells.contains_key(server));
            let all = self.0.iter().flat_map(|(program, cells)| cells.keys().map(move |server| (program, server)));
            let gone = all.filter(|(program, server)| is_gone(*program, *server));
            differ.extend(gone.map(|(program, server)| (program.clone(), server.clone(), None)));
        }
        differ
    }

    /// They are on disk now.
    pub fn saved(&mut self, differed: Vec<Differs<'_>>) {
        for (program, server, cell) in differed {
            let cells = self.0.entry(program).or_default();
            match cell {
                Some(cell) => {
                    let (desired, unanswered) = (cell.desired.clone(), cell.unanswered.clone());
                    cells.insert(server, Saved { desired, unanswered });
                }
                None => drop(cells.remove(&server)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{NodeName, Revision, Term};
    use crate::domain::placement::Stamp;

    #[test]
    fn only_cells_that_are_others_than_on_disk_are_written_and_those_that_are_gone_removed() {
        let (shop, mail) = (ProgramName::new("shop").unwrap(), ProgramName::new("mail").unwrap());
        let (a, b) = (ServerName::new("a").unwrap(), ServerName::new("b").unwrap());
        let both = || BTreeMap::from([(a.clone(), Cell::default()), (b.clone(), Cell::default())]);
        let mut now = Cells::from([(shop.clone(), both()), (mail.clone(), both())]);
        let mut saved = SavedCells::default();
        let names = |differ: &[Differs<'_>]| -> Vec<(String, String, bool)> {
            differ
                .iter()
                .map(|(program, server, cell)| (program.to_string(), server.to_string(), cell.is_some()))
                .collect()
        };
        let first = saved.differ(&now);
        assert_eq!(first.len(), 4);
        saved.saved(first);
        assert_eq!(names(&saved.differ(&now)), []);
        // What is seen is not on disk.
        now.get_mut(&shop).unwrap().get_mut(&a).unwrap().cpu_milli = Some(7);
        assert_eq!(names(&saved.differ(&now)), []);
        let stamp = Stamp { term: Term { number: 1, management: NodeName::new("m").unwrap() }, revision: Revision(1) };
        now.get_mut(&shop).unwrap().get_mut(&b).unwrap().desired = Some(Desired { release: None, stamp });
        now.remove(&mail);
        let differ = saved.differ(&now);
        let expected = [("shop", "b", true), ("mail", "a", false), ("mail", "b", false)];
        assert_eq!(names(&differ), expected.map(|(program, server, is)| (program.to_owned(), server.to_owned(), is)));
        saved.saved(differ);
        assert_eq!(names(&saved.differ(&now)), []);
    }
}
