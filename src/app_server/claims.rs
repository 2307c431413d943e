//! Owns what the request path sees: program → slot → the instance that takes requests, with its gate. Claiming is one
//! atomic step on the gate's word (protocol P1, P14). Must not know how an instance came to be, or what a request is.
//!
//! The gate's word is the one thing that all workers share at each request. What leads to it, a worker keeps for itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::ledger::Row;
use super::nudge::Nudge;
use super::stay::Sessions;
use crate::domain::gate::{Gate, NotDrained, Word};
use crate::domain::names::{Generation, ProgramName, Release};
use crate::proxy::Kept;

/// Times that a claim reads a pointer that keeps moving. Each move is a transition of the placement, each of which is
/// flushed to disk: nobody meets this bound.
const POINTER_READS_MAX: usize = 64;

/// Every program's slot. Read without a lock; changed by the server's actor only.
#[derive(Debug, Default)]
pub struct Claims {
    slots: ArcSwap<HashMap<ProgramName, Arc<Slot>>>,
    nudge: Nudge,
}

/// One program on this server.
#[derive(Debug)]
pub struct Slot {
    pub program: ProgramName,
    admission: ArcSwap<Admission>,
    nudge: Nudge,
    emptied: Notify,
    /// Its instance answers its probes.
    pub healthy: AtomicBool,
    /// Restarts in this run of the node.
    pub restarts: AtomicU64,
}

/// An instance as the request path sees it; or nobody, behind a closed gate.
#[derive(Debug)]
pub struct Admission {
    pub gate: Gate,
    pub target: Option<Target>,
}

/// Where an instance takes requests, and what its manifest says of them.
#[derive(Debug)]
pub struct Target {
    pub addr: SocketAddr,
    /// No two instances of a node's run have one: connections are pooled by it, never by address (P2c).
    pub key: u64,
    pub release: Release,
    pub request_timeout: Duration,
    pub body_limit: u64,
    pub row: Arc<Row>,
    /// `None`: the program has no sessions.
    pub sessions: Option<Arc<Sessions>>,
}

/// A request was turned away before any byte of it reached the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub generation: Generation,
}

/// One worker's ways to the slots; a slot once there stays.
#[derive(Debug)]
pub struct Entries {
    claims: Arc<Claims>,
    known: RefCell<foldhash::HashMap<ProgramName, Rc<Entry>>>,
}

/// One worker's way to a slot, with the pointer as it was last read: whether it is still so, the gate behind it tells,
/// which is closed once the pointer has moved.
#[derive(Debug)]
pub struct Entry {
    slot: Arc<Slot>,
    last: RefCell<Kept<Admission>>,
}

/// One admitted request; given back by drop.
#[derive(Debug)]
pub struct Claim {
    entry: Rc<Entry>,
    admission: Kept<Admission>,
}

impl Claims {
    /// Whose workers are told through `nudge` when a pointer moves.
    pub fn telling(nudge: Nudge) -> Self {
        Self { slots: ArcSwap::default(), nudge }
    }

    pub fn slot(&self, program: &str) -> Option<Arc<Slot>> {
        self.slots.load().get(program).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.load().values().cloned().collect()
    }

    /// The slot of a program, made closed and empty where there is none.
    pub fn open_slot(&self, program: &ProgramName) -> Arc<Slot> {
        let made = Arc::new(Slot::new(program.clone(), self.nudge.clone()));
        let mut slot = made.clone();
        self.slots.rcu(|slots| {
            let mut slots = HashMap::clone(slots);
            slot = slots.entry(program.clone()).or_insert_with(|| made.clone()).clone();
            slots
        });
        slot
    }
}

impl Slot {
    pub fn new(program: ProgramName, nudge: Nudge) -> Self {
        let nobody = Admission::nobody(Generation(0));
        Self {
            program,
            admission: ArcSwap::from_pointee(nobody),
            nudge,
            emptied: Notify::new(),
            healthy: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
        }
    }

    pub fn admission(&self) -> Arc<Admission> {
        self.admission.load_full()
    }

    #[cfg(test)]
    pub fn claim(self: &Arc<Self>) -> Result<Claim, Refused> {
        Rc::new(Entry::to(self.clone())).claim(|_| false)
    }

    /// Moves the pointer; answers what it pointed to. The caller closes that one's gate afterwards (P14).
    pub(super) fn point(&self, admission: Arc<Admission>) -> Arc<Admission> {
        let before = self.admission.swap(admission);
        self.nudge.give();
        before
    }

    /// Waits until a closed gate of this slot has lost its last claim. One that happened since the last wait counts.
    pub async fn emptied(&self) {
        self.emptied.notified().await;
    }
}

impl Entries {
    pub fn new(claims: Arc<Claims>) -> Self {
        Self { claims, known: RefCell::default() }
    }

    pub fn entry(&self, program: &str) -> Option<Rc<Entry>> {
        let mut known = self.known.borrow_mut();
        if let Some(entry) = known.get(program) {
            return Some(entry.clone());
        }
        let slot = self.claims.slot(program)?;
        let (name, entry) = (slot.program.clone(), Rc::new(Entry::to(slot)));
        known.insert(name, entry.clone());
        Some(entry)
    }

    /// Lets go of what pointers have moved away from, and of what hangs on it.
    pub fn refresh(&self) {
        self.known.borrow().values().for_each(|entry| drop(entry.read()));
    }
}

impl Entry {
    pub fn to(slot: Arc<Slot>) -> Self {
        let last = RefCell::new(Rc::new(slot.admission()));
        Self { slot, last }
    }

    pub fn program(&self) -> &ProgramName {
        &self.slot.program
    }

    /// The pointer, read anew.
    pub fn read(&self) -> Kept<Admission> {
        let now = self.slot.admission.load();
        let mut last = self.last.borrow_mut();
        if !Arc::ptr_eq(&now, &last) {
            *last = Rc::new(Arc::clone(&now));
        }
        last.clone()
    }

    /// Admits and counts one request in one step. A gate found closed refuses only if the pointer to it has not moved.
    /// `is_known`: its session is at home at that instance; asked of gates that know sessions only.
    pub fn claim(self: &Rc<Self>, is_known: impl Fn(&Target) -> bool) -> Result<Claim, Refused> {
        let mut admission = self.last.borrow().clone();
        let mut refused = Refused { generation: admission.gate.word().generation() };
        for _ in 0..POINTER_READS_MAX {
            match admission.gate.try_claim(|| admission.target.as_ref().is_some_and(&is_known)) {
                Ok(()) => return Ok(Claim { entry: self.clone(), admission }),
                Err(word) => refused = Refused { generation: word.generation() },
            }
            let now = self.read();
            if Arc::ptr_eq(&now, &admission) {
                break;
            }
            admission = now;
        }
        Err(refused)
    }
}

impl Admission {
    /// A closed gate that leads nowhere.
    pub fn nobody(generation: Generation) -> Self {
        Self { gate: Gate::closed(generation), target: None }
    }

    pub fn to(generation: Generation, target: Target) -> Self {
        Self { gate: Gate::closed(generation), target: Some(target) }
    }

    pub fn active(&self) -> u64 {
        self.gate.word().active()
    }
}

impl Claim {
    pub fn target(&self) -> Option<&Target> {
        self.admission.target.as_ref()
    }

    pub fn word(&self) -> Word {
        self.admission.gate.word()
    }

    /// Whether the program's requests go elsewhere by now.
    pub fn is_outdated(&self) -> bool {
        !Arc::ptr_eq(&self.entry.slot.admission.load(), &self.admission)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let left = self.admission.gate.release();
        if !left.is_open() && left.active() == 0 {
            self.entry.slot.emptied.notify_one();
        }
    }
}

/// Closed, none admitted at any gate that the program still has → stopping, in one step on the present gate. Retired
/// gates are closed for good: one seen empty stays empty.
pub fn freeze(present: &Admission, retired: &[Arc<Admission>], generation: Generation) -> Result<(), NotDrained> {
    let elsewhere: u64 = retired.iter().map(|admission| admission.active()).sum();
    if elsewhere > 0 {
        let word = present.gate.word();
        return Err(NotDrained { open: word.is_open(), active: word.active() + elsewhere });
    }
    present.gate.freeze(generation)
}

/// None admitted at any gate that was switched away from: they are closed for good, so none comes any more (P4, P14).
pub fn freeze_retired(retired: &[Arc<Admission>]) -> Result<(), NotDrained> {
    let active: u64 = retired.iter().map(|admission| admission.active()).sum();
    if active > 0 { Err(NotDrained { open: false, active }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
