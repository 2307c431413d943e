//! Owns servers that a person takes out of service: all gates of one close in one decision, or none, and stay closed until
//! somebody says otherwise; no lease runs (protocol P8, P15). Must not know why a server is drained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Leader;
use crate::domain::names::{OperationId, ProgramName, ServerName};
use crate::domain::placement::{Command, Order, State};
use crate::domain::ripple::machine::Send;
use crate::domain::ripple::safety;
use crate::domain::ripple::wait::Reason;
use crate::domain::server_list::{Report, Unanswered};

/// A server that is drained, or is to serve again.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Drain {
    pub operation: OperationId,
    /// What has to go on serving elsewhere, of each program; of others, one.
    #[serde(default)]
    pub min_serving: BTreeMap<ProgramName, usize>,
    /// Whatever that leaves.
    #[serde(default)]
    pub forced: bool,
    /// Its gates are to open again.
    #[serde(default)]
    pub resumed: bool,
    pub asked_by: Option<String>,
    /// Why gates that are to close are open still.
    #[serde(skip)]
    pub wait: Option<(ProgramName, Reason)>,
}

impl Drain {
    pub fn new(operation: OperationId, min_serving: BTreeMap<ProgramName, usize>, forced: bool) -> Self {
        Self { operation, min_serving, forced, resumed: false, asked_by: None, wait: None }
    }

    fn margin(&self, program: &ProgramName) -> usize {
        if self.forced { 0 } else { self.min_serving.get(program).copied().unwrap_or(1) }
    }
}

impl Leader {
    /// Whether a server is out of service because a person said so.
    pub fn is_drained(&self, server: &ServerName) -> bool {
        self.drains.get(server).is_some_and(|drain| !drain.resumed)
    }

    /// The programs that would be left with too few servers if this one were drained: how many serve each, and how many
    /// have to.
    pub fn short_without(&self, server: &ServerName, drain: &Drain) -> Vec<(ProgramName, usize, usize)> {
        let programs = self.list.cells.keys();
        let short = programs.filter_map(|program| {
            let margin = drain.margin(program);
            let serving = safety::shortage(&self.list, program, server, margin)?;
            Some((program.clone(), serving, margin))
        });
        short.collect()
    }

    /// Takes a server out of service, from the next decision on.
    pub fn drain(&mut self, server: ServerName, drain: Drain) {
        self.drains.insert(server, drain);
    }

    /// Has a drained server serve again; answers whether it is one.
    pub fn resume(&mut self, server: &ServerName) -> bool {
        self.drains.get_mut(server).is_some_and(|drain| !std::mem::replace(&mut drain.resumed, true))
    }

    /// What drained servers, and those that are to serve again, have to be told.
    pub(super) fn advance_drains(&mut self) -> Vec<Send> {
        self.adopt_drains();
        let mut drains = std::mem::take(&mut self.drains);
        let mut sends = Vec::new();
        for (server, drain) in &mut drains {
            drain.wait = None;
            sends.extend(if drain.resumed { self.opens(server, drain) } else { self.closes(server, drain) });
        }
        drains.retain(|server, drain| !drain.resumed || self.holds(server, &drain.operation));
        for (name, server) in &mut self.list.servers {
            server.drained = drains.get(name).is_some_and(|drain| !drain.resumed);
        }
        self.drains = drains;
        sends
    }

    /// A drain of which only the server knows: management has lost its disk since.
    fn adopt_drains(&mut self) {
        for (program, cells) in &self.list.cells {
            for server in cells.keys() {
                let seen = self.list.observed(program, server).filter(|seen| seen.state == State::Quiescing);
                let held = seen.and_then(|seen| seen.operation.as_ref()).filter(|held| !held.leased);
                if let (Some(held), false) = (held, self.drains.contains_key(server)) {
                    self.drains.insert(server.clone(), Drain::new(held.id.clone(), BTreeMap::new(), false));
                }
            }
        }
    }

    fn here<'a>(&'a self, server: &'a ServerName) -> impl Iterator<Item = (&'a ProgramName, &'a Report)> + 'a {
        self.list.cells.keys().filter_map(move |program| Some((program, self.list.observed(program, server)?)))
    }

    fn holds(&self, server: &ServerName, operation: &OperationId) -> bool {
        let down = self.list.servers.get(server).is_none_or(|entry| !entry.up || entry.sealed.is_none());
        let held = |report: &Report| report.operation.as_ref().is_some_and(|held| held.id == *operation);
        let sent = |cell: &crate::domain::server_list::Cell| {
            cell.unanswered.as_ref().is_some_and(|sent| sent.operation == *operation)
        };
        down || self.here(server).any(|(_, report)| held(report))
            || self.list.cells.values().filter_map(|cells| cells.get(server)).any(sent)
    }

    /// All gates that are open, in one decision; or none, and why.
    fn closes(&mut self, server: &ServerName, drain: &mut Drain) -> Vec<Send> {
        let Some(run) = self.list.servers.get(server).filter(|entry| entry.up).and_then(|entry| entry.sealed.clone())
        else {
            return Vec::new();
        };
        let mut closing = Vec::new();
        for (program, report) in self.here(server) {
            let ours = report.operation.as_ref().is_some_and(|held| held.id == drain.operation);
            let waits = match report.state {
                // One that failed serves nobody.
                State::Absent | State::Failed => continue,
                State::Quiescing if ours => continue,
                State::Quiescing | State::Upgrading | State::Overlapping => {
                    let operation = report.operation.as_ref().map(|held| held.id.clone());
                    Some(Reason::OtherOperation { operation })
                }
                State::Closed | State::Open => {
                    let margin = drain.margin(program);
                    let short = safety::shortage(&self.list, program, server, margin);
                    short.map(|serving| Reason::MinServing { serving, min_serving: margin })
                }
            };
            if let Some(reason) = waits {
                drain.wait = Some((program.clone(), reason));
                return Vec::new();
            }
            closing.push((program.clone(), report.generation));
        }
        let order = |(program, expected)| {
            let operation = drain.operation.clone();
            let sent = Unanswered { operation: operation.clone(), expected, run: run.clone(), closes: true };
            self.list.cell_mut(&program, server).unanswered = Some(sent);
            let order = Order::Quiesce { leased: false };
            let command = Command { term: self.mint.term.clone(), operation, run: run.clone(), expected, order };
            Send::Command { server: server.clone(), program, command }
        };
        closing.into_iter().map(order).collect()
    }

    fn opens(&self, server: &ServerName, drain: &Drain) -> Vec<Send> {
        let Some(run) = self.list.servers.get(server).and_then(|entry| entry.sealed.clone()) else { return Vec::new() };
        let programs = self.list.cells.keys();
        let open = programs.filter_map(|program| {
            let cell = self.list.cell(program, server)?;
            let held = cell.observed.as_ref().and_then(|seen| seen.operation.as_ref());
            let held = held.filter(|held| held.id == drain.operation).map(|held| held.expected);
            let sent = cell.unanswered.as_ref().filter(|sent| sent.operation == drain.operation);
            let expected = held.or(sent.map(|sent| sent.expected))?;
            let (operation, term) = (drain.operation.clone(), self.mint.term.clone());
            let command = Command { term, operation, run: run.clone(), expected, order: Order::Reopen };
            Some(Send::Command { server: server.clone(), program: program.clone(), command })
        });
        open.collect()
    }
}
