//! The nodes' own binary is upgraded by a ripple, while the cluster serves.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use neap::wire::api::{NodeView, RippleState, StepState};
use neap::wire::page::Page;

use super::relays::{another, script};
use crate::support::cluster::{Cluster, MANAGEMENT, ROUTER, Shape};
use crate::support::load::{Lane, Load, brief, letters, sockets};
use crate::support::release::{mail, shop};
use crate::support::{SOON, until};

/// A configuration that a node starts with.
const GOOD: &str = "[observe]\nlog_format = \"text\"\n";

fn shape(servers: u8, routers: u8) -> Shape {
    Shape { servers, routers, own_binaries: true, ..Shape::default() }
}

fn upgrade<'a>(binary: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["upgrade", "--component", "neap", "--binary", binary.to_str().unwrap()];
    args.extend(more);
    args
}

/// What the nodes say that they run; each of them once.
fn binaries(cluster: &Cluster) -> BTreeSet<String> {
    let page: Page<NodeView> = cluster.ask("nodes").unwrap();
    page.items.iter().map(|node| node.binary.unwrap().to_string()).collect()
}

fn instances(cluster: &Cluster) -> Vec<i32> {
    let mut instances = cluster.instances();
    instances.sort_unstable();
    instances
}

/// The last ripple of the nodes.
fn last(cluster: &Cluster) -> neap::wire::api::RippleView {
    let page: Page<neap::wire::api::RippleView> = cluster.ask("ripples").unwrap();
    let id = page.items.into_iter().find(|ripple| ripple.what() == "neap").unwrap().id;
    cluster.ripple(id.as_str()).unwrap()
}

/// A binary that speaks another protocol: a test build reads that behind its last section.
fn speaking(cluster: &Cluster, protocol: u32) -> PathBuf {
    let new = another(cluster, &format!("speaks-{protocol}"));
    let mut file = OpenOptions::new().append(true).open(&new).unwrap();
    writeln!(file, "neap-protocol={protocol}").unwrap();
    new
}

#[test]
fn a_cluster_upgrades_its_own_binary_forth_and_back_and_no_client_notices() {
    let mut cluster = Cluster::shaped(shape(3, 2));
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&mail("1.0.0"));
    let (before, old) = (instances(&cluster), binaries(&cluster));
    let load = Load::start(
        &cluster,
        vec![
            Lane::to("shop", 40.0, brief()),
            Lane::to("shop", 20.0, brief()).unkept(),
            Lane::to("shop", 0.3, sockets()),
            Lane::to("mail", 20.0, letters()).by_router(2),
            Lane::to("shop", 20.0, brief()).by_router(2).unkept(),
            Lane::to("shop", 0.3, sockets()).by_router(2),
        ],
    );
    let forth = another(&cluster, "forth");
    let plan = cluster.well(&upgrade(&forth, &["--plan"])).out;
    let at = |name: &str| plan.find(name).unwrap_or_else(|| panic!("no {name} in {plan}"));
    assert!(at("server-1") < at("server-3") && at("server-3") < at("router-1") && at("router-2") < at("management"));
    assert_eq!(binaries(&cluster), old, "a plan changes nothing");
    let said = cluster.well(&upgrade(&forth, &[]));
    let told = format!("{}{}", said.out, said.err);
    assert_eq!(told.matches("nothing lost, and the account balances").count(), 2, "{told}");
    let new = binaries(&cluster);
    assert!(new.len() == 1 && new != old, "{new:?}");
    let names = ["server-1", "server-2", "server-3", ROUTER, "router-2", MANAGEMENT];
    names.iter().for_each(|name| cluster.node(name).succeeded(1));
    load.flows();
    let ripple = last(&cluster);
    assert!(ripple.steps.iter().all(|step| step.state == StepState::Upgraded), "{ripple:#?}");
    let undo = cluster.well(&["ripple", "undo", ripple.id.as_str()]);
    assert_eq!(binaries(&cluster), old, "{}", undo.err);
    names.iter().for_each(|name| cluster.node(name).succeeded(2));
    assert_eq!(cluster.ripple(last(&cluster).id.as_str()).unwrap().state, RippleState::Undone);
    load.flows();
    load.finish().nothing_lost(&cluster);
    assert_eq!(instances(&cluster), before, "programs were adopted, not restarted");
    cluster.until_all_up();
}

#[test]
fn a_file_that_is_no_neap_of_this_machine_is_refused_before_anything_is_done() {
    let cluster = Cluster::shaped(shape(1, 1));
    let refused = |file: &Path, why: &str| {
        let ran = cluster.neap(&upgrade(file, &[]));
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(why), "{}", ran.err);
    };
    refused(&script(&cluster, "#!/bin/sh\necho neap 9.9.9\n"), "no ELF file");
    refused(Path::new("/bin/true"), "it is not neap");
    let cut = cluster.dir().join("cut");
    let whole = fs::read(env!("CARGO_BIN_EXE_neap")).unwrap();
    fs::write(&cut, &whole[..whole.len() / 4]).unwrap();
    refused(&cut, "cannot take a node's place");
    refused(Path::new("/nowhere/neap"), "/nowhere/neap");
    let ran = cluster.neap(&["upgrade", "--component", "libc6", "--binary", "/bin/true"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let same = cluster.neap(&upgrade(Path::new(env!("CARGO_BIN_EXE_neap")), &[]));
    assert!(same.code == 0 && same.err.contains("already"), "{same:?}");
}

#[test]
fn a_binary_that_does_not_come_up_ends_the_ripple_and_the_old_one_goes_on() {
    let mut cluster = Cluster::shaped(shape(2, 1));
    let file = cluster.dir().join("server-1.toml");
    fs::write(&file, GOOD).unwrap();
    cluster.node("server-1").stop();
    cluster.node("server-1").configure(&file);
    cluster.node("server-1").start();
    cluster.until_all_up();
    cluster.deploy(&mail("1.0.0"));
    cluster.until_serves("mail", "1.0.0", 2);
    let (before, old) = (instances(&cluster), binaries(&cluster));
    let load = Load::start(&cluster, vec![Lane::to("mail", 30.0, letters())]);
    let forth = another(&cluster, "forth");
    // The next process there reads this, and cannot start with it; then one that cannot open its store.
    for (text, why) in [("[nonsense]\n", "is not ready"), ("[store]\npath = \"/proc/nowhere\"\n", "did not come up")] {
        fs::write(&file, text).unwrap();
        let pid = cluster.node("server-1").pid();
        let ran = cluster.neap(&upgrade(&forth, &[]));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("server-1") && ran.err.contains(why), "{}", ran.err);
        let ripple = last(&cluster);
        assert_eq!((ripple.state, ripple.steps[0].state), (RippleState::Failed, StepState::Failed), "{ripple:#?}");
        assert_eq!((cluster.node("server-1").pid(), binaries(&cluster)), (pid, old.clone()));
        cluster.until_serves("mail", "1.0.0", 2);
    }
    // What it is started from is what it runs.
    let place = cluster.dir().join("neap-of-server-1");
    assert_eq!(fs::read(place).unwrap(), fs::read(env!("CARGO_BIN_EXE_neap")).unwrap());
    fs::write(&file, GOOD).unwrap();
    cluster.well(&upgrade(&forth, &[]));
    assert!(binaries(&cluster).len() == 1 && binaries(&cluster) != old);
    load.finish().nothing_lost(&cluster);
    assert_eq!(instances(&cluster), before);
}

#[test]
fn management_that_cannot_hand_over_goes_on_and_says_how_the_others_are_taken_back() {
    let mut cluster = Cluster::shaped(shape(2, 1));
    let file = cluster.dir().join("management.toml");
    fs::write(&file, GOOD).unwrap();
    cluster.node(MANAGEMENT).kill9();
    cluster.node(MANAGEMENT).configure(&file);
    cluster.node(MANAGEMENT).start();
    cluster.until_all_up();
    cluster.deploy(&mail("1.0.0"));
    cluster.until_serves("mail", "1.0.0", 2);
    let old = binaries(&cluster);
    let forth = another(&cluster, "forth");
    fs::write(&file, "[store]\npath = \"/proc/nowhere\"\n").unwrap();
    let ran = cluster.neap(&upgrade(&forth, &[]));
    assert_eq!(ran.code, 1, "{ran:?}");
    let ripple = last(&cluster);
    assert_eq!(ripple.state, RippleState::Failed);
    let undo = format!("neap ripple undo {}", ripple.id);
    assert!(ran.err.contains("management: ") && ran.err.contains(&undo), "{}", ran.err);
    assert_eq!(binaries(&cluster).len(), 2);
    cluster.well(&["ripple", "undo", ripple.id.as_str()]);
    assert_eq!(binaries(&cluster), old);
    cluster.until_serves("mail", "1.0.0", 2);
}

#[test]
fn a_server_that_is_killed_while_it_drains_is_waited_for_and_upgraded_when_it_is_back() {
    let mut cluster = Cluster::shaped(shape(2, 1));
    cluster.deploy(&mail("1.0.0"));
    let forth = another(&cluster, "forth");
    // Its drain waits for one of these.
    let slow: Vec<_> = (0..6).map(|_| cluster.get_beside("/mail/slow?ms=6000")).collect();
    until("the first server has a request", SOON, || match cluster.active("server-1")? {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    let begun = cluster.well(&upgrade(&forth, &["--detach", "-o", "json"]));
    let ripple: neap::wire::api::RippleView = serde_json::from_str(&begun.out).unwrap();
    let id = ripple.id.to_string();
    until("it waits for the drain", SOON, || match cluster.ripple(&id)?.waiting_for {
        Some(wait) if wait.reason == "draining" && wait.detail.contains("server-1") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.node("server-1").kill9();
    until("it waits for the node", SOON, || match cluster.ripple(&id)?.waiting_for {
        Some(wait) if wait.reason == "node_down" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.node("server-1").start();
    until("that node has it", SOON, || {
        let ripple = cluster.ripple(&id)?;
        if ripple.steps[0].state == StepState::Upgraded { Ok(()) } else { Err(format!("{ripple:#?}")) }
    });
    until("every node has it", 2 * SOON, || {
        let ripple = cluster.ripple(&id)?;
        if ripple.state == RippleState::Upgraded { Ok(()) } else { Err(format!("{ripple:#?}")) }
    });
    slow.into_iter().for_each(|slow| drop(slow.join()));
    assert_eq!(binaries(&cluster).len(), 1);
    cluster.until_serves("mail", "1.0.0", 2);
}

#[test]
fn nodes_one_release_apart_work_together_and_one_further_away_is_refused_with_the_cure() {
    let mut cluster = Cluster::shaped(shape(2, 1));
    cluster.deploy(&mail("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("mail", 30.0, letters())]);
    let far = speaking(&cluster, 3);
    let ran = cluster.neap(&upgrade(&far, &[]));
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("protocol 3") && ran.err.contains("one release apart"), "{}", ran.err);
    cluster.node(ROUTER).hand_over_to(&far);
    cluster.node(ROUTER).succeeded(1);
    until("the router says why it is not taken", SOON, || {
        let log = cluster.node(ROUTER).log();
        if log.contains("release by release") { Ok(()) } else { Err(cluster.node(ROUTER).tail()) }
    });
    // It routes all the same, by what it knows.
    load.flows();
    let back = another(&cluster, "back");
    cluster.node(ROUTER).hand_over_to(&back);
    cluster.node(ROUTER).succeeded(2);
    cluster.until_all_up();
    // Forth over a cluster that is of both for a while, with a release in the middle.
    cluster.well(&upgrade(&speaking(&cluster, 2), &[]));
    let page: Page<NodeView> = cluster.ask("nodes").unwrap();
    assert!(page.items.iter().all(|node| node.protocol == 2), "{:#?}", page.items);
    cluster.deploy(&mail("2.0.0"));
    load.finish().nothing_lost(&cluster);
}
