//! Owns which Server List is held when another one comes, and its file, so that a router restarts without management.
//! Must not know what is routed by it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::wire::messages::{ListStamp, RouterList, RouterProgram, RouterServer};

/// The Server List that is held: whole, by name, and in parts that one list shares with the next where they are alike.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct HeldList {
    pub stamp: ListStamp,
    pub servers: Vec<RouterServer>,
    pub programs: Vec<Arc<RouterProgram>>,
    /// What a list from management has beside: a file is read as one.
    since: Option<ListStamp>,
    removed: [(); 0],
}

/// What becomes of a list that came.
#[derive(Clone, PartialEq, Debug)]
pub enum Taken {
    /// Older than what is held, or said before.
    Ignored,
    /// A change of a list that is not held: the sender learns from the answer what is.
    OtherBase,
    /// This is held from now on, whole.
    New(HeldList),
}

impl HeldList {
    /// A list as it came, whole.
    pub fn whole(came: RouterList) -> Self {
        Self::merge(None, came)
    }

    /// By name, so that of two programs with one rule the same wins at every router. What is as it was is kept.
    fn merge(base: Option<&Self>, came: RouterList) -> Self {
        let is_change = came.since.is_some();
        let held = |name: &str| base.and_then(|base| base.program(name));
        let mut programs: Vec<Arc<RouterProgram>> = Vec::with_capacity(came.programs.len());
        for program in came.programs {
            let same = held(program.manifest.name.as_str()).filter(|held| ***held == program);
            programs.push(same.map_or_else(|| Arc::new(program), Arc::clone));
        }
        let mut servers = came.servers;
        programs.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(base) = base.filter(|_| is_change) {
            programs = overlaid(&base.programs, programs, |program| program.manifest.name.as_str());
            programs.retain(|program| !came.removed.contains(&program.manifest.name));
            servers = overlaid(&base.servers, servers, |server| server.name.as_str());
        }
        Self { stamp: came.stamp, servers, programs, since: None, removed: [] }
    }

    /// Its place among the programs, which are in order.
    pub fn program(&self, name: &str) -> Option<&Arc<RouterProgram>> {
        let place = self.programs.binary_search_by(|program| program.manifest.name.as_str().cmp(name));
        place.ok().map(|place| &self.programs[place])
    }
}

/// What there was, with each of `new` in the place of what has its name. Both are in order.
fn overlaid<T: Clone>(old: &[T], new: Vec<T>, name: fn(&T) -> &str) -> Vec<T> {
    let mut all = Vec::with_capacity(old.len() + new.len());
    let mut old = old.iter().peekable();
    for one in new {
        while let Some(before) = old.next_if(|before| name(before) < name(&one)) {
            all.push(before.clone());
        }
        old.next_if(|same| name(same) == name(&one));
        all.push(one);
    }
    all.extend(old.cloned());
    all
}

/// Decides by the lists' stamps, (term, revision). One that is held already is taken again when it is whole, or a change
/// of itself: management refreshes the loads so.
pub fn take(held: Option<&HeldList>, came: RouterList) -> Taken {
    let stamp = held.map(|list| &list.stamp);
    if stamp.is_some_and(|stamp| came.stamp < *stamp) {
        return Taken::Ignored;
    }
    match (&came.since, held) {
        (None, _) => Taken::New(HeldList::merge(held, came)),
        (Some(since), Some(list)) if *since == list.stamp => Taken::New(HeldList::merge(held, came)),
        (Some(_), _) if stamp == Some(&came.stamp) => Taken::Ignored,
        (Some(_), _) => Taken::OtherBase,
    }
}

/// Whether two lists differ in more than loads: only then is the new one worth a write to disk.
pub fn differ(one: &HeldList, other: &HeldList) -> bool {
    let same_server = |(a, b): (&RouterServer, &RouterServer)| a == b;
    let same_program = |(a, b): (&Arc<RouterProgram>, &Arc<RouterProgram>)| {
        Arc::ptr_eq(a, b)
            || (a.manifest == b.manifest
                && a.placements.len() == b.placements.len()
                && a.placements.iter().zip(&b.placements).all(|(a, b)| {
                    (&a.server, &a.run, a.generation, &a.version, a.takes_requests)
                        == (&b.server, &b.run, b.generation, &b.version, b.takes_requests)
                }))
    };
    one.stamp != other.stamp
        || one.servers.len() != other.servers.len()
        || one.programs.len() != other.programs.len()
        || !one.servers.iter().zip(&other.servers).all(same_server)
        || !one.programs.iter().zip(&other.programs).all(same_program)
}

/// The stamp of what is held, as an answer tells it.
pub fn stamp(held: Option<&HeldList>) -> Option<ListStamp> {
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
    pub fn read(&self) -> io::Result<Option<HeldList>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(HeldList::whole(serde_json::from_slice(&bytes)?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it beside and renames it: a reader, or the next run, sees the old or the new, whole.
    pub fn write(&self, list: &HeldList) -> io::Result<()> {
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

    fn taken(held: Option<&HeldList>, came: RouterList) -> HeldList {
        match take(held, came) {
            Taken::New(list) => list,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_are_ordered_by_term_and_revision_whatever_order_they_come_in() {
        let newer = HeldList::whole(list(2, 5, &[]));
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
        let held = HeldList::whole(list(1, 3, &[program("c", &[]), program("b", &[]), program("a", &[])]));
        let mut change = list(1, 4, &[program("b", &[("s1", true)]), program("d", &[])]);
        change.since = Some(stamped(1, 3));
        change.removed = vec!["c".parse().unwrap()];
        let new = taken(Some(&held), change.clone());
        let names: Vec<_> = new.programs.iter().map(|program| program.manifest.name.as_str()).collect();
        assert_eq!((names, new.programs[1].placements.len(), new.since.clone()), (vec!["a", "b", "d"], 1, None));
        assert!(Arc::ptr_eq(&new.programs[0], &held.programs[0]), "what is as it was is not made anew");
        assert_eq!(take(Some(&new), change.clone()), Taken::Ignored, "said twice");
        assert_eq!(take(Some(&HeldList::whole(list(1, 2, &[]))), change.clone()), Taken::OtherBase);
        assert_eq!(take(None, change), Taken::OtherBase);
    }

    #[test]
    fn a_server_in_a_change_takes_the_place_of_its_name_and_a_whole_list_that_of_all() {
        let held = HeldList::whole(list(1, 3, &[program("a", &[]), program("b", &[])]));
        let mut change = list(1, 4, &[]);
        change.since = Some(stamped(1, 3));
        change.servers.drain(..1);
        change.servers[0].up = false;
        let new = taken(Some(&held), change);
        let up: Vec<_> = new.servers.iter().map(|server| server.up).collect();
        assert_eq!((up, new.programs.len()), (vec![true, false, true], 2));
        let whole = taken(Some(&new), list(1, 5, &[program("b", &[])]));
        assert_eq!((whole.programs.len(), whole.servers.len()), (1, 3));
        assert!(Arc::ptr_eq(&whole.programs[0], &held.programs[1]));
    }

    #[test]
    fn loads_alone_are_not_worth_a_write() {
        let came = list(1, 3, &[program("a", &[("s1", true)])]);
        let held = HeldList::whole(came.clone());
        let mut loads = came;
        loads.programs[0].placements[0].active = 7;
        assert!(!differ(&held, &HeldList::whole(loads.clone())));
        loads.programs[0].placements[0].takes_requests = false;
        for other in [loads, list(1, 3, &[]), list(1, 4, &[])] {
            assert!(differ(&held, &HeldList::whole(other)));
        }
    }

    #[test]
    fn a_list_is_read_back_from_its_file_and_a_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = ListFile::in_dir(&dir.path().join("router"));
        assert_eq!(file.read().unwrap(), None);
        let held = HeldList::whole(list(1, 3, &[program("a", &[("s1", true)])]));
        file.write(&held).unwrap();
        file.write(&held).unwrap();
        assert_eq!(file.read().unwrap(), Some(held));
        fs::write(file.path(), "{").unwrap();
        assert!(file.read().is_err());
    }
}
