//! What cannot be meant, or cannot be done: a clear error with the right exit code each, and nothing is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use neap::wire::problem::Problem;
use sha2::{Digest, Sha256};

use crate::support::cluster::{Cluster, Ran, Shape};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::{mail, shop};

/// A cluster with one version of the shop; `then` must leave it as it is.
fn unchanged_by(shape: Shape, then: impl FnOnce(&Cluster)) {
    let servers = usize::from(shape.servers);
    let cluster = Cluster::shaped(shape);
    cluster.deploy(&shop("1.0.0"));
    let placements = || {
        let placements = cluster.placements("shop").unwrap();
        placements
            .into_iter()
            .map(|placement| (placement.server, placement.version, placement.state))
            .collect::<Vec<_>>()
    };
    let (before, instances) = (placements(), cluster.instances().len());
    let load = Load::start(&cluster, vec![Lane::to("shop", 50.0, brief()).versions(&["1.0.0"])]);
    then(&cluster);
    cluster.until_serves("shop", "1.0.0", servers);
    assert_eq!(placements(), before);
    assert_eq!(cluster.instances().len(), instances);
    load.finish().nothing_lost(&cluster);
}

fn two() -> Shape {
    Shape { servers: 2, ..Shape::default() }
}

#[track_caller]
fn fails(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    for word in words {
        assert!(ran.err.contains(word), "no \"{word}\" in\n{}", ran.err);
    }
}

fn releases(cluster: &Cluster) -> String {
    cluster.well(&["release", "ls", "-o", "json"]).out
}

#[test]
fn a_malformed_manifest_is_refused_with_its_line_its_column_and_the_right_name() {
    unchanged_by(two(), |cluster| {
        let before = releases(cluster);
        for (line, words) in [
            ("comand = [\"x\"]", ["program.toml", "comand", "command"]),
            ("stop_timeout = \"ten\"", ["program.toml", "stop_timeout", "\"ten\""]),
            ("command = \"./shop\"", ["program.toml", "command", ":"]),
        ] {
            let ran = cluster.deploy_with(&shop("2.0.0").process(line), &[]);
            fails(&ran, 2, &words);
            let place = |word: &str| {
                let mut parts = word.trim_end_matches(':').split(':').rev();
                parts.next().is_some_and(|part| part.parse::<u32>().is_ok())
                    && parts.next().is_some_and(|part| part.parse::<u32>().is_ok())
            };
            assert!(ran.err.split_whitespace().any(place), "no line:column in {}", ran.err);
        }
        assert_eq!(releases(cluster), before);
    });
}

#[test]
fn what_does_not_exist_is_named_with_a_cure() {
    unchanged_by(two(), |cluster| {
        fails(&cluster.neap(&["upgrade", "shoq", "--to", "2.0.0"]), 2, &["shoq", "neap release ls"]);
        fails(&cluster.neap(&["upgrade", "shop", "--to", "9.9.9"]), 2, &["9.9.9", "1.0.0"]);
        fails(&cluster.neap(&["program", "show", "shoq"]), 2, &["shoq", "neap program ls"]);
        fails(&cluster.neap(&["program", "restart", "shoq"]), 2, &["shoq", "neap program ls"]);
        fails(&cluster.neap(&["program", "rm", "shoq", "--yes"]), 2, &["shoq", "neap program ls"]);
        fails(&cluster.neap(&["ripple", "abort", "nothing"]), 2, &["nothing", "neap ripple ls"]);
        fails(&cluster.neap(&["node", "show", "server-9"]), 2, &["server-9", "neap node ls"]);
        fails(&cluster.neap(&["release", "rm", "shop", "9.9.9"]), 2, &["9.9.9", "neap release ls"]);
        fails(&cluster.neap(&["release", "rm", "shop", "1.0.0"]), 5, &["1.0.0", "in use"]);
        fails(&cluster.neap(&["deploy", "/nowhere"]), 2, &["/nowhere"]);
    });
}

#[test]
fn a_used_version_with_other_content_is_refused() {
    unchanged_by(two(), |cluster| {
        let before = releases(cluster);
        let other = shop("1.0.0").process(r#"stop_timeout = "9s""#);
        fails(&cluster.deploy_with(&other, &[]), 5, &["1.0.0", "other content", "--version"]);
        assert_eq!(releases(cluster), before);
    });
}

#[test]
fn an_archive_that_is_damaged_or_is_not_what_it_says_is_refused() {
    unchanged_by(two(), |cluster| {
        let before = releases(cluster);
        let junk = cluster.dir().join("junk.tar.zst");
        fs::write(&junk, b"this is no archive").unwrap();
        fails(&cluster.neap(&["release", "push", junk.to_str().unwrap()]), 2, &["junk.tar.zst"]);
        // By those who do not use the command.
        let push = |sha: &str, body: &[u8]| {
            let answer = cluster.post(&format!("releases?sha256={sha}&program=shop&version=2.0.0"), body).unwrap();
            (answer.status, Problem::read(answer.status, &answer.body))
        };
        let sha: String = Sha256::digest(b"junk").iter().map(|byte| format!("{byte:02x}")).collect();
        let (status, problem) = push(&sha, b"junk");
        assert_eq!((status, problem.code.as_str()), (422, "bad_archive"), "{problem:?}");
        let archive = kept_archive(cluster);
        let (status, problem) = push(&sha, &fs::read(archive).unwrap());
        assert_eq!((status, problem.code.as_str()), (422, "bad_checksum"), "{problem:?}");
        assert!(problem.hint.is_some());
        assert_eq!(releases(cluster), before);
    });
}

/// The one release that management keeps.
fn kept_archive(cluster: &Cluster) -> PathBuf {
    let mut kept = archives(&cluster.data("management").join("releases/shop"));
    assert_eq!(kept.len(), 1);
    kept.remove(0)
}

fn archives(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_release_damaged_on_managements_disk_is_refused_by_its_checksum_before_any_gate_closes() {
    unchanged_by(two(), |cluster| {
        let dir = shop("2.0.0").write(cluster.dir());
        let first = kept_archive(cluster);
        cluster.well(&["release", "push", dir.to_str().unwrap()]);
        let kept = archives(&cluster.data("management").join("releases/shop"));
        let damaged = kept.into_iter().find(|path| *path != first).unwrap();
        let mut bytes = fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let ran = cluster.neap(&["upgrade", "shop", "--to", "2.0.0"]);
        fails(&ran, 1, &["server-1"]);
        let words = ["SHA-256", "sha256", "checksum", "archive"];
        assert!(words.iter().any(|word| ran.err.contains(word)), "{ran:?}");
        assert_eq!(cluster.receipt(cluster.last_ripple("shop").id.as_str()).out_of_service, []);
    });
}

/// A small disk; unmounted when dropped. `None`: this is not root, which is told; where CI is set, that is a failure.
struct SmallDisk(PathBuf, #[allow(dead_code)] tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "neap-test"]).arg(&path).output();
        if !mount.as_ref().is_ok_and(|mount| mount.status.success()) {
            assert!(std::env::var_os("CI").is_none(), "no small disk can be mounted: {mount:?}");
            eprintln!("NOT TESTED: no small disk can be mounted: {mount:?}");
            return None;
        }
        Some(Self(path, dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for a process that was killed a moment ago may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_while_a_release_is_unpacked_is_an_error_that_says_so() {
    let Some(disk) = SmallDisk::new() else { return };
    let shape = Shape { data_dirs: vec![("server-1", disk.0.join("data"))], ..two() };
    unchanged_by(shape, |cluster| {
        let dir = shop("2.0.0").write(cluster.dir());
        fs::write(dir.join("large"), vec![7; 64 << 20]).unwrap();
        let ran = cluster.neap(&["deploy", dir.to_str().unwrap()]);
        fails(&ran, 1, &["server-1"]);
        let told = ran.err.to_lowercase();
        assert!(told.contains("no space") || told.contains("full"), "{ran:?}");
        assert_eq!(cluster.receipt(cluster.last_ripple("shop").id.as_str()).out_of_service, []);
        // What was unpacked is gone again: a release that fits is taken, and refused for what it is.
        let ran = cluster.deploy_with(&shop("3.0.0").mode("exit"), &[]);
        fails(&ran, 1, &["told to exit at once"]);
    });
}

#[test]
fn a_port_range_that_is_used_up_is_an_error_that_names_it() {
    // One for the sessions' data, one for a program.
    let shape = Shape { ports: 2, ..two() };
    unchanged_by(shape, |cluster| {
        let ran = cluster.deploy_with(&mail("1.0.0"), &[]);
        fails(&ran, 1, &["port range used up", "[app_server] ports"]);
    });
}

#[test]
fn management_that_is_away_is_exit_code_six() {
    let mut cluster = Cluster::shaped(two());
    cluster.node("management").kill9();
    fails(&cluster.neap(&["status"]), 6, &["127.77."]);
}
