//! Owns what became of every request: counters per program and version, and a seat for each active one, in mapped
//! files that survive the process (protocol P9c). Must not know why a request ended as it did.
//!
//! Admitted is not stored: it is the ends and the occupied seats together, so the account balances by construction.
//! Between an end's count and its seat's freeing there are two instructions; a kill exactly there counts it twice.

mod rows;
mod seats;
mod speeds;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use rows::{End, Row, RowsUsedUp};
pub use seats::Seat;

use super::nudge::Nudge;
use crate::domain::ledger::Sessions;
use crate::domain::names::{NodeName, ProgramName, RunId, Version};
use crate::domain::server_list::OldestActive;
use crate::proxy::{About, Kept};
use crate::store::StoreError;
use crate::wire::messages::{ActiveRequest, Counts, LedgerCut, LedgerEntry, LedgerFailure, VersionFigures};
use rows::Rows;
use seats::{Occupied, Seats, Taken};

/// Failures that are named, the latest.
pub const FAILURES_MAX: usize = 100;
/// Times that a cut is read anew because a request ended meanwhile.
const CUT_READS_MAX: usize = 8;

/// One node's ledger.
#[derive(Debug)]
pub struct Ledger {
    server: NodeName,
    rows: Rows,
    seats: Seats,
    failures: Mutex<VecDeque<LedgerFailure>>,
    nudge: Nudge,
}

/// A request, as its head tells it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    pub id: &'a [u8],
    pub method: &'a [u8],
    pub path: &'a [u8],
}

impl<'a> Told<'a> {
    pub fn of(about: &'a About) -> Self {
        Self { id: about.id(), method: about.method(), path: about.path() }
    }
}

/// A ledger that is open, and the requests that were in flight when the process before this one died.
#[derive(Debug)]
pub struct Opened {
    pub ledger: Ledger,
    pub died: Vec<LedgerFailure>,
}

impl Ledger {
    /// Opens the ledger in `dir`. The requests of a dead process are found, and counted by [`Ledger::bury`].
    pub fn open(dir: &Path, server: NodeName, rows: usize, seats: usize, stamp: &str) -> Result<Opened, StoreError> {
        std::fs::create_dir_all(dir).map_err(|source| StoreError::File { path: dir.to_owned(), source })?;
        let rows = Rows::open(&dir.join("counts"), rows, stamp)?;
        let seats = Seats::open(&dir.join("active"), seats, stamp)?;
        let ledger = Self { server, rows, seats, failures: Mutex::default(), nudge: Nudge::default() };
        let died = ledger.seats.occupied(|_| true).into_iter().filter_map(|seat| ledger.died(&seat)).collect();
        Ok(Opened { ledger, died })
    }

    fn died(&self, seat: &Occupied) -> Option<LedgerFailure> {
        let (program, _) = self.rows.name(seat.row)?;
        Some(LedgerFailure {
            request_id: seat.id.clone(),
            program,
            server: Some(self.server.clone()),
            at: jiff::Timestamp::now().to_string(),
            method: seat.method.clone(),
            path: seat.path.clone(),
            reason: "the server died".to_owned(),
        })
    }

    /// Counts the dead process's requests as failed, once, and frees their seats. Their names are on disk before.
    pub fn bury(&self) {
        for seat in self.seats.occupied(|_| true) {
            self.rows.count(seat.row, End::Failed);
            self.seats.free(seat.index);
        }
    }

    /// The counters of a program's version; made where there are none.
    pub fn row(self: &Arc<Self>, program: &ProgramName, version: &Version) -> Result<Arc<Row>, RowsUsedUp> {
        self.rows.row(program, version)
    }

    /// A seat for one admitted request; `None` when all are taken.
    pub fn seat(ledger: &Kept<Self>, row: &Row, told: Told<'_>, now: Instant) -> Option<Seat> {
        let taken = ledger.seats.occupy(row.index(), told, now)?;
        Some(Seat::new(ledger.clone(), row.index(), taken))
    }

    /// Given when requests are to be cut.
    pub fn nudge(&self) -> &Nudge {
        &self.nudge
    }

    pub(super) fn refused(&self, row: &Row) {
        self.rows.refused(row.index());
    }

    /// Counts sessions that left this server.
    pub fn sessions(&self, row: &Row, left: Sessions) {
        if !left.is_none() {
            self.rows.sessions(row.index(), left);
        }
    }

    /// Names a failure.
    pub fn fail(&self, program: &ProgramName, told: Told<'_>, reason: &str) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.remember([LedgerFailure {
            request_id: text(told.id),
            program: program.clone(),
            server: Some(self.server.clone()),
            at: jiff::Timestamp::now().to_string(),
            method: text(told.method),
            path: text(told.path),
            reason: reason.to_owned(),
        }]);
    }

    /// Names failures of before.
    pub fn remember(&self, failures: impl IntoIterator<Item = LedgerFailure>) {
        let mut kept = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(failures);
        let over = kept.len().saturating_sub(FAILURES_MAX);
        kept.drain(..over);
    }

    /// One cut of all counters.
    pub fn cut(&self, run: &RunId) -> LedgerCut {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let mut before = self.rows.counts();
        let mut active = self.seats.active_by_row();
        for _ in 0..CUT_READS_MAX {
            let after = self.rows.counts();
            if after == before {
                break;
            }
            (before, active) = (after, self.seats.active_by_row());
        }
        let entries = before.into_iter().map(|(index, program, version, ends)| {
            let active = active.get(&index).copied().unwrap_or_default();
            let ended = ends.completed + ends.client_left + ends.cut + ends.failed;
            let counts = Counts { active, admitted: ended + active, ..ends };
            let latency = self.rows.latency(index);
            let (version, server, held_for) = (Some(version), Some(self.server.clone()), Default::default());
            LedgerEntry { program, version, server, counts, latency, held_for }
        });
        LedgerCut { run: run.clone(), entries: entries.collect(), failures }
    }

    /// What each version's answers of a program have been like.
    pub fn figures(&self, program: &ProgramName) -> Vec<VersionFigures> {
        let all = self.rows.figures(program).into_iter();
        all.map(|(version, figures)| VersionFigures { version, figures }).collect()
    }

    /// A program's active requests, the oldest first, at most so many.
    pub fn active(&self, program: &ProgramName, most: usize) -> Vec<ActiveRequest> {
        let mut seats = self.seats_of(program);
        seats.sort_by_key(|seat| std::cmp::Reverse(seat.age_ms));
        seats.truncate(most);
        seats.into_iter().filter_map(|seat| self.shown(seat)).collect()
    }

    fn seats_of(&self, program: &ProgramName) -> Vec<Occupied> {
        let rows = self.rows.of(program);
        self.seats.occupied(|row| rows.contains(&row))
    }

    fn shown(&self, seat: Occupied) -> Option<ActiveRequest> {
        let (program, version) = self.rows.name(seat.row)?;
        Some(ActiveRequest {
            request_id: seat.id,
            program,
            version: Some(version),
            server: self.server.clone(),
            method: seat.method,
            path: seat.path,
            age_ms: seat.age_ms,
            long_lived: seat.long_lived,
        })
    }

    /// The request of a program that has been active for longest.
    pub fn oldest(&self, program: &ProgramName) -> Option<OldestActive> {
        let first = self.seats_of(program).into_iter().max_by_key(|seat| seat.age_ms)?;
        Some(OldestActive { age_ms: first.age_ms, method: first.method, path: first.path })
    }

    /// A program's active WebSockets and event streams.
    pub fn long_lived(&self, program: &ProgramName) -> u64 {
        self.seats_of(program).iter().filter(|seat| seat.long_lived).count() as u64
    }

    /// Cuts a program's active requests, or only the long-lived ones, that are at least so old; answers how many.
    pub fn cut_requests(&self, program: &ProgramName, long_lived_only: bool, age_ms: u64) -> usize {
        let seats = self.seats_of(program).into_iter();
        let seats = seats.filter(|seat| (seat.long_lived || !long_lived_only) && seat.age_ms >= age_ms);
        let cut = seats.filter(|seat| self.seats.cut(seat)).count();
        self.nudge.give();
        cut
    }

    /// Active requests of all programs.
    pub fn active_total(&self) -> u64 {
        self.seats.taken()
    }

    fn end(&self, row: usize, index: usize, end: Option<End>) {
        self.seats.ending(index);
        if let Some(end) = end {
            self.rows.count(row, end);
        }
        self.seats.free(index);
    }

    fn is_cut(&self, seat: Taken) -> bool {
        self.seats.is_cut(seat)
    }

    fn set_long_lived(&self, index: usize) {
        self.seats.set_long_lived(index);
    }
}
