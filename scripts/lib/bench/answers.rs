//! Answers every request with the same 1 KiB, from one thread: read, write, wait. What stands behind the proxies of
//! `scripts/bench path` where it and the generator share a core, so that the proxy is what is full. Requests are GETs without a
//! body; nothing else is understood. The benchmark compiles it by itself, without a crate: epoll is called as the C library has it.
//!
//! ```text
//! answers PORT [HEADER]     listens on 127.0.0.1:PORT; HEADER is one more line of each answer's head
//! ```

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

const BODY_BYTES: usize = 1024;
const EVENTS: usize = 256;
const READ_BYTES: usize = 64 * 1024;
/// The listener among the connections' numbers.
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    /// Of a head's end, how many bytes have been seen: a head may come in pieces.
    ending: usize,
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args
        .next()
        .and_then(|port| port.parse::<u16>().ok())
        .ok_or(io::Error::other("usage: answers PORT [HEADER]"))?;
    let more = args.next().map(|line| line + "\r\n").unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nServer: answers\r\nDate: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Type: text/html\r\n\
         Content-Length: {BODY_BYTES}\r\nConnection: keep-alive\r\n{more}\r\n{}",
        "x".repeat(BODY_BYTES)
    );
    serve(&TcpListener::bind(("127.0.0.1", port))?, answer.as_bytes())
}

/// As epoll_ctl(2) has it, on x86-64 without room between the two.
#[derive(Clone, Copy, Default)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct Event {
    events: u32,
    number: u64,
}

const EPOLLIN: u32 = 1;
const EPOLL_CTL_ADD: i32 = 1;

unsafe extern "C" {
    fn epoll_create1(flags: i32) -> RawFd;
    fn epoll_ctl(epoll: RawFd, what: i32, of: RawFd, event: *mut Event) -> i32;
    fn epoll_wait(epoll: RawFd, events: *mut Event, most: i32, milliseconds: i32) -> i32;
}

fn done(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn serve(listener: &TcpListener, answer: &[u8]) -> io::Result<()> {
    // SAFETY: of the three calls: descriptors are open, and `events` has room for as many as it is said to have.
    let epoll = done(unsafe { epoll_create1(0) })?;
    let add = |of: &dyn AsRawFd, number| {
        done(unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, of.as_raw_fd(), &mut Event { events: EPOLLIN, number }) })
    };
    add(listener, LISTENER)?;
    let (mut connections, mut free) = (Vec::<Option<Connection>>::new(), Vec::<usize>::new());
    let (mut events, mut scratch) = ([Event::default(); EVENTS], vec![0; READ_BYTES]);
    loop {
        let came = match done(unsafe { epoll_wait(epoll, events.as_mut_ptr(), EVENTS as i32, -1) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            came => came? as usize,
        };
        for event in &events[..came] {
            let number = event.number;
            if number == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                let number = free.pop().unwrap_or_else(|| {
                    connections.push(None);
                    connections.len() - 1
                });
                add(&stream, number as u64)?;
                connections[number] = Some(Connection { stream, ending: 0 });
                continue;
            }
            let number = number as usize;
            let goes_on =
                connections[number].as_mut().is_some_and(|one| one.answer(answer, &mut scratch).unwrap_or(false));
            if !goes_on {
                connections[number] = None;
                free.push(number);
            }
        }
    }
}

impl Connection {
    /// Reads once, and answers each request that is whole; `false` at the connection's end.
    fn answer(&mut self, answer: &[u8], scratch: &mut [u8]) -> io::Result<bool> {
        let read = self.stream.read(scratch)?;
        let mut rest = &scratch[..read];
        while let Some(at) = self.end_of_head(rest) {
            self.stream.write_all(answer)?;
            rest = &rest[at..];
        }
        Ok(read > 0)
    }

    /// Where the first head ends in what came.
    fn end_of_head(&mut self, bytes: &[u8]) -> Option<usize> {
        const END: &[u8] = b"\r\n\r\n";
        for (at, byte) in bytes.iter().enumerate() {
            self.ending = if *byte == END[self.ending] { self.ending + 1 } else { usize::from(*byte == b'\r') };
            if self.ending == END.len() {
                self.ending = 0;
                return Some(at + 1);
            }
        }
        None
    }
}
