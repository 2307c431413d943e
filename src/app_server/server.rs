//! Owns the actor of the server as a whole: its promise to obey no lower term (protocol P6), its programs' actors, and who
//! answers which message of management. Must not know how messages travel.

mod hooks;
mod messages;
mod prepare;
#[cfg(test)]
mod tests;
mod together;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;

pub use messages::{Ask, Beat, Renewed};

pub use prepare::{Preparer, Preparing};

use super::components::Components;
use super::hands::Keeper;
pub use super::program::Stop;
use super::program::{Program, Tell};
use super::records::{self, Kept};
use super::shared::Shared;
use crate::domain::names::{OperationId, ProgramName, Term};
use crate::domain::placement::{Placement, Refusal};
use crate::domain::server_list::Report;
use crate::link::outbox::Outcome;
use crate::wire::problem::{Code, Problem};

/// How long a program's actor may take to say how it stands.
const TELL_WAIT: Duration = Duration::from_secs(5);

/// The server as a whole.
pub struct Server {
    shared: Rc<Shared>,
    programs: BTreeMap<ProgramName, Addr<Program>>,
    preparer: Preparer,
    prepares: HashMap<Preparing, prepare::Progress>,
    components: Components,
    /// Hooks that run, by the keys of their records.
    hooks: HashSet<String>,
    /// Sets whose members are being judged.
    freezing: BTreeSet<OperationId>,
}

impl Server {
    /// A server with what it held when it ended; its programs begin at once, each closed until it is reconciled.
    pub fn boot(shared: Rc<Shared>, kept: Kept, preparer: Preparer, components: Components) -> Self {
        let mut instances = kept.instances;
        let mut programs = BTreeMap::new();
        for placement in kept.placements {
            let own = instances.extract_if(.., |record| record.program == placement.program).collect();
            let keeper = Keeper::new(shared.store.clone(), own);
            let name = placement.program.clone();
            programs.insert(name, Program::new(shared.clone(), placement, keeper).begin());
        }
        // Records of programs without a placement: ended before the first command was saved; none is possible.
        for record in instances {
            tracing::error!(instance = record.name, "an instance's record has no placement");
        }
        let (prepares, hooks, freezing) = Default::default();
        Self { shared, programs, preparer, prepares, components, hooks, freezing }
    }

    /// The actor of a program; a new one where this server has never held it.
    fn program(&mut self, name: &ProgramName) -> Result<Addr<Program>, Problem> {
        if let Some(program) = self.programs.get(name) {
            return Ok(program.clone());
        }
        let most = self.shared.settings.bounds.programs;
        if self.programs.len() >= most {
            let detail = format!("this server has {most} programs already, and takes no more");
            return Err(Problem::new(Code::TooManyRequests, detail).hint("raise [app_server.limits] programs"));
        }
        let keeper = Keeper::new(self.shared.store.clone(), Vec::new());
        let program = Program::new(self.shared.clone(), Placement::absent(name.clone()), keeper).begin();
        self.programs.insert(name.clone(), program.clone());
        Ok(program)
    }

    /// How every program stands, each after all that it was told before. One that does not answer is an error: an
    /// answer without it would say that it is not here.
    fn reports(&self) -> impl Future<Output = Result<Vec<Report>, Problem>> + 'static {
        let asked: Vec<_> = self.programs.values().map(|program| program.send(Tell).timeout(TELL_WAIT)).collect();
        async move {
            let told = join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>();
            told.map_err(|error| Problem::new(Code::Unavailable, format!("a program's actor does not answer: {error}")))
        }
    }

    /// Makes the promise, on disk before anything is said or obeyed under it.
    fn promise(&self, term: &Term) -> Result<Result<(), Refusal>, Problem> {
        let mut seal = self.shared.seal.borrow().clone();
        match seal.admit(term) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(false) => return Ok(Ok(())),
            Ok(true) => {}
        }
        let failed = |error| Problem::new(Code::StoreFailed, format!("the promise of {term} cannot be saved: {error}"));
        records::save_seal(&self.shared.store, &seal).map_err(failed)?;
        tracing::info!(%term, "sealed");
        *self.shared.seal.borrow_mut() = seal;
        Ok(Ok(()))
    }
}

impl Actor for Server {
    type Context = Context<Self>;
}

impl Handler<Outcome> for Server {
    type Result = ();

    fn handle(&mut self, outcome: Outcome, _: &mut Context<Self>) {
        // Hints only: what they say is also in every heartbeat.
        tracing::debug!(to = outcome.letter.to, id = outcome.letter.id, end = ?outcome.end, "a hint was dealt with");
    }
}
