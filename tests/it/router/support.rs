//! A router, servers that do as they are told, and a client, all on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use neap::domain::manifest;
use neap::domain::names::{Generation, NodeName, Revision, RunId, Term, Version};
use neap::link::client::{Client, Settings};
use neap::link::identity::Identity;
use neap::link::secret::Secret;
use neap::router::{Router, RouterConfig, RouterLimits, RunningRouter};
use neap::wire::envelope::MESSAGES_PATH;
use neap::wire::messages::{
    Held, LedgerCut, ListStamp, RouterList, RouterPlacement, RouterProgram, RouterServer, ToRouter,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// How long a condition may take to come true on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What a server does with the next requests.
#[derive(Clone)]
pub enum Does {
    /// Answers 200 with its name, at once.
    Serves,
    /// Answers 200 once it is told to go on.
    Waits(Arc<Notify>),
    /// Refuses in its run at this generation.
    Refuses(u64),
}

/// One request that a server saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

/// The one field of that name.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let found = fields.by_ref().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    assert!(!fields.any(|(field, _)| field.eq_ignore_ascii_case(name)), "two fields {name} in {head}");
    found
}

/// A server's data port.
pub struct Server {
    pub name: String,
    pub addr: SocketAddr,
    does: Arc<Mutex<Does>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub async fn start(name: &str, does: Does) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), name, does)
    }

    pub fn on(listener: TcpListener, name: &str, does: Does) -> Self {
        let (does, seen) = (Arc::new(Mutex::new(does)), Arc::<Mutex<Vec<Seen>>>::default());
        let server = Self { name: name.into(), addr: listener.local_addr().unwrap(), does, seen };
        let (name, does, seen) = (server.name.clone(), server.does.clone(), server.seen.clone());
        actix::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                actix::spawn(converse(stream, name.clone(), does.clone(), seen.clone()));
            }
        });
        server
    }

    pub fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub async fn saw(&self, count: usize) {
        until("the server saw the request", || self.seen.lock().unwrap().len() >= count).await;
    }
}

async fn converse(mut stream: TcpStream, name: String, does: Arc<Mutex<Does>>, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut bytes = Vec::new();
    while let Some(end) = read_until_head(&mut stream, &mut bytes).await {
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        let length: usize = field(&head, "Content-Length").map_or(0, |length| length.parse().unwrap());
        let now = does.lock().unwrap().clone();
        let expects = field(&head, "Expect").is_some();
        if expects && !matches!(now, Does::Refuses(_)) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        let sends_body = !expects || !matches!(now, Does::Refuses(_));
        while sends_body && bytes.len() < length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = bytes.drain(..length.min(bytes.len())).collect();
        seen.lock().unwrap().push(Seen { head, body });
        let answer = match now {
            Does::Refuses(generation) => {
                format!("HTTP/1.1 503 No\r\nNeap-Refused: r-{name}.{generation}\r\nContent-Length: 0\r\n\r\n")
            }
            Does::Serves => served(&name),
            Does::Waits(go) => {
                go.notified().await;
                served(&name)
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn served(name: &str) -> String {
    let length = name.len();
    format!("HTTP/1.1 200 OK\r\nNeap-Version: 1.0\r\nNeap-Secret: x\r\nContent-Length: {length}\r\n\r\n{name}")
}

async fn read_until_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<usize> {
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some(at + 4);
        }
        match stream.read_buf(bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// What a client got.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// A whole request on a connection of its own.
pub async fn ask(addr: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("an answer in time").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head[9..12].parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

pub async fn get(addr: SocketAddr, path: &str) -> Reply {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")).await
}

pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A router under test.
pub struct Under {
    pub router: RunningRouter,
    client: Client,
    identity: Identity,
}

pub fn config(dir: &Path) -> RouterConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    RouterConfig {
        identity: Identity::begin("router-1".parse().unwrap()),
        http: any,
        https: None,
        control: any,
        workers: 2,
        data_dir: dir.to_owned(),
        labels: Default::default(),
        management: Vec::new(),
        secret: None,
        client: Client::new(Settings::default(), None),
        heartbeat: Duration::from_millis(50),
        trusted: Arc::new(|_| false),
        expose_version: false,
        here: None,
        limits: RouterLimits { probe_interval: Duration::from_millis(50), ..RouterLimits::default() },
    }
}

impl Under {
    pub async fn test(config: RouterConfig) -> Self {
        let secret: Option<Secret> = config.secret.clone();
        let router = Router::start(config).await.unwrap();
        let client = Client::new(Settings::default(), secret);
        Self { router, client, identity: Identity::begin("m1".parse().unwrap()) }
    }

    /// With this list of its own directory's.
    pub async fn with(dir: &Path, list: RouterList) -> Self {
        let under = Self::test(config(dir)).await;
        under.tell(list).await;
        under
    }

    pub async fn post<T: serde::de::DeserializeOwned>(&self, body: ToRouter) -> T {
        let json = serde_json::to_vec(&self.identity.envelope(None, body)).unwrap();
        let url = format!("http://{}{MESSAGES_PATH}", self.router.control());
        self.client.post(&url, json).await.unwrap().json().unwrap()
    }

    pub async fn tell(&self, list: RouterList) -> Held {
        self.post(ToRouter::ServerList(Box::new(list))).await
    }

    pub async fn ledger(&self) -> LedgerCut {
        self.post(ToRouter::Ledger {}).await
    }

    /// The sum of one counter over all rows, once the last request has been counted.
    pub async fn count(&self, of: impl Fn(&neap::wire::messages::Counts) -> u64) -> u64 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let cut = self.ledger().await;
            if cut.entries.iter().all(|entry| entry.counts.active == 0) {
                return cut.entries.iter().map(|entry| of(&entry.counts)).sum();
            }
            assert!(Instant::now() < deadline, "requests do not end");
        }
    }

    pub async fn control(&self, path: &str) -> Reply {
        let host = self.router.control();
        ask(host, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }

    pub fn http(&self) -> SocketAddr {
        self.router.http()
    }
}

pub fn stamp(revision: u64) -> ListStamp {
    let term = Term { number: 1, management: NodeName::new("m1").unwrap() };
    ListStamp { term, revision: Revision(revision) }
}

/// As if another router had many requests there, so that it is asked after others.
pub fn busy(placement: &mut RouterPlacement) {
    placement.by_router.insert(NodeName::new("another").unwrap(), 9);
}

/// The program "shop" at `*/shop`, open at generation 1 on every server.
pub fn list(revision: u64, servers: &[&Server]) -> RouterList {
    let named = |server: &Server| NodeName::new(&server.name).unwrap();
    let placement = |server: &&Server| RouterPlacement {
        server: named(server),
        run: Some(RunId::new(format!("r-{}", server.name)).unwrap()),
        generation: Generation(1),
        version: Some(Version::new("1.0").unwrap()),
        takes_requests: true,
        keeps_sessions: false,
        active: 0,
        by_router: Default::default(),
    };
    let text = "name = \"shop\"\nversion = \"1.0\"\nroutes = [\"*/shop\"]\n[static]\nroot = \"public\"\n";
    let manifest = manifest::parse("program.toml", text).unwrap();
    RouterList {
        stamp: stamp(revision),
        since: None,
        servers: servers.iter().map(|one| RouterServer { name: named(one), data: one.addr, up: true }).collect(),
        programs: vec![RouterProgram { manifest, placements: servers.iter().map(placement).collect(), forward: None }],
        removed: Vec::new(),
    }
}
