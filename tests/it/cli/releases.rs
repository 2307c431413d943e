//! Releases: packed, pushed, refused before anything is sent; and the configuration, checked and shown.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::management::Management;
use super::{at, canned, neap, ran};

const MANIFEST: &str = "name = \"site\"\nversion = \"1\"\nroutes = [\"*/\"]\n\n[static]\nroot = \"public\"\n";

fn site(manifest: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("public")).unwrap();
    fs::write(dir.path().join("public/index.html"), "hello").unwrap();
    fs::write(dir.path().join("program.toml"), manifest).unwrap();
    dir
}

/// The SHA-256 of the release as the command computes it: what it asks of a management that knows nothing.
fn sha256_asked_for(dir: &Path, options: &[&str]) -> String {
    let management = Management::reciting(&[]);
    ran(at(&management, &[&["release", "push", dir.to_str().unwrap()], options].concat()));
    let what = management.heard().remove(0);
    what.split("sha256=").nth(1).unwrap().split('&').next().unwrap().to_owned()
}

fn release(version: &str, sha256: &str) -> Value {
    json!({"program": "site", "version": version, "sha256": sha256, "size_bytes": 2048,
           "pushed_at": "2026-01-01T00:00:00Z", "servers": []})
}

#[test]
fn deploy_pushes_the_directory_and_upgrades_to_what_was_pushed() {
    let dir = site(MANIFEST);
    let sha256 = sha256_asked_for(dir.path(), &["--version", "2"]);
    let push = format!("POST /api/v1/releases?sha256={sha256}&program=site&version=2");
    let plan = canned::with(canned::plan(), json!({"program": "site", "to": "2", "steps": []}));
    let management = Management::reciting(&[
        (&push, &[(201, release("2", &sha256))]),
        ("POST /api/v1/ripples?dry_run=true", &[(200, plan)]),
    ]);
    let ran = ran(at(&management, &["deploy", dir.path().to_str().unwrap(), "--version", "2"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains(&format!("pushed site 2 (2.0 KiB, sha256 {})", &sha256[..12])), "{}", ran.err);
    assert_eq!(management.asked()[1].body, json!({"program": "site", "to": "2", "force": false}));
}

#[test]
fn the_same_directory_is_the_same_release() {
    let (one, two) = (site(MANIFEST), site(MANIFEST));
    assert_eq!(sha256_asked_for(one.path(), &[]), sha256_asked_for(two.path(), &[]));
    assert_ne!(sha256_asked_for(one.path(), &[]), sha256_asked_for(one.path(), &["--version", "3"]));
}

#[test]
fn a_used_version_with_other_content_is_exit_code_5() {
    let dir = site(MANIFEST);
    let push = format!("POST /api/v1/releases?sha256={}&program=site&version=1", sha256_asked_for(dir.path(), &[]));
    let said = "site 1 is another release";
    let management = Management::reciting(&[(&push, &[(409, canned::problem(409, "version_in_use", said))])]);
    let ran = ran(at(&management, &["deploy", dir.path().to_str().unwrap()]));
    assert_eq!((ran.code, ran.err.as_str()), (5, "error: site 1 is another release\n  the cure\n"));
}

#[test]
fn a_bad_manifest_is_exit_code_2_with_file_line_and_column_and_nothing_is_sent() {
    let dir = site(&MANIFEST.replace("routes", "rutes"));
    let management = Management::reciting(&[]);
    let path = dir.path().to_str().unwrap();
    for args in [&["deploy", path][..], &["release", "push", path]] {
        let ran = ran(at(&management, args));
        assert!(ran.code == 2 && ran.err.contains("program.toml:3:1") && ran.err.contains("routes"), "{ran:?}");
    }
    assert_eq!(management.heard(), [""; 0]);
}

#[test]
fn config_is_checked_with_its_place_and_shown_with_its_origin() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, "[node]\nname = \"server-1\"\nrols = [\"router\"]\n").unwrap();
    let bad = ran(neap(&["config", "check", file.to_str().unwrap()]));
    assert!(bad.code == 2 && bad.err.contains("node.toml:3") && bad.err.contains("roles"), "{bad:?}");
    fs::write(&file, "[node]\nname = \"server-1\"\n").unwrap();
    assert_eq!(ran(neap(&["config", "check", file.to_str().unwrap()])).code, 0);
    let shown = ran(neap(&["config", "show", "--config", file.to_str().unwrap(), "--origin"]));
    assert!(shown.out.contains("name = \"server-1\"") && shown.out.contains("node.toml:2"), "{shown:?}");
    let json: Value = serde_json::from_str(&ran(neap(&["config", "show", "-o", "json"])).out).unwrap();
    assert!(json["items"].as_array().unwrap().len() > 20);
}

#[test]
fn an_address_that_is_wrong_is_in_nobodys_way_who_needs_none() {
    let mut command = neap(&["config", "show"]);
    command.env("NEAP_ADDRESS", "not an address");
    assert_eq!(ran(command).code, 0);
}
