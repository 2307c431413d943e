//! Owns the tests of the master list: told, told all, taken, restarted, ended.

use std::path::Path;

use super::lists::Lists;
use super::*;
use crate::domain::names::Version;
use crate::domain::session_list::{Change, SessionList, Sort};
use crate::store;
use crate::wire::sessions::{DataTag, ProgramSessions};

const IDLE: WallMillis = 30 * 60_000;

fn shop() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

fn server(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

fn place(name: &str) -> Place {
    Place { server: server(name), version: Version::new("1").unwrap() }
}

fn session(id: u128, at: &str, seen: WallMillis) -> Session {
    Session { id: SessionId(id), place: place(at), begun: now() - 1_000, seen, active: 0 }
}

fn told(begins: bool, ends: bool, changes: Vec<Change>) -> ToldSessions {
    ToldSessions { begins, ends, programs: vec![ProgramSessions { program: shop(), idle_ms: IDLE, changes }] }
}

fn is(ids: &[u128], at: &str) -> Vec<Change> {
    ids.iter().map(|id| Change::Is(session(*id, at, now()))).collect()
}

struct Master {
    dir: tempfile::TempDir,
    sessions: Option<Sessions>,
}

impl Master {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Some(Sessions::open(dir.path(), 1_000).unwrap());
        Self { dir, sessions }
    }

    fn it(&self) -> &Sessions {
        self.sessions.as_ref().unwrap()
    }

    /// Ended in order and begun again from its disk.
    fn again(&mut self) {
        self.sessions = None;
        self.sessions = Some(Sessions::open(self.dir.path(), 1_000).unwrap());
    }

    fn tell(&self, at: &str, run: &str, told: ToldSessions) -> bool {
        self.it().told(&server(at), &run.parse().unwrap(), told).tell_all
    }

    fn ids(&self) -> Vec<u128> {
        let query = Query { servers: None, version: None, sort: Sort::Age, after: None, limit: 100 };
        let page = self.it().page(&shop(), &query).unwrap_or_default();
        let mut ids: Vec<u128> = page.iter().map(|session| session.id.0).collect();
        ids.sort_unstable();
        ids
    }

    fn home(&self, id: u128) -> Option<ServerName> {
        self.it().get(&shop(), SessionId(id)).map(|session| session.place.server)
    }
}

fn take(id: u128, to: &str, issued: WallMillis) -> TakeSession {
    TakeSession { program: shop(), id: SessionId(id), from: place("a"), to: place(to), at: now(), issued }
}

const RUN: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const RUN_2: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAW";

#[test]
fn a_server_tells_all_first_and_then_what_changed() {
    let master = Master::new();
    assert!(master.tell("a", RUN, told(false, false, is(&[1], "a"))), "it is to tell all");
    assert_eq!(master.ids(), []);
    assert!(!master.tell("a", RUN, told(true, false, is(&[1, 2], "a"))));
    assert!(!master.tell("a", RUN, told(false, true, is(&[3], "a"))));
    let gone = Change::Gone { id: SessionId(2), place: place("a"), how: End::Cleared, at: now() };
    assert!(!master.tell("a", RUN, told(false, false, vec![gone])));
    assert_eq!(master.ids(), [1, 3]);
    assert!(master.tell("a", RUN_2, told(false, false, is(&[9], "a"))), "another run is to tell all");
    assert_eq!(master.it().counts(), [(shop(), server("a"), 2)]);
}

#[tokio::test]
async fn what_a_server_does_not_name_when_it_tells_all_stays_with_its_data_and_what_has_ended_goes() {
    let mut master = Master::new();
    master.tell("a", RUN, told(true, true, is(&[1, 2, 3], "a")));
    let (at, what) = (place("a"), What::Data(b"2".into()));
    master.it().write_data(&shop(), SessionId(2), &at, Condition::Always, what).await.unwrap();
    // The second has gone on elsewhere, which its client has not seen yet; the third has ended while nobody listened.
    master.again();
    let gone = Change::Gone { id: SessionId(3), place: place("a"), how: End::Ended, at: now() };
    master.tell("a", RUN, told(true, true, [vec![gone], is(&[1], "a")].concat()));
    assert_eq!(master.ids(), [1, 2]);
    master.again();
    assert!(master.it().data(&shop(), SessionId(2)).unwrap().is_some());
}

#[test]
fn of_two_servers_to_which_a_session_moves_one_takes_it() {
    let master = Master::new();
    master.tell("a", RUN, told(true, true, is(&[1], "a")));
    let take = |to| take(1, to, 0);
    assert_eq!(master.it().take(&take("b")).unwrap().home, None);
    assert_eq!(master.it().take(&take("c")).unwrap().home, Some(place("b")));
    assert_eq!(master.it().take(&take("b")).unwrap().home, None, "asked again");
    // What the old home says of it later counts for nothing.
    let gone = Change::Gone { id: SessionId(1), place: place("a"), how: End::Idle, at: now() };
    master.tell("a", RUN, told(false, false, vec![gone]));
    assert_eq!(master.home(1), Some(server("b")));
    master.it().end(&shop(), SessionId(1));
    assert_eq!(master.it().take(&take("c")).unwrap_err().code, Code::SessionEnded);
}

#[tokio::test]
async fn the_list_and_its_data_are_there_after_a_restart_and_data_ends_with_its_session() {
    let mut master = Master::new();
    master.tell("a", RUN, told(true, true, is(&[1, 2], "a")));
    let put = |sessions: Sessions, id, condition, data: &'static str| async move {
        sessions.write_data(&shop(), SessionId(id), &place("a"), condition, What::Data(data.into())).await
    };
    let Ok(Outcome::Is(tag)) = put(master.it().clone(), 1, Condition::IsNew, "one").await else { panic!() };
    // Of a session that no batch has told of yet.
    assert!(matches!(put(master.it().clone(), 5, Condition::IsNew, "five").await, Ok(Outcome::Is(_))));
    master.again();
    assert_eq!(master.ids(), [1, 2, 5]);
    assert_eq!(master.it().data(&shop(), SessionId(1)).unwrap(), Some(Datum { tag, data: Some(b"one".to_vec()) }));
    assert_eq!(put(master.it().clone(), 1, Condition::IsNew, "other").await.unwrap(), Outcome::Stale(Some(tag)));
    master.it().end(&shop(), SessionId(1));
    assert_eq!(put(master.it().clone(), 1, Condition::Always, "late").await.unwrap_err().code, Code::SessionEnded);
    master.again();
    assert_eq!(master.ids(), [2, 5]);
    assert_eq!(master.it().data(&shop(), SessionId(1)).unwrap(), None);
}

#[test]
fn the_list_begins_again_from_an_earlier_releases_disk() {
    let mut master = Master::new();
    master.sessions = None;
    let store = Store::open(master.dir.path(), "then", Options::default()).unwrap().store;
    let of_old = |id| {
        let session = session(id, "a", now());
        store::Change::bytes(Tree::Sessions, format!("list/shop/{}", session.id), session.pack())
    };
    // As that release left it, which knew nothing of packed ones.
    store.remove(Tree::Sessions, "packed/form").unwrap();
    store.save(vec![of_old(1), of_old(2)]).unwrap();
    drop(store);
    for _ in 0..2 {
        master.again();
        assert_eq!(master.ids(), [1, 2]);
    }
}

#[tokio::test]
async fn a_session_whose_data_came_before_the_word_of_it_is_kept_when_its_server_tells_all() {
    for begun in [false, true] {
        let master = Master::new();
        assert!(master.tell("a", RUN, ToldSessions::default()), "it asks");
        if begun {
            master.tell("a", RUN, told(true, false, is(&[1], "a")));
        }
        let (at, what) = (place("a"), What::Data(b"2".into()));
        master.it().write_data(&shop(), SessionId(2), &at, Condition::IsNew, what).await.unwrap();
        // What it took down before the session began.
        master.tell("a", RUN, told(!begun, true, is(&[1], "a")));
        assert_eq!(master.ids(), [1, 2]);
        assert!(master.it().data(&shop(), SessionId(2)).unwrap().is_some());
    }
}

#[test]
fn a_server_that_lost_its_list_is_told_which_sessions_were_at_home_there() {
    let master = Master::new();
    let many: Vec<u128> = (1..=900).collect();
    master.tell("a", RUN, told(true, false, is(&many, "a")));
    master.tell("a", RUN, told(false, true, is(&[901, 902], "a")));
    master.tell("b", RUN, told(true, true, is(&[950], "b")));
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let here = master.it().here(&server("a"), after.as_ref());
        for program in here.programs {
            assert_eq!((program.program, program.idle_ms), (shop(), IDLE));
            found.extend(program.changes);
        }
        after = here.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 902);
}

/// What a management that went away long ago left: sessions at home at a, and the data of the second.
fn left_long_ago(dir: &Path, ids: &[u128]) {
    let then = now() - IDLE - 3 * 60_000;
    let store = Store::open(dir, "then", Options::default()).unwrap().store;
    let bounds = Bounds { idle: IDLE_DEFAULT, sessions: 1_000 };
    let (mut lists, mut packed) = Lists::load(&store, bounds, then).unwrap();
    let changes = ids.iter().map(|id| Change::Is(session(*id, "a", then))).collect();
    lists.told(&server("a"), &RUN.parse().unwrap(), told(true, true, changes), then);
    let due = lists.due(then);
    let tag = DataTag { number: 1, chance: 7 };
    let data = store::Change::bytes(Tree::Sessions, lists::data_key(&shop(), SessionId(2)), tag.pack(Some(b"2")));
    store.save([packed.batch(due.sessions), due.others, vec![data]].concat()).unwrap();
}

/// The second has moved to b, and has fallen silent at a, while management was away for longer than it takes.
async fn one_that_lives_elsewhere(a_tells: impl Fn(&Master)) {
    let dir = tempfile::tempdir().unwrap();
    left_long_ago(dir.path(), &[1, 2]);
    let sessions = Some(Sessions::open(dir.path(), 1_000).unwrap());
    let master = Master { dir, sessions };
    a_tells(&master);
    // What is due is written every half second: no word of b has come by then.
    let data = || master.it().data(&shop(), SessionId(2)).unwrap();
    assert_eq!(master.it().lock().due(now()).others, [], "nothing is removed before all could tell");
    let what = What::Data(b"later".into());
    let written = master.it().write_data(&shop(), SessionId(2), &place("b"), Condition::IsThere, what).await;
    assert!(matches!(written, Ok(Outcome::Is(_))), "{written:?}");
    master.tell("b", RUN, told(true, true, is(&[2], "b")));
    assert_eq!((master.home(2), data().is_some()), (Some(server("b")), true));
}

#[tokio::test]
async fn a_session_that_fell_silent_at_its_old_home_while_management_was_away_lives_on_at_its_new_one() {
    let silence = |at| Change::Gone { id: SessionId(2), place: place("a"), how: End::Idle, at };
    one_that_lives_elsewhere(|master| assert!(!master.tell("a", RUN, told(true, true, vec![])))).await;
    // It had waited to be told, or ended there just now.
    for at in [now() - 60_000, now()] {
        one_that_lives_elsewhere(|master| assert!(!master.tell("a", RUN, told(true, true, vec![silence(at)])))).await;
    }
}

#[test]
fn data_whose_session_no_list_names_goes_when_all_servers_have_told_and_no_client_can_come_back() {
    let dir = tempfile::tempdir().unwrap();
    left_long_ago(dir.path(), &[1]);
    let store = Store::open(dir.path(), "now", Options::default()).unwrap().store;
    let datum = DataTag { number: 1, chance: 7 }.pack(Some(b"1"));
    let put = |key: String| store::Change::bytes(Tree::Sessions, key, datum.clone());
    let key = |program: &str, id| lists::data_key(&program.parse().unwrap(), SessionId(id));
    // Of one that is listed, of 150 that are not, of an unknown program's, and of who knows whom.
    let mut data = vec![put(key("shop", 1)), put(key("unknown", 9)), put("data/who/knows".into())];
    data.extend((100..250).map(|id| put(key("shop", id))));
    store.save(data).unwrap();
    let (lists, packed) = Lists::load(&store, Bounds { idle: IDLE_DEFAULT, sessions: 1_000 }, now()).unwrap();
    let lists = Arc::new(Mutex::new(lists));
    let mut writer = Writer::new(lists.clone(), packed, store.clone());
    let mut left = |after: WallMillis| {
        for _ in 0..3 {
            store.save(writer.due(now() + after)).unwrap();
        }
        store.keys(Tree::Sessions, lists::DATA).unwrap().len()
    };
    let (run, late): (RunId, _) = (RUN.parse().unwrap(), 2 * IDLE);
    let is_here = || vec![Change::Is(session(1, "a", now() + late))];
    let told = |at: &str| lock(&lists).told(&server(at), &run, told(true, true, is_here()), now());
    told("a");
    assert_eq!(left(late), 154, "nobody has said which servers there are");
    lock(&lists).servers_are([server("a"), server("b")].into());
    assert_eq!(left(late), 154, "b has not told");
    told("b");
    assert_eq!(left(IDLE), 154, "a client may come back whose server died before it told");
    lock(&lists).take(&TakeSession { at: now() + late, ..take(200, "b", 0) }).unwrap();
    assert_eq!(left(late), 3, "of the first, of one that was taken since, and of who knows whom");
}

#[test]
fn what_is_idle_ends_here_too_once_all_could_tell_and_lives_again_where_it_is_heard_of() {
    let dir = tempfile::tempdir().unwrap();
    left_long_ago(dir.path(), &[1]);
    let sessions = Sessions::open(dir.path(), 1_000).unwrap();
    let count = || sessions.lock().list(&shop()).map(SessionList::count);
    sessions.lock().due(now());
    assert_eq!(count(), Some(1));
    sessions.lock().due(now() + 61_000);
    assert_eq!(count(), Some(0), "it does not stay for ever");
    assert_eq!(sessions.take(&take(1, "b", now() - IDLE)).unwrap_err().code, Code::SessionEnded);
    assert_eq!(sessions.take(&take(1, "b", now() + 62_000)).unwrap().home, None, "its tag was made since");
    assert_eq!(count(), Some(1));
}
