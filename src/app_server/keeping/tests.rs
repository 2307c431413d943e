//! Owns the tests of what is kept of sessions without management: restarts, data at this server alone, who may ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::arrivals::{Arrivals, Came};
use super::data::{Loaded, SessionData, Written};
use super::disk::Disk;
use super::teller::{Links, Teller};
use super::*;
use crate::domain::session_list::{Bounds, SessionList};
use crate::link::client::{Client, Settings};
use crate::link::identity::Identity;
use crate::wire::sessions::Condition;

/// One program's list.
pub struct Shop(Mutex<SessionList>);

impl Shop {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(SessionList::new(Bounds { idle: 60_000, sessions: 1_000 }))))
    }

    pub fn begin(&self, id: u128) {
        let mut list = self.0.lock().unwrap();
        assert!(list.begin(SessionId(id), &place(), now()));
        list.finish(SessionId(id), now());
    }

    fn ids(&self) -> Vec<u128> {
        let mut ids: Vec<u128> = self.0.lock().unwrap().all().map(|session| session.id.0).collect();
        ids.sort_unstable();
        ids
    }
}

impl Lists for Shop {
    fn programs(&self) -> Vec<ProgramName> {
        vec![shop()]
    }

    fn idle(&self, _: &ProgramName) -> WallMillis {
        60_000
    }

    fn place(&self, _: &ProgramName) -> Option<Place> {
        Some(place())
    }

    fn take_changes(&self, _: &ProgramName, most: usize) -> Vec<Change> {
        self.0.lock().unwrap().take_changes(most)
    }

    fn expire(&self, _: &ProgramName, now: WallMillis) {
        self.0.lock().unwrap().expire(now, 100);
    }

    fn change_all(&self, _: &ProgramName) {
        self.0.lock().unwrap().change_all();
    }

    fn restore(&self, _: &ProgramName, session: &Session) {
        self.0.lock().unwrap().restore(session);
    }

    fn contains(&self, _: &ProgramName, id: SessionId) -> bool {
        self.0.lock().unwrap().contains(id)
    }

    fn knows(&self, program: &ProgramName, id: SessionId) -> bool {
        self.contains(program, id)
    }

    fn keep(&self, _: &ProgramName, id: SessionId) {
        if !self.0.lock().unwrap().contains(id) {
            self.begin(id.0);
        }
    }

    fn note_only_here(&self, _: usize) {}

    fn end(&self, _: &ProgramName, id: SessionId, how: End) -> bool {
        self.0.lock().unwrap().end(id, how, now())
    }
}

pub fn shop() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

pub fn place() -> Place {
    Place { server: "s1".parse().unwrap(), version: "1".parse().unwrap() }
}

fn links(management: Vec<String>) -> Links {
    let identity = Identity::begin("s1".parse().unwrap());
    let settings = Settings { answer_timeout: Duration::from_millis(300), ..Settings::default() };
    Links { identity, client: Client::new(settings, None), management }
}

/// A run of a server over this directory.
pub struct Run {
    pub lists: Arc<Shop>,
    pub disk: Disk,
    pub data: SessionData,
    teller: Teller,
    pub arrivals: Arc<Arrivals>,
}

impl Run {
    fn begin(dir: &std::path::Path) -> Self {
        Self::below(dir, Vec::new())
    }

    /// With these managements.
    pub fn below(dir: &std::path::Path, management: Vec<String>) -> Self {
        let lists = Shop::new();
        let (disk, _, is_new) = Disk::open(dir, lists.as_ref()).unwrap();
        let arrivals = Arc::new(Arrivals::begin().0);
        let data = SessionData::begin(links(management.clone()), lists.clone(), disk.clone(), arrivals.clone());
        let teller = Teller::new(links(management), lists.clone(), disk.clone(), data.clone(), is_new);
        Self { lists, disk, data, teller, arrivals }
    }

    async fn put(&self, id: u128, condition: Condition, data: &'static str) -> Written {
        self.data.write(&shop(), SessionId(id), condition, Some(Bytes::from(data))).await.unwrap()
    }

    async fn load(&self, id: u128) -> Option<Loaded> {
        self.data.load(&shop(), SessionId(id)).await.unwrap()
    }
}

#[tokio::test]
async fn sessions_begin_again_from_disk_and_those_that_ended_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::begin(dir.path());
    (1..=3).for_each(|id| run.lists.begin(id));
    run.teller.round().await;
    run.lists.end(&shop(), SessionId(2), End::Cleared);
    run.teller.round().await;
    drop(run);
    assert_eq!(Run::begin(dir.path()).lists.ids(), [1, 3]);
}

#[tokio::test]
async fn sessions_begin_again_from_an_earlier_releases_disk() {
    use crate::store::{Change, Options, Store, Tree};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "then", Options::default()).unwrap().store;
    let of_old = |id| {
        let session = Session { id: SessionId(id), place: place(), begun: now(), seen: now(), active: 0 };
        Change::bytes(Tree::Sessions, format!("list/shop/{}", session.id), session.pack())
    };
    store.save(vec![of_old(1), of_old(2), of_old(3)]).unwrap();
    drop(store);
    let mut run = Run::begin(dir.path());
    assert_eq!(run.lists.ids(), [1, 2, 3]);
    run.lists.end(&shop(), SessionId(2), End::Cleared);
    run.teller.round().await;
    drop(run);
    assert_eq!(Run::begin(dir.path()).lists.ids(), [1, 3]);
}

#[tokio::test]
async fn without_management_data_is_here_alone_and_says_so_and_of_two_writers_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::begin(dir.path());
    run.lists.begin(1);
    assert_eq!(run.load(1).await, None);
    let Written::Is { tag, only_here: true } = run.put(1, Condition::IsNew, "one").await else { panic!() };
    assert_eq!(run.put(1, Condition::IsNew, "other").await, Written::Stale(Some(tag)));
    let Written::Is { tag: second, .. } = run.put(1, Condition::Is(vec![tag]), "two").await else { panic!() };
    assert!(second > tag);
    assert_eq!(run.put(1, Condition::Is(vec![tag]), "three").await, Written::Stale(Some(second)));
    run.teller.round().await;
    drop(run);
    let run = Run::begin(dir.path());
    assert_eq!(run.load(1).await, Some(Loaded { tag: second, data: b"two".to_vec(), only_here: true }));
    assert_eq!(run.disk.away().unwrap(), [(shop(), SessionId(1))], "management is to be given it");
}

#[tokio::test]
async fn data_ends_with_its_session_but_waits_for_one_that_goes_on_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::begin(dir.path());
    for id in [1, 2] {
        run.lists.begin(id);
        run.put(id, Condition::Always, "cart").await;
    }
    run.lists.end(&shop(), SessionId(1), End::Cleared);
    run.lists.end(&shop(), SessionId(2), End::Migrated);
    run.teller.round().await;
    drop(run);
    let run = Run::begin(dir.path());
    assert_eq!(run.data.local(&shop(), SessionId(1)).unwrap(), None);
    assert!(run.data.local(&shop(), SessionId(2)).unwrap().is_some());
}

#[tokio::test]
async fn data_that_an_earlier_run_left_is_found_a_part_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::begin(dir.path());
    for id in 1..=50 {
        run.lists.begin(id);
        run.put(id, Condition::Always, "cart").await;
    }
    run.lists.end(&shop(), SessionId(1), End::Migrated);
    run.lists.end(&shop(), SessionId(50), End::Migrated);
    run.teller.round().await;
    drop(run);
    let run = Run::begin(dir.path());
    let (mut found, mut after, mut looks) = (Vec::new(), None, 0);
    loop {
        let (strays, next) = run.disk.stray_data(after.as_deref(), run.lists.as_ref()).unwrap();
        found.extend(strays);
        (after, looks) = (next, looks + 1);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [(shop(), SessionId(1)), (shop(), SessionId(50))]);
    assert!(looks > 2, "{looks}");
}

#[tokio::test]
async fn what_was_removed_without_management_is_given_as_a_removal() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::begin(dir.path());
    run.lists.begin(1);
    run.put(1, Condition::IsNew, "cart").await;
    let removed = run.data.write(&shop(), SessionId(1), Condition::Always, None).await.unwrap();
    assert_eq!((removed, run.load(1).await), (Written::Removed { only_here: true }, None));
    assert_eq!(run.data.local(&shop(), SessionId(1)).unwrap().map(|datum| datum.data), Some(None));
    let Written::Is { tag, .. } = run.put(1, Condition::IsNew, "anew").await else { panic!() };
    assert_eq!(tag.number, 3);
}

#[tokio::test]
async fn data_that_may_be_elsewhere_is_not_made_up_here() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::begin(dir.path());
    run.lists.begin(1);
    let from = Place { server: "s2".parse().unwrap(), ..place() };
    run.arrivals.tell(Came { program: shop(), id: SessionId(1), from, to: place(), issued: now() });
    let problem = run.data.load(&shop(), SessionId(1)).await.unwrap_err();
    assert!(problem.status == 503 && problem.detail.contains("may be on s2"), "{problem:?}");
    let written = run.data.write(&shop(), SessionId(1), Condition::IsNew, Some(Bytes::from("new"))).await;
    assert_eq!(written.unwrap_err().status, 503);
}
