//! Owns the proof that the checker sees: with each rule left out, it finds the way to the harm.

use neap::domain::program::Strategy;
use stateright::{Checker, HasDiscoveries, Model};

use super::explore::walk;
use super::world::{Cluster, Faults, Off};

const ENOUGH: usize = 1_500_000;

/// The checker finds an invariant broken.
fn breaks(cluster: Cluster) {
    let name = cluster.off;
    let checker = cluster.checker().target_state_count(ENOUGH).finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let found = checker.discoveries();
    assert!(!found.is_empty(), "{name:?}: nothing found in {} states", checker.unique_state_count());
    for (property, path) in found {
        let broken = path.last_state().broken.unwrap_or(property);
        println!("{name:?}: {broken}, after {} states: {:?}", checker.state_count(), path.into_actions());
    }
}

/// The checker finds a state from which there is no way to all being well.
fn sticks(cluster: Cluster) {
    let walk = walk(&cluster, |world| cluster.is_calm(world), ENOUGH);
    let name = cluster.off;
    assert!(walk.broken.is_none() && !walk.cut_short, "{name:?}: {:?}", walk.broken);
    let way = walk.stuck.unwrap_or_else(|| panic!("{name:?}: nothing found in {} states", walk.states));
    println!("{name:?}: stuck, after {} states: {way:?}", walk.states);
}

#[test]
fn p1_a_gate_that_is_checked_and_then_counted() {
    breaks(Cluster { off: Off::P1OneStep, ..Cluster::default() });
}

#[test]
fn p3_a_command_for_another_generation() {
    let faults = Faults { repeats: 1, leases: 1, ..Faults::default() };
    let off = Off::P3GenerationMatched;
    breaks(Cluster { off, faults, lossy: true, to_servers: 2, ..Cluster::default() });
}

#[test]
fn p3_a_gate_that_opens_at_an_old_generation() {
    let faults = Faults { repeats: 1, leases: 1, ..Faults::default() };
    sticks(Cluster { off: Off::P3GenerationRises, faults, lossy: true, to_servers: 2, ..Cluster::default() });
}

#[test]
fn p4_a_server_that_believes_management() {
    breaks(Cluster { off: Off::P4OwnCheck, credulous: true, ..Cluster::default() });
}

#[test]
fn p5_an_answer_of_a_new_run_that_is_dropped() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    sticks(Cluster { off: Off::P5NewRunUnseals, faults, ..Cluster::default() });
}

#[test]
fn p6_terms_that_are_alike() {
    let faults = Faults { management_crashes: 1, ..Faults::default() };
    let off = Off::P6TermsDiffer;
    breaks(Cluster { off, faults, loses_disk: true, starts_again: true, ..Cluster::default() });
}

#[test]
fn p6_a_management_that_does_not_seal() {
    let off = Off::P6Sealing;
    breaks(Cluster { off, managements: 2, starts_again: true, to_servers: 2, requests: 0, ..Cluster::default() });
}

#[test]
fn p6_operations_that_are_not_adopted() {
    let faults = Faults { management_crashes: 1, ..Faults::default() };
    sticks(Cluster { off: Off::P6Adoption, faults, loses_disk: true, leases: false, ..Cluster::default() });
}

#[test]
fn p7_an_unanswered_quiesce_that_is_forgotten() {
    let off = Off::P7UnansweredCounts;
    breaks(Cluster { off, batch: 2, to_servers: 2, ..Cluster::default() });
}

#[test]
fn p7_a_margin_that_is_reckoned_once_for_a_whole_batch() {
    let off = Off::P7EachGate;
    breaks(Cluster { off, servers: 3, min_serving: 2, batch: 2, requests: 0, ..Cluster::default() });
}

#[test]
fn p7_an_unhealthy_placement_that_counts() {
    let faults = Faults { unhealthy: 1, ..Faults::default() };
    breaks(Cluster { off: Off::P7HealthCounts, faults, ..Cluster::default() });
}

#[test]
fn p8_a_renewal_of_whatever_there_is() {
    let faults = Faults { management_crashes: 1, ..Faults::default() };
    sticks(Cluster { off: Off::P8Matching, faults, managements: 2, for_good: true, ..Cluster::default() });
}

#[test]
fn p9b_an_instance_that_is_adopted_while_it_stops() {
    let faults = Faults { crashes: 2, failed_starts: 1, ..Faults::default() };
    breaks(Cluster { off: Off::P9bMarked, faults, servers: 1, min_serving: 0, ..Cluster::default() });
}

#[test]
fn p9d_orphans_that_are_forgotten() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    breaks(Cluster { off: Off::P9dOrphans, faults, ..Cluster::default() });
}

#[test]
fn p9b_a_failed_version_that_is_stopped_before_it_is_taken_back() {
    let faults = Faults { crashes: 1, failed_starts: 1, ..Faults::default() };
    breaks(Cluster { off: Off::P9bTakenBack, faults, servers: 1, min_serving: 0, ..Cluster::default() });
}

#[test]
fn p11_a_management_that_speaks_before_its_term_is_saved() {
    let faults = Faults { management_crashes: 1, ..Faults::default() };
    let off = Off::P11TermSavedFirst;
    breaks(Cluster { off, faults, starts_again: true, requests: 0, ..Cluster::default() });
}

#[test]
fn p11_a_server_that_acts_before_it_has_saved() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    breaks(Cluster { off: Off::P11SavedFirst, faults, servers: 1, min_serving: 0, ..Cluster::default() });
}

fn overlap(off: Off, faults: Faults) -> Cluster {
    Cluster { servers: 1, strategy: Strategy::Overlap, requests: 1, off, faults, ..Cluster::default() }
}

#[test]
fn p14_a_claim_that_does_not_read_the_pointer_again() {
    breaks(overlap(Off::P14ReadAgain, Faults::default()));
}

#[test]
fn p14_an_old_gate_that_is_closed_first() {
    breaks(overlap(Off::P14Order, Faults::default()));
}

#[test]
fn p14_a_switch_that_is_not_on_disk_first() {
    breaks(overlap(Off::P14DiskFirst, Faults { crashes: 1, ..Faults::default() }));
}
