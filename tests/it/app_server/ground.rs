//! An application server as a process of its own, which can be killed, and a management that says what a test tells it to.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use neap::app_server::{Bounds, Settings, start};
use neap::domain::names::{Generation, NodeName, OperationId, ProgramName, Release, Revision, RunId, Term};
use neap::domain::placement::{Command, Desired, Order, Stamp, State};
use neap::domain::program::Manifest;
use neap::domain::server_list::Report;
use neap::link::client::Client;
use neap::link::identity::{Identity, new_id};
use neap::link::outbox;
use neap::programs::{adopt, instance, release};
use neap::proxy::Limits;
use neap::store::{Options, Store};
use neap::wire::envelope::{Envelope, MESSAGES_PATH};
use neap::wire::messages::{LedgerCut, Obeyed, Prepared, Renewals, Sealed, ToManagement, ToServer, Welcome};
use serde::de::DeserializeOwned;

/// How long a condition may take to come true on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
const NEAP: &str = env!("CARGO_BIN_EXE_neap");
const DIR: &str = "NEAP_TEST_DIR";
const MANAGEMENT: &str = "NEAP_TEST_MANAGEMENT";
const LEASE: &str = "NEAP_TEST_LEASE_MS";
const WORKERS: &str = "NEAP_TEST_WORKERS";

/// A program that answers with its version and pid; `/slow` is answered once the file `go` is in its data directory, and
/// what it executed is in the file `done` there.
const PROGRAM: &str = r#"
import http.server, os, sys, time
data = os.environ["HOME"]
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            open(data + "/begun", "a").write("x")
            while not os.path.exists(data + "/go"):
                time.sleep(0.01)
        open(data + "/done", "a").write(self.path + "\n")
        body = ("%s %d" % (os.environ["NEAP_VERSION"], os.getpid())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Neap-Refused", "forged.1")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"#;

/// What the management of a test has heard, and what it answers.
#[derive(Default)]
pub struct Desk {
    pub heard: Vec<ToManagement>,
    pub renewals: Vec<neap::wire::messages::Renewal>,
    pub kept_closed: Vec<ProgramName>,
    archives: BTreeMap<String, Vec<u8>>,
}

pub struct Ground {
    pub dir: tempfile::TempDir,
    pub desk: Arc<Mutex<Desk>>,
    pub management: SocketAddr,
    pub term: Term,
    pub lease: Duration,
    pub workers: usize,
    client: Client,
    operations: u64,
}

pub struct Node {
    child: Child,
    pub control: SocketAddr,
    pub data: SocketAddr,
    pub run: RunId,
}

pub fn shop() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

pub fn term(number: u64) -> Term {
    Term { number, management: NodeName::new("m1").unwrap() }
}

pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The management's answers.
async fn answer(desk: web::Data<Mutex<Desk>>, body: web::Bytes) -> HttpResponse {
    let envelope = Envelope::<ToManagement>::parse(&body).unwrap();
    let mut desk = desk.lock().unwrap();
    desk.heard.push(envelope.body.clone());
    let term = term(1);
    match envelope.body {
        ToManagement::Register(_) => HttpResponse::Ok().json(Welcome {
            tag_keys: None,
            management: term.management.clone(),
            run: RunId::new("r").unwrap(),
            term,
        }),
        ToManagement::Heartbeat(_) => {
            let (renewed, kept_closed) = (desk.renewals.clone(), desk.kept_closed.clone());
            HttpResponse::Ok().json(Renewals { tag_keys: None, term, renewed, kept_closed, unknown: false })
        }
        _ => HttpResponse::Ok().json(serde_json::json!({})),
    }
}

async fn archive(desk: web::Data<Mutex<Desk>>, path: web::Path<(String, String)>) -> HttpResponse {
    match desk.lock().unwrap().archives.get(&path.1) {
        Some(bytes) => HttpResponse::Ok().body(bytes.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

impl Ground {
    pub fn new() -> Self {
        let desk = web::Data::new(Mutex::new(Desk::default()));
        let data = desk.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route(MESSAGES_PATH, web::post().to(answer))
                .route("/api/v1/releases/{program}/{sha256}/archive", web::get().to(archive))
        });
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let management = server.addrs()[0];
        actix_rt::spawn(server.run());
        Self {
            dir: tempfile::tempdir().unwrap(),
            desk: desk.into_inner(),
            management,
            term: term(1),
            lease: Duration::from_secs(60),
            workers: 2,
            client: Client::new(Default::default(), None),
            operations: 0,
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    /// The program's own directory.
    pub fn data(&self) -> PathBuf {
        self.data_dir().join("data/shop")
    }

    pub async fn node(&self) -> Node {
        let place = self.data_dir().join("place");
        let _ = fs::remove_file(&place);
        let child = Process::new(std::env::current_exe().unwrap())
            .args(["app_server::ground::node_of_a_test", "--exact", "--ignored", "--nocapture"])
            .env(DIR, self.data_dir())
            .env(MANAGEMENT, format!("http://{}", self.management))
            .env(LEASE, self.lease.as_millis().to_string())
            .env(WORKERS, self.workers.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let said = eventually("the node is up", async || fs::read_to_string(&place).ok()).await;
        let mut words = said.split(' ');
        let mut word = || words.next().unwrap();
        Node {
            child,
            control: word().parse().unwrap(),
            data: word().parse().unwrap(),
            run: RunId::new(word()).unwrap(),
        }
    }

    /// Makes a release of the program: `script` is `main.py`.
    pub fn release(&self, version: &str, script: &str, more: &str) -> (Release, Manifest) {
        let dir = self.data_dir().join("sources").join(version);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("main.py"), script).unwrap();
        let text = format!(
            "name = 'shop'\nversion = '{version}'\nroutes = ['*/']\n\
             [process]\ncommand = ['python3', '-u', '{{dir}}/main.py', '{{port}}']\n{more}"
        );
        fs::write(dir.join("program.toml"), text).unwrap();
        let file = dir.with_extension("tar.zst");
        let (manifest, packed) = release::pack(&dir, None, &file).unwrap();
        let release = Release { version: manifest.version.clone(), sha256: packed.sha256 };
        self.desk.lock().unwrap().archives.insert(packed.sha256.to_string(), fs::read(&file).unwrap());
        (release, manifest)
    }

    pub fn good(&self, version: &str) -> (Release, Manifest) {
        self.release(version, PROGRAM, "[health]\npath = '/'\nstart_timeout = '10s'\ninterval = '50ms'\n")
    }

    pub async fn try_ask<T: DeserializeOwned>(
        &self,
        node: &Node,
        message: ToServer,
    ) -> Result<T, neap::wire::problem::Problem> {
        let envelope = Identity::begin(self.term.management.clone()).envelope(Some(self.term.clone()), message);
        let url = format!("http://{}{MESSAGES_PATH}", node.control);
        let answer = self.client.post(&url, serde_json::to_vec(&envelope).unwrap()).await;
        answer.map_err(|error| error.problem())?.json()
    }

    pub async fn ask<T: DeserializeOwned>(&self, node: &Node, message: ToServer) -> T {
        self.try_ask(node, message).await.unwrap()
    }

    pub async fn seal(&self, node: &Node) -> Sealed {
        self.ask(node, ToServer::Seal { term: self.term.clone(), asked: 1 }).await
    }

    pub async fn report(&self, node: &Node) -> Report {
        let sealed = self.seal(node).await;
        sealed.reports.into_iter().find(|report| report.program == shop()).unwrap()
    }

    pub async fn ledger(&self, node: &Node) -> LedgerCut {
        self.ask(node, ToServer::Ledger {}).await
    }

    pub async fn prepare(&self, node: &Node, (release, manifest): &(Release, Manifest)) -> Prepared {
        eventually("the release is prepared", async || {
            let (release, manifest) = (release.clone(), Box::new(manifest.clone()));
            match self.ask(node, ToServer::Prepare { program: shop(), release, manifest }).await {
                Prepared::Preparing => None,
                done => Some(done),
            }
        })
        .await
    }

    pub fn operation(&mut self) -> OperationId {
        self.operations += 1;
        OperationId::new(format!("o{}-{}", self.operations, new_id())).unwrap()
    }

    pub fn desired(&self, release: Option<Release>) -> Desired {
        Desired { release, stamp: Stamp { term: self.term.clone(), revision: Revision(self.operations) } }
    }

    pub async fn order(&self, node: &Node, operation: &OperationId, expected: Generation, order: Order) -> Obeyed {
        let command =
            Command { term: self.term.clone(), operation: operation.clone(), run: node.run.clone(), expected, order };
        self.ask(node, ToServer::Command { program: shop(), command }).await
    }

    pub fn upgrade_to(&self, release: &Release, force: bool) -> Order {
        Order::Upgrade { to: release.clone(), desired: self.desired(Some(release.clone())), force }
    }

    /// Waits until the placement stands so.
    pub async fn until(&self, node: &Node, what: &str, so: impl Fn(&Report) -> bool) -> Report {
        eventually(what, async || Some(self.report(node).await).filter(|report| so(report))).await
    }

    pub async fn until_state(&self, node: &Node, state: State) -> Report {
        self.until(node, &format!("{state:?}"), |report| report.state == state).await
    }

    /// Installs the first version.
    pub async fn install(&mut self, node: &Node, version: &str) -> Release {
        let made = self.good(version);
        self.seal(node).await;
        assert_eq!(self.prepare(node, &made).await, Prepared::Ready);
        let operation = self.operation();
        let obeyed = self.order(node, &operation, Generation(0), self.upgrade_to(&made.0, false)).await;
        assert_eq!(obeyed.refusal, None);
        self.until_state(node, State::Open).await;
        made.0
    }

    /// Quiesces at the present generation.
    pub async fn quiesce(&mut self, node: &Node) -> (OperationId, Obeyed) {
        let (operation, report) = (self.operation(), self.report(node).await);
        let obeyed = self.order(node, &operation, report.generation, Order::Quiesce { leased: true }).await;
        assert_eq!(obeyed.refusal, None);
        (operation, obeyed)
    }

    pub fn hears(&self, said: impl Fn(&ToManagement) -> bool) -> bool {
        self.desk.lock().unwrap().heard.iter().any(said)
    }

    pub fn go(&self) {
        fs::write(self.data().join("go"), "").unwrap();
    }

    pub fn executed(&self, path: &str) -> usize {
        let done = fs::read_to_string(self.data().join("done")).unwrap_or_default();
        done.lines().filter(|line| *line == path).count()
    }

    pub async fn begun(&self, count: usize) {
        let begun = || fs::read_to_string(self.data().join("begun")).unwrap_or_default().len();
        eventually("the slow requests have begun", async || (begun() >= count).then_some(())).await;
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let scope = instance::scope(&NodeName::new("s1").unwrap(), &self.data_dir());
        for stray in adopt::strays(&scope, &[]) {
            let _ = Process::new("kill").args(["-9", &stray.pid.to_string()]).status();
        }
    }
}

impl Node {
    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// TERM: the node may end what it is at.
    pub fn term(&self) {
        Process::new("kill").arg(self.child.id().to_string()).status().unwrap();
    }

    pub fn ended(mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    /// A whole answer, as text; empty when the connection broke.
    pub fn get(&self, path: &str) -> String {
        get(self.data, path, "Neap-Program: shop\r\nX-Request-Id: req-of-a-test\r\n")
    }

    pub fn get_beside(&self, path: &'static str) -> JoinHandle<String> {
        let data = self.data;
        std::thread::spawn(move || get(data, path, "Neap-Program: shop\r\nX-Request-Id: req-of-a-test\r\n"))
    }

    /// The pid of the instance that answers.
    pub fn answers(&self) -> (String, u32) {
        let answer = self.get("/");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let (version, pid) = body.split_once(' ').unwrap();
        (version.to_owned(), pid.parse().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn get(data: SocketAddr, path: &str, fields: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(data) else { return String::new() };
    let head = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{fields}\r\n");
    let mut answer = Vec::new();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Not a test: the node that the tests start as a process.
#[test]
#[ignore = "the process that the tests of the application server start"]
fn node_of_a_test() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let variable = |name| std::env::var(name).unwrap();
    if std::env::var_os("NEAP_TEST_LOG").is_some() {
        neap::telemetry::start("debug", false).unwrap();
    }
    let lease = Duration::from_millis(variable(LEASE).parse().unwrap());
    let first = 31_000 + (std::process::id() % 1_000) as u16 * 20;
    let settings = Settings {
        data: "127.0.0.1:0".parse().unwrap(),
        control: "127.0.0.1:0".parse().unwrap(),
        ports: first..=first + 19,
        data_dir: dir.clone(),
        binary: NEAP.into(),
        labels: BTreeMap::new(),
        cores: 1,
        workers: variable(WORKERS).parse().unwrap(),
        management: vec![variable(MANAGEMENT)],
        heartbeat: Duration::from_millis(50),
        lease,
        boot_wait: Duration::from_millis(300),
        bounds: Bounds { active_requests: 100, ..Bounds::default() },
        proxy: Limits::of_data_port(),
        client: Default::default(),
        outbox: outbox::Settings::default(),
    };
    actix_rt::System::new().block_on(async move {
        let store = Store::open(dir.join("store"), "now", Options::default()).unwrap().store;
        let identity = Identity::begin(NodeName::new("s1").unwrap());
        let running = start(identity.clone(), store, None, settings).await.unwrap();
        let unfinished = dir.join("place.unfinished");
        fs::write(&unfinished, format!("{} {} {}", running.control, running.data, identity.run)).unwrap();
        fs::rename(unfinished, dir.join("place")).unwrap();
        let kind = tokio::signal::unix::SignalKind::terminate();
        tokio::signal::unix::signal(kind).unwrap().recv().await;
        running.stop().await;
    });
}
