use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::wire::role::Role;

struct Given {
    dir: tempfile::TempDir,
}

impl Given {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn given() -> Given {
    Given { dir: tempfile::tempdir().unwrap() }
}

fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>().into_iter()
}

fn set(pairs: &[&str]) -> Result<Loaded, ConfigError> {
    load(None, &pairs.iter().map(|pair| pair.to_string()).collect::<Vec<_>>(), env(&[]))
}

fn error(toml: &str) -> String {
    let given = given();
    load(Some(&given.file("node.toml", toml)), &[], env(&[])).unwrap_err().to_string()
}

#[test]
fn with_nothing_given_a_node_has_all_roles_on_loopback() {
    let loaded = set(&[]).unwrap();
    assert_eq!(loaded.config.node.roles, Role::ALL);
    assert_eq!(loaded.config.management.listen, "127.0.0.1:7400".parse().unwrap());
    assert_eq!(loaded.config.cluster.lease, Duration::from_secs(60));
    assert_eq!(loaded.config.router.limits.replay_size, 64 << 10);
    assert_eq!(loaded.config.store_path(), PathBuf::from("neap-data/store"));
    assert!(loaded.config.node.workers > 0 && loaded.secret.is_none());
}

#[test]
fn a_management_that_listens_elsewhere_is_found_there_by_its_own_node() {
    let urls = |pairs: &[&str]| set(pairs).unwrap().config.cluster.management;
    assert_eq!(urls(&["management.listen=127.0.0.1:9400"]), ["http://127.0.0.1:9400"]);
    assert_eq!(urls(&["management.listen=[::1]:9400"]), ["http://[::1]:9400"]);
    let told = ["management.listen=127.0.0.1:9400", "cluster.management=http://127.0.0.1:9500"];
    assert_eq!(urls(&told), ["http://127.0.0.1:9500"], "what is said is what counts");
    let other = ["management.listen=127.0.0.1:9400", "node.roles=router"];
    assert_eq!(urls(&other), ["http://127.0.0.1:7400"], "not this node's");
    let shown = set(&["management.listen=127.0.0.1:9400"]).unwrap().show();
    let shown = shown.iter().find(|shown| shown.key == "cluster.management").unwrap();
    assert_eq!(shown.origin, "--set management.listen=127.0.0.1:9400");
}

#[test]
fn the_defaults_of_the_lower_floors_are_those_of_the_file() {
    let config = set(&[]).unwrap().config;
    assert_eq!(config.client(), crate::link::client::Settings::default());
    assert_eq!(config.outbox(config.router.limits.mailbox), crate::link::outbox::Settings::default());
    assert_eq!(config.store(), crate::store::Options::default());
}

#[test]
fn every_file_in_conf_loads() {
    for name in ["default", "management", "router", "app-server", "all-in-one"] {
        let path = PathBuf::from(format!("{}/conf/{name}.toml", env!("CARGO_MANIFEST_DIR")));
        load(Some(&path), &[], env(&[])).unwrap();
    }
}

#[test]
fn layers_go_over_each_other_and_each_value_tells_its_origin() {
    let given = given();
    let file = given.file("node.toml", "[cluster]\nheartbeat = \"2s\"\nlease = \"50s\"\ndown_after = \"9s\"\n");
    let env = env(&[("NEAP__CLUSTER__LEASE", "40s"), ("NEAP__NODE__LABELS__zone", "a"), ("HOME", "/x")]);
    let sets = ["cluster.down_after=8s".to_owned(), "node.roles=router,app-server".to_owned()];
    let loaded = load(Some(&file), &sets, env).unwrap();
    let cluster = &loaded.config.cluster;
    assert_eq!([cluster.heartbeat, cluster.lease, cluster.down_after].map(|time| time.as_secs()), [2, 40, 8]);
    assert_eq!(loaded.config.node.roles, [Role::Router, Role::AppServer]);
    assert_eq!(loaded.config.node.labels["zone"], "a");
    let shown = loaded.show();
    let origin = |key: &str| shown.iter().find(|shown| shown.key == key).unwrap().origin.clone();
    assert_eq!(origin("cluster.heartbeat"), format!("{}:2", file.display()));
    assert_eq!(origin("cluster.lease"), "NEAP__CLUSTER__LEASE");
    assert_eq!(origin("cluster.down_after"), "--set cluster.down_after=8s");
    assert_eq!(origin("cluster.boot_wait"), "default");
}

#[test]
fn what_is_shown_loads_to_the_same() {
    let given = given();
    let first = set(&["node.name=s1", "cluster.lease=40s", "node.labels.zone=a"]).unwrap();
    for origin in [false, true] {
        let again = load(Some(&given.file("shown.toml", &first.to_toml(origin))), &[], env(&[])).unwrap();
        assert_eq!(again.config, first.config);
    }
}

#[test]
fn sections_without_keys_change_nothing() {
    let given = given();
    let file = given.file("node.toml", "[cluster]\n[node]\nlabels = {}\n[router.limits]\n[node.labels.x]\n");
    assert!(load(Some(&file), &[], env(&[])).is_err(), "a label is no section");
    let file = given.file("node.toml", "[cluster]\n[node]\nlabels = {}\n[router.limits]\n");
    assert_eq!(load(Some(&file), &[], env(&[])).unwrap().config, set(&[]).unwrap().config);
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_right_one() {
    for (toml, line, meant) in [
        ("\n[cluster]\nheartbeet = \"1s\"", 3, "did you mean cluster.heartbeat?"),
        ("[clustr]\nheartbeat = \"1s\"", 2, "did you mean cluster.heartbeat?"),
        ("[node]\nheartbeat = \"1s\"", 2, "did you mean cluster.heartbeat?"),
        ("[router.limits]\nconection = 1", 2, "did you mean router.limits.connections?"),
        ("[zzz]\nqqqqqqqq = 1", 2, "`neap config show` lists them all"),
        ("[clustr]", 1, "there is no such key"),
        ("[clustr]\n[cluster]\n[node.labels]", 1, "there is no such key"),
        ("cluster = 1", 1, "is a section"),
        ("[cluster.lease]\nx = 1", 2, "cluster.lease is a value"),
        ("[router.tls]\ncert = \"x\"", 2, "write [[router.tls]]"),
        ("[observe]\notlp = \"x\"", 2, "not built yet"),
    ] {
        let error = error(toml);
        assert!(error.contains(&format!("node.toml:{line}: ")) && error.contains(meant), "{toml}: {error}");
    }
}

#[test]
fn a_value_of_the_wrong_type_or_range_is_refused_with_its_place() {
    for (toml, says) in [
        ("[cluster]\nheartbeat = 5", "must be a string such as \"1s\", not 5"),
        ("[cluster]\nheartbeat = \"5\"", "not a duration"),
        ("[cluster]\nheartbeat = \"0s\"", "too short"),
        ("[cluster]\ndown_after = \"1s\"", "at least two heartbeats"),
        ("[cluster]\nmanagement = []", "no address is given"),
        ("[cluster]\nmanagement = [\"localhost:7400\"]", "write it as in \"http://127.0.0.1:7400\""),
        ("[cluster]\nmanagement = [\"https://x\"]", "not built yet"),
        ("[cluster]\nmanagement = [1]", "a list of strings"),
        ("[cluster]\nmanagement = [\"http://10.0.0.1:7400\"]", "set cluster.secret_file"),
        ("[observe]\nlog = \"info,chatty\"", "not a log filter"),
        ("[observe]\nlog = \"neap=loud\"", "not a log filter"),
        ("[observe]\nlog = \"\"", "not a log filter"),
        ("[node]\nworkers = \"two\"", "a whole number"),
        ("[node]\nworkers = -1", "at least 0"),
        ("[node]\nworkers = 99999", "too many"),
        ("[node]\nname = \"S 1\"", "use 1 to 63 of a-z"),
        ("[node]\nroles = [\"sever\"]", "the roles are router, app-server, management"),
        ("[node]\nlabels = { \"a b\" = \"x\" }", "the label \"a b\" is not valid"),
        ("[node]\nlabels = { a = 1 }", "write it in quotes"),
        ("[node]\ndata_dir = \"\"", "must name a directory"),
        ("[router]\nhttp = \"8080\"", "write it as in \"127.0.0.1:7400\""),
        ("[router]\nhttps = \"443\"", "write it as in \"127.0.0.1:7400\""),
        ("[router]\nhttps = \"127.0.0.1:0\"", "there is no certificate for it"),
        ("[router]\ntls = [{ self_signed = [] }]", "set router.https"),
        ("[router]\ntls = [\"site.pem\"]", "a list of tables such as [{ cert"),
        ("[router]\ntls = [{ crt = \"site.pem\" }]", "unknown field `crt`"),
        ("[router]\nredirect_port = 70000", "redirect_port"),
        ("[router]\nexpose_version = \"yes\"", "true or false"),
        ("[router]\ntrusted_proxies = [\"10.0.0.0/33\"]", "is no network"),
        ("[router.limits]\nhead_size = \"64KB\"", "write it as in \"64KiB\""),
        ("[router.limits]\nhead_size = \"0KiB\"", "more than nothing"),
        ("[router.limits]\nconnections = 0", "at least 1"),
        ("[app_server]\nports = \"9-1\"", "not a range of ports"),
        ("[app_server]\nports = \"7000-8000\"", "keep them apart"),
        ("[app_server]\ndata = \"127.0.0.1:8080\"", "is also the address of router.http"),
        ("[observe]\nlog = \"loud\"", "not a log filter"),
        ("[observe]\nlog_format = \"yaml\"", "use \"text\" or \"json\""),
    ] {
        let error = error(toml);
        assert!(error.contains("node.toml:2: ") && error.contains(says), "{toml}: {error}");
    }
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_refused_with_its_place() {
    assert!(error("[node]\nname = ").contains("node.toml:2: "));
    assert!(error("[node]\nname = \"a\"\nname = \"b\"").contains("duplicate key"));
    let missing = load(Some(Path::new("/nowhere/x.toml")), &[], env(&[])).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/x.toml"), "{missing}");
}

#[test]
fn bad_variables_and_flags_are_refused_by_name_all_at_once() {
    let bad = env(&[("NEAP__CLUSTR__LEASE", "1s"), ("NEAP__NODE__WORKERS", "two")]);
    let sets = ["nonsense".to_owned(), "router.http=1".to_owned()];
    let error = load(None, &sets, bad).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.faults.len(), 3, "{text}");
    assert!(
        text.contains("NEAP__CLUSTR__LEASE: clustr.lease") && text.contains("did you mean cluster.lease?"),
        "{text}"
    );
    assert!(text.contains("NEAP__NODE__WORKERS: node.workers: must be a whole number"), "{text}");
    assert!(text.contains("--set nonsense: write it as in"), "{text}");
    let text = set(&["router.http=1"]).unwrap_err().to_string();
    assert!(text.starts_with("--set router.http=1: router.http: "), "{text}");
}

#[test]
fn beyond_loopback_a_cluster_needs_a_secret_and_the_error_says_how_to_make_one() {
    let error = set(&["management.listen=0.0.0.0:7400"]).unwrap_err().to_string();
    assert!(error.contains("umask 077") && error.contains("cluster.secret_file"), "{error}");
    assert!(set(&["router.http=0.0.0.0:8080"]).is_ok(), "clients come from anywhere");
    assert!(set(&["management.listen=0.0.0.0:7400", "node.roles=router"]).is_ok(), "not this node's");
    let given = given();
    let file = given.file("neap.secret", &"s".repeat(44));
    let with = |listen: &str| set(&[&format!("cluster.secret_file={}", file.display()), listen]);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let error = with("management.listen=0.0.0.0:7400").unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(with("management.listen=0.0.0.0:7400").unwrap().secret.is_some());
    let error = with("app_server.data=0.0.0.0:7421").unwrap_err().to_string();
    assert!(error.contains("name one of this machine's"), "{error}");
}

#[test]
fn a_hosts_name_becomes_a_nodes() {
    for (host, name) in [("Web_1.example.com\n", "web-1"), ("", "neap"), ("--", "neap"), ("ü", "neap")] {
        assert_eq!(values::name_of_host(host).as_str(), name);
    }
}
