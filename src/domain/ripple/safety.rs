//! Owns when a gate may close without leaving clients with too few servers (protocol P7).
//! Must not know which ripple asks.

use crate::domain::names::{ProgramName, ServerName};
use crate::domain::program::MinServing;
use crate::domain::server_list::ServerList;

/// How many placements have to stay open, worked out once, when the ripple is planned.
pub fn min_serving(wanted: MinServing, serving: usize, batch: usize, holds: bool) -> usize {
    match wanted {
        MinServing::AtLeast(least) => least as usize,
        MinServing::Auto if holds => 0,
        MinServing::Auto => serving.saturating_sub(batch).max(1),
    }
}

/// Whether one of so many serving placements may close its gate.
pub fn may_close_one(serving: usize, min_serving: usize) -> bool {
    serving > min_serving
}

/// The number of serving placements, where that is too few for this placement's gate to close; `None`: it may close.
/// A gate that serves nobody needs no margin (protocol P13).
pub fn shortage(list: &ServerList, program: &ProgramName, server: &ServerName, min_serving: usize) -> Option<usize> {
    let serving = list.serving(program).count();
    (list.serves(program, server) && !may_close_one(serving, min_serving)).then_some(serving)
}
