//! Owns random walks, with shrinking, through clusters that are too large to be walked whole: all faults at once. Beside
//! the invariants it checks what must hold from step to step of ripples and the Server List.

use neap::domain::program::{OnDrainTimeout, Strategy};
use neap::domain::ripple::StepPhase;
use proptest::prelude::*;
use stateright::Model;

use super::world::{Cluster, Faults, World, program, server_name};

const STEPS: usize = 400;

fn everything(batch: usize, managements: usize) -> Cluster {
    let faults = Faults {
        crashes: 4,
        management_crashes: 2,
        repeats: 6,
        leases: 4,
        failed_starts: 2,
        unhealthy: 2,
        aborts: 1,
        undos: 1,
        suspicions: 2,
        timeouts: 3,
    };
    let cluster = Cluster { servers: 3, requests: 4, faults, batch, managements, lossy: true, ..Cluster::default() };
    Cluster { to_servers: 4, to_managements: 4, most_terms: 5, starts_again: true, ..cluster }
}

/// What may not have happened between two states.
fn check_step(cluster: &Cluster, before: &World, after: &World) -> Result<(), String> {
    for (before, after) in before.managements.iter().zip(&after.managements) {
        let (Some(before), Some(after)) = (&before.up, &after.up) else { continue };
        for (id, ripple) in &before.ripples {
            let now = &after.ripples[id];
            if ripple.state.is_over() && ripple != now {
                return Err(format!("ripple {id} moved after it was over"));
            }
            let begins = |index: usize| ripple.steps[index] == StepPhase::Pending && !is_idle(&now.steps[index]);
            let up = |index: usize| {
                let server = after.list.servers.get(&now.plan.steps[index].server);
                server.is_some_and(|server| server.up)
            };
            let busy = (0..now.steps.len()).filter(|&index| !is_idle(&now.steps[index]) && up(index)).count();
            if (0..now.steps.len()).any(begins) && busy > cluster.batch {
                return Err(format!("{busy} steps of ripple {id} are under way, and its batch is {}", cluster.batch));
            }
        }
        for server in (0..cluster.servers).map(server_name) {
            let sealed = |leader: &neap::domain::leader::Leader| leader.list.servers.get(&server)?.sealed.clone();
            let seen = |leader: &neap::domain::leader::Leader| {
                leader.list.observed(&program(), &server).map(|seen| seen.generation)
            };
            let same = sealed(before) == sealed(after) && before.term() == after.term();
            if same && seen(before) > seen(after) {
                return Err("an older report was believed".to_owned());
            }
        }
    }
    Ok(())
}

fn is_idle(step: &StepPhase) -> bool {
    *step == StepPhase::Pending || step.is_over()
}

fn wander(cluster: &Cluster, choices: &[u16]) -> Result<(), TestCaseError> {
    let mut world = cluster.init_states().remove(0);
    let properties = cluster.properties();
    let mut way = Vec::new();
    for choice in choices {
        let mut actions = Vec::new();
        cluster.actions(&world, &mut actions);
        if actions.is_empty() {
            break;
        }
        let action = actions.swap_remove(usize::from(*choice) % actions.len());
        way.push(action.clone());
        let Some(next) = cluster.next_state(&world, action) else { continue };
        for property in &properties {
            prop_assert!((property.condition)(cluster, &next), "{}: {:?}\n{way:?}", property.name, next.broken);
        }
        if let Err(wrong) = check_step(cluster, &world, &next) {
            return Err(TestCaseError::fail(format!("{wrong}\n{way:?}")));
        }
        world = next;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_management_under_all_faults_keeps_every_invariant(
        batch in 1..=2usize,
        choices in prop::collection::vec(any::<u16>(), STEPS),
    ) {
        wander(&everything(batch, 1), &choices)?;
    }

    #[test]
    fn overlaps_under_all_faults_keep_every_invariant(
        forces in any::<bool>(),
        managements in 1..=2usize,
        choices in prop::collection::vec(any::<u16>(), STEPS),
    ) {
        let on_drain_timeout = if forces { OnDrainTimeout::Force } else { OnDrainTimeout::Abort };
        let cluster = Cluster { strategy: Strategy::Overlap, on_drain_timeout, ..everything(1, managements) };
        wander(&cluster, &choices)?;
    }

    #[test]
    fn two_managements_under_all_faults_keep_every_invariant(choices in prop::collection::vec(any::<u16>(), STEPS)) {
        wander(&everything(1, 2), &choices)?;
    }
}
