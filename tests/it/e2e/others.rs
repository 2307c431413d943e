//! Programs that others wrote, with servers that others wrote, upgraded under load.

use neap::traffic::{Mix, Request};

use crate::support::cluster::{Cluster, Shape};
use crate::support::load::{Lane, Load};
use crate::support::release::installed;

fn upgraded_under_load(name: &'static str) {
    let Some(first) = installed(name, "1.0.0") else { return };
    let cluster = Cluster::shaped(Shape { servers: 2, ..Shape::default() });
    cluster.deploy(&first);
    let mix = vec![
        Request::get("/").weight(15).expect_echo(),
        Request::post("/orders", 3_000).weight(3).expect_echo(),
        Request::post("/orders", 200_000).expect_echo(),
        Request::get("/slow?ms=1000").expect_echo(),
    ];
    let load = Load::start(&cluster, vec![Lane::to(name, 60.0, Mix::new(mix).unwrap()).versions(&["1.0.0", "2.0.0"])]);
    cluster.deploy(&installed(name, "2.0.0").unwrap());
    load.answered_by("2.0.0");
    cluster.well(&["upgrade", name, "--to", "1.0.0"]);
    load.flows();
    load.finish().nothing_lost(&cluster);
}

#[test]
fn a_flask_application_under_gunicorn_is_upgraded_under_load_and_nothing_fails() {
    upgraded_under_load("flask");
}

#[test]
fn an_express_application_under_node_is_upgraded_under_load_and_nothing_fails() {
    upgraded_under_load("express");
}
