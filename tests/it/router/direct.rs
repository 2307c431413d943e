//! Requests for a server in the router's own process: admitted by a call, and otherwise as over the wire.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use neap::domain::names::{Generation, ProgramName, RunId, ServerName, Version};
use neap::domain::session::HeldTag;
use neap::proxy::{About, HeadWriter, LongLived, Outcome, ResponseHead, Target};
use neap::router::{Desk, Here, Visit};
use neap::wire::messages::Counts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::support::{Does, Server, Under, ask, busy, config, field, get, list, until};

/// How the server in this process takes the next request; the last goes on for ever.
#[derive(Clone, Copy)]
enum Takes {
    At(SocketAddr),
    Refuses(u64),
    /// Nobody listens; then it is refused, or has been replaced.
    Dead(Option<u64>),
}

struct Local {
    name: ServerName,
    run: RunId,
    data: SocketAddr,
    takes: Arc<Mutex<VecDeque<Takes>>>,
    log: Arc<Mutex<Vec<String>>>,
    admitted: Arc<Mutex<Vec<Instant>>>,
    cut: Arc<AtomicBool>,
    nudges: watch::Sender<()>,
    body_limit: u64,
}

impl Local {
    /// "a", whose data port nobody serves: who goes there over the wire finds out.
    fn new(takes: impl IntoIterator<Item = Takes>) -> Arc<Self> {
        Arc::new(Self {
            name: ServerName::new("a").unwrap(),
            run: RunId::new("r-a").unwrap(),
            data: dead(),
            takes: Arc::new(Mutex::new(takes.into_iter().collect())),
            log: Arc::default(),
            admitted: Arc::default(),
            cut: Arc::default(),
            nudges: watch::Sender::new(()),
            body_limit: 1 << 20,
        })
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.nudges.send_replace(());
    }

    async fn said(&self, line: &str) {
        until(line, || self.log().iter().any(|said| said == line)).await;
    }
}

impl Here for Local {
    fn name(&self) -> &ServerName {
        &self.name
    }

    fn run(&self) -> &RunId {
        &self.run
    }

    fn data(&self) -> SocketAddr {
        self.data
    }

    fn desk(&self) -> Box<dyn Desk> {
        let (takes, log, admitted) = (self.takes.clone(), self.log.clone(), self.admitted.clone());
        Box::new(LocalDesk { takes, log, admitted, cut: self.cut.clone(), body_limit: self.body_limit })
    }

    fn nudges(&self) -> watch::Receiver<()> {
        self.nudges.subscribe()
    }
}

#[derive(Clone)]
struct LocalDesk {
    takes: Arc<Mutex<VecDeque<Takes>>>,
    log: Arc<Mutex<Vec<String>>>,
    admitted: Arc<Mutex<Vec<Instant>>>,
    cut: Arc<AtomicBool>,
    body_limit: u64,
}

impl Desk for LocalDesk {
    fn visit(&self, program: &ProgramName) -> Box<dyn Visit> {
        assert_eq!(program.as_str(), "shop");
        Box::new(LocalVisit { desk: self.clone(), dead: None, version: Version::new("2.0").unwrap() })
    }

    fn nudged(&self) {
        self.log.lock().unwrap().push("nudged".into());
    }
}

struct LocalVisit {
    desk: LocalDesk,
    dead: Option<Option<u64>>,
    version: Version,
}

impl LocalVisit {
    fn say(&self, line: String) {
        self.desk.log.lock().unwrap().push(line);
    }
}

impl Visit for LocalVisit {
    fn carry(&mut self, tag: Option<Rc<HeldTag>>, _: bool) {
        self.say(format!("carries {:?}", tag.map(|tag| tag.id)));
    }

    fn write_headers(&self, _: &mut HeadWriter<'_>) {}

    fn admit(&mut self, about: &About, now: Instant) -> Result<Target, Generation> {
        self.desk.admitted.lock().unwrap().push(now);
        let mut takes = self.desk.takes.lock().unwrap();
        let now = takes[0];
        if takes.len() > 1 {
            takes.pop_front();
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let addr = match now {
            Takes::Refuses(generation) => return Err(Generation(generation)),
            Takes::At(addr) => addr,
            Takes::Dead(then) => {
                self.dead = Some(then);
                dead()
            }
        };
        self.say(format!("admits {} {} {}", text(about.id()), text(about.method()), text(about.path())));
        let (request_timeout, body_limit) = (Duration::from_secs(20), self.desk.body_limit);
        Ok(Target { addr, key: u64::from(addr.port()), authenticated: false, request_timeout, body_limit })
    }

    fn not_connected(&mut self) -> Option<Generation> {
        self.say("not connected".into());
        self.dead.take().unwrap().map(Generation)
    }

    fn withdraw(&mut self) {
        self.say("withdrawn".into());
    }

    fn answered(&mut self, _: &ResponseHead<'_>, _: &mut HeadWriter<'_>) {}

    fn version(&self) -> Option<&Version> {
        Some(&self.version)
    }

    fn long_lived(&mut self, kind: LongLived) {
        self.say(format!("{kind:?}"));
    }

    fn is_cut(&self) -> bool {
        self.desk.cut.load(Ordering::Acquire)
    }

    fn ended(&mut self, outcome: Outcome, _: &About) {
        self.say(format!("{outcome:?}"));
    }
}

/// Where nobody listens.
fn dead() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A router with `local` in its process, which knows of it as server "a" and of these others, which are asked after it.
async fn under(dir: &Path, local: &Arc<Local>, others: &[&Server]) -> Under {
    let mut config = config(dir);
    config.here = Some(local.clone());
    config.workers = 1;
    config.expose_version = true;
    let under = Under::test(config).await;
    let here = Server::start("a", Does::Serves).await;
    let servers: Vec<&Server> = std::iter::once(&here).chain(others.iter().copied()).collect();
    let mut list = list(1, &servers);
    list.servers[0].data = local.data;
    list.programs[0].placements[1..].iter_mut().for_each(busy);
    under.tell(list).await;
    under
}

fn post(body: &str, more: &str) -> String {
    let length = body.len();
    format!(
        "POST /shop/order HTTP/1.1\r\nHost: any\r\nConnection: close\r\nX-Request-Id: mine\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
}

async fn counts(under: &Under, of: impl Fn(&Counts) -> u64) -> u64 {
    under.count(of).await
}

#[actix::test]
async fn a_request_goes_straight_to_the_instance_and_no_word_between_neaps_nodes_reaches_it() {
    let (dir, instance) = (tempfile::tempdir().unwrap(), Server::start("program", Does::Serves).await);
    let local = Local::new([Takes::At(instance.addr)]);
    let under = under(dir.path(), &local, &[]).await;
    let request = "GET /shop/cart HTTP/1.1\r\nHost: any\r\nConnection: close\r\nNeap-Program: mail\r\n\r\n";
    let reply = ask(under.http(), request).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "program"));
    // The instance says 1.0, and is not asked.
    assert_eq!(field(&reply.head, "Neap-Version"), Some("2.0"));
    assert_eq!(field(&reply.head, "Neap-Secret"), None);
    let seen = &instance.seen()[0];
    assert!(!seen.head.to_lowercase().contains("neap-"), "{}", seen.head);
    let id = seen.header("X-Request-Id").unwrap();
    local.said("Completed { status: 200 }").await;
    assert_eq!(local.log(), [format!("admits {id} GET /shop/cart"), "Completed { status: 200 }".into()]);
    assert_eq!(counts(&under, |counts| counts.completed).await, 1);
    let row = &under.ledger().await.entries[0];
    assert_eq!(
        (row.server.as_ref().unwrap().as_str(), row.version.as_ref().unwrap().as_str(), row.counts.admitted),
        ("a", "2.0", 1)
    );
    under.router.stop().await;
}

#[actix::test]
async fn a_program_that_says_it_refuses_is_not_believed() {
    let (dir, instance) = (tempfile::tempdir().unwrap(), Server::start("program", Does::Refuses(9)).await);
    let (local, b) = (Local::new([Takes::At(instance.addr)]), Server::start("b", Does::Serves).await);
    let under = under(dir.path(), &local, &[&b]).await;
    let reply = get(under.http(), "/shop").await;
    assert_eq!((reply.status, field(&reply.head, "Neap-Refused")), (503, None));
    assert!(b.seen().is_empty());
    assert_eq!(counts(&under, |counts| counts.completed_5xx).await, 1);
    under.router.stop().await;
}

#[actix::test]
async fn a_refused_post_goes_to_another_server_whole_and_the_placement_is_closed_until_something_newer() {
    let (dir, b) = (tempfile::tempdir().unwrap(), Server::start("b", Does::Serves).await);
    let local = Local::new([Takes::Refuses(2)]);
    let under = under(dir.path(), &local, &[&b]).await;
    for (body, more) in [("order 1", ""), ("order 2", "Expect: 100-continue\r\n")] {
        let reply = ask(under.http(), &post(body, more)).await;
        assert!(reply.status == 200 || reply.head.starts_with("HTTP/1.1 100"), "{reply:?}");
    }
    let large = "x".repeat(300_000);
    assert_eq!(ask(under.http(), &post(&large, "")).await.body, "b");
    let bodies: Vec<usize> = b.seen().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(bodies, [7, 7, 300_000]);
    // It was asked once: its run and generation closed it in this router's view.
    assert_eq!(counts(&under, |counts| counts.refused).await, 1);
    assert_eq!(counts(&under, |counts| counts.redispatched).await, 1);
    assert_eq!(counts(&under, |counts| counts.completed).await, 3);
    assert_eq!(b.seen()[0].header("Neap-Program"), Some("shop"));
    under.router.stop().await;
}

#[actix::test]
async fn where_all_refuse_twice_it_is_given_up_and_nothing_was_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::new([Takes::Refuses(2)]);
    let under = under(dir.path(), &local, &[]).await;
    let reply = get(under.http(), "/shop").await;
    assert!(reply.status == 503 && reply.body.contains("no_server"), "{reply:?}");
    assert_eq!(counts(&under, |counts| counts.no_server).await, 1);
    assert_eq!((counts(&under, |counts| counts.refused).await, local.log()), (2, vec![]));
    under.router.stop().await;
}

#[actix::test]
async fn an_instance_that_takes_no_connection_is_a_refusal_or_was_replaced() {
    let (dir, instance) = (tempfile::tempdir().unwrap(), Server::start("program", Does::Serves).await);
    let local = Local::new([Takes::Dead(None), Takes::At(instance.addr), Takes::Dead(Some(2)), Takes::Refuses(2)]);
    let b = Server::start("b", Does::Serves).await;
    let under = under(dir.path(), &local, &[&b]).await;
    assert_eq!(ask(under.http(), &post("1", "")).await.body, "program");
    assert_eq!(ask(under.http(), &post("2", "")).await.body, "b");
    assert_eq!(ask(under.http(), &post("3", "")).await.body, "b");
    let admits = "admits mine POST /shop/order".to_owned();
    let completed = "Completed { status: 200 }".to_owned();
    let not = "not connected".to_owned();
    assert_eq!(local.log(), [admits.clone(), not.clone(), admits.clone(), completed, admits, not]);
    assert_eq!((instance.seen().len(), b.seen().len()), (1, 2));
    assert_eq!(counts(&under, |counts| counts.refused).await, 1);
    under.router.stop().await;
}

#[actix::test]
async fn bodies_of_any_size_come_whole_and_the_running_instances_limit_holds() {
    let (dir, instance) = (tempfile::tempdir().unwrap(), Server::start("program", Does::Serves).await);
    let local = Local::new([Takes::At(instance.addr)]);
    let under = under(dir.path(), &local, &[]).await;
    let large = "y".repeat(400_000);
    assert_eq!(ask(under.http(), &post(&large, "")).await.status, 200);
    let seen = instance.seen();
    assert_eq!((seen[0].body.len(), seen[0].header("Expect")), (400_000, None));
    let too_large = "z".repeat((1 << 20) + 1);
    let mut stream = TcpStream::connect(under.http()).await.unwrap();
    // It is answered from the head alone.
    stream.write_all(post(&too_large, "").split_inclusive("\r\n\r\n").next().unwrap().as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    local.said("withdrawn").await;
    assert_eq!(instance.seen().len(), 1);
    under.router.stop().await;
}

#[actix::test]
async fn a_request_is_admitted_when_its_body_has_come_and_not_when_its_head_did() {
    let (dir, instance) = (tempfile::tempdir().unwrap(), Server::start("program", Does::Serves).await);
    let local = Local::new([Takes::At(instance.addr)]);
    let under = under(dir.path(), &local, &[]).await;
    let mut client = TcpStream::connect(under.http()).await.unwrap();
    let whole = post("late", "Expect: 100-continue\r\n");
    let (head, body) = whole.split_at(whole.len() - 4);
    client.write_all(head.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    client.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    let before = Instant::now();
    client.write_all(body.as_bytes()).await.unwrap();
    local.said("Completed { status: 200 }").await;
    assert!(local.admitted.lock().unwrap()[0] >= before);
    assert_eq!(instance.seen()[0].body, b"late");
    under.router.stop().await;
}

#[actix::test]
async fn a_cut_request_is_answered_once_no_byte_of_an_answer_came_and_what_may_be_repeated_is() {
    let (dir, go) = (tempfile::tempdir().unwrap(), Arc::new(Notify::new()));
    let instance = Server::start("program", Does::Waits(go)).await;
    let b = Server::start("b", Does::Serves).await;
    let local = Local::new([Takes::At(instance.addr), Takes::At(instance.addr), Takes::Refuses(2)]);
    let under = under(dir.path(), &local, &[&b]).await;
    let addr = under.http();
    let posts = actix::spawn(async move { ask(addr, &post("1", "")).await });
    let gets = actix::spawn(async move { get(addr, "/shop").await });
    instance.saw(2).await;
    local.cut();
    let (posted, got) = (posts.await.unwrap(), gets.await.unwrap());
    assert!(posted.status == 502 && posted.body.contains("no_response"), "{posted:?}");
    assert_eq!((got.status, got.body.as_str()), (200, "b"));
    until("both were told", || local.log().iter().filter(|line| *line == "Cut").count() == 2).await;
    assert!(local.log().iter().any(|line| line == "nudged"));
    assert_eq!((counts(&under, |counts| counts.cut).await, counts(&under, |counts| counts.completed).await), (1, 1));
    assert_eq!(counts(&under, |counts| counts.admitted).await, 2);
    under.router.stop().await;
}

#[actix::test]
async fn a_client_that_leaves_and_a_program_that_breaks_off_are_told_to_both_ledgers() {
    let (dir, go) = (tempfile::tempdir().unwrap(), Arc::new(Notify::new()));
    let instance = Server::start("program", Does::Waits(go)).await;
    let breaks = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = Local::new([Takes::At(instance.addr), Takes::At(breaks.local_addr().unwrap())]);
    let under = under(dir.path(), &local, &[]).await;
    let mut leaves = TcpStream::connect(under.http()).await.unwrap();
    leaves.write_all(b"GET /shop HTTP/1.1\r\nHost: any\r\n\r\n").await.unwrap();
    instance.saw(1).await;
    drop(leaves);
    local.said("ClientLeft").await;
    actix::spawn(async move {
        while let Ok((mut stream, _)) = breaks.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    assert_eq!(ask(under.http(), &post("1", "")).await.status, 502);
    local.said("Failed(NoResponse)").await;
    assert_eq!(counts(&under, |counts| counts.client_left).await, 1);
    // The server's own answer, as over the wire; it is the server that names the failure.
    assert_eq!((counts(&under, |counts| counts.completed_5xx).await, under.ledger().await.failures.len()), (1, 0));
    under.router.stop().await;
}

#[actix::test]
async fn a_websocket_goes_through_is_told_as_long_lived_and_can_be_cut() {
    let dir = tempfile::tempdir().unwrap();
    let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = Local::new([Takes::At(program.local_addr().unwrap())]);
    let under = under(dir.path(), &local, &[]).await;
    actix::spawn(async move {
        let (mut stream, _) = program.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        assert!(String::from_utf8_lossy(&head[..read]).contains("Upgrade: websocket"));
        stream.write_all(b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let mut client = TcpStream::connect(under.http()).await.unwrap();
    let ask = "GET /shop HTTP/1.1\r\nHost: any\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(client.read_buf(&mut bytes).await.unwrap() > 0);
    }
    assert!(bytes.starts_with(b"HTTP/1.1 101"));
    client.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!((&echo, local.log().last().map(String::as_str)), (b"echo", Some("Tunnel")));
    local.cut();
    // Its end, or a reset; not silence.
    let ended = tokio::time::timeout(super::support::DEADLINE, client.read(&mut echo)).await.expect("it ends");
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    local.said("Cut").await;
    assert_eq!(counts(&under, |counts| counts.cut).await, 1);
    under.router.stop().await;
}

#[actix::test]
async fn a_server_of_that_name_at_another_address_is_another_one() {
    let (dir, a) = (tempfile::tempdir().unwrap(), Server::start("a", Does::Serves).await);
    let local = Local::new([Takes::Refuses(1)]);
    let mut config = config(dir.path());
    config.here = Some(local.clone());
    let under = Under::test(config).await;
    under.tell(list(1, &[&a])).await;
    assert_eq!(get(under.http(), "/shop").await.body, "a");
    assert_eq!(a.seen()[0].header("Neap-Program"), Some("shop"));
    under.router.stop().await;
}
