//! Instances as real processes: launch, adoption, probes, stop.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use neap::domain::manifest;
use neap::domain::names::{NodeName, Sha256};
use neap::domain::program::{Manifest, StopSignal};
use neap::programs::adopt::{self, Found};
use neap::programs::instance::{self, Exit, Instance, InstanceRecord};
use neap::programs::launch::{self, LaunchError, Waiting};
use neap::programs::orphans::Orphans;
use neap::programs::ports::Ports;
use neap::programs::prepare::{self, PrepareError};
use neap::programs::probe::{self, StartFailure, StartReason};
use neap::programs::stop;
use neap::programs::surroundings::Surroundings;
use neap::programs::{logs, output};

const NEAP: &str = env!("CARGO_BIN_EXE_neap");
const SHA: Sha256 = Sha256([7; 32]);
/// How long a condition may take to come true on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);

/// A server's directories, with one release unpacked. Whatever its instances leave behind is killed at the end.
struct Ground {
    dir: tempfile::TempDir,
    around: Surroundings,
    ports: Ports,
    manifest: Manifest,
}

impl Ground {
    fn new(kind: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().canonicalize().unwrap();
        fs::create_dir(data_dir.join("room")).unwrap();
        let text = format!("name = 'shop'\nversion = '1.0'\nroutes = ['*/']\n{kind}");
        let manifest = manifest::parse("program.toml", &text).unwrap();
        let around = Surroundings { binary: NEAP.into(), node: NodeName::new("s1").unwrap(), data_dir };
        Self { dir, around, ports: Ports::new(port_range()), manifest }
    }

    /// A program in Python, its health a TCP connect unless the script's manifest says more.
    fn python(script: &str, more: &str) -> Self {
        let ground =
            Self::new(&format!("[process]\ncommand = ['python3', '-u', '{{dir}}/main.py', '{{port}}']\n{more}"));
        fs::write(ground.room().join("main.py"), script).unwrap();
        ground
    }

    fn room(&self) -> PathBuf {
        self.around.data_dir.join("room")
    }

    fn scope(&self) -> String {
        instance::scope(&self.around.node, &self.around.data_dir)
    }

    async fn spawn(&self) -> Result<Waiting, LaunchError> {
        let name = instance::new_name(&self.scope(), &self.manifest.name);
        let port = self.ports.lease().unwrap();
        launch::spawn(&self.around, &self.manifest, SHA, &self.room(), &name, port).await
    }

    async fn launch(&self) -> Arc<Instance> {
        self.spawn().await.unwrap().go().await.unwrap()
    }

    fn log(&self, instance: &Instance) -> PathBuf {
        self.around.log(&self.manifest.name, &instance.record().name)
    }

    async fn started(&self, instance: &Instance) -> Result<Duration, StartFailure> {
        probe::started(instance, &self.manifest.health, &self.log(instance)).await
    }

    async fn run(&self) -> Arc<Instance> {
        let instance = self.launch().await;
        self.started(&instance).await.unwrap();
        instance
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for stray in adopt::strays(&self.scope(), &[]) {
            let _ = Command::new("kill").args(["-9", &stray.pid.to_string()]).status();
        }
        let _ = &self.dir;
    }
}

/// A few ports of this test's own: tests are processes of their own, and so are their ranges.
fn port_range() -> std::ops::RangeInclusive<u16> {
    let first = 30_000 + (std::process::id() % 1_000) as u16 * 2 + 2;
    first..=first + 40
}

async fn stop_now(instance: &Instance) -> stop::Stopped {
    stop::stop(instance, StopSignal::Term, GRACE).await.unwrap()
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn get(port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The environment of a process once it has become `command`: while it becomes another, the kernel shows nothing.
async fn environ_of(pid: u32, command: &str) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let became = || {
        let words = read("cmdline");
        let is = words.split('\0').take(2).any(|word| word == command);
        Some(read("environ")).filter(|environ| is && !environ.is_empty())
    };
    eventually("the process has become the command", became).await
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

const SERVER: &str = "
import http.server, sys
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
";

#[actix_rt::test]
async fn a_program_is_launched_probed_and_stopped_by_its_signal() {
    let ground = Ground::python(SERVER, "[health]\npath = '/'\n");
    let instance = ground.run().await;
    let port = instance.record().port;
    assert!(get(port, "GET /main.py HTTP/1.1").starts_with("HTTP/1.0 200"));
    let stopped = stop_now(&instance).await;
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(15), false));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[actix_rt::test]
async fn the_environment_is_clean() {
    let ground = Ground::new("[process]\ncommand = ['sleep', '60']\nenv = { MODE = '{version} on {node}' }\n");
    let instance = ground.launch().await;
    let environ = environ_of(instance.record().pid, "sleep").await;
    let mut names: Vec<&str> = environ.split_terminator('\0').map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    let expected = "HOME LANG MODE NEAP_INSTANCE NEAP_NODE NEAP_PROGRAM NEAP_VERSION PATH PORT";
    assert_eq!(names.join(" "), expected);
    let home = ground.around.data(&ground.manifest.name);
    for expected in ["MODE=1.0 on s1".to_owned(), format!("HOME={}", home.display()), "NEAP_PROGRAM=shop".into()] {
        assert!(environ.split('\0').any(|line| line == expected), "{expected}");
    }
    assert_eq!(fs::metadata(home).unwrap().permissions().mode() & 0o777, 0o700);
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_program_that_exits_at_once_fails_fast_with_its_status_and_its_last_lines() {
    let script = "import sys\nfor i in range(30): print('line', i)\nsys.exit('no database')";
    let ground = Ground::python(script, "");
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    assert_eq!(failure.reason, StartReason::Exited(Exit::Status(1)));
    assert!(failure.after < ground.manifest.health.start_timeout / 2);
    assert_eq!(failure.lines.len(), probe::LINES_SHOWN);
    assert_eq!(failure.lines.last().map(String::as_str), Some("no database"));
    assert!(failure.to_string().contains("exit status 1"), "{failure}");
    assert_eq!(instance.try_exited(), Some(Exit::Status(1)));
}

#[actix_rt::test]
async fn a_program_that_cannot_be_run_says_which_and_why() {
    let ground = Ground::new("[process]\ncommand = ['./missing']\n");
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    assert_eq!(failure.reason, StartReason::Exited(Exit::Status(127)));
    assert!(failure.lines.join("").contains("cannot start ./missing"), "{:?}", failure.lines);
}

#[actix_rt::test]
async fn a_program_that_listens_on_nothing_or_elsewhere_is_told_so() {
    let short = "[health]\nstart_timeout = '1s'\n";
    let ground = Ground::python("import time; time.sleep(60)", short);
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    assert_eq!(failure.reason, StartReason::ListensOnNothing { port: instance.record().port, others: vec![] });
    stop_now(&instance).await;

    let elsewhere =
        "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\nprint(s.getsockname()[1])\ntime.sleep(60)";
    let ground = Ground::python(elsewhere, short);
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    let port: u16 = failure.lines[0].parse().unwrap();
    assert_eq!(
        failure.reason,
        StartReason::ListensOnNothing { port: instance.record().port, others: vec![port] },
        "{failure}"
    );
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_program_that_is_never_healthy_fails_with_what_it_answered() {
    let ground = Ground::python(SERVER, "[health]\npath = '/healthz'\nstart_timeout = '1s'\n");
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err().to_string();
    assert!(failure.contains("GET /healthz answered 404"), "{failure}");
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_foreign_listener_on_the_port_is_not_taken_for_the_program() {
    let ground = Ground::python("import time; time.sleep(60)", "[health]\nstart_timeout = '1s'\n");
    let waiting = ground.spawn().await.unwrap();
    let _other = TcpListener::bind(("127.0.0.1", waiting.record().port)).unwrap();
    let instance = waiting.go().await.unwrap();
    let failure = ground.started(&instance).await.unwrap_err();
    assert!(matches!(failure.reason, StartReason::ForeignListener { .. }), "{failure}");
    stop_now(&instance).await;
}

const STUBBORN: &str = "
import signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(['setsid', 'sleep', '600'])
print(child.pid, flush=True)
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True: time.sleep(1)
";

#[actix_rt::test]
async fn a_program_that_ignores_its_signal_is_killed_with_all_that_it_started() {
    let ground = Ground::python(STUBBORN, "");
    let instance = ground.run().await;
    let child: u32 = logs::tail(&ground.log(&instance), 1)[0].parse().unwrap();
    assert!(lives(child));
    let stopped = stop::stop(&instance, StopSignal::Term, Duration::from_millis(300)).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(9), true));
    assert!(!lives(child) && !lives(instance.record().pid));
}

#[actix_rt::test]
async fn what_a_program_leaves_behind_when_it_ends_is_killed_after_the_grace() {
    let script = STUBBORN.replace("SIG_IGN", "SIG_DFL");
    let ground = Ground::python(&script, "");
    let instance = ground.run().await;
    let child: u32 = logs::tail(&ground.log(&instance), 1)[0].parse().unwrap();
    let stopped = stop::stop(&instance, StopSignal::Term, Duration::from_millis(300)).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(15), true));
    assert!(!lives(child));
}

#[actix_rt::test]
async fn a_child_without_the_word_never_becomes_the_program() {
    let ground = Ground::python("open('started', 'w')", "");
    let waiting = ground.spawn().await.unwrap();
    let pid = waiting.record().pid;
    assert!(lives(pid));
    let cmdline = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    eventually("the launcher waits", || cmdline().contains("launch-instance").then_some(())).await;
    drop(waiting);
    assert!(!lives(pid));
    assert!(!ground.room().join("started").exists());
    assert!(adopt::strays(&ground.scope(), &[]).is_empty());
}

/// Not a test of its own: the node that `…dies_with…` and `…outlives…` kill. It launches as its environment says.
#[actix_rt::test]
async fn helper_node_that_is_killed() {
    let Ok(data_dir) = std::env::var("TEST_NODE_DIR") else { return };
    let mut ground = Ground::python(SERVER, "");
    ground.around.data_dir = PathBuf::from(&data_dir);
    fs::create_dir_all(ground.room()).unwrap();
    fs::write(ground.room().join("main.py"), SERVER).unwrap();
    let waiting = ground.spawn().await.unwrap();
    let record = Path::new(&data_dir).join("record.json");
    let persist = |record: &InstanceRecord, path: &Path| {
        fs::write(path.with_extension("tmp"), serde_json::to_vec(record).unwrap()).unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    };
    if std::env::var("TEST_NODE_GO").is_ok() {
        let (known, log) = (waiting.record().clone(), ground.around.log(&ground.manifest.name, &waiting.record().name));
        let instance = waiting.go().await.unwrap();
        probe::started(&instance, &ground.manifest.health, &log).await.unwrap();
        persist(&known, &record);
    } else {
        persist(waiting.record(), &record);
        std::mem::forget(waiting);
    }
    std::future::pending::<()>().await;
}

/// Runs the helper node in `dir` until it has recorded its instance, and kills it.
async fn killed_node(dir: &Path, go: bool) -> InstanceRecord {
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.args(["--exact", "programs::helper_node_that_is_killed", "--nocapture"]);
    node.env("TEST_NODE_DIR", dir).stdout(Stdio::null());
    if go {
        node.env("TEST_NODE_GO", "1");
    }
    let mut node = node.spawn().unwrap();
    let read = || serde_json::from_slice(&fs::read(dir.join("record.json")).ok()?).ok();
    let record: InstanceRecord = eventually("the helper's record", read).await;
    assert!(lives(record.pid));
    node.kill().unwrap();
    node.wait().unwrap();
    record
}

#[actix_rt::test]
async fn a_child_whose_parent_dies_before_the_word_ends_with_it() {
    let ground = Ground::python(SERVER, "");
    let record = killed_node(&ground.around.data_dir, false).await;
    eventually("the child ends", || (!lives(record.pid)).then_some(())).await;
    assert!(matches!(adopt::adopt(&record, &ground.ports).unwrap(), Found::Gone));
    assert!(TcpStream::connect(("127.0.0.1", record.port)).is_err());
}

#[actix_rt::test]
async fn an_instance_outlives_its_node_and_is_adopted_by_the_next() {
    let ground = Ground::python(SERVER, "[health]\npath = '/'\n");
    let record = killed_node(&ground.around.data_dir, true).await;
    assert!(get(record.port, "GET / HTTP/1.1").starts_with("HTTP/1.0 200"));
    assert_eq!(adopt::strays(&ground.scope(), &[]).len(), 1);
    assert!(adopt::strays(&ground.scope(), std::slice::from_ref(&record.name)).is_empty());

    for other in [
        InstanceRecord { start_time: record.start_time + 1, ..record.clone() },
        InstanceRecord { boot_id: "another".into(), ..record.clone() },
        InstanceRecord { name: "another".into(), ..record.clone() },
        InstanceRecord { pid: std::process::id(), ..record.clone() },
    ] {
        assert!(matches!(adopt::adopt(&other, &ground.ports).unwrap(), Found::Gone), "{other:?}");
    }
    let Found::Alive(instance) = adopt::adopt(&record, &ground.ports).unwrap() else { panic!("it lives") };
    assert!(instance.is_adopted() && instance.try_exited().is_none());
    probe::probe(record.port, &ground.manifest.health).await.unwrap();
    assert_ne!(ground.ports.lease().unwrap().port(), record.port);
    let stopped = stop_now(&instance).await;
    assert_eq!((stopped.exit, stopped.killed), (Exit::Unknown, false));
    assert!(!lives(record.pid));
    assert!(matches!(adopt::adopt(&record, &ground.ports).unwrap(), Found::Gone));
}

#[actix_rt::test]
async fn the_exit_of_an_adopted_instance_is_noticed_and_its_rest_is_killed() {
    let ground = Ground::python(STUBBORN, "");
    let launched = ground.run().await;
    let record = launched.record().clone();
    let child: u32 = logs::tail(&ground.log(&launched), 1)[0].parse().unwrap();
    let Found::Alive(adopted) = adopt::adopt(&record, &ground.ports).unwrap() else { panic!("it lives") };
    launched.signal(rustix::process::Signal::KILL).unwrap();
    let exit = tokio::time::timeout(DEADLINE, adopted.exited()).await.unwrap();
    assert_eq!(exit, Exit::Unknown);
    assert_eq!(launched.exited().await, Exit::Signal(9));
    assert!(lives(child));
    assert_eq!(stop::kill_rest(&record).await.unwrap(), 1);
    assert!(!lives(child));
}

const SLOW: &str = "
import socket, sys, time
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
held = [s.accept() for _ in range(2)]
print('both', flush=True)
while True: time.sleep(1)
";

#[actix_rt::test]
async fn connections_of_a_dead_node_are_orphans_until_the_instance_ends() {
    let ground = Ground::python(SLOW, "");
    let instance = ground.run().await; // The probe's connection is the first that it accepts.
    let port = instance.record().port;
    let request = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let own = request.local_addr().unwrap().port();
    let log = ground.log(&instance);
    eventually("both accepted", || logs::tail(&log, 1).first().filter(|line| *line == "both").map(|_| ())).await;
    drop(request);
    let mut orphans = Orphans::at_boot(port).unwrap();
    assert!(orphans.remote_ports().contains(&own));
    assert!(orphans.remaining().unwrap() >= 1);
    stop_now(&instance).await;
    assert_eq!(orphans.remaining().unwrap(), 0);
}

#[actix_rt::test]
async fn output_is_captured_and_rotated_while_the_program_writes() {
    let script = "
import socket, sys, time
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
n = 0
while True:
    print('line', n); n += 1
    if n % 500 == 0: time.sleep(0.001)
";
    let ground = Ground::python(script, "");
    let instance = ground.run().await;
    let limits = output::OutputLimits { file_bytes: 64 * 1024, rotated: 1, instances: 1 };
    let log = ground.log(&instance);
    eventually("rotation", || output::rotate(&log, &limits).unwrap().then_some(())).await;
    let mut moved = log.clone().into_os_string();
    moved.push(".1");
    let moved = fs::read_to_string(moved).unwrap();
    let last: u64 = moved.lines().last().unwrap().strip_prefix("line ").unwrap().parse().unwrap();
    let chunk = logs::since(&log, 0).unwrap();
    assert_eq!(chunk.text.lines().next(), Some(format!("line {}", last + 1).as_str()));
    eventually("it still writes", || (logs::since(&log, chunk.next).unwrap().next > chunk.next).then_some(())).await;
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_static_program_is_served_with_tags_ranges_and_compressed_files() {
    let ground = Ground::new("[static]\nroot = 'public'\n[health]\npath = '/'\n");
    let public = ground.room().join("public");
    fs::create_dir(&public).unwrap();
    for (name, content) in [("index.html", "home"), ("a.txt", "0123456789"), ("a.txt.gz", "packed"), (".env", "x")] {
        fs::write(public.join(name), content).unwrap();
    }
    let instance = ground.run().await;
    let port = instance.record().port;
    let whole = get(port, "GET /a.txt HTTP/1.1");
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with("0123456789"), "{whole}");
    assert!(whole.contains("content-type: text/plain; charset=utf-8") && whole.contains("vary: Accept-Encoding"));
    let tag = whole.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let line = |head: &str| get(port, head).lines().next().unwrap().to_owned();
    assert!(get(port, "GET / HTTP/1.1").ends_with("home"));
    assert_eq!(line(&format!("GET /a.txt HTTP/1.1\r\nIf-None-Match: {tag}")), "HTTP/1.1 304 Not Modified");
    let part = get(port, &format!("GET /a.txt HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: {tag}"));
    assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("\r\n234"), "{part}");
    assert!(part.contains("content-range: bytes 2-4/10"));
    assert_eq!(line("GET /a.txt HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: \"old\""), "HTTP/1.1 200 OK");
    assert_eq!(line("GET /a.txt HTTP/1.1\r\nRange: bytes=99-"), "HTTP/1.1 416 Range Not Satisfiable");
    let packed = get(port, "GET /a.txt HTTP/1.1\r\nAccept-Encoding: gzip, br;q=0");
    assert!(packed.contains("content-encoding: gzip") && packed.ends_with("packed"), "{packed}");
    let head = get(port, "HEAD /a.txt HTTP/1.1");
    assert!(head.contains("content-length: 10") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(line("POST / HTTP/1.1\r\nContent-Length: 0"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(line("GET /.env HTTP/1.1"), "HTTP/1.1 404 Not Found");
    assert_eq!(line("GET /x HTTP/1.1"), "HTTP/1.1 404 Not Found");
    // A pool's idle connection does not keep it from ending at once.
    let mut idle = TcpStream::connect(("127.0.0.1", port)).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
    let stopped = stop_now(&instance).await;
    assert_eq!((stopped.exit, stopped.killed), (Exit::Status(0), false));
    assert!(stopped.after < Duration::from_secs(2), "{:?}", stopped.after);
}

#[actix_rt::test]
async fn prepare_runs_in_the_release_and_its_failure_shows_its_last_lines() {
    let ground = Ground::new("[process]\ncommand = ['x']\nprepare = ['sh', '-c', 'pwd > made; sleep 600 &']\n");
    let name = instance::new_name(&ground.scope(), &ground.manifest.name);
    prepare::prepare(&ground.around, &ground.manifest, &ground.room(), &name).await.unwrap();
    let made = fs::read_to_string(ground.room().join("made")).unwrap();
    assert_eq!(Path::new(made.trim()), ground.room());
    assert!(adopt::strays(&ground.scope(), &[]).is_empty(), "what it left in the background is gone");

    let ground = Ground::new("[process]\ncommand = ['x']\nprepare = ['sh', '-c', 'echo no network; exit 3']\n");
    let name = instance::new_name(&ground.scope(), &ground.manifest.name);
    let outcome = prepare::prepare(&ground.around, &ground.manifest, &ground.room(), &name).await;
    let Err(PrepareError::Failed(failed)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failed.how.as_str(), failed.lines.join("")), ("exit status: 3", "no network".to_owned()));
}

#[actix_rt::test]
async fn an_env_file_that_others_may_read_stops_the_launch_and_frees_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets");
    fs::write(&secrets, "TOKEN=x").unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    let ground = Ground::new(&format!("[process]\ncommand = ['sleep', '60']\nenv_file = '{}'\n", secrets.display()));
    let told = ground.spawn().await.unwrap_err().to_string();
    assert!(told.contains("its mode is 0644") && told.contains("chmod 600"), "{told}");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let waiting = ground.spawn().await.unwrap();
    let environ = environ_of(waiting.record().pid, "launch-instance").await;
    assert!(environ.contains("TOKEN=x"));
}
