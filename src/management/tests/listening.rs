//! Who is taken for down, and what is written beside the records.

use std::time::{Duration, Instant};

use super::{Bench, servers};
use crate::management::control::Control;
use crate::management::observer;

const LONG_AGO: Duration = Duration::from_secs(10);
const DOWN_AFTER: Duration = Duration::from_secs(5);

fn silent_for_long(control: &mut Control) {
    let heard = Instant::now().checked_sub(LONG_AGO);
    control.nodes.values_mut().for_each(|node| node.heard = heard);
}

fn all_up(control: &Control) -> bool {
    control.nodes.values().all(|node| node.up)
}

#[actix_rt::test]
async fn a_management_that_was_held_up_takes_nobody_for_down_by_that() {
    let bench = Bench::new();
    let _servers = servers(&bench, 2).await;
    let up = bench.with(|control| {
        silent_for_long(control);
        control.watched = Instant::now().checked_sub(LONG_AGO);
        observer::watch(control, DOWN_AFTER);
        all_up(control)
    });
    assert!(up.await, "it heard nobody, for it did not listen");
    let up = bench.with(|control| {
        silent_for_long(control);
        control.watched = Some(Instant::now());
        observer::watch(control, DOWN_AFTER);
        all_up(control)
    });
    assert!(!up.await, "it listened, and heard nothing");
}

#[actix_rt::test]
async fn any_word_of_a_node_that_is_up_shows_that_it_lives() {
    let bench = Bench::new();
    let _servers = servers(&bench, 1).await;
    let up = bench.with(|control| {
        silent_for_long(control);
        control.watched = Some(Instant::now());
        let (name, run) = {
            let node = control.nodes.values().next().unwrap();
            (node.record.name.clone(), node.run.clone().unwrap())
        };
        observer::heard_of(control, &name, &run);
        observer::watch(control, DOWN_AFTER);
        all_up(control)
    });
    assert!(up.await);
}

#[actix_rt::test]
async fn the_export_follows_what_is_saved() {
    let bench = Bench::new();
    bench.push("1").await;
    let path = bench.dir.path().join("store/export/management.json");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"shop\"")) {
        assert!(Instant::now() < deadline, "{}", path.display());
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
    // A node that ends leaves nothing unwritten.
    bench.push("2").await;
    let bench = bench.restart().await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"version\": \"2\""), "{text}");
    drop(bench);
}
