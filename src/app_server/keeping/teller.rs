//! Owns the telling of what happens to sessions: twice a second, in batches, to this server's disk and to each management;
//! and the question of who takes a session that moves (protocol P16). Must not know what is listed, or why it changed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Lists;
use super::arrivals::Came;
use super::data::SessionData;
use super::disk::Disk;
use crate::domain::session::Place;
use crate::domain::session_list::Change;
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::wire::envelope::MESSAGES_PATH;
use crate::wire::messages::ToManagement;
use crate::wire::problem::{Code, Problem};
use crate::wire::sessions::{
    BATCH_MAX, ProgramSessions, SessionsHere, SessionsTaken, TakeSession, TakenSession, ToldSessions,
};

const ROUND: Duration = Duration::from_millis(500);
/// Batches that wait for a management that does not answer; with more, it is told all when it does.
const WAITING_MAX: usize = 64;
/// Batches of one round: a management that is told all does not keep the others waiting for long.
const BATCHES_MAX: usize = 50;

/// Speaks to every management.
#[derive(Clone)]
pub struct Links {
    pub identity: Identity,
    pub client: Client,
    pub management: Vec<String>,
}

impl Links {
    pub async fn ask<T: DeserializeOwned>(&self, management: &str, message: &ToManagement) -> Result<T, Problem> {
        let envelope = self.identity.envelope(None, message);
        let bytes = serde_json::to_vec(&envelope).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let url = format!("{}{MESSAGES_PATH}", management.trim_end_matches('/'));
        self.client.post(&url, bytes).await.map_err(|error| error.problem())?.json()
    }

    /// Takes a session that moves here. With no management to ask it is taken: what its tag says is all that is known.
    pub async fn take(&self, came: Came) -> Taken {
        let Came { program, id, from, to, issued } = came;
        let take = TakeSession { program, id, from, to, at: super::now(), issued };
        let message = ToManagement::TakeSession(Box::new(take));
        for management in &self.management {
            match self.ask::<TakenSession>(management, &message).await {
                Ok(TakenSession { home }) => return home.map_or(Taken::Here, Taken::At),
                Err(problem) if problem.code == Code::SessionEnded => return Taken::Ended,
                Err(problem) => tracing::debug!(management, %problem, "a session is taken without its word"),
            }
        }
        Taken::Here
    }
}

/// What the master list says of a session that moves here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    Here,
    /// Another server has taken it.
    At(Place),
    Ended,
}

/// The task.
pub struct Teller {
    links: Links,
    lists: Arc<dyn Lists>,
    disk: Disk,
    data: SessionData,
    managements: Vec<Management>,
    /// Nothing was on disk at the start.
    is_new: bool,
}

/// What one management has heard.
struct Management {
    url: String,
    state: State,
    waiting: VecDeque<ToldSessions>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It is to be told all once it answers.
    Away,
    /// It is being told all; the first batch of that is still to come, or not.
    Telling {
        begun: bool,
    },
    Known,
}

impl Teller {
    pub fn new(links: Links, lists: Arc<dyn Lists>, disk: Disk, data: SessionData, is_new: bool) -> Self {
        let managements = links.management.iter().map(|url| Management::new(url.clone())).collect();
        Self { links, lists, disk, data, managements, is_new }
    }

    /// Goes on until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.round().await;
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Tells what has changed since the last round.
    pub async fn round(&mut self) {
        self.rebuild().await;
        self.find_those_back().await;
        let now = super::now();
        self.lists.programs().iter().for_each(|program| self.lists.expire(program, now));
        for number in 0.. {
            let programs = self.take_changes();
            let is_last = programs.is_empty();
            self.queue(programs, is_last);
            if is_last || number >= BATCHES_MAX {
                break;
            }
        }
        for management in &mut self.managements {
            management.send(&self.links).await;
        }
        self.data.tell_management().await;
    }

    /// A server that remembers nothing asks which sessions were at home here.
    async fn rebuild(&mut self) {
        if !self.is_new {
            return;
        }
        for url in self.links.management.clone() {
            let mut after = None;
            loop {
                let question = ToManagement::SessionsHere { after: after.take() };
                let Ok(here) = self.links.ask::<SessionsHere>(&url, &question).await else { return };
                for ProgramSessions { program, changes, .. } in here.programs {
                    for change in changes {
                        if let Change::Is(session) = change
                            && !self.lists.contains(&program, session.id)
                        {
                            self.lists.restore(&program, &session);
                            self.disk.write(&program, &[Change::Is(session)]);
                        }
                    }
                }
                match here.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        match self.disk.mark() {
            Ok(()) => self.is_new = false,
            Err(error) => tracing::error!(%error, "this server's store of sessions cannot be written"),
        }
    }

    async fn find_those_back(&mut self) {
        let mut tells_all = false;
        for management in self.managements.iter_mut().filter(|management| management.state == State::Away) {
            let question = ToManagement::Sessions(Box::default());
            if self.links.ask::<SessionsTaken>(&management.url, &question).await.is_ok() {
                management.state = State::Telling { begun: false };
                tells_all = true;
            }
        }
        if tells_all {
            self.lists.programs().iter().for_each(|program| self.lists.change_all(program));
        }
    }

    /// One batch; written to disk on the way.
    fn take_changes(&self) -> Vec<ProgramSessions> {
        let (mut programs, mut room) = (Vec::new(), BATCH_MAX);
        for program in self.lists.programs() {
            let changes = self.lists.take_changes(&program, room);
            if changes.is_empty() {
                continue;
            }
            room -= changes.len().min(room);
            self.disk.write(&program, &changes);
            self.data.changed(&program, &changes);
            let idle_ms = self.lists.idle(&program);
            programs.push(ProgramSessions { program, idle_ms, changes });
            if room == 0 {
                break;
            }
        }
        programs
    }

    fn queue(&mut self, programs: Vec<ProgramSessions>, is_last: bool) {
        for management in &mut self.managements {
            management.queue(programs.clone(), is_last);
        }
    }
}

impl Management {
    fn new(url: String) -> Self {
        Self { url, state: State::Away, waiting: VecDeque::new() }
    }

    fn queue(&mut self, programs: Vec<ProgramSessions>, is_last: bool) {
        let (begins, ends) = match self.state {
            State::Away => return,
            State::Telling { begun } => (!begun, is_last),
            State::Known => (false, false),
        };
        if programs.is_empty() && !begins && !ends {
            return;
        }
        if self.waiting.len() >= WAITING_MAX.max(BATCHES_MAX + 2) {
            self.state = State::Away;
            self.waiting.clear();
            return;
        }
        self.state = match self.state {
            State::Telling { .. } if ends => State::Known,
            State::Telling { .. } => State::Telling { begun: true },
            other => other,
        };
        self.waiting.push_back(ToldSessions { begins, ends, programs });
    }

    /// Sends what waits, in order; what is not taken waits on.
    async fn send(&mut self, links: &Links) {
        while let Some(batch) = self.waiting.pop_front() {
            let message = ToManagement::Sessions(Box::new(batch));
            match links.ask::<SessionsTaken>(&self.url, &message).await {
                Ok(SessionsTaken { tell_all: false }) => {}
                Ok(SessionsTaken { tell_all: true }) => {
                    self.state = State::Away;
                    self.waiting.clear();
                }
                Err(problem) => {
                    tracing::debug!(management = self.url, %problem, "sessions were not taken; they are told again");
                    if let ToManagement::Sessions(batch) = message {
                        self.waiting.push_front(*batch);
                    }
                    return;
                }
            }
        }
    }
}
