//! Owns when a gate may close without leaving clients with too few servers (protocol P7).
//! Must not know which ripple asks.

use crate::domain::names::{ProgramName, ServerName};
use crate::domain::placement::State;
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
/// A gate that serves nobody needs no margin (protocol P13). One with a quiesce unanswered may well be open: it is not
/// counted, and needs the margin all the same.
pub fn shortage(list: &ServerList, program: &ProgramName, server: &ServerName, min_serving: usize) -> Option<usize> {
    let serving = list.serving(program).count();
    let others = list.serving(program).filter(|other| *other != server).count();
    let may_serve = list.observed(program, server).is_some_and(|seen| seen.state == State::Open && seen.healthy);
    (may_serve && !may_close_one(others + 1, min_serving)).then_some(serving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{Generation, OperationId, RunId};
    use crate::domain::placement::Placement;
    use crate::domain::server_list::{Report, Server, Unanswered};

    #[test]
    fn a_gate_whose_quiesce_was_not_answered_needs_the_margin_and_gives_none() {
        let (shop, server) = (ProgramName::new("shop").unwrap(), ServerName::new("app-1").unwrap());
        let run = RunId::new("r").unwrap();
        let mut placement = Placement::absent(shop.clone());
        (placement.state, placement.generation) = (State::Open, Generation(3));
        let mut list = ServerList::default();
        list.servers.insert(server.clone(), Server { up: true, ..Server::default() });
        list.seal(&server, 0, &run, vec![Report::of(&placement, true, 0, 0)]);
        assert_eq!(shortage(&list, &shop, &server, 1), Some(1));
        let (operation, expected) = (OperationId::new("o").unwrap(), Generation(3));
        list.cell_mut(&shop, &server).unanswered = Some(Unanswered { operation, expected, run, closes: true });
        assert_eq!(shortage(&list, &shop, &server, 1), Some(0));
        assert_eq!(shortage(&list, &shop, &server, 0), None);
    }
}
