//! Instances as real processes: launch, adoption, probes, stop.

mod adoption;
mod end;
mod files;
mod start;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use neap::domain::manifest;
use neap::domain::names::{NodeName, Sha256};
use neap::domain::program::{Manifest, StopSignal};
use neap::programs::adopt;
use neap::programs::instance::{self, Instance};
use neap::programs::launch::{self, LaunchError, Waiting};
use neap::programs::ports::Ports;
use neap::programs::probe::{self, StartFailure};
use neap::programs::stop;
use neap::programs::surroundings::Surroundings;

pub const NEAP: &str = env!("CARGO_BIN_EXE_neap");
pub const SHA: Sha256 = Sha256([7; 32]);
/// How long a condition may take to come true on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const GRACE: Duration = Duration::from_secs(10);

/// A server's directories, with one release unpacked. Whatever its instances leave behind is killed at the end.
pub struct Ground {
    pub dir: tempfile::TempDir,
    pub around: Surroundings,
    pub ports: Ports,
    pub manifest: Manifest,
}

impl Ground {
    pub fn new(kind: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().canonicalize().unwrap();
        fs::create_dir(data_dir.join("room")).unwrap();
        let text = format!("name = 'shop'\nversion = '1.0'\nroutes = ['*/']\n{kind}");
        let manifest = manifest::parse("program.toml", &text).unwrap();
        let around = Surroundings { binary: NEAP.into(), node: NodeName::new("s1").unwrap(), data_dir, sessions: None };
        Self { dir, around, ports: Ports::new(port_range()), manifest }
    }

    /// A program in Python, its health a TCP connect unless the script's manifest says more.
    pub fn python(script: &str, more: &str) -> Self {
        let ground =
            Self::new(&format!("[process]\ncommand = ['python3', '-u', '{{dir}}/main.py', '{{port}}']\n{more}"));
        fs::write(ground.room().join("main.py"), script).unwrap();
        ground
    }

    pub fn room(&self) -> PathBuf {
        self.around.data_dir.join("room")
    }

    pub fn scope(&self) -> String {
        instance::scope(&self.around.node, &self.around.data_dir)
    }

    pub async fn spawn(&self) -> Result<Waiting, LaunchError> {
        let name = instance::new_name(&self.scope(), &self.manifest.name);
        let port = self.ports.lease().unwrap();
        launch::spawn(&self.around, &self.manifest, SHA, &self.room(), &name, port).await
    }

    pub async fn launch(&self) -> Arc<Instance> {
        self.spawn().await.unwrap().go().await.unwrap()
    }

    pub fn log(&self, instance: &Instance) -> PathBuf {
        self.around.log(&self.manifest.name, &instance.record().name)
    }

    pub async fn started(&self, instance: &Instance) -> Result<Duration, StartFailure> {
        probe::started(instance, &self.manifest.health, &self.log(instance)).await
    }

    pub async fn run(&self) -> Arc<Instance> {
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
pub fn port_range() -> std::ops::RangeInclusive<u16> {
    let first = 30_000 + (std::process::id() % 400) as u16 * 6;
    first..=first + 5
}

pub async fn stop_now(instance: &Instance) -> stop::Stopped {
    stop::stop(instance, StopSignal::Term, GRACE, None).await.unwrap()
}

pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn get(port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The environment of a process once it has become `command`: while it becomes another, the kernel shows nothing.
pub async fn environ_of(pid: u32, command: &str) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let became = || {
        let words = read("cmdline");
        let is = words.split('\0').take(2).any(|word| word == command);
        Some(read("environ")).filter(|environ| is && !environ.is_empty())
    };
    eventually("the process has become the command", became).await
}

pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub const SERVER: &str = "
import http.server, sys
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
";

pub const STUBBORN: &str = "
import signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(['setsid', 'sleep', '600'])
print(child.pid, flush=True)
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True: time.sleep(1)
";
