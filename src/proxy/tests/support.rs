//! Owns a proxy with a scripted role, a raw client and a raw upstream. Every wait has a deadline.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::proxy::*;

pub const DEADLINE: Duration = Duration::from_secs(10);

/// What the role heard, as text, one line an event.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.0.lock().unwrap().push(line.into());
        self.0.1.notify_all();
    }

    /// Waits until as many lines were heard, and returns them.
    pub fn wait(&self, count: usize) -> Vec<String> {
        let lines = self.0.0.lock().unwrap();
        let (lines, late) = self.0.1.wait_timeout_while(lines, DEADLINE, |lines| lines.len() < count).unwrap();
        assert!(!late.timed_out(), "only {lines:?}");
        lines.clone()
    }
}

/// A role that tries targets in turn, then answers 503.
#[derive(Clone)]
pub struct Script {
    pub targets: Vec<Target>,
    pub body_limit: u64,
    pub log: Log,
    pub cuts: Arc<Mutex<Vec<Arc<Cut>>>>,
    pub panics: bool,
    pub never_decides: bool,
    /// Refuses as a server does.
    pub refuses: bool,
}

pub fn target(addr: SocketAddr) -> Target {
    let (key, request_timeout) = (u64::from(addr.port()), Duration::from_secs(5));
    Target { addr, key, authenticated: false, request_timeout, body_limit: u64::MAX }
}

/// A target whose refusals are believed.
pub fn server(addr: SocketAddr) -> Target {
    Target { authenticated: true, ..target(addr) }
}

impl Script {
    pub fn to(targets: impl Into<Vec<Target>>) -> Self {
        let (targets, cuts) = (targets.into(), Arc::default());
        Self {
            targets,
            body_limit: 1 << 30,
            log: Log::default(),
            cuts,
            panics: false,
            never_decides: false,
            refuses: false,
        }
    }
}

impl Handler for Script {
    type Request = Scripted;

    fn begin(&self, head: &RequestHead<'_>, _: crate::proxy::Peer) -> Begin<Scripted> {
        if head.path == "/none" {
            return Begin::Answer(Answer::new(404, "no_program", "no program has this route"));
        }
        let cut = Cut::new();
        self.cuts.lock().unwrap().push(Arc::clone(&cut));
        Begin::Forward(Scripted { left: self.targets.clone().into(), script: self.clone(), cut })
    }
}

pub struct Scripted {
    left: VecDeque<Target>,
    script: Script,
    cut: Arc<Cut>,
}

impl Attempts for Scripted {
    fn body_limit(&self) -> u64 {
        self.script.body_limit
    }

    fn keeps_header(&self, name: &str) -> bool {
        !is_neap_header(name) && !forwarded::is_forwarding_header(name)
    }

    fn write_headers(&self, head: &RequestHead<'_>, peer: crate::proxy::Peer, out: &mut HeadWriter<'_>) {
        forwarded::write(head, peer.addr, false, peer.scheme(), out);
    }

    async fn next(&mut self) -> Next {
        if self.script.panics {
            panic!("as asked");
        }
        if self.script.never_decides {
            std::future::pending::<()>().await;
        }
        if self.script.refuses {
            return Next::Stop(Answer::new(503, "refused", "the gate is closed").header("Neap-Refused", "run.7"));
        }
        match self.left.pop_front() {
            Some(target) => Next::Try(target),
            None => Next::Stop(Answer::new(503, "no_server", "none is left").retry_after(Duration::from_secs(1))),
        }
    }

    fn failed(&mut self, why: AttemptFailure<'_>) {
        self.script.log.add(match why {
            AttemptFailure::Refused(refused) => format!("refused {refused}"),
            AttemptFailure::Connect(_) => "connect".to_owned(),
            AttemptFailure::DiedBeforeResponse => "died".to_owned(),
            AttemptFailure::Timeout => "timeout".to_owned(),
        });
    }

    fn response(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        if let Some(version) = head.header("neap-version") {
            out.add("X-Seen-Version", version);
        }
    }

    fn long_lived(&mut self, kind: LongLived) {
        self.script.log.add(format!("{kind:?}"));
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.cut.poll(cx)
    }

    fn ended(&mut self, outcome: Outcome, tally: Tally) {
        self.script.log.add(format!("{outcome:?} {} {}", tally.received, tally.sent));
    }
}

/// A proxy of one worker on its own thread, shut down by drop.
pub struct Proxy {
    pub addr: SocketAddr,
    pub log: Log,
    pub cuts: Arc<Mutex<Vec<Arc<Cut>>>>,
    pub shutdown: Shutdown,
    pub budget: Arc<ReplayBudget>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start(script: Script) -> Self {
        Self::with(script, Limits::default())
    }

    pub fn with(script: Script, limits: Limits) -> Self {
        Self::behind(script, limits, None)
    }

    /// With TLS as `tls` has it.
    pub fn behind(script: Script, limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let addr = listener.local_addr().unwrap();
        let (log, cuts, shutdown) = (script.log.clone(), Arc::clone(&script.cuts), Shutdown::new());
        let (ends, budget) = (shutdown.clone(), Arc::clone(&limits.replay_budget));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let door = match tls {
                Some(config) => Door::tls(listener, config),
                None => Door::plain(listener),
            };
            let serving = serve(vec![door], Rc::new(script), limits, ends.clone());
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let grace = async {
                    ends.wait().await;
                    tokio::time::sleep(Duration::from_secs(3)).await;
                };
                tokio::select! { served = serving => served.unwrap(), () = grace => {} }
            });
        });
        Self { addr, log, cuts, shutdown, budget, thread: Some(thread) }
    }

    pub fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.addr).unwrap())
    }

    /// Whether the worker's thread has ended, within the deadline.
    pub fn join(&mut self) {
        self.shutdown.begin();
        self.ended();
    }

    /// Waits for the end of the worker, which nobody asks for.
    pub fn ended(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.join();
    }
}

/// A raw connection, with what was read and not yet asked for.
pub struct Peer {
    pub stream: TcpStream,
    pub tls: Option<rustls::ClientConnection>,
    /// How the other side ended: in order, or broken off.
    pub ended: Option<std::io::Result<()>>,
    pending: Vec<u8>,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, tls: None, ended: None, pending: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write_all(bytes.as_ref()).unwrap();
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls, &mut self.stream);
                stream.write_all(bytes).and_then(|()| stream.flush())
            }
            None => self.stream.write_all(bytes),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.stream).read(bytes),
            None => self.stream.read(bytes),
        }
    }

    /// Sends what may no longer be wanted.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.write_all(bytes).is_ok()
    }

    /// Reads more; false at the end, a reset being one.
    fn read_more(&mut self) -> bool {
        let mut bytes = [0; 64 * 1024];
        match self.read(&mut bytes) {
            Ok(read) => {
                if read == 0 {
                    self.ended = Some(Ok(()));
                }
                self.pending.extend_from_slice(&bytes[..read]);
                read > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came in time, after {:?}", String::from_utf8_lossy(&self.pending))
            }
            Err(error) => {
                self.ended = Some(Err(error));
                false
            }
        }
    }

    /// Reads up to and with `end`; `None` when the connection ends before.
    pub fn try_until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.pending.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.pending.split_off(at + end.len());
                return Some(String::from_utf8(std::mem::replace(&mut self.pending, rest)).unwrap());
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    pub fn until(&mut self, end: &str) -> String {
        self.try_until(end).unwrap_or_else(|| panic!("ended after {:?}", String::from_utf8_lossy(&self.pending)))
    }

    pub fn head(&mut self) -> String {
        self.until("\r\n\r\n")
    }

    pub fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.pending.len() < bytes {
            assert!(self.read_more(), "ended after {} of {bytes}", self.pending.len());
        }
        let rest = self.pending.split_off(bytes);
        std::mem::replace(&mut self.pending, rest)
    }

    /// A head and the body that its length tells.
    pub fn message(&mut self) -> (String, Vec<u8>) {
        let head = self.head();
        let lower = head.to_ascii_lowercase();
        let length = lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next());
        let body = self.take(length.map_or(0, |length| length.parse().unwrap()));
        (head, body)
    }

    /// All up to the end of the connection.
    pub fn rest(&mut self) -> String {
        while self.read_more() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// Whether the other side has nothing to say for a moment, and is still there.
    pub fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let read = self.stream.read(&mut [0]);
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        self.pending.is_empty() && matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// An upstream that runs `script` with each connection and its number, each on its own thread.
pub struct Upstream {
    pub addr: SocketAddr,
    accepted: Arc<Mutex<usize>>,
}

impl Upstream {
    pub fn start(script: impl Fn(&mut Peer, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, script, accepted) = (listener.local_addr().unwrap(), Arc::new(script), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let number = {
                    let mut count = count.lock().unwrap();
                    *count += 1;
                    *count - 1
                };
                let script = Arc::clone(&script);
                std::thread::spawn(move || script(&mut Peer::new(stream), number));
            }
        });
        Self { addr, accepted }
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

/// Serves requests of known length on a connection, each with `answer`, until it ends.
pub fn serve_all(peer: &mut Peer, answer: impl Fn(&str, &[u8]) -> String) {
    while let Some(head) = peer.try_until("\r\n\r\n") {
        let lower = head.to_ascii_lowercase();
        let length = lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next());
        let body = peer.take(length.map_or(0, |length| length.parse().unwrap()));
        let answer = answer(&head, &body);
        peer.send(answer);
    }
}

pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An address where nothing listens.
pub fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `holds`, within the deadline.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what} did not come to pass");
        std::thread::sleep(Duration::from_millis(2));
    }
}
