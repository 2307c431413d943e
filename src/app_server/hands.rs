//! Owns what a program's actor can have done to processes, as a trait, so that the actor is tested without any.
//! Must not know placements: what is started or stopped, and when, is decided elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::records;
use crate::domain::names::{ProgramName, Release};
use crate::domain::program::Manifest;
use crate::programs::instance::{InstanceRecord, Mark};
use crate::store::{Change, Store, StoreError};

/// Starts, stops and watches instances. Futures may be dropped at any point: what they had begun is on record.
pub trait Hands {
    /// Adopts the living, unmarked instance of the release, or starts one, and probes it until it is healthy. Instances
    /// that may not be adopted are stopped first, save those that others have taken over from. The error is told to people, with exit status and last lines.
    fn start(&self, manifest: Arc<Manifest>, release: Release, keeper: Keeper) -> LocalBoxFuture<'static, Started>;

    /// Starts one more instance of the release, beside what runs, and probes it until it is healthy (protocol P14).
    fn start_beside(
        &self,
        manifest: Arc<Manifest>,
        release: Release,
        keeper: Keeper,
    ) -> LocalBoxFuture<'static, Started>;

    /// The living instances that others have taken over from.
    fn retired(&self, keeper: Keeper) -> LocalBoxFuture<'static, Vec<Rc<dyn Life>>>;

    /// What runs may be stopped before long: what can be found out before then is.
    fn foresee_stop(&self, _keeper: &Keeper) {}

    /// This release is started as soon as what runs has stopped: what can be done before then is.
    fn make_ready(&self, _manifest: Arc<Manifest>, _release: Release, _keeper: Keeper) {}

    /// What was made ahead for this program, and is there still, goes: nothing is started that it was made for.
    fn let_go_of_ready(&self, _program: &ProgramName, _keeper: &Keeper) {}

    /// Stops every instance that is marked for it; nothing of any is left when it is done.
    fn stop(&self, keeper: Keeper) -> LocalBoxFuture<'static, Result<(), String>>;

    /// Is there what a start of this release needs?
    fn is_ready(&self, program: &ProgramName, release: &Release) -> bool;
}

pub type Started = Result<Up, String>;

/// A living instance.
#[derive(Clone)]
pub struct Up {
    pub addr: SocketAddr,
    /// How long its process took to be there; nothing for one that was found.
    pub launch: Duration,
    pub life: Rc<dyn Life>,
}

/// What is asked about a living instance.
pub trait Life {
    /// Waits for its end; tells how it ended.
    fn ended(&self) -> LocalBoxFuture<'static, String>;

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), String>>;

    /// Connections of a dead node that it may still be serving (protocol P9d).
    fn orphans(&self) -> u64;
}

/// The instances of one program on record: in memory as on disk.
#[derive(Clone)]
pub struct Keeper {
    store: Store,
    records: Rc<RefCell<BTreeMap<String, InstanceRecord>>>,
    /// Let go, and on disk still.
    gone: Rc<RefCell<Vec<String>>>,
}

impl Keeper {
    pub fn new(store: Store, records: Vec<InstanceRecord>) -> Self {
        let records = records.into_iter().map(|record| (record.name.clone(), record)).collect();
        Self { store, records: Rc::new(RefCell::new(records)), gone: Rc::default() }
    }

    pub fn all(&self) -> Vec<InstanceRecord> {
        self.records.borrow().values().cloned().collect()
    }

    /// Puts a record on disk: the instance may go (protocol P9a).
    pub fn add(&self, record: &InstanceRecord) -> Result<(), StoreError> {
        self.store.save(vec![records::instance(record)?])?;
        self.records.borrow_mut().insert(record.name.clone(), record.clone());
        Ok(())
    }

    /// Forgets an instance of which nothing is left.
    pub fn forget(&self, name: &str) -> Result<(), StoreError> {
        self.store.save(vec![records::forget_instance(name)])?;
        self.records.borrow_mut().remove(name);
        Ok(())
    }

    /// Forgets an instance of which nothing is left with whatever is saved next: that it is on disk until then, marked
    /// as it is, does no harm.
    pub fn let_go(&self, name: &str) {
        self.records.borrow_mut().remove(name);
        self.gone.borrow_mut().push(name.to_owned());
    }

    /// What was let go, to be removed with something else.
    pub fn gone(&self) -> Vec<Change> {
        self.gone.borrow().iter().map(|name| records::forget_instance(name)).collect()
    }

    /// It was removed.
    pub fn removed(&self) {
        self.gone.borrow_mut().clear();
    }

    /// The marks were saved: remembers them.
    pub fn remark(&self, marked: &[InstanceRecord]) {
        let mut records = self.records.borrow_mut();
        for marked in marked {
            if let Some(record) = records.get_mut(&marked.name) {
                record.mark = marked.mark;
            }
        }
    }

    /// The records whose mark would be another, with that one.
    pub fn would_be(&self, mark: impl Fn(Mark) -> Mark) -> Vec<InstanceRecord> {
        let marked = self.all().into_iter().map(|record| InstanceRecord { mark: mark(record.mark), ..record });
        let records = self.records.borrow();
        marked.filter(|record| records.get(&record.name).is_none_or(|held| held.mark != record.mark)).collect()
    }
}
