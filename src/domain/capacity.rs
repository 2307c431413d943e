//! Owns what servers would carry if one of them left service for a program: for that program, and for its neighbours.
//! Must not know how load is measured, nor what a wait leads to.

use super::names::{ProgramName, ServerName};
use super::placement::State;
use super::server_list::ServerList;

/// A share of a core below which a program carries nothing that could be missed.
const IDLE_MILLI: u32 = 10;

/// What one server uses, and would use; in thousandths of a core.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Carries {
    pub server: ServerName,
    pub now_milli: u32,
    pub would_milli: u32,
    pub cores: u32,
}

impl Carries {
    /// What it may use, at a utilisation in thousandths.
    pub fn most_milli(&self, max_utilization_milli: u32) -> u32 {
        self.cores.saturating_mul(max_utilization_milli)
    }
}

/// The server that would have the least left, of those that stay, if this placement's gate closed: what the program uses
/// here goes to the others that serve it, in equal parts. `None`: nothing is known of it, or nothing is carried, or nobody
/// is left.
pub fn heaviest(list: &ServerList, program: &ProgramName, closing: &ServerName) -> Option<Carries> {
    let moved = used(list, program, closing)?;
    let others: Vec<&ServerName> = list.serving(program).filter(|server| *server != closing).collect();
    if moved < IDLE_MILLI || others.is_empty() {
        return None;
    }
    let part = moved.div_ceil(others.len() as u32);
    let carried = others.into_iter().filter_map(|server| {
        let cores = list.servers.get(server).map(|server| server.cores).filter(|cores| *cores > 0)?;
        let now_milli = total(list, server)?;
        let would_milli = now_milli.saturating_add(part).saturating_add(on_its_way(list, program, server));
        Some(Carries { server: server.clone(), now_milli, would_milli, cores })
    });
    carried.max_by_key(|carries| u64::from(carries.would_milli) * 1_000 / u64::from(carries.cores))
}

/// The server that would carry too much, if any would. A utilisation of 0 is one that nobody looks at.
pub fn excess(list: &ServerList, program: &ProgramName, closing: &ServerName, most_milli: u32) -> Option<Carries> {
    let heaviest = heaviest(list, program, closing).filter(|_| most_milli > 0)?;
    (heaviest.would_milli > heaviest.most_milli(most_milli)).then_some(heaviest)
}

/// Another program that is out of service here, which this one has to wait for: unless it is known that there is room,
/// one at a time is. Nothing under way ever waits for this, so no two wait for each other.
pub fn neighbour_out<'a>(
    list: &'a ServerList,
    program: &ProgramName,
    server: &ServerName,
    max_utilization_milli: u32,
) -> Option<&'a ProgramName> {
    let out = list.cells.keys().find(|other| *other != program && is_out(list, other, server))?;
    (!has_room(list, server, max_utilization_milli)).then_some(out)
}

/// Whether a ripple has taken a program that served out of service here, or may have.
fn is_out(list: &ServerList, program: &ProgramName, server: &ServerName) -> bool {
    let sent = list.cell(program, server).and_then(|cell| cell.unanswered.as_ref());
    if sent.is_some_and(|sent| sent.closes) {
        return true;
    }
    let Some(seen) = list.observed(program, server) else { return false };
    let served = seen.operation.as_ref().is_some_and(|operation| operation.was == State::Open);
    served && matches!(seen.state, State::Quiescing | State::Upgrading)
}

/// Whether a server is known to have cores to spare: for a start beside what runs.
fn has_room(list: &ServerList, server: &ServerName, max_utilization_milli: u32) -> bool {
    let cores = list.servers.get(server).map_or(0, |server| server.cores);
    let most = cores.saturating_mul(max_utilization_milli.max(1));
    cores > 0 && total(list, server).is_some_and(|used| used.saturating_add(1_000) <= most)
}

/// What a program uses on a server.
fn used(list: &ServerList, program: &ProgramName, server: &ServerName) -> Option<u32> {
    list.cell(program, server)?.cpu_milli
}

/// What all of a server's programs use; `None`: no figure has come.
fn total(list: &ServerList, server: &ServerName) -> Option<u32> {
    let used = list.cells.values().filter_map(|cells| cells.get(server)?.cpu_milli);
    used.fold(None, |sum: Option<u32>, used| Some(sum.unwrap_or(0).saturating_add(used)))
}

/// What is about to come to a server, of other programs whose gates elsewhere are closing just now, and of this one.
fn on_its_way(list: &ServerList, program: &ProgramName, server: &ServerName) -> u32 {
    let closing = |other: &ProgramName, at: &ServerName| {
        let sent = list.cell(other, at).and_then(|cell| cell.unanswered.as_ref()).is_some_and(|sent| sent.closes);
        let drains = list.observed(other, at).is_some_and(|seen| seen.state == State::Quiescing);
        at != server && (sent || drains)
    };
    let of = |other: &ProgramName| -> u32 {
        let takers = list.serving(other).count();
        let takes = list.serves(other, server) && takers > 0;
        let cells = list.cells.get(other).into_iter().flatten().filter(|(at, _)| takes && closing(other, at));
        cells.map(|(_, cell)| cell.cpu_milli.unwrap_or(0) / takers.max(1) as u32).sum()
    };
    list.cells.keys().filter(|other| *other != program).map(of).sum::<u32>() + of(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{Generation, OperationId, RunId};
    use crate::domain::placement::Placement;
    use crate::domain::server_list::{Report, Server, Unanswered};

    fn name(server: &str) -> ServerName {
        ServerName::new(server).unwrap()
    }

    fn program(name: &str) -> ProgramName {
        ProgramName::new(name).unwrap()
    }

    /// Servers of two cores, on each of which every program serves and uses so much.
    fn list(servers: &[&str], programs: &[(&str, u32)]) -> ServerList {
        let mut list = ServerList::default();
        for server in servers {
            list.servers.insert(name(server), Server { up: true, cores: 2, ..Server::default() });
            let reports = programs.iter().map(|(of, _)| {
                let mut placement = Placement::absent(program(of));
                (placement.state, placement.generation) = (State::Open, Generation(1));
                Report::of(&placement, true, 0, 0)
            });
            list.seal(&name(server), 0, &RunId::new(*server).unwrap(), reports.collect());
            for (of, milli) in programs {
                list.cell_mut(&program(of), &name(server)).cpu_milli = Some(*milli);
            }
        }
        list
    }

    #[test]
    fn what_a_program_uses_goes_to_the_others_in_equal_parts_beside_all_that_they_carry() {
        let list = list(&["a", "b", "c"], &[("shop", 600), ("mail", 400)]);
        let heaviest = heaviest(&list, &program("shop"), &name("a")).unwrap();
        assert_eq!((heaviest.now_milli, heaviest.would_milli), (1_000, 1_300));
        assert_eq!(excess(&list, &program("shop"), &name("a"), 700), None);
        assert_eq!(excess(&list, &program("shop"), &name("a"), 600), Some(heaviest));
        assert_eq!(excess(&list, &program("shop"), &name("a"), 0), None);
    }

    #[test]
    fn an_idle_program_and_an_unknown_load_hold_nothing_up() {
        let mut list = list(&["a", "b"], &[("shop", 5), ("mail", 1_900)]);
        assert_eq!(excess(&list, &program("shop"), &name("a"), 800), None);
        list.cell_mut(&program("mail"), &name("a")).cpu_milli = None;
        assert_eq!(excess(&list, &program("mail"), &name("a"), 800), None);
        list.cell_mut(&program("mail"), &name("a")).cpu_milli = Some(1_900);
        assert!(excess(&list, &program("mail"), &name("a"), 800).is_some());
    }

    fn closes(list: &mut ServerList, of: &str, server: &str) {
        let (operation, run) = (OperationId::new("o").unwrap(), RunId::new(server).unwrap());
        let sent = Unanswered { operation, expected: Generation(1), run, closes: true };
        list.cell_mut(&program(of), &name(server)).unanswered = Some(sent);
    }

    #[test]
    fn what_a_gate_that_closes_elsewhere_sends_is_counted_before_it_is_measured() {
        let mut list = list(&["a", "b", "c"], &[("shop", 400), ("mail", 400)]);
        assert_eq!(excess(&list, &program("shop"), &name("a"), 500), None);
        closes(&mut list, "mail", "b");
        let excess = excess(&list, &program("shop"), &name("a"), 500).unwrap();
        assert_eq!((excess.server, excess.would_milli), (name("c"), 1_200));
    }

    #[test]
    fn one_program_at_a_time_is_out_on_a_server_unless_there_is_room() {
        let mut list = list(&["a", "b"], &[("shop", 900), ("mail", 900)]);
        assert_eq!(neighbour_out(&list, &program("shop"), &name("a"), 800), None);
        closes(&mut list, "mail", "a");
        assert_eq!(neighbour_out(&list, &program("shop"), &name("a"), 800), Some(&program("mail")));
        assert_eq!(neighbour_out(&list, &program("shop"), &name("b"), 800), None);
        for of in ["shop", "mail"] {
            list.cell_mut(&program(of), &name("a")).cpu_milli = Some(100);
        }
        assert_eq!(neighbour_out(&list, &program("shop"), &name("a"), 800), None);
    }
}
