use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};

use super::book::Book;
use super::watch::Watcher;
use super::*;

const DAY: u64 = 24 * 60 * 60;

fn made(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (cert.pem(), key.serialize_pem())
}

fn put(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Files of one certificate in a directory of their own.
struct Given {
    dir: tempfile::TempDir,
    files: Files,
}

impl Given {
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { cert: dir.path().join("site.pem"), key: dir.path().join("site.key") };
        let given = Self { dir, files };
        let (cert, key) = made(names);
        given.cert(&cert);
        given.key(&key);
        given
    }

    fn cert(&self, text: &str) {
        put(&self.files.cert, text, 0o644);
    }

    fn key(&self, text: &str) {
        put(&self.files.key, text, 0o600);
    }

    fn error(&self) -> String {
        self.files.load().unwrap_err().to_string()
    }
}

#[test]
fn a_pair_tells_its_names_and_its_end() {
    let given = Given::new(&["Shop.Example.com", "*.example.org", "127.0.0.1", "::1"]);
    let pair = given.files.load().unwrap();
    assert_eq!(pair.names, ["shop.example.com", "*.example.org"]);
    assert_eq!(pair.addresses.len(), 2);
    assert_eq!(pair.title(), "shop.example.com");
    assert!(pair.not_after > jiff::Timestamp::now().as_second());
}

#[test]
fn what_cannot_be_used_is_told_with_its_file_and_the_cure() {
    let given = Given::new(&["a"]);
    let (cert, key) = (fs::read_to_string(&given.files.cert).unwrap(), fs::read_to_string(&given.files.key).unwrap());
    let says = |words: &[&str]| {
        let error = given.error();
        for word in words {
            assert!(error.contains(word), "no \"{word}\" in {error}");
        }
    };
    given.key(&made(&["a"]).1);
    says(&["site.key is not that of the certificate in", "openssl"]);
    put(&given.files.key, &key, 0o644);
    says(&["site.key", "mode 0644", "chmod 600"]);
    put(&given.files.key, &key, 0o640);
    assert!(given.files.load().is_ok(), "a group that may read keys");
    put(&given.files.key, &key, 0o660);
    says(&["mode 0660"]);
    given.key("");
    says(&["site.key holds no private key"]);
    given.key(&cert);
    says(&["site.key holds no private key"]);
    given.key("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    says(&["has a password", "openssl pkey"]);
    given.key(&key[..key.len() / 2]);
    says(&["site.key is no PEM file"]);
    given.key("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    says(&["site.key cannot be used"]);
    fs::remove_file(&given.files.key).unwrap();
    says(&["site.key cannot be read", "No such file"]);
    given.key(&key);
    given.cert("");
    says(&["site.pem holds no certificate"]);
    given.cert(&cert[..cert.len() / 2]);
    says(&["site.pem is no PEM file", "by half"]);
    given.cert("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    says(&["site.pem holds a certificate that cannot be read"]);
    given.cert(&"x".repeat(2 << 20));
    says(&["site.pem is not a file, or has more than"]);
    fs::remove_file(&given.files.cert).unwrap();
    fs::create_dir(&given.files.cert).unwrap();
    says(&["site.pem is not a file"]);
}

fn pair(names: &[&str]) -> Arc<Pair> {
    Arc::new(Given::new(names).files.load().unwrap())
}

#[test]
fn a_name_gets_its_own_certificate_then_its_siblings_then_the_first() {
    let book = Book::new(vec![
        pair(&["default.example"]),
        pair(&["shop.example.com", "127.0.0.1"]),
        pair(&["*.example.com"]),
        pair(&["shop.example.com", "mail.example.com"]),
    ]);
    let chosen = |name: Option<&str>| {
        let chosen = book.choose(name, |_| true);
        book.pairs().iter().position(|pair| Arc::ptr_eq(pair, chosen)).unwrap()
    };
    for (name, number) in [
        (Some("shop.example.com"), 1),
        (Some("SHOP.example.COM"), 1),
        (Some("mail.example.com"), 3),
        (Some("x.example.com"), 2),
        (Some("x.y.example.com"), 0),
        (Some("example.com"), 0),
        (Some("unknown.example"), 0),
        (None, 0),
    ] {
        assert_eq!(chosen(name), number, "{name:?}");
    }
    let second = Arc::clone(&book.pairs()[3]);
    let chosen = book.choose(Some("shop.example.com"), |pair| std::ptr::eq(pair, &*second));
    assert!(Arc::ptr_eq(chosen, &second), "the first that the client can use");
    for (host, is) in [("shop.example.com", true), ("127.0.0.1", true), ("127.0.0.2", false), ("a.example.org", false)]
    {
        assert_eq!(book.is_for(host), is, "{host}");
    }
    assert!(!book.is_for(".example.com") && !book.is_for(""));
}

#[test]
fn a_changed_pair_is_served_once_it_is_whole_and_a_broken_one_never() {
    let given = Given::new(&["one.example"]);
    let certificates = Certificates::load(vec![given.files.clone()]).unwrap();
    let mut watcher = Watcher::new(Arc::clone(&certificates));
    let status = || certificates.status().remove(0);
    watcher.look();
    assert_eq!((status().title.as_str(), status().problem), ("one.example", None));
    let (cert, key) = made(&["two.example"]);
    given.cert(&cert);
    watcher.look();
    assert_eq!((status().title.as_str(), status().problem), ("one.example", None), "it may not be all");
    given.key(&key);
    watcher.look();
    assert_eq!(status().title, "one.example", "it may still be written");
    watcher.look();
    assert_eq!((status().title.as_str(), status().problem), ("two.example", None));
    assert!(certificates.is_for("two.example") && !certificates.is_for("one.example"));
    // By half, and nobody goes on.
    given.cert(&cert[..100]);
    (0..3).for_each(|_| watcher.look());
    assert_eq!(status().title, "two.example");
    assert!(status().problem.unwrap().contains("site.pem is no PEM file"));
    // Only the certificate: they do not match.
    given.cert(&made(&["three.example"]).0);
    (0..3).for_each(|_| watcher.look());
    assert!(status().problem.unwrap().contains("site.key is not that of"), "{:?}", status());
    fs::remove_file(&given.files.cert).unwrap();
    (0..3).for_each(|_| watcher.look());
    assert!(status().problem.unwrap().contains("cannot be read"));
    assert_eq!(status().title, "two.example");
    // By rename, as tools do.
    let beside = given.dir.path().join("new");
    put(&beside, &cert, 0o644);
    fs::rename(&beside, &given.files.cert).unwrap();
    (0..2).for_each(|_| watcher.look());
    assert_eq!((status().title.as_str(), status().problem), ("two.example", None));
    // What was broken for another reason than its bytes is tried again.
    fs::set_permissions(&given.files.key, Permissions::from_mode(0o644)).unwrap();
    (0..3).for_each(|_| watcher.look());
    assert!(status().problem.unwrap().contains("chmod 600"));
    fs::set_permissions(&given.files.key, Permissions::from_mode(0o600)).unwrap();
    (0..3).for_each(|_| watcher.look());
    assert_eq!(status().problem, None);
}

#[test]
fn a_link_that_points_elsewhere_is_a_change() {
    let (one, two) = (Given::new(&["one.example"]), Given::new(&["two.example"]));
    let live = tempfile::tempdir().unwrap();
    let files = Files { cert: live.path().join("fullchain.pem"), key: live.path().join("privkey.pem") };
    let point = |to: &Files| {
        for (link, to) in [(&files.cert, &to.cert), (&files.key, &to.key)] {
            let _ = fs::remove_file(link);
            std::os::unix::fs::symlink(to, link).unwrap();
        }
    };
    point(&one.files);
    let certificates = Certificates::load(vec![files.clone()]).unwrap();
    let mut watcher = Watcher::new(Arc::clone(&certificates));
    point(&two.files);
    (0..2).for_each(|_| watcher.look());
    assert_eq!(certificates.status()[0].title, "two.example");
}

#[test]
fn what_runs_out_is_looked_at_with_any_clock() {
    let given = Given::new(&["a"]);
    let certificates = Certificates::load(vec![given.files.clone()]).unwrap();
    let mut watcher = Watcher::new(certificates);
    for days in [0, 1, 4_000_000] {
        watcher.say_what_runs_out(SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY));
    }
}

#[test]
fn a_self_signed_certificate_is_kept_until_it_must_be_another() {
    let dir = tempfile::tempdir().unwrap();
    let own = |names: &[&str]| SelfSigned {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        dir: dir.path().join("tls"),
    };
    let now = jiff::Timestamp::now().as_second();
    let files = own(&["Dev.example.com"]).ensure(now).unwrap();
    let read = || fs::read_to_string(&files.cert).unwrap();
    let (first, pair) = (read(), files.load().unwrap());
    assert!(pair.names.contains(&"localhost".to_owned()) && pair.names.contains(&"dev.example.com".to_owned()));
    assert_eq!(pair.addresses.len(), 2);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&files.key), mode(&files.cert), mode(&own(&[]).dir)), (0o600, 0o600, 0o700));
    own(&["dev.example.com"]).ensure(now + 300 * DAY as i64).unwrap();
    assert_eq!(read(), first, "the same");
    own(&["dev.example.com"]).ensure(now + 340 * DAY as i64).unwrap();
    let second = read();
    assert_ne!(second, first, "it is about to run out");
    own(&["other.example.com", "10.0.0.1"]).ensure(now).unwrap();
    assert_ne!(read(), second, "for other names");
    fs::write(&files.key, "").unwrap();
    own(&["other.example.com", "10.0.0.1"]).ensure(now).unwrap();
    assert!(files.load().is_ok(), "what is broken is made anew");
    for bad in ["", "a b", "a..b", "*.", "a*b", "https://x", "ü.example"] {
        assert!(own(&[bad]).check().is_err(), "{bad}");
    }
    assert!(own(&["a", "*.a.b", "::1", "x_y.z"]).check().is_ok());
}
