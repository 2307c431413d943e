//! Answers every request with the same 1 KiB, from one thread: read, write, wait. What stands behind the proxies of
//! `scripts/bench path` where it and the generator share a core, so that the proxy is what is full. Requests are GETs without a
//! body; nothing else is understood.
//!
//! ```text
//! answers PORT [HEADER]     listens on 127.0.0.1:PORT; HEADER is one more line of each answer's head
//! ```

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

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

fn serve(listener: &TcpListener, answer: &[u8]) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let add = |of: rustix::fd::BorrowedFd<'_>, number| {
        epoll::add(&epoll, of, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
    };
    add(listener.as_fd(), LISTENER)?;
    let (mut connections, mut free) = (Vec::<Option<Connection>>::new(), Vec::<usize>::new());
    let (mut events, mut scratch) = (Vec::with_capacity(EVENTS), vec![0; READ_BYTES]);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let event: &epoll::Event = event;
            if event.data.u64() == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                let number = free.pop().unwrap_or_else(|| {
                    connections.push(None);
                    connections.len() - 1
                });
                add(stream.as_fd(), number as u64)?;
                connections[number] = Some(Connection { stream, ending: 0 });
                continue;
            }
            let number = event.data.u64() as usize;
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
