//! Owns this server's Active Session Lists: one a program, split by id among several, so that workers do not wait for each
//! other; and the ids that requests under way may begin sessions with. Must not know how a request tells of its session
//! (`visit`), or where lists are kept beyond memory (`keeping`).

use std::collections::{BTreeMap, HashMap};
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
/// Ids handed out to requests under way, of one program; more are not known to the data endpoint.
const MINTED_MAX: usize = 100_000;

/// The lists of all programs.
#[derive(Debug)]
pub struct SessionLists {
    most: usize,
    arrivals: Arc<OnceLock<Arc<Arrivals>>>,
    programs: RwLock<BTreeMap<ProgramName, Arc<ProgramList>>>,
}

/// The list of one program.
#[derive(Debug)]
pub struct ProgramList {
    parts: Vec<Mutex<SessionList>>,
    /// Where sessions that begin now are at home.
    place: RwLock<Option<Place>>,
    /// Handed out, and how many requests under way bear each.
    minted: Mutex<HashMap<SessionId, u32, AsItself>>,
    arrivals: Arc<OnceLock<Arc<Arrivals>>>,
}

impl SessionLists {
    /// With at most so many sessions of one program.
    pub fn new(most: usize) -> Self {
        Self { most, arrivals: Arc::default(), programs: RwLock::default() }
    }

    /// Who hears of sessions that come from another server.
    pub fn tell_arrivals_to(&self, arrivals: Arc<Arrivals>) {
        // Said once, when the role begins.
        let _ = self.arrivals.set(arrivals);
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
        let parts = (0..PARTS).map(|_| Mutex::new(SessionList::new(bounds))).collect();
        Self { parts, place: RwLock::default(), minted: Mutex::default(), arrivals }
    }

    fn part(&self, id: SessionId) -> MutexGuard<'_, SessionList> {
        lock(&self.parts[id.0 as usize % PARTS])
    }

    fn parts(&self) -> impl Iterator<Item = MutexGuard<'_, SessionList>> {
        self.parts.iter().map(lock)
    }

    /// What the manifest says of sessions, and where those are at home that begin from now on.
    pub fn settle(&self, place: Place, idle: WallMillis) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Some(place);
        for mut part in self.parts() {
            let bounds = part.bounds();
            if bounds.idle != idle {
                part.set_bounds(Bounds { idle, ..bounds });
            }
        }
    }

    pub fn begin(&self, id: SessionId, place: &Place, now: WallMillis) -> bool {
        let mut part = self.part(id);
        // Where the program has put data into it, it has begun.
        if part.contains(id) { part.arrive(id, now, place, now) == Arrival::Known } else { part.begin(id, place, now) }
    }

    pub fn arrive(&self, id: SessionId, issued: WallMillis, place: &Place, now: WallMillis) -> Arrival {
        self.part(id).arrive(id, issued, place, now)
    }

    /// How many have ended since it was last asked.
    pub fn take_finished(&self) -> u64 {
        self.parts().map(|mut part| part.take_finished()).sum()
    }

    /// Whether a session with a tag of that time has ended, as far as is known here.
    pub fn is_over(&self, id: SessionId, issued: WallMillis, now: WallMillis) -> bool {
        self.part(id).is_over(id, issued, now)
    }

    pub fn finish(&self, id: SessionId, now: WallMillis) {
        self.part(id).finish(id, now);
    }

    pub fn end(&self, id: SessionId, how: End, now: WallMillis) -> bool {
        self.part(id).end(id, how, now)
    }

    pub fn contains(&self, id: SessionId) -> bool {
        self.part(id).contains(id)
    }

    pub fn count(&self) -> usize {
        self.parts().map(|part| part.count()).sum()
    }

    /// Ends those that are idle, looking at so many of each part at the most.
    pub fn expire(&self, now: WallMillis, most: usize) -> usize {
        self.parts().map(|mut part| part.expire(now, most)).sum()
    }

    /// All of them go on elsewhere.
    pub fn migrate_all(&self, now: WallMillis) -> usize {
        self.parts().map(|mut part| part.migrate_all(now)).sum()
    }

    pub fn figures(&self, now: WallMillis) -> Figures {
        let parts: Vec<_> = self.parts().collect();
        SessionList::figures(parts.iter().map(|part| &**part), now)
    }

    /// A session has come here from another server.
    pub fn came(&self, came: impl FnOnce() -> Came) {
        if let Some(arrivals) = self.arrivals.get() {
            arrivals.tell(came());
        }
    }

    /// An id is handed out to a request that may begin a session with it.
    pub fn mint(&self, id: SessionId) {
        let mut minted = lock(&self.minted);
        if minted.len() < MINTED_MAX {
            *minted.entry(id).or_insert(0) += 1;
        }
    }

    /// That request has ended.
    pub fn unmint(&self, id: SessionId) {
        let mut minted = lock(&self.minted);
        if let Some(count) = minted.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                minted.remove(&id);
            }
        }
    }
}

impl Lists for SessionLists {
    fn programs(&self) -> Vec<ProgramName> {
        self.programs.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn idle(&self, program: &ProgramName) -> WallMillis {
        self.find(program).and_then(|list| list.parts().next().map(|part| part.bounds().idle)).unwrap_or(IDLE_DEFAULT)
    }

    fn place(&self, program: &ProgramName) -> Option<Place> {
        self.find(program)?.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_changes(&self, program: &ProgramName, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for mut part in self.find(program).iter().flat_map(|list| list.parts()) {
            changes.extend(part.take_changes(most - changes.len()));
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
        self.find(program).iter().for_each(|list| list.parts().for_each(|mut part| part.change_all()));
    }

    fn restore(&self, program: &ProgramName, session: &Session) {
        self.program(program).part(session.id).restore(session);
    }

    fn contains(&self, program: &ProgramName, id: SessionId) -> bool {
        self.find(program).is_some_and(|list| list.contains(id))
    }

    fn knows(&self, program: &ProgramName, id: SessionId) -> bool {
        self.find(program).is_some_and(|list| list.contains(id) || lock(&list.minted).contains_key(&id))
    }

    fn keep(&self, program: &ProgramName, id: SessionId) {
        let Some(list) = self.find(program) else { return };
        let place = list.place.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut part, now) = (list.part(id), super::keeping::now());
        if let Some(place) = place.filter(|_| !part.contains(id))
            && part.begin(id, &place, now)
        {
            part.finish(id, now);
        }
    }

    fn end(&self, program: &ProgramName, id: SessionId, how: End) -> bool {
        self.find(program).is_some_and(|list| list.end(id, how, super::keeping::now()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
