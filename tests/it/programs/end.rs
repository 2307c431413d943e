//! How an instance ends, with all that it started.

use super::*;
use std::time::Duration;

use neap::domain::program::StopSignal;
use neap::programs::instance::Exit;
use neap::programs::logs;
use neap::programs::stop;

#[actix_rt::test]
async fn a_program_that_ignores_its_signal_is_killed_with_all_that_it_started() {
    let ground = Ground::python(STUBBORN, "");
    let instance = ground.run().await;
    let child: u32 = logs::tail(&ground.log(&instance), 1)[0].parse().unwrap();
    assert!(lives(child));
    let stopped = stop::stop(&instance, StopSignal::Term, Duration::from_millis(300), None).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(9), true));
    assert!(!lives(child) && !lives(instance.record().pid));
}

#[actix_rt::test]
async fn a_child_that_left_its_group_and_dropped_its_environment_is_killed_too() {
    let script = STUBBORN.replace("SIG_IGN", "SIG_DFL").replace("'setsid',", "'setsid', 'env', '-i',");
    let ground = Ground::python(&script, "");
    let instance = ground.run().await;
    let child: u32 = logs::tail(&ground.log(&instance), 1)[0].parse().unwrap();
    let stopped = stop::stop(&instance, StopSignal::Term, Duration::from_millis(300), None).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(15), true));
    assert!(!lives(child));
}

#[actix_rt::test]
async fn what_a_program_leaves_behind_when_it_ends_is_killed_after_the_grace() {
    let script = STUBBORN.replace("SIG_IGN", "SIG_DFL");
    let ground = Ground::python(&script, "");
    let instance = ground.run().await;
    let child: u32 = logs::tail(&ground.log(&instance), 1)[0].parse().unwrap();
    let stopped = stop::stop(&instance, StopSignal::Term, Duration::from_millis(300), None).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(15), true));
    assert!(!lives(child));
}

#[actix_rt::test]
async fn what_was_foreseen_of_an_instance_is_found_though_its_leader_ends_at_once() {
    let script = STUBBORN.replace("SIG_IGN", "SIG_DFL").replace("'setsid',", "'setsid', 'env', '-i',");
    let ground = Ground::python(&script, "");
    let instance = ground.run().await;
    let child: u32 = logs::tail(&ground.log(&instance), 1)[0].parse().unwrap();
    let foreseen = stop::foresee(&instance).await;
    // Its leader is gone before anybody can look: only what was seen before leads to the child.
    instance.signal(rustix::process::Signal::KILL).unwrap();
    instance.exited().await;
    let stopped = stop::stop(&instance, StopSignal::Term, Duration::from_millis(50), Some(foreseen)).await.unwrap();
    assert!(stopped.killed);
    assert!(!lives(child));
}
