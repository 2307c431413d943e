//! TLS as a node of the real binary speaks it: to clients that others wrote, from its start to its end, and what it
//! says when it cannot.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::node::Node;
use crate::support::tls::{Client, Files, both};
use crate::support::{SOON, until};

/// A router of the real binary that knows of no program, and answers 503 to all.
struct Router {
    dir: tempfile::TempDir,
    node: Node,
}

impl Router {
    fn start(sets: &[String]) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let own = ["http", "https", "control"].map(|name| format!("router.{name}=127.0.0.1:0"));
        let quiet = ["node.workers=2".to_owned(), "router.limits.tls_check=20ms".to_owned()];
        let sets: Vec<String> = own.iter().chain(&quiet).chain(sets).cloned().collect();
        let mut node = Node::new(dir.path(), "router-1", "router", &sets);
        node.start();
        Self { dir, node }
    }

    fn with(files: &[&Files]) -> Self {
        let entries: Vec<String> = files.iter().map(|files| files.entry()).collect();
        Self::start(&[format!("router.tls=[{}]", entries.join(", "))])
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("router-1.log")).unwrap_or_default()
    }

    /// The address that it says it has.
    fn at(&mut self, what: &str) -> SocketAddr {
        until("the router serves", SOON, || {
            let log = self.log();
            assert!(self.node.runs(), "{log}");
            let line = log.lines().find(|line| line.contains("the router serves")).ok_or(log.clone())?;
            let mut words = line.split_whitespace().filter_map(|word| word.split_once('='));
            let found = words.find(|(name, _)| *name == what).ok_or(log.clone())?;
            found.1.parse().map_err(|_| line.to_owned())
        })
    }
}

fn run(program: &str, args: &[&str]) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Neither is needed to build or use neap.
    command.output().ok()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn curl_trusts_a_certificate_that_neap_made_and_finds_it_again_after_a_restart() {
    let mut router = Router::start(&["router.tls=[{ self_signed = [\"dev.example\"] }]".to_owned()]);
    let (at, made) = (router.at("https"), router.node.data.join("tls/self-signed.pem"));
    let before = fs::read(&made).unwrap();
    let curl = |host: &str, at: SocketAddr| {
        let (url, resolve) = (format!("https://{host}:{}/x", at.port()), format!("{host}:{}:127.0.0.1", at.port()));
        let args = ["-sS", "-i", "--max-time", "20", "--noproxy", "*", "--cacert", made.to_str().unwrap()];
        run("curl", &[&args[..], &["--resolve", &resolve, &url]].concat())
    };
    for host in ["localhost", "dev.example"] {
        let Some(output) = curl(host, at) else { return };
        assert!(text(&output).starts_with("HTTP/1.1 503 "), "{}", text(&output));
    }
    assert!(!curl("other.example", at).unwrap().status.success(), "not its name");
    assert!(router.node.stop().success());
    let log = router.dir.path().join("router-1.log");
    fs::remove_file(log).unwrap();
    router.node.start();
    let at = router.at("https");
    assert_eq!(fs::read(&made).unwrap(), before);
    assert!(text(&curl("localhost", at).unwrap()).starts_with("HTTP/1.1 503 "));
}

#[test]
fn openssl_agrees_on_modern_versions_only() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let mut router = Router::with(&[&files]);
    let at = router.at("https").to_string();
    let agree = |options: &[&str]| {
        let args = ["s_client", "-connect", &at, "-servername", "a.example", "-brief"];
        run("openssl", &[&args[..], options].concat())
    };
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let Some(output) = agree(&[version]) else { return };
        let text = text(&output);
        assert!(text.contains(&format!("Protocol version: {name}")), "{text}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let text = text(&agree(&[version, "-cipher", "DEFAULT@SECLEVEL=0"]).unwrap());
        assert!(!text.contains("Protocol version:") && text.to_ascii_lowercase().contains("alert"), "{text}");
    }
}

#[test]
fn files_that_change_are_served_and_the_log_tells_of_those_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let old = Files::write(dir.path(), "site", &["a.example"]);
    let mut router = Router::with(&[&old]);
    let at = router.at("https");
    let mut open = Client::connect(at, "a.example", &both()).unwrap();
    assert!(open.shown(&old));
    let new = Files::write(dir.path(), "site", &["a.example"]);
    until("the new one is shown", SOON, || {
        let client = Client::connect(at, "a.example", &both()).unwrap();
        if client.shown(&new) { Ok(()) } else { Err(router.log()) }
    });
    fs::write(&new.key, "nothing").unwrap();
    until("the log tells", SOON, || {
        let log = router.log();
        let told = log.lines().any(|line| line.contains("site.key holds no private key"));
        if told { Ok(()) } else { Err(log) }
    });
    assert_eq!(open.get("a.example", "/"), 503, "the connection was left alone");
    assert!(router.node.stop().success());
    assert!(open.ends_in_order(), "and is told of the end");
}

#[test]
fn plain_http_at_the_wrong_door_is_told_so_and_a_plain_request_is_sent_to_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::with(&[&Files::write(dir.path(), "site", &["a.example"])]);
    let (http, https) = (router.at("http"), router.at("https"));
    let ask = |at: SocketAddr| {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET /x?y HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        all
    };
    let wrong = ask(https);
    assert!(wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("tls_expected"), "{wrong}");
    let sent = ask(http);
    let location = format!("Location: https://a.example:{}/x?y\r\n", https.port());
    assert!(sent.starts_with("HTTP/1.1 308 ") && sent.contains(&location), "{sent}");
}

/// How a node ends that cannot start.
fn refused(dir: &Path, sets: &[String]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(["run", "--role", "router", "--set", &format!("node.data_dir={}", dir.join("data").display())]);
    for set in sets {
        command.args(["--set", set]);
    }
    let output = command.env_clear().stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap_or(-1), text(&output))
}

#[test]
fn a_node_that_cannot_serve_as_told_ends_with_2_and_says_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Files::write(dir.path(), "one", &["a"]), Files::write(dir.path(), "two", &["b"]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let https = |at: SocketAddr| format!("router.https={at}");
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let ports = ["router.http=127.0.0.1:0", "router.control=127.0.0.1:0"].map(str::to_owned);
    let tls =
        |cert: &Path, key: &Path| format!("router.tls=[{{cert=\"{}\",key=\"{}\"}}]", cert.display(), key.display());
    let gone = dir.path().join("gone.pem");
    for (sets, words) in [
        (vec![https(any)], &["router.https", "there is no certificate for it", "self_signed"][..]),
        (vec![https(any), tls(&one.cert, &two.key)], &["router.tls", "two.key is not that of the certificate in"]),
        (vec![https(any), tls(&gone, &one.key)], &["router.tls: [0]", "gone.pem cannot be read"]),
        (
            vec![https(taken.local_addr().unwrap()), tls(&one.cert, &one.key)],
            &["cannot listen on", "stop what listens"],
        ),
        (vec![https(any), "router.tls=[{self_signed=[\"a b\"]}]".to_owned()], &["\"a b\" is no name"]),
    ] {
        let (code, said) = refused(dir.path(), &[&ports[..], &sets].concat());
        assert_eq!(code, 2, "{sets:?}: {said}");
        for word in words {
            assert!(said.contains(word), "no \"{word}\" in {said}");
        }
    }
}

#[test]
fn a_configuration_is_checked_with_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), "site", &["a.example"]);
    let file = dir.path().join("node.toml");
    let (cert, key) = (files.cert.display(), files.key.display());
    let write =
        |entry: &str| fs::write(&file, format!("[router]\nhttps = \"0.0.0.0:8443\"\n\n[[router.tls]]\n{entry}\n"));
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        let output = command.env_clear().args(["config", "check"]).arg(&file).output().unwrap();
        (output.status.code(), text(&output))
    };
    write(&format!("cert = \"{cert}\"\nkey = \"{key}\"")).unwrap();
    assert_eq!(check().0, Some(0), "{}", check().1);
    write(&format!("cert = \"{cert}\"")).unwrap();
    assert!(check().0 == Some(2) && check().1.contains("without its key"), "{}", check().1);
    write(&format!("cert = \"{cert}\"\nkey = \"{key}\"\nname = \"x\"")).unwrap();
    assert!(check().0 == Some(2) && check().1.contains("node.toml:4: ") && check().1.contains("name"), "{}", check().1);
    fs::remove_file(&files.key).unwrap();
    write(&format!("cert = \"{cert}\"\nkey = \"{key}\"")).unwrap();
    assert!(check().0 == Some(2) && check().1.contains("site.key cannot be read"), "{}", check().1);
}
