//! Owns the far end: an upstream that does as the vector says, reads every byte strictly and remembers what it saw.
//! Must not know what is expected.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rustix::net::sockopt;

use super::format::{PLAIN, Script, Then};
use super::strict::{self, Message, Read};

pub const DEADLINE: Duration = Duration::from_secs(10);
/// A request between two vectors: it shows that nothing else is on its way.
pub const PROBE: &str = "/.probe";
pub const PROBED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nprobed";

/// What came on a connection.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: usize,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Request(Message),
    Probe,
    /// The connection ended within this request.
    Part(Message),
    Bad(String),
}

#[derive(Default)]
struct State {
    scripts: VecDeque<Script>,
    seen: Vec<Seen>,
    connections: usize,
    open: BTreeMap<usize, TcpStream>,
}

/// Shared by its connections' threads.
#[derive(Clone, Default)]
pub struct Upstream(Arc<(Mutex<State>, Condvar)>);

impl Upstream {
    pub fn on(listener: TcpListener) -> Self {
        let upstream = Self::default();
        let all = upstream.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let number = {
                    let mut state = all.state();
                    state.connections += 1;
                    let number = state.connections;
                    state.open.insert(number, stream.try_clone().unwrap());
                    number
                };
                let one = all.clone();
                std::thread::spawn(move || {
                    one.serve(stream, number);
                    one.state().open.remove(&number);
                    one.0.1.notify_all();
                });
            }
        });
        upstream
    }

    pub fn begin() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Self::on(listener), address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    pub fn tell(&self, scripts: &[Script]) {
        let mut state = self.state();
        state.scripts = scripts.iter().cloned().collect();
        state.seen.clear();
    }

    /// What was seen since it was told, once no connection is open any more.
    pub fn seen(&self) -> Result<Vec<Seen>, String> {
        let state = self.state();
        let (state, late) = self.0.1.wait_timeout_while(state, DEADLINE, |state| !state.open.is_empty()).unwrap();
        if late.timed_out() {
            let open: Vec<_> = state.open.keys().collect();
            return Err(format!("the upstream's connections {open:?} stay open, after {:?}", state.seen));
        }
        Ok(state.seen.clone())
    }

    /// Ends what stays open after a vector that went wrong, so that it spoils no other.
    pub fn close(&self) {
        for stream in self.state().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn saw(&self, connection: usize, what: What) {
        self.state().seen.push(Seen { connection, what });
    }

    fn serve(&self, mut stream: TcpStream, connection: usize) {
        stream.set_nodelay(true).unwrap();
        let mut bytes = Vec::new();
        while self.one(&mut stream, &mut bytes, connection) {}
    }

    /// Serves one request; whether another may follow.
    fn one(&self, stream: &mut TcpStream, bytes: &mut Vec<u8>, connection: usize) -> bool {
        let (mut answered, mut continued) = (None, false);
        loop {
            match strict::request(bytes) {
                Read::Whole(message, length) => {
                    bytes.drain(..length);
                    return self.answer(stream, message, answered, connection);
                }
                Read::Body(message) => {
                    let early = answered.is_none() && self.state().scripts.front().is_some_and(|next| next.early);
                    if early {
                        answered = self.state().scripts.pop_front();
                        let _ = stream.write_all(answered.as_ref().map_or(&[], |script| &script.bytes));
                    } else if message.field("expect").is_some() && !std::mem::replace(&mut continued, true) {
                        // As a server that admits the request.
                        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    if let Some(script) = answered.as_ref().filter(|script| script.then != Then::Stays) {
                        self.saw(connection, What::Part(message));
                        return end(stream, script.then);
                    }
                    if !more(stream, bytes) {
                        self.saw(connection, What::Part(message));
                        return false;
                    }
                }
                Read::Partial => {
                    if !more(stream, bytes) {
                        if !bytes.is_empty() {
                            self.saw(connection, What::Bad(format!("a part of a head: {}", strict::shown(bytes))));
                        }
                        return false;
                    }
                }
                Read::Bad(why) => {
                    self.saw(connection, What::Bad(format!("{why}, in {}", strict::shown(bytes))));
                    return false;
                }
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream, request: Message, answered: Option<Script>, connection: usize) -> bool {
        if request.start.contains(PROBE) {
            self.saw(connection, What::Probe);
            let _ = stream.write_all(PROBED);
            return end(stream, Then::Closes);
        }
        self.saw(connection, What::Request(request));
        if answered.is_some() {
            return true;
        }
        let script = self.state().scripts.pop_front().unwrap_or_default();
        let bytes = if script.bytes.is_empty() && script.then == Then::Stays { PLAIN } else { &script.bytes };
        stream.write_all(bytes).is_ok() && (script.then == Then::Stays || end(stream, script.then))
    }
}

/// Ends a connection; there is no next request on it.
fn end(stream: &TcpStream, then: Then) -> bool {
    match then {
        Then::Resets => sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap(),
        Then::Stays | Then::Closes => {
            let _ = stream.shutdown(Shutdown::Write);
            // Until the other side has ended too: unread bytes would make a reset of it.
            let mut rest = [0; 4096];
            let mut reader = stream;
            while matches!(reader.read(&mut rest), Ok(1..)) {}
        }
    }
    false
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut room = [0; 64 * 1024];
    loop {
        match stream.read(&mut room) {
            Ok(count) => {
                bytes.extend_from_slice(&room[..count]);
                return count > 0;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}
