//! One node in all three roles: its requests go from router to program by a call, and its one server is upgraded while the
//! router holds what comes.

use std::fs;
use std::net::SocketAddr;

use crate::support::cluster::{Cluster, Shape};
use crate::support::load::{Lane, Load, everything};
use crate::support::release::shop;

/// Connections of this machine that stand to an address, or from it: a request's would be kept for the next.
fn connections(addr: SocketAddr) -> usize {
    let SocketAddr::V4(addr) = addr else { panic!("{addr}") };
    let shown = format!("{:08X}:{:04X}", u32::from_le_bytes(addr.ip().octets()), addr.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).filter(|row| row.split_whitespace().nth(3) == Some("01"));
    rows.filter(|row| row.split_whitespace().skip(1).take(2).any(|end| end == shown)).count()
}

#[test]
fn a_node_of_all_roles_upgrades_its_program_under_load_and_nothing_is_lost() {
    let cluster = Cluster::shaped(Shape { servers: 1, together: true, ..Shape::default() });
    let release = |version: &str| shop(version).upgrade("hold = \"30s\"");
    cluster.deploy(&release("1.0.0"));
    let load = Load::start(&cluster, vec![Lane::to("shop", 60.0, everything()).versions(&["1.0.0", "2.0.0", "3.0.0"])]);
    for version in ["2.0.0", "3.0.0"] {
        let ripple = cluster.deploy(&release(version));
        let receipt = cluster.receipt(ripple.id.as_str());
        assert!(receipt.balanced, "{receipt:#?}");
        assert_eq!((receipt.unaccounted, receipt.failures.len()), (0, 0), "{receipt:#?}");
        for account in &receipt.accounts {
            assert_eq!((account.cut, account.failed, account.completed_5xx), (0, 0, 0), "{account:?}");
        }
        load.answered_by(version);
    }
    load.flows();
    assert_eq!(connections(cluster.data_port(1)), 0, "a request took the way over the wire");
    let account = load.finish();
    account.nothing_lost(&cluster);
}
