//! Owns what was seen in an instance's memory since it started, and whether that is still what is on disk.
//! Must not know how memory or disk are looked at.

use serde::{Deserialize, Serialize};

use super::{Component, ComponentVersion, Replaced, Stale};

/// Which file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// What is on disk under a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Disk {
    pub id: FileId,
    pub size: u64,
    /// Nanoseconds.
    pub modified: i64,
}

/// A file that an instance has, or had, in memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The path that it had when it was seen first.
    pub file: String,
    pub id: FileId,
    pub component: Component,
    /// How it was on disk when it was seen first; `None`: it was gone by then.
    pub then: Option<Disk>,
    /// What ran, by the first look.
    pub running: Option<ComponentVersion>,
    /// In memory at the last look.
    pub mapped: bool,
    /// The kernel says that its name was taken away.
    pub deleted: bool,
}

impl Seen {
    /// Whether an instance that has this in memory runs with something else than what is on disk: under its own name,
    /// and under the component's, where that is a link to it.
    pub fn judge(&self, own: Option<Disk>, named: Option<Disk>) -> Option<Stale> {
        if !self.mapped {
            return None;
        }
        let differs = |now: Disk| now.id.inode != self.id.inode || !same_device(now.id.device, self.id.device);
        let rewritten =
            |now: Disk| self.then.is_some_and(|then| (then.size, then.modified) != (now.size, now.modified));
        let why = match own {
            None => Replaced::Deleted,
            Some(now) if differs(now) || self.deleted => Replaced::Replaced,
            Some(now) if rewritten(now) => Replaced::Rewritten,
            Some(now) if named.is_some_and(|named| named.id != now.id) => Replaced::Relinked,
            Some(_) => return None,
        };
        Some(Stale { file: self.file.clone(), why, running: self.running.clone() })
    }
}

/// A device of major number 0 has no number of its own: file systems such as btrfs and overlayfs tell one to `stat` and
/// another in a process's maps.
fn same_device(one: u64, other: u64) -> bool {
    const MAJOR: u64 = 0xffff_f000_000f_ff00;
    one == other || (one & MAJOR == 0 && other & MAJOR == 0)
}

/// All that was seen in one instance's memory since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The instance's name; another instance has another memory.
    pub instance: String,
    pub seen: Vec<Seen>,
}

impl Memory {
    /// The memory of an instance: this one, if it is the same instance's.
    pub fn of(self, instance: &str) -> Self {
        if self.instance == instance { self } else { Self { instance: instance.to_owned(), seen: Vec::new() } }
    }

    /// Takes in another look, up to `most` files in all; answers how many found no place. What was seen once stays, as
    /// it was when it was seen first.
    pub fn take_in(&mut self, look: Vec<Seen>, most: usize) -> usize {
        // While it is in memory, no other file gets its number.
        let held: Vec<bool> = self.seen.iter_mut().map(|seen| std::mem::replace(&mut seen.mapped, false)).collect();
        let mut left_out = 0;
        for new in look {
            let same = |(at, seen): (usize, &Seen)| {
                let known = held.get(at).is_some_and(|held| *held) || seen.file == new.file;
                seen.id == new.id && known
            };
            match self.seen.iter().enumerate().position(same) {
                Some(at) => (self.seen[at].mapped, self.seen[at].deleted) = (true, new.deleted),
                None if self.seen.len() < most => self.seen.push(new),
                None => left_out += 1,
            }
        }
        left_out
    }
}
