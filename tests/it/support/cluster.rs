//! Owns a cluster: one management, routers and servers, each a process of the real binary, and how a test asks it
//! things. Must not know what programs it runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use neap::wire::api::{NodeState, NodeView, PlacementView, ProgramView, Receipt, RippleView, StatusView};
use serde::de::DeserializeOwned;

use super::block::Block;
use super::http::{self, Answer};
use super::node::{Node, instances_below, kill_instances_below};
use super::release::Release;
use super::{SOON, until};

pub const MANAGEMENT: &str = "management";
pub const ROUTER: &str = "router-1";

const API_PORT: u16 = 7_400;
const HTTP_PORT: u16 = 8_080;
const ASK: Duration = Duration::from_secs(5);

/// What a cluster is made of.
pub struct Shape {
    pub servers: u8,
    pub routers: u8,
    /// One server, one router and management in one process, named "server-1".
    pub together: bool,
    /// Settings of every node.
    pub sets: Vec<String>,
    /// Ports that a server has for its instances.
    pub ports: u16,
    /// Each node has a binary of its own, so that another can be put in its place.
    pub own_binaries: bool,
    /// A server's data directory, where it is not to be a plain one.
    pub data_dirs: Vec<(&'static str, PathBuf)>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            servers: 3,
            routers: 1,
            together: false,
            sets: Vec::new(),
            ports: 40,
            own_binaries: false,
            data_dirs: Vec::new(),
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub struct Cluster {
    dir: tempfile::TempDir,
    block: Block,
    nodes: Vec<Node>,
    routers: u8,
}

impl Cluster {
    /// Three servers, one router, one management; all of them up.
    pub fn start() -> Self {
        Self::shaped(Shape::default())
    }

    pub fn shaped(shape: Shape) -> Self {
        let dir = tempfile::Builder::new().prefix("e2e-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut cluster = Self { dir, block: Block::claim(), nodes: Vec::new(), routers: shape.routers };
        let management = [format!("management.listen={}", cluster.api())];
        let router = |cluster: &Self, number: u8| {
            [
                format!("router.http={}", cluster.block.at(10 + number, HTTP_PORT)),
                format!("router.control={}", cluster.block.at(10 + number, 7_410)),
            ]
        };
        let server = |cluster: &Self, number: u8| {
            [
                format!("app_server.data={}", cluster.data_port(number)),
                format!("app_server.control={}", cluster.block.at(20 + number, 7_420)),
                format!("app_server.ports={}", cluster.block.ports(number, shape.ports)),
            ]
        };
        if shape.together {
            let sets = [&management[..], &router(&cluster, 1), &server(&cluster, 1)].concat();
            cluster.add("server-1", "router,app-server,management", &sets, &shape);
        } else {
            cluster.add(MANAGEMENT, "management", &management, &shape);
            for number in 1..=shape.routers {
                cluster.add(&format!("router-{number}"), "router", &router(&cluster, number), &shape);
            }
            for number in 1..=shape.servers {
                cluster.add(&format!("server-{number}"), "app-server", &server(&cluster, number), &shape);
            }
        }
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.until_all_up();
        cluster
    }

    fn add(&mut self, name: &str, role: &str, own: &[String], shape: &Shape) {
        let mut sets = vec![
            format!("cluster.management=[\"http://{}\"]", self.api()),
            "cluster.heartbeat=200ms".to_owned(),
            "cluster.down_after=2s".to_owned(),
            "cluster.lease=5s".to_owned(),
            "cluster.boot_wait=1s".to_owned(),
            "node.workers=1".to_owned(),
            "observe.log=info,neap=debug".to_owned(),
        ];
        sets.extend(own.iter().chain(&shape.sets).cloned());
        let mut node = Node::new(self.dir.path(), name, role, &sets);
        if let Some((_, data)) = shape.data_dirs.iter().find(|(of, _)| *of == name) {
            node.set(&format!("node.data_dir={}", data.display()));
            node.data = data.clone();
        }
        if shape.own_binaries {
            node.own_binary(self.dir.path());
        }
        self.nodes.push(node);
    }

    pub fn until_all_up(&mut self) {
        let names: BTreeSet<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        until("every node is up", SOON, || {
            for node in &mut self.nodes {
                assert!(node.runs(), "{} has ended", node.name);
            }
            let status = self.status()?;
            let up = status.nodes.iter().filter(|node| node.state == NodeState::Up).map(|node| node.name.to_string());
            let up: BTreeSet<String> = up.collect();
            // Management does not list itself.
            let away: Vec<_> = names.difference(&up).filter(|name| *name != MANAGEMENT).collect();
            if away.is_empty() { Ok(()) } else { Err(format!("down: {away:?}")) }
        });
        for number in 1..=self.routers {
            let control = self.block.at(10 + number, 7_410);
            until("the router is ready", SOON, || {
                let answer = http::ask(control, "GET /.neap/ready", b"", ASK)?;
                if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
            });
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Management's address.
    pub fn api(&self) -> std::net::SocketAddr {
        self.block.at(2, API_PORT)
    }

    /// An address of this cluster's own that no node has.
    pub fn spare(&self, port: u16) -> std::net::SocketAddr {
        self.block.at(99, port)
    }

    /// Where a server takes requests from routers.
    pub fn data_port(&self, number: u8) -> std::net::SocketAddr {
        self.block.at(20 + number, 7_421)
    }

    /// Where clients of a program go, by the router of that number.
    pub fn url(&self, router: u8, program: &str) -> String {
        format!("http://{}/{program}", self.block.at(10 + router, HTTP_PORT))
    }

    /// Where clients of the first router go.
    pub fn router(&self) -> std::net::SocketAddr {
        self.block.at(11, HTTP_PORT)
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    pub fn data(&self, name: &str) -> &Path {
        &self.nodes.iter().find(|node| node.name == name).unwrap().data
    }

    /// The processes of instances that live.
    pub fn instances(&self) -> Vec<i32> {
        instances_below(self.dir.path())
    }

    // What is asked of it.

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command.args(args).env_clear().env("NEAP_ADDRESS", format!("http://{}", self.api()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn neap(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    /// Runs a command beside the test.
    pub fn spawn(&self, args: &[&str]) -> Beside {
        let said = tempfile::NamedTempFile::new().unwrap();
        let child = self.command(args).stderr(said.reopen().unwrap()).spawn().unwrap();
        Beside { child: Some(child), said }
    }

    /// Runs a command that must do what it is asked for.
    #[track_caller]
    pub fn well(&self, args: &[&str]) -> Ran {
        let ran = self.neap(args);
        assert_eq!(ran.code, 0, "neap {}\n{}{}", args.join(" "), ran.out, ran.err);
        ran
    }

    /// Pushes a release and waits until it runs.
    #[track_caller]
    pub fn deploy(&self, release: &Release) -> RippleView {
        let ran = self.deploy_with(release, &[]);
        assert_eq!(ran.code, 0, "deploy {} {}\n{}{}", release.name, release.version, ran.out, ran.err);
        self.last_ripple(&release.name)
    }

    /// Pushes a release and asks for it with these options.
    pub fn deploy_with(&self, release: &Release, options: &[&str]) -> Ran {
        let dir = release.write(self.dir.path());
        self.neap(&[&["deploy", dir.to_str().unwrap()], options].concat())
    }

    /// Pushes a release, starts the ripple to it and does not wait.
    #[track_caller]
    pub fn begin(&self, release: &Release, options: &[&str]) -> String {
        let ran = self.deploy_with(release, &[&["--detach", "-o", "json"], options].concat());
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        let ripple: RippleView = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}\n{ran:?}"));
        ripple.id.to_string()
    }

    /// Asks management's API; an answer that is no success is an error with its words.
    pub fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let answer = http::ask(self.api(), &format!("GET /api/v1/{path}"), b"", ASK)?;
        let told = || format!("{path}: {}\n{}", answer.head, String::from_utf8_lossy(&answer.body));
        if answer.status != 200 {
            return Err(told());
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", told()))
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answer, String> {
        http::ask(self.api(), &format!("POST /api/v1/{path}"), body, ASK)
    }

    pub fn status(&self) -> Result<StatusView, String> {
        self.ask("status")
    }

    pub fn program(&self, program: &str) -> Result<ProgramView, String> {
        self.ask(&format!("programs/{program}"))
    }

    pub fn ripple(&self, id: &str) -> Result<RippleView, String> {
        self.ask(&format!("ripples/{id}"))
    }

    #[track_caller]
    pub fn receipt(&self, id: &str) -> Receipt {
        self.ask(&format!("ripples/{id}/receipt")).unwrap()
    }

    #[track_caller]
    pub fn node_view(&self, name: &str) -> NodeView {
        self.ask(&format!("nodes/{name}")).unwrap()
    }

    /// What a server tells of itself, whether management is there or not.
    pub fn metrics(&self, server: &str) -> Result<String, String> {
        let number: u8 = server.trim_start_matches("server-").parse().unwrap();
        let answer = http::ask(self.block.at(20 + number, 7_420), "GET /metrics", b"", ASK)?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Requests that a server has admitted and that have not ended.
    pub fn active(&self, server: &str) -> Result<u64, String> {
        let metrics = self.metrics(server)?;
        let lines = metrics.lines().filter(|line| line.starts_with("neap_active_requests{"));
        let counts = lines.map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()));
        counts.sum::<Option<u64>>().ok_or(format!("not understood: {metrics}"))
    }

    /// The newest ripple of a program.
    #[track_caller]
    pub fn last_ripple(&self, program: &str) -> RippleView {
        let page: neap::wire::page::Page<RippleView> = self.ask(&format!("ripples?program={program}")).unwrap();
        page.items.into_iter().next().unwrap()
    }

    /// Where a program is, by server.
    pub fn placements(&self, program: &str) -> Result<Vec<PlacementView>, String> {
        Ok(self.program(program)?.placements)
    }

    /// One request of a client, on a connection of its own.
    pub fn get(&self, path: &str, timeout: Duration) -> Result<Answer, String> {
        http::ask(self.block.at(11, HTTP_PORT), &format!("GET {path}"), b"", timeout)
    }

    /// The same, beside the test.
    pub fn get_beside(&self, path: &str) -> std::thread::JoinHandle<Result<Answer, String>> {
        self.get_beside_by(1, path)
    }

    /// The same, through the router of that number.
    pub fn get_beside_by(&self, router: u8, path: &str) -> std::thread::JoinHandle<Result<Answer, String>> {
        let (address, head) = (self.block.at(10 + router, HTTP_PORT), format!("GET {path}"));
        std::thread::spawn(move || http::ask(address, &head, b"", Duration::from_secs(60)))
    }

    /// The ids that a program's instances logged as executed, on all servers, sorted.
    pub fn executed(&self, program: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for node in self.nodes.iter().filter(|node| node.name.starts_with("server")) {
            for file in fs::read_dir(node.data.join("data").join(program)).into_iter().flatten().flatten() {
                if file.path().extension().is_some_and(|extension| extension == "log") {
                    let log = fs::read_to_string(file.path()).unwrap();
                    ids.extend(log.lines().map(|line| line.split(' ').next().unwrap().to_owned()));
                }
            }
        }
        ids.sort_unstable();
        ids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- {}", self.status().map_or_else(|error| error, |status| show(&status)));
        }
        for node in &mut self.nodes {
            node.kill9();
            if failed {
                eprintln!("{}", node.tail());
            }
        }
        // Twice: an instance may have been between two processes.
        kill_instances_below(self.dir.path());
        kill_instances_below(self.dir.path());
        if failed {
            eprintln!("--- all of it is kept in {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
        }
    }
}

/// The cluster in a few lines.
fn show(status: &StatusView) -> String {
    let mut text = format!("term {:?} revision {}\n", status.term, status.revision);
    for node in &status.nodes {
        text.push_str(&format!("{} {} sealed {}\n", node.name, node.state, node.sealed));
    }
    for placement in &status.placements {
        text.push_str(&format!(
            "{} on {}: {} {} generation {} healthy {} active {} {}\n",
            placement.program,
            placement.server,
            placement.version.as_ref().map_or("-", |version| version.as_str()),
            placement.state,
            placement.generation,
            placement.healthy,
            placement.active_requests,
            placement.failure.as_deref().unwrap_or_default()
        ));
    }
    for ripple in &status.ripples {
        text.push_str(&format!("{}\n", super::watch::show(ripple)));
    }
    text
}

/// A command that runs; killed when dropped.
pub struct Beside {
    child: Option<Child>,
    said: tempfile::NamedTempFile,
}

impl Beside {
    /// Whether it has told anything on standard error.
    pub fn has_said(&self) -> bool {
        self.said.as_file().metadata().unwrap().len() > 0
    }

    pub fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ran {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        Ran { err: fs::read_to_string(self.said.path()).unwrap(), ..Ran::from(output) }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
