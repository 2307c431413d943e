//! A node is replaced by another binary while it serves: its sockets go to the new process, and its programs stay.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::cluster::{Cluster, MANAGEMENT, ROUTER, Shape};
use crate::support::load::{Lane, Load, brief, letters, pages, sockets};
use crate::support::release::{mail, shop, site};
use crate::support::{SOON, until};

/// The same build as another file: what comes after its last section is nobody's.
pub fn another(cluster: &Cluster, name: &str) -> PathBuf {
    let new = cluster.dir().join(name);
    fs::copy(env!("CARGO_BIN_EXE_neap"), &new).unwrap();
    let mut bytes = fs::OpenOptions::new().append(true).open(&new).unwrap();
    std::io::Write::write_all(&mut bytes, name.as_bytes()).unwrap();
    new
}

pub fn script(cluster: &Cluster, text: &str) -> PathBuf {
    let new = cluster.dir().join("script");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    new
}

fn shape(servers: u8) -> Shape {
    Shape { servers, own_binaries: true, ..Shape::default() }
}

#[test]
fn a_router_forth_and_back_refuses_and_resets_no_connection() {
    let mut cluster = Cluster::shaped(shape(1));
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&site("1.0.0"));
    let load = Load::start(
        &cluster,
        vec![
            Lane::to("shop", 60.0, brief()).unkept(),
            Lane::to("shop", 0.3, sockets()),
            Lane::to("site", 60.0, pages()).unkept(),
        ],
    );
    for name in ["forth", "back"] {
        let (old, new) = (cluster.node(ROUTER).pid(), another(&cluster, name));
        cluster.node(ROUTER).hand_over_to(&new);
        cluster.node(ROUTER).follow();
        assert_ne!(cluster.node(ROUTER).pid(), old);
        load.flows();
    }
    load.finish().nothing_lost(&cluster);
    cluster.until_all_up();
}

/// One request on a connection that is kept, with its whole answer.
fn ask_on(connection: &mut TcpStream, path: &str) -> String {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: neap\r\n\r\n").unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let read = connection.read(&mut piece).unwrap();
        assert!(read > 0, "closed: {text}");
        answer.extend(&piece[..read]);
    }
}

#[test]
fn a_kept_connection_gets_one_more_answer_from_the_router_that_was_replaced() {
    let mut cluster = Cluster::shaped(shape(1));
    cluster.deploy(&shop("1.0.0"));
    let mut kept: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(cluster.router()).unwrap()).collect();
    for connection in &mut kept {
        connection.set_read_timeout(Some(SOON)).unwrap();
        let answer = ask_on(connection, "/shop/");
        assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"), "{answer}");
    }
    let new = another(&cluster, "forth");
    cluster.node(ROUTER).hand_over_to(&new);
    cluster.node(ROUTER).succeeded(1);
    cluster.until_all_up();
    // The new process answers new connections; the old one those that it has, each once more.
    assert_eq!(cluster.get("/shop/", SOON).unwrap().status, 200);
    for connection in &mut kept {
        let answer = ask_on(connection, "/shop/");
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert_eq!(connection.read(&mut [0]).unwrap(), 0, "closed behind the answer");
    }
}

#[test]
fn a_server_that_is_drained_is_replaced_and_its_programs_go_on() {
    let mut cluster = Cluster::shaped(shape(2));
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&mail("1.0.0"));
    let mut before = cluster.instances();
    before.sort_unstable();
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief()), Lane::to("mail", 30.0, letters())]);
    for number in 1..=2 {
        let (name, new) = (format!("server-{number}"), another(&cluster, &format!("new-{number}")));
        cluster.well(&["node", "drain", &name]);
        cluster.node(&name).hand_over_to(&new);
        cluster.node(&name).follow();
        cluster.until_all_up();
        cluster.well(&["node", "resume", &name]);
        cluster.until_serves("shop", "1.0.0", 2);
        cluster.until_serves("mail", "1.0.0", 2);
    }
    load.finish().nothing_lost(&cluster);
    let mut after = cluster.instances();
    after.sort_unstable();
    assert_eq!(after, before, "they were adopted, not restarted");
}

#[test]
fn management_hands_over_in_the_middle_of_a_ripple_which_goes_on() {
    let mut cluster = Cluster::shaped(shape(2));
    cluster.deploy(&shop("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, brief())]);
    let id = cluster.begin(&shop("2.0.0").slowly(0.1, 1.0).upgrade(r#"soak = "1s""#), &[]);
    cluster.until_running(&id);
    let new = another(&cluster, "new");
    cluster.node(MANAGEMENT).hand_over_to(&new);
    cluster.node(MANAGEMENT).follow();
    cluster.until_upgraded(&id);
    load.finish().nothing_lost(&cluster);
}

/// Still the same process, and it has said why.
fn goes_on(cluster: &mut Cluster, node: &str, old: i32, said: &str) {
    until("it goes on, and says why", SOON, || {
        let node = cluster.node(node);
        assert!(node.runs() && node.pid() == old, "{} has ended", node.name);
        if node.log().contains(said) { Ok(()) } else { Err(node.tail()) }
    });
    cluster.until_all_up();
}

#[test]
fn a_binary_that_does_not_come_up_leaves_the_old_process_in_its_place() {
    let mut cluster = Cluster::shaped(shape(1));
    cluster.deploy(&mail("1.0.0"));
    let instances = cluster.instances();
    let real = Path::new(env!("CARGO_BIN_EXE_neap")).display();
    for node in ["server-1", ROUTER, MANAGEMENT] {
        let old = cluster.node(node).pid();
        let ends = script(&cluster, "#!/bin/sh\nexit 1\n");
        cluster.node(node).hand_over_to(&ends);
        goes_on(&mut cluster, node, old, "nothing was stopped");
        // It reads its configuration, and cannot open the store that this names.
        let fails = script(&cluster, &format!("#!/bin/sh\nexec {real} \"$@\" --set store.path=/proc/nowhere\n"));
        cluster.node(node).hand_over_to(&fails);
        goes_on(&mut cluster, node, old, "this process goes on");
        cluster.until_serves("mail", "1.0.0", 1);
    }
    assert_eq!(cluster.instances(), instances, "no program was restarted");
    let load = Load::start(&cluster, vec![Lane::to("mail", 30.0, letters())]);
    load.flows();
    load.finish().nothing_lost(&cluster);
}
