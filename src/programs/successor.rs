//! Owns what this process says of its own binary, and how far it is with taking another: one process is one node, so there
//! is one of this. Must not know how a binary is fetched, nor how a node hands over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::names::{OperationId, RunId};
use crate::wire::binary::{Binary, BinaryStage, BinaryTold, TakeBinary};
use crate::wire::problem::{Code, Problem};

/// Begins the work that an order asks for, and does not wait for its end.
pub type Begin = Arc<dyn Fn(TakeBinary) + Send + Sync>;

struct Desk {
    binary: Binary,
    /// Where it is started from.
    run: Option<RunId>,
    work: Option<(TakeBinary, BinaryStage)>,
    begin: Begin,
}

/// `None`: this process is no node of its own, as in tests of a role.
static DESK: Mutex<Option<Desk>> = Mutex::new(None);

fn desk() -> MutexGuard<'static, Option<Desk>> {
    DESK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process is a node that runs this binary, and takes others.
pub fn open(binary: Binary, begin: Begin) {
    *desk() = Some(Desk { binary, run: None, work: None, begin });
}

/// Its roles start, as this run; what became of an order is remembered.
pub fn runs_as(run: &RunId) {
    if let Some(desk) = desk().as_mut() {
        desk.run = Some(run.clone());
    }
}

/// What this process runs.
pub fn binary() -> Option<Binary> {
    desk().as_ref().map(|desk| desk.binary.clone())
}

/// Obeys an order, once, and tells how far it is.
pub fn take(order: &TakeBinary) -> Result<BinaryTold, Problem> {
    let (told, begin) = taken(order)?;
    if let Some(begin) = begin {
        begin(order.clone());
    }
    Ok(told)
}

/// The answer; and what is to be begun, once nobody looks at the desk any more.
fn taken(order: &TakeBinary) -> Result<(BinaryTold, Option<Begin>), Problem> {
    let mut desk = desk();
    let known = desk.as_mut().and_then(|desk| Some((desk.run.clone()?, desk)));
    let (run, desk) = known.ok_or_else(|| Problem::new(Code::Unavailable, "this node cannot take another binary"))?;
    let mine = |work: &(TakeBinary, BinaryStage)| work.0.operation == order.operation;
    let busy = desk.work.as_ref().is_some_and(|work| !mine(work) && !matches!(work.1, BinaryStage::Failed { .. }));
    let is_new = !desk.work.as_ref().is_some_and(mine);
    let begins = is_new && !busy && run == order.run && desk.binary.sha256 != order.sha256;
    if begins {
        desk.work = Some((order.clone(), BinaryStage::Fetching));
    }
    let stage = desk.work.as_ref().filter(|work| mine(work)).map(|work| work.1.clone());
    let told = BinaryTold { run, sha256: desk.binary.sha256, stage };
    Ok((told, begins.then(|| desk.begin.clone())))
}

/// The work has come this far.
pub fn reached(operation: &OperationId, stage: BinaryStage) {
    if let Some(work) = desk().as_mut().and_then(|desk| desk.work.as_mut())
        && work.0.operation == *operation
    {
        work.1 = stage;
    }
}

/// The order for whose sake this process was to hand over, where there is one.
pub fn hands_over() -> Option<TakeBinary> {
    let desk = desk();
    let work = desk.as_ref()?.work.as_ref()?;
    (work.1 == BinaryStage::HandingOver).then(|| work.0.clone())
}
