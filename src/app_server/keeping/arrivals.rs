//! Owns which sessions have come here from another server: told of by requests, at once, to who takes them and fetches their
//! data; and where each came from, for as long as its data may be there. Must not know what is done about them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::domain::names::{ProgramName, ServerName};
use crate::domain::session::{Place, SessionId, WallMillis};

/// Sessions of which is remembered where they came from; the first are forgotten.
const CAME_MAX: usize = 100_000;
/// Sessions that have come and wait to be taken.
const WAITING_MAX: usize = 1_024;

type Named = (ProgramName, SessionId);

/// A session that has come here from where its tag says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Came {
    pub program: ProgramName,
    pub id: SessionId,
    pub from: Place,
    pub to: Place,
    /// When its tag was made.
    pub issued: WallMillis,
}

/// Those that have come.
#[derive(Debug)]
pub struct Arrivals {
    known: Mutex<Known>,
    waiting: mpsc::Sender<Came>,
}

#[derive(Debug, Default)]
struct Known {
    from: HashMap<Named, ServerName>,
    in_order: VecDeque<Named>,
}

impl Arrivals {
    /// And where they can be waited for.
    pub fn begin() -> (Self, mpsc::Receiver<Came>) {
        let (waiting, come) = mpsc::channel(WAITING_MAX);
        (Self { known: Mutex::default(), waiting }, come)
    }

    /// A request of a session has come whose tag names another server.
    pub fn tell(&self, came: Came) {
        self.known().note((came.program.clone(), came.id), came.from.server.clone());
        // One that finds no room is told of with the next batch, and its data fetched when the program asks.
        let _ = self.waiting.try_send(came);
    }

    /// Where its data may be.
    pub fn from(&self, program: &ProgramName, id: SessionId) -> Option<ServerName> {
        self.known().from.get(&(program.clone(), id)).cloned()
    }

    /// What there was to fetch of a session from that server is here.
    pub fn arrived(&self, program: &ProgramName, id: SessionId, from: &ServerName) {
        let (mut known, named) = (self.known(), (program.clone(), id));
        if known.from.get(&named) == Some(from) {
            known.from.remove(&named);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note(&mut self, named: Named, from: ServerName) {
        if self.from.insert(named.clone(), from).is_none() {
            self.in_order.push_back(named);
        }
        while self.in_order.len() > CAME_MAX {
            if let Some(first) = self.in_order.pop_front() {
                self.from.remove(&first);
            }
        }
    }
}
