//! Owns the sound configurations: small, closed, and each about one kind of trouble.

use neap::domain::program::{OnDrainTimeout, Strategy};

use super::explore::walk;
use super::world::{Cluster, Faults};

fn sound(name: &str, cluster: &Cluster) {
    walk(cluster, |world| cluster.is_calm(world), 1_500_000).assert_sound(name);
}

#[test]
fn a_ripple_without_faults() {
    sound("no faults", &Cluster { requests: 2, ..Cluster::default() });
}

#[test]
fn a_server_that_crashes_and_boots() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    sound("crash and boot", &Cluster { faults, ..Cluster::default() });
}

#[test]
fn loss_with_lease() {
    let faults = Faults { leases: 2, ..Faults::default() };
    sound("loss with lease", &Cluster { faults, lossy: true, ..Cluster::default() });
}

#[test]
fn repeats_and_reordering() {
    let faults = Faults { repeats: 2, leases: 1, ..Faults::default() };
    sound("repeats and reordering", &Cluster { faults, to_servers: 3, to_managements: 2, ..Cluster::default() });
}

#[test]
fn a_partition() {
    let faults = Faults { leases: 1, suspicions: 1, timeouts: 1, ..Faults::default() };
    sound("partition", &Cluster { faults, lossy: true, to_servers: 2, ..Cluster::default() });
}

#[test]
fn an_abort() {
    let faults = Faults { aborts: 1, leases: 1, repeats: 1, ..Faults::default() };
    sound("abort", &Cluster { faults, lossy: true, to_servers: 2, ..Cluster::default() });
}

#[test]
fn an_abort_and_a_crash() {
    let faults = Faults { aborts: 1, crashes: 1, ..Faults::default() };
    sound("abort and crash", &Cluster { faults, ..Cluster::default() });
}

#[test]
fn drains_that_time_out_abort() {
    let faults = Faults { timeouts: 2, crashes: 1, ..Faults::default() };
    sound("drain timeout: abort", &Cluster { faults, ..Cluster::default() });
}

#[test]
fn drains_that_time_out_are_forced() {
    let faults = Faults { timeouts: 2, crashes: 1, ..Faults::default() };
    sound("drain timeout: force", &Cluster { faults, on_drain_timeout: OnDrainTimeout::Force, ..Cluster::default() });
}

#[test]
fn a_release_that_does_not_start() {
    let faults = Faults { crashes: 1, ..Faults::default() };
    sound("bad release", &Cluster { faults, bad_release: true, ..Cluster::default() });
}

#[test]
fn starts_that_fail() {
    let faults = Faults { failed_starts: 2, crashes: 1, ..Faults::default() };
    sound("failed starts", &Cluster { faults, ..Cluster::default() });
}

#[test]
fn a_management_that_restarts() {
    let faults = Faults { management_crashes: 1, ..Faults::default() };
    sound("management restarts", &Cluster { faults, to_servers: 2, ..Cluster::default() });
}

#[test]
fn a_management_and_a_server_that_restart() {
    let faults = Faults { management_crashes: 1, crashes: 1, ..Faults::default() };
    sound("management and server restart", &Cluster { faults, requests: 0, ..Cluster::default() });
}

#[test]
fn two_managements() {
    sound(
        "two managements",
        &Cluster { managements: 2, most_terms: 2, requests: 0, starts_again: true, ..Cluster::default() },
    );
}

#[test]
fn a_management_that_lost_its_disk() {
    let faults = Faults { management_crashes: 1, ..Faults::default() };
    let lost = Cluster { loses_disk: true, starts_again: true, to_servers: 2, faults, ..Cluster::default() };
    sound("lost disk", &lost);
}

#[test]
fn a_management_dead_for_good() {
    let faults = Faults { management_crashes: 1, crashes: 1, ..Faults::default() };
    sound("management dead for good", &Cluster { for_good: true, faults, ..Cluster::default() });
}

#[test]
fn a_server_that_is_down_during_the_ripple_is_caught_up() {
    let faults = Faults { crashes: 1, timeouts: 2, ..Faults::default() };
    sound("desired and observed", &Cluster { faults, requests: 0, ..Cluster::default() });
}

#[test]
fn three_servers() {
    let faults = Faults { leases: 1, ..Faults::default() };
    let three = Cluster { servers: 3, min_serving: 1, batch: 2, faults, requests: 0, ..Cluster::default() };
    sound("three servers, two at a time", &three);
}

#[test]
fn a_batch_in_which_each_gate_needs_the_margin() {
    let faults = Faults { aborts: 1, ..Faults::default() };
    let batch = Cluster { servers: 3, min_serving: 2, batch: 2, faults, requests: 0, ..Cluster::default() };
    sound("two at a time, of which one may close", &batch);
}

#[test]
fn a_ripple_that_is_undone_at_any_moment() {
    let faults = Faults { undos: 1, leases: 1, ..Faults::default() };
    sound("undo", &Cluster { faults, lossy: true, ..Cluster::default() });
}

#[test]
fn a_ripple_that_is_undone_and_a_management_that_restarts() {
    let faults = Faults { undos: 1, management_crashes: 1, ..Faults::default() };
    sound("undo, management restarts", &Cluster { faults, requests: 0, ..Cluster::default() });
}

#[test]
fn a_ripple_that_is_undone_and_a_server_that_crashes() {
    let faults = Faults { undos: 1, crashes: 1, ..Faults::default() };
    sound("undo and crash", &Cluster { faults, requests: 0, ..Cluster::default() });
}

#[test]
fn a_canary_that_a_person_promotes() {
    let faults = Faults { aborts: 1, management_crashes: 1, ..Faults::default() };
    sound("canary", &Cluster { canary: 1, faults, ..Cluster::default() });
}

#[test]
fn an_instance_that_fails() {
    let faults = Faults { unhealthy: 1, timeouts: 1, ..Faults::default() };
    sound("unhealthy", &Cluster { servers: 3, min_serving: 1, faults, ..Cluster::default() });
}

#[test]
fn one_server_whose_program_may_be_held() {
    let faults = Faults { crashes: 2, leases: 1, ..Faults::default() };
    sound("one server", &Cluster { servers: 1, min_serving: 0, faults, ..Cluster::default() });
}

/// Of one server. Two requests: one may be at the old instance while another comes to the new one.
fn overlap(name: &str, requests: usize, faults: Faults, lossy: bool) {
    let strategy = Strategy::Overlap;
    sound(name, &Cluster { servers: 1, strategy, lossy, faults, requests, ..Cluster::default() });
}

#[test]
fn an_overlap_on_one_server() {
    overlap("overlap", 2, Faults { leases: 1, repeats: 1, ..Faults::default() }, true);
}

#[test]
fn an_overlap_whose_server_crashes() {
    overlap("overlap and crash", 2, Faults { crashes: 1, ..Faults::default() }, false);
}

#[test]
fn an_overlap_whose_server_crashes_twice() {
    overlap("overlap and two crashes", 1, Faults { crashes: 2, ..Faults::default() }, false);
}

#[test]
fn an_overlap_that_is_aborted() {
    overlap("overlap, abort and crash", 2, Faults { aborts: 1, crashes: 1, ..Faults::default() }, true);
}

#[test]
fn an_overlap_whose_management_restarts() {
    overlap("overlap, management restarts", 2, Faults { management_crashes: 1, ..Faults::default() }, false);
}

#[test]
fn an_overlap_whose_management_and_server_restart() {
    let faults = Faults { management_crashes: 1, crashes: 1, ..Faults::default() };
    overlap("overlap, management and server restart", 1, faults, false);
}

#[test]
fn an_overlap_that_does_not_start_or_is_forced() {
    let faults = Faults { failed_starts: 1, timeouts: 1, crashes: 1, ..Faults::default() };
    let (strategy, on_drain_timeout) = (Strategy::Overlap, OnDrainTimeout::Force);
    sound("overlap, forced", &Cluster { servers: 1, strategy, on_drain_timeout, faults, ..Cluster::default() });
}

#[test]
fn an_overlap_on_two_servers_that_is_undone() {
    let faults = Faults { undos: 1, ..Faults::default() };
    sound("overlap, undo", &Cluster { strategy: Strategy::Overlap, faults, ..Cluster::default() });
}
