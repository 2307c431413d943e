//! Owns the Server List: program × server → what is wanted there and what was last heard from there.
//! Must not know how anything is heard, nor what is to be done next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::names::{Generation, OperationId, ProgramName, Release, RunId, ServerName, Version};
use super::placement::{Desired, Ended, Millis, Operation, Placement, State};
use super::session_list::Figures as SessionFigures;

/// What a server says of one placement, at one generation of one run.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Report {
    pub program: ProgramName,
    pub state: State,
    pub generation: Generation,
    pub release: Option<Release>,
    pub desired: Option<Desired>,
    pub operation: Option<Operation>,
    pub ended: Option<Ended>,
    pub failure: Option<String>,
    /// The instance answers its probes.
    pub healthy: bool,
    pub active: u64,
    /// Of an overlap after its switch: of the instance that was switched away from.
    pub orphans: u64,
    /// Of the active requests, those that are WebSockets or event streams; told while quiescing.
    #[serde(default)]
    pub long_lived: u64,
    /// Of an overlap: active requests of the instance that was switched away from.
    #[serde(default)]
    pub retiring: u64,
    pub oldest: Option<OldestActive>,
    /// Told while a drain waits for sessions; then the gate is open to known ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionsLeft>,
    /// Instances started in the place of one that ended by itself, in this run of the server.
    #[serde(default)]
    pub restarts: u64,
    /// How long the last operation had the program out of service here, by its server's own clock.
    #[serde(default)]
    pub took: Option<Took>,
}

/// The parts of the time that a program was out of service on a server, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Took {
    pub drain_ms: u64,
    pub stop_ms: u64,
    /// Until the process was there; then until its probes were answered.
    pub start_ms: u64,
    pub probe_ms: u64,
}

/// The sessions that a drain waits for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SessionsLeft {
    #[serde(flatten)]
    pub figures: SessionFigures,
    /// Then they go on elsewhere.
    pub deadline_in_ms: u64,
}

/// The active request that a drain has waited for longest.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct OldestActive {
    pub age_ms: u64,
    pub method: String,
    pub path: String,
}

impl Report {
    /// What a placement looks like from outside.
    pub fn of(placement: &Placement, healthy: bool, active: u64, orphans: u64) -> Self {
        Self {
            program: placement.program.clone(),
            state: placement.state,
            generation: placement.generation,
            release: placement.release.clone(),
            desired: placement.desired.clone(),
            operation: placement.operation.clone(),
            ended: placement.ended.clone(),
            failure: placement.failure.clone(),
            healthy,
            active,
            orphans,
            long_lived: 0,
            retiring: 0,
            oldest: None,
            restarts: 0,
            took: None,
            sessions: None,
        }
    }

    /// Quiesced with none left. A hint: the server checks for itself (protocol P4, P5).
    pub fn is_drained(&self) -> bool {
        self.state == State::Quiescing && self.active == 0 && self.orphans == 0 && self.sessions.is_none()
    }
}

/// A quiesce or an overlap that was sent, of which nothing has been heard (protocol P7).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Unanswered {
    pub operation: OperationId,
    pub expected: Generation,
    pub run: RunId,
    /// It closes the gate: until it is answered, the placement does not count as serving.
    #[serde(default = "yes")]
    pub closes: bool,
}

fn yes() -> bool {
    true
}

/// One cell of the Server List.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    pub desired: Option<Desired>,
    pub unanswered: Option<Unanswered>,
    #[serde(skip)]
    pub observed: Option<Report>,
    /// What each version's answers were like, when last asked.
    #[serde(skip)]
    pub measured: Option<Measured>,
    /// Thousandths of a core that its instances use here, when last heard; `None`: not told.
    #[serde(skip)]
    pub cpu_milli: Option<u32>,
}

/// A server's counters of a program, by version, at a time of management's own clock.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Measured {
    pub at: Millis,
    pub versions: BTreeMap<Version, Figures>,
}

/// What management knows of a server.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// The run that answered the seal of this term; `None` until then (protocol P6).
    #[serde(skip)]
    pub sealed: Option<RunId>,
    /// Which seal question is the newest; only its answer counts.
    #[serde(skip)]
    pub asked: u64,
    /// Heard of within `down_after`.
    #[serde(skip)]
    pub up: bool,
    #[serde(skip)]
    pub heard_at: Millis,
    /// Cores that load is measured against; 0: not told.
    #[serde(skip)]
    pub cores: u32,
    /// A person has taken it out of service.
    #[serde(skip)]
    pub drained: bool,
}

/// What is wanted of a program as a whole: the release that new servers get, and where it is placed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Wanted {
    pub release: Option<Release>,
    pub servers: Vec<ServerName>,
}

/// The whole mapping.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServerList {
    pub programs: BTreeMap<ProgramName, Wanted>,
    pub servers: BTreeMap<ServerName, Server>,
    pub cells: BTreeMap<ProgramName, BTreeMap<ServerName, Cell>>,
}

impl ServerList {
    pub fn cell(&self, program: &ProgramName, server: &ServerName) -> Option<&Cell> {
        self.cells.get(program)?.get(server)
    }

    pub fn cell_mut(&mut self, program: &ProgramName, server: &ServerName) -> &mut Cell {
        self.cells.entry(program.clone()).or_default().entry(server.clone()).or_default()
    }

    /// A placement's last report, if its server is sealed in this term.
    pub fn observed(&self, program: &ProgramName, server: &ServerName) -> Option<&Report> {
        self.servers.get(server)?.sealed.as_ref()?;
        self.cell(program, server)?.observed.as_ref()
    }

    /// Takes requests as far as management knows: sealed, up, open, healthy, and no quiesce unanswered (protocol P7).
    pub fn serves(&self, program: &ProgramName, server: &ServerName) -> bool {
        let up = self.servers.get(server).is_some_and(|server| server.up);
        let answered =
            self.cell(program, server).is_some_and(|cell| cell.unanswered.as_ref().is_none_or(|sent| !sent.closes));
        let open = self.observed(program, server).is_some_and(|seen| seen.state.takes_requests() && seen.healthy);
        up && answered && open
    }

    /// The servers that take a program's requests.
    pub fn serving<'a>(&'a self, program: &'a ProgramName) -> impl Iterator<Item = &'a ServerName> + 'a {
        let cells = self.cells.get(program).into_iter().flat_map(BTreeMap::keys);
        cells.filter(move |server| self.serves(program, server))
    }

    /// Takes in one report of a sealed run. Older generations change nothing; a new run unseals its server.
    /// Answers whether anything is new.
    pub fn hear(&mut self, server: &ServerName, run: &RunId, report: Report) -> bool {
        let Some(entry) = self.servers.get_mut(server) else { return false };
        match &entry.sealed {
            None => return false,
            Some(sealed) if sealed != run => {
                entry.sealed = None;
                entry.asked += 1;
                return true;
            }
            Some(_) => {}
        }
        let cell = self.cell_mut(&report.program.clone(), server);
        if cell.observed.as_ref().is_some_and(|seen| seen.generation > report.generation) {
            return false;
        }
        cell.take(run, report)
    }

    /// Takes in a server's whole state, the answer to the newest seal question of this term.
    pub fn seal(&mut self, server: &ServerName, asked: u64, run: &RunId, reports: Vec<Report>) -> bool {
        let Some(entry) = self.servers.get_mut(server) else { return false };
        if entry.sealed.as_ref().is_some_and(|sealed| sealed != run) {
            // Answered twice, by two runs: like any answer of another run, it unseals (protocol P5).
            entry.sealed = None;
            entry.asked += 1;
            return true;
        }
        if entry.sealed.is_some() || entry.asked != asked {
            return false;
        }
        entry.sealed = Some(run.clone());
        for cells in self.cells.values_mut() {
            if let Some(cell) = cells.get_mut(server) {
                cell.observed = None;
                cell.unanswered = cell.unanswered.take().filter(|sent| sent.run == *run);
            }
        }
        for report in reports {
            let cell = self.cell_mut(&report.program.clone(), server);
            if let Some(told) = &report.desired
                && cell.desired.as_ref().is_none_or(|held| held.stamp < told.stamp)
            {
                cell.desired = Some(told.clone());
            }
            cell.take(run, report);
        }
        true
    }
}

impl Cell {
    fn take(&mut self, run: &RunId, report: Report) -> bool {
        if self.unanswered.as_ref().is_some_and(|sent| sent.run != *run || sent.expected < report.generation) {
            self.unanswered = None;
        }
        let new = self.observed.as_ref() != Some(&report);
        self.observed = Some(report);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerName {
        ServerName::new("app-1").unwrap()
    }

    fn run(name: &str) -> RunId {
        RunId::new(name).unwrap()
    }

    fn report(generation: u64, state: State) -> Report {
        let mut placement = Placement::absent(ProgramName::new("shop").unwrap());
        (placement.state, placement.generation) = (state, Generation(generation));
        Report::of(&placement, true, 0, 0)
    }

    fn sealed_list() -> (ServerList, ProgramName) {
        let mut list = ServerList::default();
        list.servers.insert(server(), Server { up: true, asked: 1, ..Server::default() });
        assert!(list.seal(&server(), 1, &run("r1"), vec![report(3, State::Open)]));
        (list, ProgramName::new("shop").unwrap())
    }

    #[test]
    fn only_a_sealed_up_open_healthy_answered_placement_serves() {
        let (mut list, shop) = sealed_list();
        assert!(list.serves(&shop, &server()));
        list.cell_mut(&shop, &server()).unanswered = Some(Unanswered {
            operation: OperationId::new("o").unwrap(),
            expected: Generation(3),
            run: run("r1"),
            closes: true,
        });
        assert!(!list.serves(&shop, &server()));
        list.hear(&server(), &run("r1"), report(3, State::Open));
        assert!(!list.serves(&shop, &server()), "the same generation proves nothing");
        list.hear(&server(), &run("r1"), report(4, State::Open));
        assert!(list.serves(&shop, &server()));
    }

    #[test]
    fn a_report_of_a_new_run_unseals_its_server() {
        let (mut list, shop) = sealed_list();
        assert!(list.hear(&server(), &run("r2"), report(9, State::Open)));
        assert!(!list.serves(&shop, &server()));
        assert!(!list.seal(&server(), 1, &run("r1"), vec![]), "an answer to an older question");
        assert!(list.seal(&server(), 2, &run("r2"), vec![report(9, State::Open)]));
        assert!(list.serves(&shop, &server()));
    }

    #[test]
    fn a_second_answer_to_a_seal_by_another_run_unseals() {
        let (mut list, shop) = sealed_list();
        assert!(list.seal(&server(), 1, &run("r2"), vec![report(9, State::Closed)]));
        assert!(!list.serves(&shop, &server()));
        assert!(list.seal(&server(), 2, &run("r2"), vec![report(9, State::Open)]));
        assert!(list.serves(&shop, &server()));
    }

    #[test]
    fn an_older_report_changes_nothing() {
        let (mut list, shop) = sealed_list();
        assert!(!list.hear(&server(), &run("r1"), report(2, State::Quiescing)));
        assert!(list.serves(&shop, &server()));
    }
}
