//! What programs use of a machine's software: real libraries built by the machine's compiler, in two versions, and
//! programs that others wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use neap::domain::components::{Replaced, Source};
use neap::wire::api::{ComponentSummary, ComponentUse, ComponentView, ScanView};
use neap::wire::page::Page;

use crate::support::cluster::{Cluster, MANAGEMENT, Shape};
use crate::support::release::{Release, installed, made, shop};
use crate::support::{SOON, until};

/// Answers every request with what its libraries count.
const SERVER: &str = r#"
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int count(void);
int main(void) {
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons(atoi(getenv("PORT")));
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 64)) return 1;
    for (;;) {
        char head[4096], answer[256];
        int client = accept(listener, 0, 0);
        if (read(client, head, sizeof head) > 0) {
            int size = snprintf(answer, sizeof answer,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n%02d", count());
            if (write(client, answer, size) != size) return 1;
        }
        close(client);
    }
}
"#;

/// A machine's own libraries, and programs that use them, all below one directory.
pub struct Workshop {
    pub dir: PathBuf,
}

impl Workshop {
    pub fn at(dir: &Path) -> Self {
        let dir = dir.join("workshop");
        fs::create_dir(&dir).unwrap();
        let workshop = Self { dir: dir.canonicalize().unwrap() };
        fs::create_dir(workshop.dir.join("sys")).unwrap();
        workshop
    }

    fn cc(&self, source: &str, out: &Path, args: &[&str]) {
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        let file = self.dir.join("source.c");
        fs::write(&file, source).unwrap();
        let built = Command::new("cc").current_dir(&self.dir).arg("-o").arg(out).arg(&file).args(args).status();
        assert!(built.expect("cc is needed, and rust needs it too").success(), "{out:?} {args:?}");
    }

    /// Puts a library in place as a package manager does: the new file gets the old one's name.
    pub fn install(&self, name: &str, function: &str, number: u8) -> PathBuf {
        let file = self.dir.join("sys").join(name);
        fs::rename(self.build(name, function, number), &file).unwrap();
        file
    }

    /// A version of a library that is not in its place yet.
    pub fn build(&self, name: &str, function: &str, number: u8) -> PathBuf {
        let new = self.dir.join(format!("{name}.{number}"));
        let (soname, build) = (format!("-Wl,-soname,{name}"), format!("-Wl,--build-id=0xaa{number:02}"));
        let source = format!("int {function}(void) {{ return {number}; }}");
        self.cc(&source, &new, &["-shared", "-fPIC", &soname, &build]);
        new
    }

    /// A program whose own library, in its release, uses one of the machine's.
    pub fn through(&self) -> Release {
        let release = self.dir.join("through");
        let sys = format!("-Wl,--enable-new-dtags,-rpath,{}/sys", self.dir.display());
        let own = "int greet(void); int count(void) { return greet(); }";
        self.cc(
            own,
            &release.join("lib/libown.so"),
            &["-shared", "-fPIC", "sys/libgreet.so.1", "-Wl,-soname,libown.so", &sys],
        );
        let own = ["-Lthrough/lib", "-lown", "-Wl,-rpath-link,sys", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib"];
        self.cc(SERVER, &release.join("bin/server"), &own);
        made("through", "1", &release, r#"["bin/server"]"#)
    }

    /// A program that uses one of the machine's libraries itself.
    pub fn direct(&self, name: &str, library: &str, function: &str) -> Release {
        let release = self.dir.join(name);
        let source = format!("{SERVER}\nint {function}(void); int count(void) {{ return {function}(); }}");
        let sys = format!("-Wl,--enable-new-dtags,-rpath,{}/sys", self.dir.display());
        self.cc(&source, &release.join("server"), &[&format!("sys/{library}"), &sys]);
        made(name, "1", &release, r#"["./server"]"#)
    }
}

/// Servers with time enough to look, however busy the machine is.
pub fn shape(servers: u8) -> Shape {
    Shape { servers, sets: vec!["app_server.limits.component_time=30s".to_owned()], ..Shape::default() }
}

pub fn scan(cluster: &Cluster) -> ScanView {
    serde_json::from_str(&cluster.well(&["component", "scan", "-o", "json"]).out).unwrap()
}

#[track_caller]
pub fn show(cluster: &Cluster, component: &Path) -> ComponentView {
    let shown = cluster.well(&["component", "show", component.to_str().unwrap(), "-o", "json"]);
    serde_json::from_str(&shown.out).unwrap()
}

/// "program on server", of those that an upgrade would quiesce.
fn quiesced(view: &ComponentView) -> Vec<String> {
    let uses = view.uses.iter().filter(|one| one.quiesced);
    let mut names: Vec<String> = uses.map(|one| format!("{} on {}", one.program, one.server)).collect();
    names.sort();
    names
}

/// The instances that run with a file that was replaced below this directory, as "program on server".
pub fn stale(cluster: &Cluster, below: &Path) -> Vec<String> {
    scan(cluster);
    let listed = cluster.well(&["component", "ls", "--stale", "-o", "json"]).out;
    let page: Page<ComponentSummary> = serde_json::from_str(&listed).unwrap();
    let uses = page.items.iter().flat_map(|one| &one.stale).filter(|one| Path::new(&one.file).starts_with(below));
    let mut names: Vec<String> = uses.map(|one| format!("{} on {}", one.program, one.server)).collect();
    names.sort();
    names
}

fn evidence(one: &ComponentUse, source: Source) -> &str {
    let found = one.evidence.iter().find(|evidence| evidence.source == source);
    found.map_or("", |evidence| evidence.text.as_str())
}

#[test]
fn a_components_users_are_known_with_evidence_and_so_is_who_runs_with_an_older_one() {
    let mut cluster = Cluster::shaped(shape(2));
    let workshop = Workshop::at(cluster.dir());
    let greet = workshop.install("libgreet.so.1", "greet", 1);
    let other = workshop.install("libother.so.1", "other", 2);
    cluster.deploy(&workshop.direct("direct", "libgreet.so.1", "greet"));
    cluster.deploy(&workshop.through());
    cluster.deploy(&workshop.direct("apart", "libother.so.1", "other"));
    // Heartbeats alone bring it: nobody has to ask for a scan.
    until("management knows who uses the library", SOON, || {
        let page: Page<ComponentSummary> = cluster.ask("components")?;
        let found = page.items.iter().find(|one| one.name.as_str() == greet.to_str().unwrap());
        let known = found.is_some_and(|one| one.programs.len() == 2 && one.servers.len() == 2);
        if known { Ok(()) } else { Err(format!("{found:#?}")) }
    });
    let both = ["direct on server-1", "direct on server-2", "through on server-1", "through on server-2"];
    let scanned = scan(&cluster);
    assert_eq!((scanned.servers.len(), &scanned.unanswered[..]), (2, &[][..]));
    assert!(scanned.servers.iter().all(|server| server.programs == 3 && server.unread.is_empty()), "{scanned:#?}");
    let view = show(&cluster, &greet);
    assert_eq!(quiesced(&view), both);
    assert_eq!(view.unread, []);
    for one in &view.uses {
        let wanted = match one.program.as_str() {
            "direct" => "direct → server → libgreet.so.1 (runpath)",
            _ => "through → bin/server → libown.so (runpath) → libgreet.so.1 (runpath)",
        };
        assert_eq!(evidence(one, Source::Static), wanted);
        assert_eq!(evidence(one, Source::Observed), format!("{} → {} (mapped)", one.program, greet.display()));
        assert_eq!(one.version.as_ref().unwrap().text, "aa01");
    }
    assert_eq!(quiesced(&show(&cluster, &other)), ["apart on server-1", "apart on server-2"]);
    assert_eq!(quiesced(&show(&cluster, Path::new("libgreet.so.1"))), both, "a file's name will do");

    assert_eq!(stale(&cluster, &workshop.dir), [""; 0]);
    workshop.install("libgreet.so.1", "greet", 3);
    assert_eq!(stale(&cluster, &workshop.dir), both);
    for one in show(&cluster, &greet).uses {
        let stale = one.stale.unwrap();
        let versions = (stale.running.unwrap().text, stale.on_disk.unwrap().text);
        assert_eq!((stale.why, versions), (Replaced::Replaced, ("aa01".to_owned(), "aa03".to_owned())));
    }
    cluster.well(&["program", "restart", "direct"]);
    let left = ["through on server-1", "through on server-2"];
    assert_eq!(stale(&cluster, &workshop.dir), left);
    assert!(cluster.well(&["program", "show", "through"]).out.contains("libgreet.so.1"));

    // A server's node and management are killed, and nothing is forgotten: what ran before is known still.
    cluster.node("server-1").kill9();
    cluster.node(MANAGEMENT).kill9();
    cluster.node(MANAGEMENT).start();
    cluster.node("server-1").start();
    cluster.until_all_up();
    cluster.until_serves("through", "1", 2);
    assert_eq!(stale(&cluster, &workshop.dir), left);
    let running = |one: &ComponentUse| one.stale.as_ref()?.running.clone().map(|version| version.text);
    let through = show(&cluster, &greet).uses.into_iter().filter(|one| one.program.as_str() == "through");
    assert!(through.map(|one| running(&one)).all(|version| version.as_deref() == Some("aa01")));

    cluster.well(&["program", "rm", "apart", "--yes"]);
    until("what is removed uses nothing", SOON, || {
        scan(&cluster);
        let ran = cluster.neap(&["component", "show", other.to_str().unwrap()]);
        if ran.code == 2 && ran.err.contains("neap component ls") { Ok(()) } else { Err(format!("{ran:?}")) }
    });
}

#[test]
fn interpreters_and_virtual_environments_are_found_behind_programs_that_others_wrote() {
    let (Some(flask), Some(express)) = (installed("flask", "1.0.0"), installed("express", "1.0.0")) else { return };
    let cluster = Cluster::shaped(shape(1));
    let declared = shop("1.0.0").components(r#"uses = ["acme-runtime"]"#);
    for release in [&flask, &express, &declared] {
        cluster.deploy(release);
    }
    scan(&cluster);
    let config = flask.write(cluster.dir()).join("venv/pyvenv.cfg");
    let config = fs::read_to_string(config).unwrap();
    let base = config.lines().find_map(|line| line.strip_prefix("executable = ")).unwrap();
    let python = show(&cluster, &Path::new(base).canonicalize().unwrap());
    assert_eq!(quiesced(&python), ["flask on server-1"]);
    let shown = evidence(&python.uses[0], Source::Static);
    assert!(shown.starts_with("flask → venv/bin/python → ") && shown.ends_with("(pyvenv.cfg)"), "{shown}");
    let node = Command::new("sh").args(["-c", "command -v node"]).output().unwrap().stdout;
    let node = Path::new(String::from_utf8(node).unwrap().trim()).canonicalize().unwrap();
    let node = show(&cluster, &node);
    assert_eq!(quiesced(&node), ["express on server-1"]);
    assert!(node.uses[0].evidence.iter().any(|one| one.source == Source::Observed), "{node:#?}");
    assert_eq!(quiesced(&show(&cluster, Path::new("acme-runtime"))), ["shop on server-1"]);
}
