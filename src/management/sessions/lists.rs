//! Owns the lists themselves and what of them is not on disk yet: pure bookkeeping around the domain's lists. Must not know
//! threads, or what a message looks like on its way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::domain::names::{ProgramName, RunId, ServerName};
use crate::domain::session::{AsItself, Place, SessionId, WallMillis};
use crate::domain::session_list::{
    Bounds, Change, End, Session, SessionList, Unpacker, is_forgotten, session_key, session_key_of_text,
};
use crate::store::packed::{Former, Packed};
use crate::store::{self, Store, StoreError, Tree};
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{
    BATCH_MAX, ProgramSessions, SessionsHere, SessionsTaken, TakeSession, TakenSession, ToldSessions,
};

/// Where earlier releases had sessions.
const FORMER: Former = Former { prefix: "list/", key: session_key_of_text };
const IDLE: &str = "idle/";
pub const DATA: &str = "data/";
/// Sessions that one write holds.
const WRITE_MAX: usize = 20_000;
/// Sessions looked at for being idle, each time.
const EXPIRE_MAX: usize = 50_000;
/// Programs with sessions.
const PROGRAMS_MAX: usize = 10_000;
/// A server ends what is idle; here it ends this much later, for servers that are gone.
const IDLE_SLACK: WallMillis = 60_000;

type Ids = HashSet<SessionId, AsItself>;

/// All programs' lists.
pub struct Lists {
    programs: BTreeMap<ProgramName, Listed>,
    bounds: Bounds,
    /// Servers of whose present run all is heard.
    heard: HashMap<ServerName, RunId>,
    /// Servers that are telling all, in that run of theirs. What one does not name stays: it may have moved on and wait for
    /// its client, or have begun since the server looked what there is to tell. What has ended is named.
    telling: HashMap<ServerName, RunId>,
    /// Until then nothing ends because it was idle: sessions may live on where nobody could tell of it meanwhile.
    patient_until: WallMillis,
    /// When this run of management began.
    begun: WallMillis,
    /// Those that there are; `None`: that has not been said yet.
    servers: Option<BTreeSet<ServerName>>,
}

struct Listed {
    list: SessionList,
    /// Not on disk as they are.
    changed: Ids,
    /// What servers said: `None`, it is as it was on disk.
    idle: Option<WallMillis>,
}

pub fn data_key(program: &ProgramName, id: SessionId) -> String {
    format!("{DATA}{program}/{id}")
}

/// What is to be written.
#[derive(Default)]
pub struct Due {
    /// Sessions by their keys, packed; `None`: it has ended.
    pub sessions: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub others: Vec<store::Change>,
}

impl Lists {
    /// And what the lists are written to from then on.
    pub fn load(store: &Store, bounds: Bounds, now: WallMillis) -> Result<(Self, Packed<(Store, Tree)>), StoreError> {
        let (programs, heard, telling, patient_until, servers) = Default::default();
        let mut lists = Self { programs, bounds, heard, telling, patient_until, begun: now, servers };
        for (key, idle) in store.scan::<WallMillis>(Tree::Sessions, IDLE)? {
            if let Ok(program) = key[IDLE.len()..].parse() {
                lists.listed(&program).list.set_bounds(Bounds { idle, ..bounds });
            }
        }
        let (mut unreadable, mut unpacker) = (0_u64, Unpacker::default());
        let packed =
            Packed::open_or_convert(store, Tree::Sessions, FORMER, |key, value| match unpacker.read(key, value) {
                Some((program, session)) => drop(lists.listed(program).list.restore(&session)),
                None => unreadable += 1,
            })?;
        if unreadable > 0 {
            tracing::warn!(unreadable, "sessions' records cannot be read: their servers tell of them again");
        }
        if lists.programs.values().any(|listed| listed.list.count() > 0) {
            lists.patient_until = now + IDLE_SLACK;
        }
        Ok((lists, packed))
    }

    fn listed(&mut self, program: &ProgramName) -> &mut Listed {
        let bounds = self.bounds;
        self.programs.entry(program.clone()).or_insert_with(|| Listed {
            list: SessionList::new(bounds),
            changed: Ids::default(),
            idle: None,
        })
    }

    pub fn list(&self, program: &ProgramName) -> Option<&SessionList> {
        self.programs.get(program).map(|listed| &listed.list)
    }

    pub fn told(&mut self, server: &ServerName, run: &RunId, told: ToldSessions, now: WallMillis) -> SessionsTaken {
        if told.begins {
            self.heard.remove(server);
            self.telling.insert(server.clone(), run.clone());
        }
        let tells_all = self.telling.get(server) == Some(run);
        if !tells_all && self.heard.get(server) != Some(run) {
            return SessionsTaken { tell_all: true };
        }
        for told in told.programs {
            self.take_in(told, now);
        }
        if told.ends && tells_all {
            self.telling.remove(server);
            self.heard.insert(server.clone(), run.clone());
        }
        SessionsTaken::default()
    }

    fn take_in(&mut self, told: ProgramSessions, now: WallMillis) {
        let ProgramSessions { program, idle_ms, changes } = told;
        if !self.programs.contains_key(&program) && self.programs.len() >= PROGRAMS_MAX {
            return;
        }
        let bounds = Bounds { idle: idle_ms.saturating_add(IDLE_SLACK), ..self.bounds };
        let patient_until = self.patient_until;
        let listed = self.listed(&program);
        if listed.list.bounds() != bounds {
            listed.list.set_bounds(bounds);
            listed.idle = Some(bounds.idle);
        }
        for change in changes.iter().filter(|change| change.counts(now, patient_until)) {
            listed.list.apply(change);
            listed.changed.insert(id_of(change));
        }
    }

    pub fn take(&mut self, take: &TakeSession) -> Result<TakenSession, Problem> {
        let TakeSession { program, id, from, to, at, issued } = take;
        let listed = self.listed(program);
        if listed.list.has_ended(*id, *issued) {
            return Err(Problem::new(Code::SessionEnded, format!("session {id} of {program} has ended")));
        }
        let home = listed.list.take(*id, from, to, *at).err();
        listed.changed.insert(*id);
        Ok(TakenSession { home })
    }

    pub fn here(&self, server: &ServerName, after: Option<&(ProgramName, SessionId)>) -> SessionsHere {
        let mut here = SessionsHere::default();
        for (program, listed) in &self.programs {
            if after.is_some_and(|(last, _)| program < last) {
                continue;
            }
            let first = after.filter(|(last, _)| last == program).map(|(_, id)| *id);
            let mut sessions: Vec<Session> = listed
                .list
                .all()
                .filter(|session| session.place.server == *server && first.is_none_or(|first| session.id > first))
                .collect();
            sessions.sort_by_key(|session| session.id);
            let more = sessions.len() > BATCH_MAX;
            sessions.truncate(BATCH_MAX);
            let next = sessions.last().filter(|_| more).map(|session| (program.clone(), session.id));
            if !sessions.is_empty() {
                let idle_ms = listed.list.bounds().idle.saturating_sub(IDLE_SLACK);
                let changes = sessions.into_iter().map(Change::Is).collect();
                here.programs.push(ProgramSessions { program: program.clone(), idle_ms, changes });
            }
            let later = || self.programs.range(program.clone()..).nth(1).map(|(next, _)| (next.clone(), SessionId(0)));
            if more || here.programs.len() == 1 {
                here.next = next.or_else(later);
                return here;
            }
        }
        here
    }

    pub fn end(&mut self, program: &ProgramName, id: SessionId, how: End, now: WallMillis) {
        let listed = self.listed(program);
        listed.list.end(id, how, now);
        listed.changed.insert(id);
    }

    /// Data is written for it: it is listed, at that place if nothing else is known. `false`: it was ended.
    pub fn has_data(&mut self, program: &ProgramName, id: SessionId, place: &Place, now: WallMillis) -> bool {
        let listed = self.listed(program);
        if listed.list.was_ended(id) {
            return false;
        }
        if !listed.list.contains(id) && listed.list.take(id, place, place, now).is_ok() {
            listed.changed.insert(id);
        }
        listed.list.contains(id)
    }

    pub fn servers_are(&mut self, servers: BTreeSet<ServerName>) {
        self.servers = Some(servers);
    }

    /// Whether every server has told all since this run began, and it is long enough ago for any program's sessions.
    pub fn has_heard_all(&self, now: WallMillis) -> bool {
        self.is_forgotten(self.bounds.idle, now)
    }

    /// Whether that record of data is of a session that nobody can name any more.
    pub fn is_stray(&self, key: &str, now: WallMillis) -> bool {
        let named = key.strip_prefix(DATA).and_then(|named| named.split_once('/'));
        let named = named.and_then(|(program, id)| Some((program.parse::<ProgramName>().ok()?, id.parse().ok()?)));
        // What cannot be read is not this one's to remove.
        let Some((program, id)) = named else { return false };
        match self.programs.get(&program) {
            Some(listed) => !listed.list.contains(id) && self.is_forgotten(listed.list.bounds().idle, now),
            None => self.is_forgotten(self.bounds.idle, now),
        }
    }

    fn is_forgotten(&self, idle: WallMillis, now: WallMillis) -> bool {
        let Some(servers) = &self.servers else { return false };
        let untold = servers.iter().filter(|server| !self.heard.contains_key(*server)).count();
        is_forgotten(self.begun, idle, untold, now)
    }

    /// Has its records written again as they are to be.
    pub fn look_again(&mut self, program: &ProgramName, id: SessionId) {
        if let Some(listed) = self.programs.get_mut(program).filter(|listed| !listed.list.contains(id)) {
            listed.changed.insert(id);
        }
    }

    pub fn counts(&self) -> Vec<(ProgramName, ServerName, usize)> {
        let mut counts = BTreeMap::new();
        for (program, listed) in &self.programs {
            for (place, count) in listed.list.places() {
                *counts.entry((program.clone(), place.server.clone())).or_insert(0) += count;
            }
        }
        counts.into_iter().map(|((program, server), count)| (program, server, count)).collect()
    }

    /// Ends what is idle, and says what has to be written: at most so much at a time, the rest the next time.
    pub fn due(&mut self, now: WallMillis) -> Due {
        let mut due = Due::default();
        for (program, listed) in &mut self.programs {
            if now >= self.patient_until {
                listed.list.expire(now, EXPIRE_MAX);
            }
            listed.changed.extend(listed.list.take_changes(usize::MAX).iter().map(id_of));
            if let Some(idle) = listed.idle.take() {
                due.others.extend(store::Change::put(Tree::Sessions, format!("{IDLE}{program}"), &idle));
            }
            let room = WRITE_MAX.saturating_sub(due.sessions.len());
            let ids: Vec<SessionId> = listed.changed.iter().take(room).copied().collect();
            for id in ids {
                listed.changed.remove(&id);
                let session = listed.list.get(id);
                if session.is_none() {
                    due.others.push(store::Change::remove(Tree::Sessions, data_key(program, id)));
                }
                due.sessions.push((session_key(program, id), session.map(|session| session.pack())));
            }
        }
        due
    }
}

fn id_of(change: &Change) -> SessionId {
    match change {
        Change::Is(session) => session.id,
        Change::Gone { id, .. } => *id,
    }
}
