//! Owns what one worker keeps for its requests: the snapshot it goes by, and of each program that it is asked for what it
//! would have to look up or share with other workers otherwise. Must not know how a request goes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::here::Desk;
use super::ids::Ids;
use super::ledger::{Counter, Row};
use super::shared::Shared;
use super::snapshot::{Placement, Program, Snapshot};
use crate::domain::names::{ProgramName, RunId, Version};
use crate::domain::session::RememberedTags;
use crate::proxy::Kept;

/// Counters of one program that a worker has at hand: a few servers by a few versions.
const COUNTERS_AT_HAND: usize = 64;

/// One worker.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub number: usize,
    pub ids: Ids,
    /// The server in this process, where there is one.
    pub here: Option<AtHere>,
    /// Sessions' tags that came of late.
    pub tags: RefCell<RememberedTags>,
    turn: Cell<usize>,
    /// The news that `snapshot` was taken at.
    seen: Cell<u64>,
    snapshot: RefCell<Arc<Snapshot>>,
    /// By the programs' places in the snapshot, as far as they were asked for.
    locals: RefCell<Vec<Option<Rc<Local>>>>,
}

/// One worker's way to the server in this process.
pub struct AtHere {
    pub run: RunId,
    pub desk: Box<dyn Desk>,
    pub nudges: watch::Receiver<()>,
}

/// A program as one worker's requests share it: no count of its holders is touched by others.
pub struct Local {
    pub program: Arc<Program>,
    counters: RefCell<Vec<AtHand>>,
}

struct AtHand {
    place: Option<usize>,
    version: Option<Version>,
    counter: Kept<Counter>,
}

impl Worker {
    pub fn begin(shared: Arc<Shared>, number: usize) -> Self {
        // Before the snapshot: what is published between is seen at the first look.
        let seen = shared.news_seen();
        let snapshot = Arc::clone(&*shared.snapshot());
        Self {
            ids: Ids::begin(),
            here: shared.here.as_ref().map(|here| AtHere {
                run: here.run().clone(),
                desk: here.desk(),
                nudges: here.nudges(),
            }),
            tags: RefCell::default(),
            turn: Cell::new(number),
            seen: Cell::new(seen),
            snapshot: RefCell::new(snapshot),
            locals: RefCell::default(),
            shared,
            number,
        }
    }

    /// Which of equally loaded servers is first: another for every request.
    pub fn next_turn(&self) -> usize {
        self.turn.set(self.turn.get().wrapping_add(1));
        self.turn.get()
    }

    /// Takes up the newest snapshot where there is news; answers how much news there was.
    pub fn look(&self) -> u64 {
        let seen = self.shared.news_seen();
        if seen != self.seen.get() {
            self.seen.set(seen);
            *self.snapshot.borrow_mut() = Arc::clone(&*self.shared.snapshot());
        }
        seen
    }

    /// The snapshot of the last look.
    pub fn snapshot(&self) -> std::cell::Ref<'_, Arc<Snapshot>> {
        self.snapshot.borrow()
    }

    /// The program at a place of the snapshot of the last look.
    pub fn program(&self, place: usize) -> Rc<Local> {
        let (snapshot, mut locals) = (self.snapshot.borrow(), self.locals.borrow_mut());
        let program = &snapshot.programs[place];
        if locals.len() != snapshot.programs.len() {
            locals.resize_with(snapshot.programs.len(), || None);
        }
        let local = &mut locals[place];
        match local {
            Some(local) if Arc::ptr_eq(&local.program, program) => Rc::clone(local),
            _ => Rc::clone(local.insert(Rc::new(Local::of(Arc::clone(program))))),
        }
    }

    pub fn program_named(&self, name: &ProgramName) -> Option<Rc<Local>> {
        let place = self.snapshot.borrow().place(name)?;
        Some(self.program(place))
    }
}

impl Local {
    fn of(program: Arc<Program>) -> Self {
        Self { program, counters: RefCell::default() }
    }

    pub fn name(&self) -> &ProgramName {
        self.program.name()
    }

    pub fn placement(&self, place: usize) -> Option<&Placement> {
        self.program.placements.get(place)
    }

    /// Where this worker counts requests of the program at a placement and a version, as far as they are known. What is
    /// no version counts as none.
    pub fn counter(&self, worker: &Worker, place: Option<usize>, version: Option<&str>) -> Kept<Counter> {
        let mut counters = self.counters.borrow_mut();
        let is_it = |one: &&AtHand| one.place == place && one.version.as_ref().map(Version::as_str) == version;
        if let Some(known) = counters.iter().find(is_it) {
            return Rc::clone(&known.counter);
        }
        let server = place.and_then(|place| self.placement(place)).map(|placement| placement.server.name.clone());
        let version = version.and_then(|version| Version::new(version).ok());
        let row = Row { program: self.name().clone(), version: version.clone(), server };
        let counter = Rc::new(worker.shared.ledger.counter(worker.number, row));
        if counters.len() >= COUNTERS_AT_HAND {
            counters.clear();
        }
        counters.push(AtHand { place, version, counter: Rc::clone(&counter) });
        counter
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::HeldList;
    use super::super::samples::{self, list, program};
    use super::*;

    fn publish(shared: &Shared, revision: u64, programs: &[crate::wire::messages::RouterProgram]) {
        let held = HeldList::whole(list(1, revision, programs));
        let before = Arc::clone(&*shared.snapshot());
        shared.publish(Snapshot::build(held, &before, &shared.setting));
    }

    #[test]
    fn a_worker_goes_by_what_it_looked_at_last_and_keeps_what_did_not_change() {
        let shared = samples::shared(1);
        let worker = Worker::begin(Arc::clone(&shared), 0);
        let (mail, shop) = (program("mail", &[("s1", true)]), program("shop", &[("s1", true)]));
        publish(&shared, 1, std::slice::from_ref(&shop));
        assert!(worker.snapshot().list.is_none(), "it has not looked");
        assert_eq!(worker.look(), worker.look());
        let one = worker.program(0);
        assert!(Rc::ptr_eq(&one, &worker.program_named(&shop.manifest.name).unwrap()));
        publish(&shared, 2, &[mail.clone(), shop.clone()]);
        worker.look();
        let names = [0, 1].map(|place| worker.program(place).name().to_string());
        assert_eq!((names[0].as_str(), names[1].as_str()), ("mail", "shop"));
        assert!(worker.program_named(&ProgramName::new("other").unwrap()).is_none());
        publish(&shared, 3, &[mail]);
        worker.look();
        assert!(worker.program_named(&shop.manifest.name).is_none());
        assert_eq!(one.name().as_str(), "shop", "who has it keeps it");
    }

    #[test]
    fn a_counter_is_found_by_placement_and_version_and_those_at_hand_are_bounded() {
        let shared = samples::shared(1);
        let worker = Worker::begin(Arc::clone(&shared), 0);
        publish(&shared, 1, &[program("shop", &[("s1", true), ("s2", true)])]);
        worker.look();
        let local = worker.program(0);
        let counter = |place, version: Option<&str>| local.counter(&worker, place, version);
        assert!(Rc::ptr_eq(&counter(Some(0), Some("1")), &counter(Some(0), Some("1"))));
        for (place, version) in [(Some(0), Some("1")), (Some(1), Some("1")), (Some(0), Some("2")), (None, None)] {
            counter(place, version).refused();
        }
        counter(None, Some("no version")).refused();
        let of =
            |row: &Row| (row.version.as_ref().map(Version::to_string), row.server.as_ref().map(ToString::to_string));
        let rows: Vec<_> = shared.ledger.sum().iter().map(|(row, tally)| (of(row), tally.counts.refused)).collect();
        let text = |version: &str, server: &str| (Some(version.to_owned()), Some(server.to_owned()));
        let expected = [((None, None), 2), (text("1", "s1"), 1), (text("1", "s2"), 1), (text("2", "s1"), 1)];
        assert_eq!(rows, expected);
        for version in 0..COUNTERS_AT_HAND * 2 {
            counter(Some(0), Some(&version.to_string()));
        }
        assert!(local.counters.borrow().len() <= COUNTERS_AT_HAND);
    }
}
