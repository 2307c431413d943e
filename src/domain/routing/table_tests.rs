use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::names::{ProgramName, Version};
use crate::domain::program::{
    Health, Kind, LongLived, MinServing, OnDrainTimeout, PlacementRule, Route, StaticFiles, UpgradeRule,
};

fn manifest(name: &str, routes: &[&str], matches: Vec<Match>) -> Manifest {
    let route = |given: &&str| {
        let at = given.find('/').unwrap();
        Route { host: Some(given[..at].to_owned()).filter(|host| host != "*"), prefix: given[at..].to_owned() }
    };
    let second = Duration::from_secs(1);
    Manifest {
        name: ProgramName::new(name).unwrap(),
        version: Version::new("1").unwrap(),
        routes: routes.iter().map(route).collect(),
        strip_prefix: false,
        matches,
        placement: PlacementRule { servers: vec!["*".into()], labels: BTreeMap::new() },
        kind: Kind::Static(StaticFiles { root: "public".into(), spa: false }),
        request_timeout: second,
        body_limit: 1,
        health: Health { path: None, interval: second, timeout: second, start_timeout: second, unhealthy_after: 3 },
        session: None,
        upgrade: UpgradeRule {
            strategy: Default::default(),
            max_utilization_milli: 0,
            capacity_wait: second,
            batch: 1,
            hooks: Default::default(),
            rollback_on: Default::default(),
            canary: 0,
            promote: Default::default(),
            min_serving: MinServing::Auto,
            drain_timeout: second,
            on_drain_timeout: OnDrainTimeout::Abort,
            long_lived: LongLived::Wait,
            long_lived_grace: second,
            hold: Duration::ZERO,
            soak: Duration::ZERO,
        },
        components: Vec::new(),
    }
}

fn header(name: &str, value: &str) -> Match {
    Match::Header { name: name.into(), value: value.into() }
}

fn file(pattern: &str) -> Match {
    Match::Path { pattern: pattern.into() }
}

fn find(table: &RouteTable, host: &str, path: &str) -> Option<(usize, String)> {
    let matched = table.find(Ask { host, path, headers: [] })?;
    Some((matched.program, matched.rule.to_string()))
}

fn program(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
    find(table, host, path).map(|found| found.0)
}

#[test]
fn an_exact_host_is_asked_before_any_host_and_the_longest_prefix_wins() {
    let table = RouteTable::build(&[
        manifest("shop", &["shop.example.com/", "*/shop"], vec![]),
        manifest("cart", &["shop.example.com/cart", "*/shop/cart"], vec![]),
    ]);
    for (host, path, expected) in [
        ("shop.example.com", "/", Some(0)),
        ("shop.example.com", "/cart", Some(1)),
        ("shop.example.com", "/cart/1", Some(1)),
        ("shop.example.com", "/carts", Some(0)),
        ("shop.example.com", "/shop/cart", Some(0)),
        ("other", "/shop/cart/x", Some(1)),
        ("other", "/shop/", Some(0)),
        ("other", "/shopping", None),
        ("other", "/", None),
        ("", "*", None),
    ] {
        assert_eq!(program(&table, host, path), expected, "{host}{path}");
    }
    assert_eq!(find(&table, "x", "/shop/cart").unwrap().1, "route */shop/cart");
}

#[test]
fn a_host_has_no_case_no_port_and_no_last_dot() {
    let table = RouteTable::build(&[manifest("a", &["Shop.example.com/"], vec![]), manifest("b", &["[::1]/"], vec![])]);
    for host in ["shop.example.com", "SHOP.example.COM:8080", "shop.example.com.", "shop.example.com.:80"] {
        assert_eq!(program(&table, host, "/x"), Some(0), "{host}");
    }
    assert_eq!((program(&table, "[::1]:80", "/"), program(&table, "[::1]", "/")), (Some(1), Some(1)));
    assert_eq!(program(&table, "xshop.example.com", "/"), None);
}

#[test]
fn a_header_says_more_than_a_route_and_a_file_name_more_than_what_is_left() {
    let table = RouteTable::build(&[
        manifest("site", &["*/"], vec![]),
        manifest("docs", &["*/docs", "docs.example.com/"], vec![]),
        manifest("jars", &[], vec![file("*.jar")]),
        manifest("pay", &[], vec![header("X-Code", "PAY*")]),
    ]);
    assert_eq!(program(&table, "h", "/a/b.jar"), Some(2));
    assert_eq!(program(&table, "h", "/docs/b.jar"), Some(1));
    assert_eq!(program(&table, "docs.example.com", "/b.jar"), Some(1));
    assert_eq!(program(&table, "h", "/b.jar/"), Some(0));
    let headers = [("Accept", &b"x"[..]), ("x-CODE", &b" PAY7 "[..])];
    let matched = table.find(Ask { host: "h", path: "/docs", headers }).unwrap();
    assert_eq!((matched.program, matched.rule.to_string().as_str()), (3, "header x-code: PAY*"));
    let other = [("X-Code", &b"BUY7"[..])];
    assert_eq!(table.find(Ask { host: "h", path: "/docs", headers: other }).unwrap().program, 1);
}

#[test]
fn only_a_routes_prefix_can_be_stripped() {
    let table = RouteTable::build(&[manifest("a", &["*/shop/v1", "*/"], vec![file("x")])]);
    let length = |path| table.find(Ask { host: "h", path, headers: [] }).unwrap().prefix_len();
    assert_eq!((length("/shop/v1/a"), length("/a"), length("/x")), (8, 0, 0));
}

#[test]
fn two_programs_with_one_rule_leave_it_to_the_first() {
    let twice =
        [manifest("a", &["*/", "*/a", "h/"], vec![file("f")]), manifest("b", &["*/", "*/a", "h/"], vec![file("f")])];
    let table = RouteTable::build(&twice);
    assert!([("h", "/"), ("x", "/a"), ("x", "/"), ("x", "/f")].iter().all(|(h, p)| program(&table, h, p) == Some(0)));
}

#[test]
fn ten_thousand_programs_are_all_found() {
    let all: Vec<_> = (0..10_000)
        .map(|n| {
            let routes = [format!("h{n}.example.com/"), format!("*/p{n}"), format!("h0.example.com/p{n}/x")];
            manifest(&format!("p{n}"), &routes.each_ref().map(String::as_str), vec![])
        })
        .collect();
    let table = RouteTable::build(&all);
    for n in [0, 1, 4_999, 9_999] {
        assert_eq!(program(&table, &format!("h{n}.example.com"), "/"), Some(n));
        assert_eq!(program(&table, "other", &format!("/p{n}/y")), Some(n));
        assert_eq!(program(&table, "h0.example.com", &format!("/p{n}/x/y/z")), Some(n));
    }
}

/// The same, said as slowly and plainly as can be: every rule looked at.
fn plainly(manifests: &[Manifest], host: &str, path: &str) -> Option<usize> {
    let fits = |prefix: &str| {
        prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let longest = |any: bool| {
        let rules = manifests.iter().enumerate().flat_map(|(at, one)| one.routes.iter().map(move |route| (at, route)));
        let rules = rules.filter(|(_, route)| match &route.host {
            None => any,
            Some(own) => !any && own == host,
        });
        let mut best: Option<(usize, usize)> = None;
        for (at, route) in rules.filter(|(_, route)| fits(&route.prefix)) {
            if best.is_none_or(|(length, _)| route.prefix.len() > length) {
                best = Some((route.prefix.len(), at));
            }
        }
        best.map(|(_, at)| at)
    };
    longest(false).or_else(|| longest(true))
}

proptest! {
    #[test]
    fn the_table_answers_as_looking_at_every_rule_would(
        routes in prop::collection::vec(("(\\*|h|g)", "(/|(/[ab]{1,2}){1,3})"), 0..12),
        host in "(h|g|x)",
        path in "(/[ab]{0,2}){1,5}",
    ) {
        let all: Vec<_> = routes.iter().map(|(host, prefix)| manifest("p", &[&format!("{host}{prefix}")], vec![])).collect();
        prop_assert_eq!(program(&RouteTable::build(&all), &host, &path), plainly(&all, &host, &path));
    }
}

#[test]
fn two_programs_share_a_rule_only_if_it_is_the_same_one() {
    let header = |value: &str| vec![Match::Header { name: "x-code".into(), value: value.into() }];
    let shop = manifest("shop", &["*/shop", "Shop.example./"], header("PAY*"));
    let shared = |routes: &[&str], matches| RouteTable::shared(&manifest("other", routes, matches), &shop);
    assert_eq!(shared(&["*/shop"], vec![]).unwrap().to_string(), "route */shop");
    assert!(shared(&["shop.example/"], vec![]).is_some(), "hosts are compared as routers do");
    assert!(shared(&["*/mail"], header("PAY*")).is_some());
    assert_eq!(shared(&["*/shop/basket", "*/", "mail.example/"], header("PA*")), None);
}
