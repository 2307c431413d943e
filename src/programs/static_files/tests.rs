use super::find::{Found, find};
use super::*;
use std::fs;

fn site(spa: bool) -> (tempfile::TempDir, Site) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root").to_path_buf();
    fs::create_dir_all(root.join("a/.well-known")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    for (path, content) in [
        ("index.html", "home"),
        ("a/index.html", "a"),
        ("a/b c.txt", "b"),
        ("big.js", "plain"),
        ("big.js.br", "br"),
        ("big.js.gz", "gz"),
        (".env", "secret"),
        (".git/config", "secret"),
        ("../outside", "secret"),
    ] {
        fs::write(root.join(path), content).unwrap();
    }
    std::os::unix::fs::symlink("../outside", root.join("leak")).unwrap();
    let root = root.canonicalize().unwrap();
    (dir, Site { root, spa, port: 0 })
}

fn seen(site: &Site, path: &str, takes: &[&str]) -> String {
    match find(site, path, &|encoding| takes.contains(&encoding)) {
        Found::File(mut opened) => io::read_to_string(&mut opened.file).unwrap(),
        Found::Directory { location } => format!("to {location}"),
        Found::Nothing => "nothing".into(),
    }
}

#[test]
fn a_path_means_a_file_under_the_root_or_nothing() {
    let (_dir, site) = site(false);
    for (path, expected) in [
        ("/", "home"),
        ("/a/", "a"),
        ("/a", "to ./a/"),
        ("/a/b%20c.txt", "b"),
        ("/a/b%20c.txt/", "nothing"),
        ("/x", "nothing"),
        ("/.env", "nothing"),
        ("/%2eenv", "nothing"),
        ("/.git/config", "nothing"),
        ("/../outside", "nothing"),
        ("/%2e%2e/outside", "nothing"),
        ("/..%2foutside", "nothing"),
        ("/leak", "nothing"),
        ("/a%00", "nothing"),
    ] {
        assert_eq!(seen(&site, path, &[]), expected, "{path}");
    }
}

#[test]
fn a_compressed_file_beside_is_sent_to_those_who_take_it() {
    let (_dir, site) = site(false);
    assert_eq!(seen(&site, "/big.js", &[]), "plain");
    assert_eq!(seen(&site, "/big.js", &["gzip"]), "gz");
    assert_eq!(seen(&site, "/big.js", &["gzip", "br"]), "br");
}

#[test]
fn a_single_page_application_gets_its_page_for_unknown_paths_but_not_for_hidden_ones() {
    let (_dir, site) = site(true);
    assert_eq!(seen(&site, "/deep/link", &[]), "home");
    assert_eq!(seen(&site, "/.env", &[]), "nothing");
}

#[test]
fn arguments_are_checked() {
    let args = |words: &[&str]| parse(&words.iter().map(OsString::from).collect::<Vec<_>>());
    assert_eq!(args(&["--root", "/r", "--port", "1", "--spa"]).unwrap().port, 1);
    for words in [&["--root", "/r"][..], &["--port", "1"], &["--root", "/r", "--port", "x"], &["--what"]] {
        assert!(args(words).unwrap_err().contains("usage"), "{words:?}");
    }
}
