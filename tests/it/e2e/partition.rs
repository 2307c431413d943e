//! Routers and servers that do not hear management, and go on with what they know; and what routers hear of each other by it.

use std::ops::RangeInclusive;

use neap::wire::api::{NodeState, RouteTest, StepState};

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::load::{Lane, Load, brief, letters};
use crate::support::release::{mail, shop};
use crate::support::wire::Wire;
use crate::support::{SOON, until};

const CUT_OFF: &str = "router-1";

#[test]
fn a_router_cut_off_from_management_goes_on_with_its_stale_list_and_nothing_fails() {
    let mut cluster = Cluster::shaped(Shape { routers: 2, ..Shape::default() });
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&mail("1.0.0"));
    let wire = cut_off(&mut cluster);
    let load = Load::start(
        &cluster,
        vec![
            Lane::to("shop", 60.0, brief()).versions(&["1.0.0", "2.0.0", "3.0.0"]),
            Lane::to("shop", 30.0, brief()).by_router(2),
            Lane::to("mail", 30.0, letters()),
        ],
    );
    cluster.deploy(&shop("2.0.0"));
    let ripple = cluster.deploy(&shop("3.0.0"));
    load.flows();
    let held = cluster.node_view(CUT_OFF);
    assert_eq!(held.state, NodeState::Down, "{held:?}");
    wire.mend();
    until("the router hears management again", SOON, || {
        let (router, revision) =
            (cluster.ask::<neap::wire::api::NodeView>(&format!("nodes/{CUT_OFF}"))?, cluster.status()?.revision);
        let hears = router.state == NodeState::Up && router.revision.is_some_and(|held| held + 1 >= revision);
        if hears { Ok(()) } else { Err(format!("{router:?}, revision {revision}")) }
    });
    load.flows();
    load.finish().nothing_lost(&cluster);
    let receipt = cluster.receipt(ripple.id.as_str());
    assert!(receipt.neighbours.iter().all(|neighbour| neighbour.refused + neighbour.failed + neighbour.cut == 0));
}

/// Starts the router anew at the end of a cut wire, and at a control address that management does not know: neither
/// can reach the other. It serves from what it kept on its disk.
fn cut_off(cluster: &mut Cluster) -> Wire {
    let wire = Wire::lay(cluster.spare(7_400), cluster.api());
    wire.cut();
    let elsewhere = cluster.spare(7_411);
    let router = cluster.node(CUT_OFF);
    router.stop();
    router.set(&format!("cluster.management=[\"http://{}\"]", wire.address));
    router.set(&format!("router.control={elsewhere}"));
    router.start();
    until("the router serves without management", SOON, || {
        let answer = cluster.get("/shop/", SOON)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    until("management takes the router for down", SOON, || {
        let router: neap::wire::api::NodeView = cluster.ask(&format!("nodes/{CUT_OFF}"))?;
        if router.state == NodeState::Down { Ok(()) } else { Err(format!("{router:?}")) }
    });
    wire
}

#[test]
fn a_router_hears_of_requests_that_stay_where_another_sent_them_and_not_of_those_that_end() {
    let cluster = Cluster::shaped(Shape { routers: 2, ..Shape::default() });
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()).by_router(2)]);
    let servers = cluster.placements("shop").unwrap().len();
    let held: Vec<_> = (0..3 * servers).map(|_| cluster.get_beside_by(2, "/shop/slow?ms=12000")).collect();
    // The first router is asked. There are two: its share of the three or so at each server is a half.
    let goes_by = |active: RangeInclusive<u64>| {
        let test: RouteTest = cluster.ask("routes/test?url=http://any.example.com/shop/")?;
        let right =
            test.candidates.len() == servers && test.candidates.iter().all(|at| active.contains(&at.active_requests));
        if right { Ok(()) } else { Err(format!("{test:?}")) }
    };
    until("the first router goes by those that stay", SOON, || goes_by(1..=2));
    for held in held {
        assert_eq!(held.join().unwrap().unwrap().status, 200);
    }
    until("the first router hears that they have ended", SOON, || goes_by(0..=0));
    load.finish().nothing_lost(&cluster);
}

#[test]
fn management_that_hangs_in_the_middle_of_a_drain_costs_nothing_and_goes_on() {
    let mut cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 80.0, brief())]);
    let held: Vec<_> = (0..6).map(|_| cluster.get_beside("/shop/slow?ms=5000")).collect();
    let id = cluster.begin(&shop("2.0.0"), &[]);
    cluster.until_step(&id, StepState::Quiescing);
    cluster.node(MANAGEMENT).freeze();
    for request in held {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    load.flows();
    cluster.node(MANAGEMENT).thaw();
    cluster.until_upgraded(&id);
    cluster.until_serves("shop", "2.0.0", 3);
    load.flows();
    load.finish().nothing_lost(&cluster);
}
