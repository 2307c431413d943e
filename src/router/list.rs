//! Owns which Server List is held when another one comes, and its file, so that a router restarts without management.
//! Must not know what is routed by it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::wire::messages::{ListStamp, RouterList, RouterProgram, RouterServer};

/// What becomes of a list that came.
#[derive(Clone, PartialEq, Debug)]
pub enum Taken {
    /// Older than what is held, or said before.
    Ignored,
    /// A change of a list that is not held: the sender learns from the answer what is.
    OtherBase,
    /// This is held from now on, whole.
    New(Box<RouterList>),
}

/// Decides by the lists' stamps, (term, revision). One that is held already is taken again when it is whole, or a change
/// of itself: management refreshes the loads so.
pub fn take(held: Option<&RouterList>, came: RouterList) -> Taken {
    let stamp = held.map(|list| &list.stamp);
    if stamp.is_some_and(|stamp| came.stamp < *stamp) {
        return Taken::Ignored;
    }
    match (&came.since, held) {
        (None, _) => Taken::New(Box::new(sorted(came))),
        (Some(since), Some(list)) if *since == list.stamp => Taken::New(Box::new(merge(list.clone(), came))),
        (Some(_), _) if stamp == Some(&came.stamp) => Taken::Ignored,
        (Some(_), _) => Taken::OtherBase,
    }
}

fn merge(mut list: RouterList, change: RouterList) -> RouterList {
    let changed = |program: &RouterProgram| {
        let name = &program.manifest.name;
        change.removed.contains(name) || change.programs.iter().any(|new| new.manifest.name == *name)
    };
    list.programs.retain(|program| !changed(program));
    list.programs.extend(change.programs);
    list.servers.retain(|server| !change.servers.iter().any(|new| new.name == server.name));
    list.servers.extend(change.servers);
    list.stamp = change.stamp;
    sorted(list)
}

/// By name, so that of two programs with one rule the same wins at every router.
fn sorted(mut list: RouterList) -> RouterList {
    list.since = None;
    list.removed.clear();
    list.programs.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    list.servers.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// Whether two lists differ in more than loads: only then is the new one worth a write to disk.
pub fn differ(one: &RouterList, other: &RouterList) -> bool {
    let same_server = |(a, b): (&RouterServer, &RouterServer)| a == b;
    let same_program = |(a, b): (&RouterProgram, &RouterProgram)| {
        a.manifest == b.manifest
            && a.placements.len() == b.placements.len()
            && a.placements.iter().zip(&b.placements).all(|(a, b)| {
                (&a.server, &a.run, a.generation, &a.version, a.takes_requests)
                    == (&b.server, &b.run, b.generation, &b.version, b.takes_requests)
            })
    };
    one.stamp != other.stamp
        || one.servers.len() != other.servers.len()
        || one.programs.len() != other.programs.len()
        || !one.servers.iter().zip(&other.servers).all(same_server)
        || !one.programs.iter().zip(&other.programs).all(same_program)
}

/// The stamp of what is held, as an answer tells it.
pub fn stamp(held: Option<&RouterList>) -> Option<ListStamp> {
    held.map(|list| list.stamp.clone())
}

/// The file that a router restarts from.
#[derive(Clone, Debug)]
pub struct ListFile {
    path: PathBuf,
}

impl ListFile {
    pub fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join("server-list.json") }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it back; `None` when there never was one.
    pub fn read(&self) -> io::Result<Option<RouterList>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it beside and renames it: a reader, or the next run, sees the old or the new, whole.
    pub fn write(&self, list: &RouterList) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let beside = self.path.with_extension("json.new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(list)?)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{list, program, stamped};
    use super::*;

    fn taken(held: Option<&RouterList>, came: RouterList) -> RouterList {
        match take(held, came) {
            Taken::New(list) => *list,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_are_ordered_by_term_and_revision_whatever_order_they_come_in() {
        let newer = list(2, 5, &[]);
        for (term, revision) in [(1, 99), (2, 4)] {
            assert_eq!(take(Some(&newer), list(term, revision, &[])), Taken::Ignored);
        }
        for (term, revision) in [(3, 1), (2, 6), (2, 5)] {
            assert_eq!(taken(Some(&newer), list(term, revision, &[])).stamp, stamped(term, revision));
        }
        assert_eq!(taken(None, list(1, 1, &[])).stamp, stamped(1, 1));
    }

    #[test]
    fn a_change_is_taken_on_the_list_that_it_changes_and_on_no_other() {
        let held = list(1, 3, &[program("a", &[]), program("b", &[]), program("c", &[])]);
        let mut change = list(1, 4, &[program("b", &[("s1", true)]), program("d", &[])]);
        change.since = Some(stamped(1, 3));
        change.removed = vec!["c".parse().unwrap()];
        let new = taken(Some(&held), change.clone());
        let names: Vec<_> = new.programs.iter().map(|program| program.manifest.name.as_str()).collect();
        assert_eq!((names, new.programs[1].placements.len(), new.since.clone()), (vec!["a", "b", "d"], 1, None));
        assert_eq!(take(Some(&new), change.clone()), Taken::Ignored, "said twice");
        assert_eq!(take(Some(&list(1, 2, &[])), change.clone()), Taken::OtherBase);
        assert_eq!(take(None, change), Taken::OtherBase);
    }

    #[test]
    fn loads_alone_are_not_worth_a_write() {
        let held = list(1, 3, &[program("a", &[("s1", true)])]);
        let mut loads = held.clone();
        loads.programs[0].placements[0].active = 7;
        assert!(!differ(&held, &loads));
        loads.programs[0].placements[0].takes_requests = false;
        assert!(differ(&held, &loads) && differ(&held, &list(1, 3, &[])) && differ(&held, &list(1, 4, &[])));
    }

    #[test]
    fn a_list_is_read_back_from_its_file_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = ListFile::in_dir(&dir.path().join("router"));
        assert_eq!(file.read().unwrap(), None);
        let held = list(1, 3, &[program("a", &[("s1", true)])]);
        file.write(&held).unwrap();
        file.write(&held).unwrap();
        assert_eq!(file.read().unwrap(), Some(held));
        fs::write(file.path(), "{").unwrap();
        assert!(file.read().is_err());
    }
}
