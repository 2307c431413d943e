//! Owns this server's Active Session Lists: one a program, split by id among several, so that workers do not wait for each
//! other; and the ids that requests under way may begin sessions with. Must not know how a request tells of its session
//! (`visit`), or where lists are kept beyond memory (`keeping`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::domain::names::ProgramName;
use crate::domain::session::{AsItself, Place, SessionId, WallMillis};
use crate::domain::session_list::{Arrival, Bounds, Change, End, Figures, Session, SessionList};

use super::keeping::Lists;
use super::keeping::arrivals::{Arrivals, Came};

/// Parts of one program's list; a power of two.
const PARTS: usize = 16;
/// Sessions of a program that has not said when they are idle.
const IDLE_DEFAULT: WallMillis = 30 * 60 * 1_000;
/// Sessions of one part that one look for idle ones looks at.
const EXPIRE_MAX: usize = 5_000;
/// Ids handed out to requests under way, of one part; more are not known to the data endpoint.
const MINTED_MAX: usize = 100_000 / PARTS;
/// Between two words that there is no room: ms.
const TELL_EVERY: WallMillis = 60_000;

/// The lists of all programs.
#[derive(Debug)]
pub struct SessionLists {
    most: usize,
    arrivals: Arc<OnceLock<Arc<Arrivals>>>,
    programs: RwLock<BTreeMap<ProgramName, Arc<ProgramList>>>,
    only_here: AtomicU64,
}

/// The list of one program.
#[derive(Debug)]
pub struct ProgramList {
    parts: Vec<Mutex<Part>>,
    /// Where sessions that begin now are at home.
    place: RwLock<Option<Place>>,
    without_room: AtomicU64,
    /// When that was last said.
    room_told: AtomicU64,
    arrivals: Arc<OnceLock<Arc<Arrivals>>>,
}

/// The part of a program's list that some ids are of.
#[derive(Debug)]
struct Part {
    list: SessionList,
    /// Handed out, and how many requests under way bear each.
    minted: Bearers,
    /// Gone on elsewhere with so many requests under way here: what these ask for is theirs still.
    leaving: Bearers,
}

type Bearers = HashMap<SessionId, u32, AsItself>;

impl SessionLists {
    /// With at most so many sessions of one program.
    pub fn new(most: usize) -> Self {
        Self { most, arrivals: Arc::default(), programs: RwLock::default(), only_here: AtomicU64::new(0) }
    }

    /// Who hears of sessions that come from another server.
    pub fn tell_arrivals_to(&self, arrivals: Arc<Arrivals>) {
        // Said once, when the role begins.
        let _ = self.arrivals.set(arrivals);
    }

    /// Of how many sessions management has not got the data.
    pub fn only_here(&self) -> u64 {
        self.only_here.load(Relaxed)
    }

    /// The list of a program; a new one where there was none.
    pub fn program(&self, name: &ProgramName) -> Arc<ProgramList> {
        if let Some(list) = self.find(name) {
            return list;
        }
        let mut programs = self.programs.write().unwrap_or_else(PoisonError::into_inner);
        let bounds = Bounds { idle: IDLE_DEFAULT, sessions: self.most.div_ceil(PARTS) };
        programs
            .entry(name.clone())
            .or_insert_with(|| Arc::new(ProgramList::new(bounds, self.arrivals.clone())))
            .clone()
    }

    fn find(&self, name: &ProgramName) -> Option<Arc<ProgramList>> {
        self.programs.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl ProgramList {
    fn new(bounds: Bounds, arrivals: Arc<OnceLock<Arc<Arrivals>>>) -> Self {
        let part = || Part { list: SessionList::new(bounds), minted: Bearers::default(), leaving: Bearers::default() };
        let parts = (0..PARTS).map(|_| Mutex::new(part())).collect();
        let (place, without_room, room_told) = Default::default();
        Self { parts, place, without_room, room_told, arrivals }
    }

    fn part(&self, id: SessionId) -> MutexGuard<'_, Part> {
        lock(&self.parts[id.0 as usize % PARTS])
    }

    fn parts(&self) -> impl Iterator<Item = MutexGuard<'_, Part>> {
        self.parts.iter().map(lock)
    }

    /// What the manifest says of sessions, and where those are at home that begin from now on.
    pub fn settle(&self, place: Place, idle: WallMillis) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Some(place);
        for mut part in self.parts() {
            let bounds = part.list.bounds();
            if bounds.idle != idle {
                part.list.set_bounds(Bounds { idle, ..bounds });
            }
        }
    }

    pub fn begin(&self, id: SessionId, place: &Place, now: WallMillis) -> bool {
        let list = &mut self.part(id).list;
        // Where the program has put data into it, it has begun.
        if list.contains(id) {
            return list.arrive(id, now, place, now) == Arrival::Known;
        }
        let has_begun = list.begin(id, place, now);
        if !has_begun {
            self.had_no_room(now);
        }
        has_begun
    }

    pub fn arrive(&self, id: SessionId, issued: WallMillis, place: &Place, now: WallMillis) -> Arrival {
        let arrival = self.part(id).list.arrive(id, issued, place, now);
        if arrival == Arrival::Full {
            self.had_no_room(now);
        }
        arrival
    }

    /// Requests whose session found no room since this run began.
    pub fn without_room(&self) -> u64 {
        self.without_room.load(Relaxed)
    }

    fn had_no_room(&self, now: WallMillis) {
        self.without_room.fetch_add(1, Relaxed);
        let last = self.room_told.load(Relaxed);
        let is_due = now >= last.saturating_add(TELL_EVERY);
        if is_due && self.room_told.compare_exchange(last, now, Relaxed, Relaxed).is_ok() {
            let program = self.place.read().unwrap_or_else(PoisonError::into_inner).clone();
            tracing::warn!(
                at = ?program,
                "there is no room for more sessions: requests are served without one. Raise app_server.limits.sessions, or \
                 have sessions end sooner ([session] idle)"
            );
        }
    }

    /// How many have ended since it was last asked.
    pub fn take_finished(&self) -> u64 {
        self.parts().map(|mut part| part.list.take_finished()).sum()
    }

    /// Whether a session with a tag of that time has ended, as far as is known here.
    pub fn is_over(&self, id: SessionId, issued: WallMillis, now: WallMillis) -> bool {
        self.part(id).list.is_over(id, issued, now)
    }

    pub fn finish(&self, id: SessionId, now: WallMillis) {
        let mut part = self.part(id);
        part.list.finish(id, now);
        release(&mut part.leaving, id);
    }

    pub fn end(&self, id: SessionId, how: End, now: WallMillis) -> bool {
        self.part(id).list.end(id, how, now)
    }

    pub fn contains(&self, id: SessionId) -> bool {
        self.part(id).list.contains(id)
    }

    pub fn count(&self) -> usize {
        self.parts().map(|part| part.list.count()).sum()
    }

    /// Ends those that are idle, looking at so many of each part at the most.
    pub fn expire(&self, now: WallMillis, most: usize) -> usize {
        self.parts().map(|mut part| part.list.expire(now, most)).sum()
    }

    /// All of them go on elsewhere.
    pub fn migrate_all(&self, now: WallMillis) -> usize {
        let migrate = |mut part: MutexGuard<'_, Part>| {
            let Part { list, leaving, .. } = &mut *part;
            leaving.extend(list.all().filter(|session| session.active > 0).map(|session| (session.id, session.active)));
            list.migrate_all(now)
        };
        self.parts().map(migrate).sum()
    }

    pub fn figures(&self, now: WallMillis) -> Figures {
        let parts: Vec<_> = self.parts().collect();
        SessionList::figures(parts.iter().map(|part| &part.list), now)
    }

    /// A session has come here from another server.
    pub fn came(&self, came: impl FnOnce() -> Came) {
        if let Some(arrivals) = self.arrivals.get() {
            arrivals.tell(came());
        }
    }

    /// An id is handed out to a request that may begin a session with it.
    pub fn mint(&self, id: SessionId) {
        let minted = &mut self.part(id).minted;
        if minted.len() < MINTED_MAX {
            *minted.entry(id).or_insert(0) += 1;
        }
    }

    /// That request has ended.
    pub fn unmint(&self, id: SessionId) {
        release(&mut self.part(id).minted, id);
    }
}

impl Lists for SessionLists {
    fn programs(&self) -> Vec<ProgramName> {
        self.programs.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn idle(&self, program: &ProgramName) -> WallMillis {
        self.find(program)
            .and_then(|list| list.parts().next().map(|part| part.list.bounds().idle))
            .unwrap_or(IDLE_DEFAULT)
    }

    fn place(&self, program: &ProgramName) -> Option<Place> {
        self.find(program)?.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_changes(&self, program: &ProgramName, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for mut part in self.find(program).iter().flat_map(|list| list.parts()) {
            changes.extend(part.list.take_changes(most - changes.len()));
            if changes.len() >= most {
                break;
            }
        }
        changes
    }

    fn expire(&self, program: &ProgramName, now: WallMillis) {
        if let Some(list) = self.find(program) {
            list.expire(now, EXPIRE_MAX);
        }
    }

    fn change_all(&self, program: &ProgramName) {
        self.find(program).iter().for_each(|list| list.parts().for_each(|mut part| part.list.change_all()));
    }

    fn restore(&self, program: &ProgramName, session: &Session) {
        self.program(program).part(session.id).list.restore(session);
    }

    fn contains(&self, program: &ProgramName, id: SessionId) -> bool {
        self.find(program).is_some_and(|list| list.contains(id))
    }

    fn knows(&self, program: &ProgramName, id: SessionId) -> bool {
        let Some(list) = self.find(program) else { return false };
        let part = list.part(id);
        part.list.contains(id) || part.minted.contains_key(&id) || part.leaving.contains_key(&id)
    }

    fn keep(&self, program: &ProgramName, id: SessionId) {
        // One that goes on elsewhere is not listed again for what its last requests here write.
        let Some(list) = self.find(program) else { return };
        let place = list.place.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut part, now) = (list.part(id), super::keeping::now());
        if let Some(place) = place.filter(|_| part.minted.contains_key(&id) && !part.list.contains(id))
            && part.list.begin(id, &place, now)
        {
            part.list.finish(id, now);
        }
    }

    fn note_only_here(&self, count: usize) {
        self.only_here.store(count as u64, Relaxed);
    }

    fn end(&self, program: &ProgramName, id: SessionId, how: End) -> bool {
        self.find(program).is_some_and(|list| list.end(id, how, super::keeping::now()))
    }
}

/// One request less bears the id.
fn release(counts: &mut Bearers, id: SessionId) {
    if let Some(count) = counts.get_mut(&id) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: WallMillis = 1_764_000_000_000;

    fn shop() -> ProgramName {
        ProgramName::new("shop").unwrap()
    }

    fn settled() -> (SessionLists, Arc<ProgramList>, Place) {
        let (lists, place) =
            (SessionLists::new(100), Place { server: "s1".parse().unwrap(), version: "1".parse().unwrap() });
        let list = lists.program(&shop());
        list.settle(place.clone(), 60_000);
        (lists, list, place)
    }

    #[test]
    fn a_request_under_way_has_its_sessions_data_when_the_session_goes_on_elsewhere() {
        let (lists, list, place) = settled();
        let (one, other) = (SessionId(1), SessionId(2));
        for id in [one, other] {
            assert!(list.begin(id, &place, T));
        }
        list.finish(other, T);
        assert_eq!(list.migrate_all(T), 2);
        assert!(lists.knows(&shop(), one) && !lists.knows(&shop(), other));
        lists.keep(&shop(), one);
        assert_eq!(list.count(), 0, "what it writes does not bring it back");
        list.finish(one, T);
        assert!(!lists.knows(&shop(), one));
    }

    #[test]
    fn one_that_a_request_may_begin_is_listed_when_data_is_put_into_it_and_begins_once() {
        let (lists, list, place) = settled();
        let id = SessionId(1);
        lists.keep(&shop(), id);
        assert_eq!(list.count(), 0, "nobody was given it");
        list.mint(id);
        assert!(lists.knows(&shop(), id));
        lists.keep(&shop(), id);
        assert!(list.begin(id, &place, T) && list.count() == 1);
        list.unmint(id);
        assert!(lists.knows(&shop(), id));
    }
}
