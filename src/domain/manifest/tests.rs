use std::time::Duration;

use super::*;
use crate::domain::program::*;

const FULL: &str = r#"
name    = "shop"
version = "2.0.0"
routes  = ["Shop.example.com/", "*/shop/"]
strip_prefix = true
match   = [{ header = "X-Transaction-Code", value = "PAY*" }, { path = "*.jar" }]

[placement]
servers = ["s1", "eu-*"]
labels  = { zone = "a" }

[process]
command      = ["./server", "--port", "{port}"]
env          = { MODE = "live", STATE = "{data}/state", SHAPE = '{"a": {}}' }
env_file     = "/etc/shop.env"
prepare      = ["npm", "ci"]
request_timeout = "5s"
body_limit   = "1MiB"
stop_signal  = "INT"
stop_timeout = "3s"

[health]
path = "/healthz"
interval = "2s"
timeout = "500ms"
start_timeout = "20s"
unhealthy_after = 5

[session]
policy = "sticky"
cookie = "sid"
idle = "1h"
deadline = "5m"

[upgrade]
strategy = "quiesce"
batch = 2
canary = 1
promote = "manual"
min_serving = 2
drain_timeout = "1m"
on_drain_timeout = "force"
long_lived = "notify"
long_lived_grace = "5s"
hold = "2s"
soak = "0s"
rollback_on = { error_rate = 0.5, p99_factor = 2, min_requests = 100 }

[components]
uses = ["python3.11", "/opt/acme/lib/libgreet.so.1"]
"#;

const SMALL: &str = "name = \"shop\"\nversion = \"1\"\nroutes = [\"*/shop\"]\n[process]\ncommand = [\"./server\"]\n";

fn errors(text: &str) -> String {
    parse("program.toml", text).expect_err("the manifest must be refused").to_string()
}

/// The small manifest with more text: before its sections, and at its end.
fn with(top: &str, end: &str) -> String {
    format!("{top}\n{SMALL}{end}\n")
}

#[test]
fn every_key_that_is_built_is_read() {
    let manifest = parse("program.toml", FULL).unwrap();
    assert_eq!(manifest.name.as_str(), "shop");
    let route = |host: Option<&str>, prefix: &str| Route { host: host.map(str::to_owned), prefix: prefix.to_owned() };
    assert_eq!(manifest.routes, [route(Some("shop.example.com"), "/"), route(None, "/shop")]);
    assert!(manifest.strip_prefix);
    let header = Match::Header { name: "x-transaction-code".into(), value: "PAY*".into() };
    assert_eq!(manifest.matches, [header, Match::Path { pattern: "*.jar".into() }]);
    assert_eq!(manifest.placement.servers, ["s1", "eu-*"]);
    assert_eq!(manifest.placement.labels["zone"], "a");
    let Kind::Process(process) = &manifest.kind else { panic!("a process") };
    assert_eq!(process.command, ["./server", "--port", "{port}"]);
    assert_eq!(process.env.len(), 3);
    assert_eq!(process.env_file.as_deref(), Some("/etc/shop.env"));
    assert_eq!(process.prepare, ["npm", "ci"]);
    assert_eq!((process.stop_signal, process.stop_timeout), (StopSignal::Int, Duration::from_secs(3)));
    assert_eq!((manifest.request_timeout, manifest.body_limit), (Duration::from_secs(5), 1 << 20));
    assert_eq!(manifest.health.path.as_deref(), Some("/healthz"));
    assert_eq!((manifest.health.timeout, manifest.health.unhealthy_after), (Duration::from_millis(500), 5));
    assert_eq!((manifest.upgrade.batch, manifest.upgrade.min_serving), (2, MinServing::AtLeast(2)));
    let rollback_on = RollbackOn { error_rate_ppm: 500_000, p99_factor_milli: 2_000, min_requests: 100 };
    assert_eq!(manifest.upgrade.rollback_on, rollback_on);
    assert_eq!((manifest.upgrade.canary, manifest.upgrade.promote), (1, Promote::Manual));
    assert_eq!(manifest.upgrade.on_drain_timeout, OnDrainTimeout::Force);
    assert_eq!(manifest.upgrade.long_lived, LongLived::Notify);
    assert_eq!((manifest.upgrade.hold, manifest.upgrade.soak), (Duration::from_secs(2), Duration::ZERO));
    let components: Vec<&str> = manifest.components.iter().map(|name| name.as_str()).collect();
    assert_eq!(components, ["python3.11", "/opt/acme/lib/libgreet.so.1"]);
}

#[test]
fn what_is_left_out_gets_the_defaults_of_the_contract() {
    let manifest = parse("program.toml", SMALL).unwrap();
    assert_eq!(manifest.placement.servers, ["*"]);
    assert_eq!((manifest.request_timeout, manifest.body_limit), (Duration::from_secs(60), 10 << 20));
    assert_eq!((manifest.health.path, manifest.health.unhealthy_after), (None, 3));
    assert_eq!(manifest.health.start_timeout, Duration::from_secs(60));
    assert_eq!((manifest.upgrade.batch, manifest.upgrade.min_serving), (1, MinServing::Auto));
    assert_eq!(manifest.upgrade.drain_timeout, Duration::from_secs(30));
    assert_eq!(manifest.upgrade.soak, Duration::from_secs(10));
    let rollback_on = RollbackOn { error_rate_ppm: 50_000, p99_factor_milli: 3_000, min_requests: 20 };
    assert_eq!(manifest.upgrade.rollback_on, rollback_on);
    let Kind::Process(process) = manifest.kind else { panic!("a process") };
    assert_eq!((process.stop_signal, process.stop_timeout), (StopSignal::Term, Duration::from_secs(10)));
}

#[test]
fn a_static_program_names_a_root_inside_its_release() {
    let site = |root: &str| format!("name='site'\nversion='1'\nroutes=['*/']\n[static]\nroot = {root}\nspa = true\n");
    let manifest = parse("program.toml", &site("'./public/'")).unwrap();
    assert_eq!(manifest.kind, Kind::Static(StaticFiles { root: "public".into(), spa: true }));
    assert!(errors(&site("'../etc'")).starts_with("program.toml:5:8: \"root\" in [static]: it must stay inside"));
    assert!(errors(&site("'/etc'")).contains("must be relative"));
    assert!(
        errors("name='site'\nversion='1'\nroutes=['*/']\n[static]\n").contains("\"root\" in [static]: it is missing")
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_right_one() {
    assert_eq!(
        errors(&with("", "stop_timout = \"1s\"")),
        "program.toml:7:1: unknown key \"stop_timout\" in [process] (did you mean \"stop_timeout\"?)"
    );
    assert_eq!(
        errors(&with("verison = \"1\"", "")),
        "program.toml:1:1: unknown key \"verison\" in the manifest (did you mean \"version\"?)"
    );
    assert!(errors(&with("", "[helth]")).contains("did you mean \"health\"?"));
    assert!(!errors(&with("zzz = 1", "")).contains("did you mean"));
}

#[test]
fn a_component_is_named_once_and_well() {
    let uses = |names: &str| errors(&with("", &format!("[components]\nuses = [{names}]")));
    assert_eq!(uses("'a', 'a'"), "program.toml:8:14: component \"a\" is there twice");
    for (names, expected) in [("''", "component name"), ("'a '", "no blank at an end"), ("1", "takes strings")] {
        assert!(uses(names).contains(expected), "{names}: {}", uses(names));
    }
    assert!(errors(&with("", "[components]\nuse = []")).contains("did you mean \"uses\"?"));
}

#[test]
fn a_wrong_type_or_range_is_refused_with_its_place() {
    for (end, expected) in [
        (
            "stop_timeout = 10",
            "7:16: \"stop_timeout\" in [process] must be a duration in quotes, such as \"30s\", not integer",
        ),
        ("stop_timeout = '10'", "7:16: \"stop_timeout\" in [process]: \"10\" is not a duration"),
        ("stop_timeout = '2h'", "2h is out of range: 0s to 1h"),
        ("stop_signal = 'KILL'", "\"KILL\" is none of \"TERM\""),
        ("stop_signal = 'TERN'", "(did you mean \"TERM\"?)"),
        ("body_limit = '10MB'", "\"10MB\" is not a size"),
        ("body_limit = 10", "must be a size in quotes"),
        ("prepare = 'npm ci'", "\"prepare\" in [process] must be a list of strings, not string"),
        ("prepare = ['']", "its first word, the program, is empty"),
        ("prepare = ['a', 1]", "7:17: \"prepare\" in [process] takes strings, not integer"),
        ("env = { A = 1 }", "\"env.A\" must be a string, not integer (put it in quotes)"),
        ("env = { PORT = '1' }", "PORT is set by neap itself"),
        ("env = { NEAP_NODE = '1' }", "NEAP_NODE is set by neap itself"),
        ("env = { 'A-B' = '1' }", "not a variable's name"),
        (
            "env = { A = '{prot}' }",
            "unknown substitution {prot}; there are {port} {dir} {data} {version} {node} (did you mean \"port\"?)",
        ),
        ("env_file = 'secrets'", "absolute path on the server"),
        ("[health]\npath = 'healthz'", "must start with \"/\""),
        ("[health]\nunhealthy_after = 0", "8:19: \"unhealthy_after\" in [health]: 0 is out of range: 1 to 1000"),
        ("[health]\nunhealthy_after = 1.5", "must be a whole number, not float"),
        ("[health]\nunhealthy_after = 99999999999999999999", "out of range"),
        ("[placement]\nservers = []", "no server is named"),
        ("[placement]\nservers = ['S1']", "server \"S1\" is no name or glob"),
        ("[upgrade]\nmin_serving = 'some'", "\"some\" is neither \"auto\" nor a whole number"),
        ("[upgrade]\nmin_serving = -1", "-1 is out of range"),
        ("[upgrade]\nmin_serving = true", "must be a string, not boolean"),
        ("[upgrade]\nbatch = 0", "0 is out of range"),
        ("[upgrade]\ncanary = -1", "-1 is out of range"),
        ("[upgrade]\nrollback_on = { error_rate = 2 }", "\"error_rate\" in rollback_on: it is out of range: 0 to 1"),
        ("[upgrade]\nrollback_on = { error_rate = 'x' }", "must be a number, not string"),
        ("[upgrade]\nrollback_on = { p98_factor = 2 }", "did you mean \"p99_factor\"?"),
        ("[upgrade]\npromote = 'me'", "\"me\" is none of \"auto\", \"manual\""),
        ("[upgrade]\non_drain_timeout = 'forse'", "did you mean \"force\"?"),
        ("[session]\npolicy = 'nnone'", "did you mean \"none\"?"),
        ("[session]\ncookie = 'sid'", "it means nothing without a policy"),
        ("[session]\npolicy = 'sticky'\ncookie = 's id'", "it is not the name of a cookie"),
        ("[session]\npolicy = 'sticky'\ncookie = 'neap_shop'", "neap's own cookie"),
        ("[session]\npolicy = 'shared'\nidle = '1ms'", "out of range"),
        ("[session]\npolicy = 'sticky'\ndeadline = '2 days'", "deadline"),
        (
            "[session]\npolicy = 'sticky'\n[upgrade]\nstrategy = 'overlap'",
            "an overlap gives a sticky program's sessions no time to end",
        ),
        ("[session]\npolicy = 'sticky'\ncookies = 'sid'", "did you mean \"cookie\"?"),
        ("[static]\nroot='.'", "both [process] and [static]"),
        ("health = 1", "unknown key \"health\" in [process]"),
    ] {
        let told = errors(&with("", end));
        assert!(told.contains(expected), "{end}: {told}");
    }
}

#[test]
fn a_manifest_without_what_it_needs_is_refused() {
    let told = errors("");
    for expected in [
        "\"name\" is missing",
        "\"version\" is missing",
        "no route and no match",
        "neither [process], [static] nor [external]",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(errors(&SMALL.replace("[\"*/shop\"]", "[]")).contains("no route and no match"));
    assert!(
        errors(&SMALL.replace("[\"./server\"]", "[]")).contains("\"command\" in [process]: there is no program to run")
    );
    assert!(errors(&SMALL.replace("\"shop\"", "\"Shop\"")).contains("program name \"Shop\" is not valid"));
    assert!(errors(&SMALL.replace("\"1\"", "\"a b\"")).starts_with("program.toml:2:11: version \"a b\""));
}

#[test]
fn a_malformed_route_or_match_is_refused_with_the_cure() {
    for (route, expected) in [
        ("shop", "has no prefix: write HOST/PREFIX (did you mean \"shop/\"?)"),
        ("/shop", "the host is missing (\"*\" is any host)"),
        ("http://a.example/x", "has a scheme: write HOST/PREFIX (did you mean \"a.example/x\"?)"),
        ("a.example:80/", "a host has no port here (write \"a.example\")"),
        ("*.example/", "a host is a whole name"),
        ("a..b/", "is not a host name"),
        ("*/a//b", "has no \"//\""),
        ("*/../b", "has no \"//\""),
        ("*/a?b", "without '?'"),
        ("*/a b", "without ' '"),
        ("*/{x}", "without '{'"),
        ("*/shop\", \"*/shop/", "is there twice"),
    ] {
        let told = errors(&SMALL.replace("*/shop", route));
        assert!(told.contains(expected), "{route}: {told}");
        assert!(told.starts_with("program.toml:3:"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    for (given, expected) in [
        ("{ header = 'A' }", "either header and value, or path"),
        ("{ header = 'A', value = 'b', path = 'c' }", "either header and value, or path"),
        ("{ header = 'A b', value = 'b' }", "not the name of a header"),
        ("{ header = 'A', value = 'a*b' }", "one \"*\", at the start or at the end"),
        ("{ path = 'a/b' }", "remove the \"/\""),
        ("{ pth = 'a' }", "did you mean \"path\"?"),
        ("1", "\"match\" takes tables, not integer"),
    ] {
        let told = errors(&with(&format!("match = [{given}]"), ""));
        assert!(told.contains(expected), "{given}: {told}");
    }
}

#[test]
fn broken_toml_is_refused_with_its_place() {
    assert!(errors("name = \"shop").starts_with("program.toml:1:"));
    assert!(errors("name = \"a\"\nname = \"b\"").contains("program.toml:2:1: not valid TOML: duplicate key"));
    assert!(errors(&" ".repeat(TEXT_BYTES_MAX + 1)).contains("larger than"));
}

#[test]
fn all_mistakes_are_told_in_the_order_of_their_places() {
    let told = parse("p.toml", &with("a = 1", "b = 2\n[upgrade]\nbatch = 'x'")).unwrap_err();
    let lines: Vec<u32> = told.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 7, 9]);
    assert_eq!(told.to_string().lines().count(), 3);
}

#[test]
fn columns_count_characters_not_bytes() {
    assert!(errors(&with("", "env = { A = 'ééé', B = 1 }")).starts_with("program.toml:7:24:"));
}

#[test]
fn another_version_changes_nothing_else() {
    let version = Version::new("3.1").unwrap();
    assert_eq!(with_version("p", FULL, &version).unwrap(), FULL.replace("2.0.0", "3.1"));
    assert!(with_version("p", "name = 1", &version).is_err());
}

#[test]
fn hooks_are_argvs_and_a_mistake_in_one_names_its_place() {
    let text = with("", "[upgrade.hooks]\nbefore_ripple = ['./migrate', '{version}']\ntimeout = '10m'");
    let hooks = parse("program.toml", &text).unwrap().upgrade.hooks;
    assert_eq!(hooks.before_ripple, ["./migrate", "{version}"]);
    assert_eq!((hooks.timeout, hooks.after_ripple.is_empty()), (Duration::from_secs(600), true));
    for (line, expected) in [
        ("before_step = './x'", "must be a list of strings"),
        ("after_step = ['']", "the program, is empty"),
        ("after_ripple = ['./x', '{port}']", "unknown substitution {port}"),
        ("after = ['./x']", "unknown key \"after\" in hooks"),
    ] {
        let told = errors(&with("", &format!("[upgrade.hooks]\n{line}")));
        assert!(told.contains(expected), "{line}: {told}");
    }
}

fn external(lines: &str) -> String {
    format!("name = 'shop'\nversion = '1'\nroutes = ['*/']\n[external]\n{lines}\n")
}

#[test]
fn an_external_program_is_an_address_and_commands() {
    let text =
        external("url = 'http://localhost:3000'\nupgrade = ['systemctl', 'restart', 'shop']\nstop = ['x', '{dir}']");
    let Kind::External(read) = parse("program.toml", &text).unwrap().kind else { panic!("not external") };
    assert_eq!((read.addr.to_string(), read.upgrade.len(), read.stop.len()), ("127.0.0.1:3000".to_owned(), 3, 2));
    let upgrade = "upgrade = ['x']";
    for (lines, expected) in [
        (format!("url = 'https://127.0.0.1:3'\n{upgrade}"), "is not http://ADDRESS:PORT"),
        (format!("url = 'http://shop:3000'\n{upgrade}"), "is not http://ADDRESS:PORT"),
        (upgrade.to_owned(), "\"url\" in [external]: it is missing"),
        ("url = 'http://127.0.0.1:3000'".to_owned(), "no command that brings a version"),
        (format!("url = 'http://127.0.0.1:3000'\n{upgrade}\n[upgrade]\nstrategy = 'overlap'"), "no second instance"),
        (format!("url = 'http://127.0.0.1:3000'\n{upgrade}\n[static]\nroot = '.'"), "both [static] and [external]"),
    ] {
        let told = errors(&external(&lines));
        assert!(told.contains(expected), "{lines}: {told}");
    }
}

#[test]
fn sessions_have_a_policy_and_their_times_have_defaults() {
    let read = |end: &str| parse("program.toml", &with("", end)).unwrap();
    assert_eq!(read("").session, None);
    assert_eq!(read("[session]\npolicy = 'none'\ncookie = 'sid'").session, None);
    let shared = read("[session]\npolicy = 'shared'");
    let rule = shared.session.clone().unwrap();
    let minutes = |count: u64| std::time::Duration::from_secs(count * 60);
    assert_eq!((rule.policy, rule.cookie), (crate::domain::program::SessionPolicy::Shared, None));
    assert_eq!((rule.idle, rule.deadline, shared.sticky()), (minutes(30), minutes(15), None));
    let sticky = read("[session]\npolicy = 'sticky'\ncookie = 'sid'\ndeadline = '0s'");
    assert!(sticky.sticky().is_some_and(|rule| rule.cookie.as_deref() == Some("sid") && rule.deadline.is_zero()));
    assert_eq!(
        (sticky.cookie_path(), with_routes(&["*/a", "x.example.com/a"]), with_routes(&["*/a", "*/b"])),
        ("/shop", "/a".to_owned(), "/".to_owned())
    );
}

fn with_routes(routes: &[&str]) -> String {
    let routes: Vec<String> = routes.iter().map(|route| format!("{route:?}")).collect();
    let text = SMALL.replace("\"*/shop\"", &routes.join(", "));
    parse("program.toml", &text).unwrap().cookie_path().to_owned()
}
