//! Owns load of tens of thousands of requests a second from one thread: the same GET each time, sent when it is due, over
//! connections that are there before the first. Of an answer it checks status, length and that nothing follows; all else
//! is for `run`. Must not know how the report is shown.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::check::Trouble;
use super::lane::Lane;
use super::plan::Target;
use super::report::FailureKind;
use super::run::Order;
use super::schedule::Schedule;
use super::tally::Ending;

const EVENTS: usize = 256;
const READ_BYTES: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at orders and at answers that are overdue.
const LOOK: Duration = Duration::from_millis(20);
/// The timer among the connections' numbers.
const TIMER: u64 = u64::MAX;

/// One thread's load, ready to begin.
pub struct Raw {
    lane: Arc<Lane>,
    request: Vec<u8>,
    address: SocketAddr,
    epoll: OwnedFd,
    timer: OwnedFd,
    lines: Vec<Line>,
    /// The last is the one used last.
    idle: Vec<usize>,
    /// Due, and no connection was free: their time goes on counting.
    waiting: VecDeque<Instant>,
    scratch: Vec<u8>,
}

/// One connection, and what it is at.
#[derive(Default)]
struct Line {
    stream: Option<TcpStream>,
    /// When the request under way was due.
    due: Option<Instant>,
    /// The beginning of a head that came in pieces.
    head: Vec<u8>,
    answer: Option<Answer>,
}

/// An answer whose head is in.
#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    length: u64,
    got: u64,
    close: bool,
}

impl Raw {
    pub fn new(lane: Arc<Lane>, connections: usize) -> io::Result<Self> {
        let mut addresses = lane.target.url.address().to_socket_addrs()?;
        let address = addresses.next().ok_or_else(|| io::Error::from(ErrorKind::AddrNotAvailable))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let lines = (0..connections).map(|_| Line::default()).collect();
        let request = head(&lane.target);
        let (idle, waiting) = ((0..connections).rev().collect(), VecDeque::new());
        Ok(Self { lane, request, address, epoll, timer, lines, idle, waiting, scratch: vec![0; READ_BYTES] })
    }

    /// Sends until the end of the duration or an order, and waits for the answers. An error is one of this machine.
    pub fn run(mut self, duration: Option<Duration>, order: impl Fn() -> Order) -> io::Result<()> {
        for number in 0..self.lines.len() {
            // One that cannot be made now is tried again by the request that needs it.
            let _ = self.open(number);
        }
        let schedule = Schedule::new(self.lane.target.rate, duration);
        let mut events = Vec::with_capacity(EVENTS);
        let (begun, mut number, mut looked) = (Instant::now(), 0, Instant::now());
        tick(&self.timer, Duration::from_secs_f64(1.0 / self.lane.target.rate))?;
        let mut due = schedule.due(number);
        loop {
            let now = Instant::now();
            while let Some(next) = due.map(|due| begun + due).filter(|next| *next <= now) {
                self.send(next, now);
                number += 1;
                due = schedule.due(number);
            }
            if now - looked > LOOK {
                looked = now;
                self.give_up(now);
                self.catch_up();
                match order() {
                    Order::Send => {}
                    Order::Stop => due = None,
                    Order::Abort => return Ok(()),
                }
            }
            if due.is_none() && self.waiting.is_empty() && self.idle.len() == self.lines.len() {
                return Ok(());
            }
            events.clear();
            let most = Timespec::try_from(LOOK).map_err(io::Error::other)?;
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&most)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.iter().map(|event: &epoll::Event| event.data.u64()) {
                if event == TIMER {
                    ticked(&self.timer);
                    continue;
                }
                self.readable(event as usize);
                self.catch_up();
            }
        }
    }

    /// A request is due: sends it, or lets it wait for a connection.
    fn send(&mut self, due: Instant, now: Instant) {
        let since = due.saturating_duration_since(self.lane.started.into_std());
        self.lane.tally().sent(since, now - due, false);
        match self.idle.pop() {
            Some(number) => self.ask(number, due),
            None => {
                self.lane.tally().waited_for_connection();
                self.waiting.push_back(due);
            }
        }
    }

    fn ask(&mut self, number: usize, due: Instant) {
        self.lines[number].due = Some(due);
        if self.lines[number].stream.is_none()
            && let Err(error) = self.open(number)
        {
            return self.fail(number, Trouble::new(FailureKind::Connect, error.to_string()));
        }
        let Some(stream) = &mut self.lines[number].stream else { return };
        // The buffers of a connection without a request under way take one whole.
        match stream.write(&self.request) {
            Ok(written) if written == self.request.len() => {}
            Ok(_) => self.fail(number, Trouble::new(FailureKind::Lost, "the connection took half a request")),
            Err(error) => self.fail(number, Trouble::new(FailureKind::Lost, error.to_string())),
        }
    }

    fn open(&mut self, number: usize) -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        self.lane.tally().connection_opened();
        self.lines[number].stream = Some(stream);
        Ok(())
    }

    fn readable(&mut self, number: usize) {
        let line = &mut self.lines[number];
        let Some(stream) = &mut line.stream else { return };
        let read = match stream.read(&mut self.scratch) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(error) => return self.lost(number, &error.to_string()),
        };
        if read == 0 {
            return self.lost(number, "the connection ended");
        }
        match line.take(&self.scratch[..read]) {
            Ok(None) => {}
            Ok(Some(answer)) => self.answered(number, answer),
            Err(trouble) => self.fail(number, trouble),
        }
    }

    /// A connection has ended; between two requests it may.
    fn lost(&mut self, number: usize, how: &str) {
        let line = &mut self.lines[number];
        if line.due.is_none() {
            line.stream = None;
            return;
        }
        let (kind, of) = match &line.answer {
            None => (FailureKind::Lost, "before the head of the answer was whole".to_owned()),
            Some(Answer { got, length, .. }) => {
                (FailureKind::ShortBody, format!("{got} of {length} bytes into the body"))
            }
        };
        self.fail(number, Trouble::new(kind, format!("{how}, {of}")));
    }

    fn answered(&mut self, number: usize, answer: Answer) {
        let request = &self.lane.target.mix.requests()[0];
        let trouble = if answer.status != request.expect_status {
            Some(Trouble::new(
                FailureKind::Status,
                format!("status {}, expected {}", answer.status, request.expect_status),
            ))
        } else {
            let other = request.expect_bytes.filter(|due| *due != answer.length);
            other.map(|due| Trouble::new(FailureKind::Length, format!("{} bytes, expected {due}", answer.length)))
        };
        if answer.close {
            self.lines[number].stream = None;
        }
        self.end(number, Some(answer), trouble);
    }

    /// The request under way has failed, and its connection is of no more use.
    fn fail(&mut self, number: usize, trouble: Trouble) {
        self.lines[number].stream = None;
        self.end(number, None, Some(trouble));
    }

    fn end(&mut self, number: usize, answer: Option<Answer>, trouble: Option<Trouble>) {
        let line = &mut self.lines[number];
        line.head.clear();
        line.answer = None;
        let Some(due) = line.due.take() else { return };
        self.account(due, answer, trouble);
        self.idle.push(number);
    }

    /// Those that waited go first.
    fn catch_up(&mut self) {
        while let (Some(due), Some(number)) = (self.waiting.front().copied(), self.idle.last().copied()) {
            self.waiting.pop_front();
            self.idle.pop();
            self.ask(number, due);
        }
    }

    fn account(&self, due: Instant, answer: Option<Answer>, trouble: Option<Trouble>) {
        let request = &self.lane.target.mix.requests()[0];
        let status = answer.map(|answer| answer.status);
        let failure =
            trouble.map(|trouble| self.lane.failure(request, String::new(), due.into(), trouble, status, None));
        self.lane.tally().ended(Ending {
            at: self.lane.started.elapsed(),
            latency: answer.map(|_| due.elapsed()),
            status,
            version: None,
            body_bytes_sent: 0,
            body_bytes_received: answer.map_or(0, |answer| answer.length),
            frames_echoed: 0,
            post: None,
            failure,
        });
    }

    /// What is overdue has failed.
    fn give_up(&mut self, now: Instant) {
        let timeout = self.lane.timeout;
        let late = || Trouble::new(FailureKind::Timeout, format!("no whole answer within {} ms", timeout.as_millis()));
        let overdue = |due: &Instant| now.saturating_duration_since(*due) > timeout;
        while let Some(due) = self.waiting.front().copied().filter(overdue) {
            self.waiting.pop_front();
            self.account(due, None, Some(late()));
        }
        for number in 0..self.lines.len() {
            if self.lines[number].due.as_ref().is_some_and(overdue) {
                self.fail(number, late());
            }
        }
    }
}

impl Line {
    /// Takes what came; the answer, when it is whole.
    fn take(&mut self, mut bytes: &[u8]) -> Result<Option<Answer>, Trouble> {
        if self.due.is_none() {
            self.stream = None;
            return Ok(None);
        }
        let mut answer = match self.answer {
            Some(answer) => answer,
            None if self.head.is_empty() => match parse(bytes)? {
                Some((length, answer)) => {
                    bytes = &bytes[length..];
                    answer
                }
                None => {
                    self.head.extend_from_slice(bytes);
                    return Ok(None);
                }
            },
            None => {
                let before = self.head.len();
                self.head.extend_from_slice(bytes);
                let Some((length, answer)) = parse(&self.head)? else { return Ok(None) };
                bytes = &bytes[length - before..];
                answer
            }
        };
        answer.got += bytes.len() as u64;
        self.answer = Some(answer);
        if answer.got > answer.length {
            return Err(Trouble::new(FailureKind::ExtraBytes, "bytes came after the end of the answer"));
        }
        Ok((answer.got == answer.length).then_some(answer))
    }
}

/// Has the timer tick so often, from now on.
fn tick(timer: &OwnedFd, every: Duration) -> io::Result<()> {
    let every = Timespec::try_from(every).map_err(io::Error::other)?;
    let periodic = Itimerspec { it_interval: every, it_value: every };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &periodic)?;
    Ok(())
}

/// Takes the timer's tick. The kernel has it tick again only once it was read.
fn ticked(timer: &OwnedFd) {
    let _ = rustix::io::read(timer, &mut [0; 8]);
}

/// Reads a head with its length; `None` while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Answer)>, Trouble> {
    let bad = |what: &str| Err(Trouble::new(FailureKind::Protocol, what));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return bad("a head that does not end"),
        Err(error) => return bad(&error.to_string()),
    };
    let field = |name: &str| head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    let given = field("content-length").and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    let Some(body) = given.filter(|_| field("transfer-encoding").is_none()) else {
        return bad("raw traffic takes answers with a Content-Length only");
    };
    let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    Ok(Some((length, Answer { status: head.code.unwrap_or_default(), length: body, got: 0, close })))
}

/// The request: nothing of it is another's name, so that every answer may be any request's.
fn head(target: &Target) -> Vec<u8> {
    let request = &target.mix.requests()[0];
    let mut head = format!("GET {} HTTP/1.1\r\n", target.url.join(&request.path));
    if !target.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {}\r\n", target.url.authority());
    }
    for (name, value) in &target.headers {
        head += &format!("{name}: {value}\r\n");
    }
    (head + "\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line { due: Some(Instant::now()), ..Line::default() }
    }

    #[test]
    fn the_timer_ticks_on() {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN).unwrap();
        tick(&timer, Duration::from_micros(100)).unwrap();
        let most = Timespec::try_from(Duration::from_secs(20)).unwrap();
        for _ in 0..3 {
            let mut events: Vec<epoll::Event> = Vec::with_capacity(1);
            epoll::wait(&epoll, spare_capacity(&mut events), Some(&most)).unwrap();
            assert_eq!(events.len(), 1);
            ticked(&timer);
        }
    }

    #[test]
    fn an_answer_in_pieces_is_the_same_answer() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for size in 1..=answer.len() {
            let mut line = line();
            let whole: Vec<_> = answer.chunks(size).map(|piece| line.take(piece).unwrap()).collect();
            let (last, before) = whole.split_last().unwrap();
            assert!(before.iter().all(Option::is_none), "in pieces of {size}");
            assert!(last.is_some_and(|answer| (answer.status, answer.length, answer.close) == (200, 5, false)));
        }
    }

    #[test]
    fn what_follows_an_answer_or_has_no_length_is_a_failure() {
        for (answer, kind) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", FailureKind::ExtraBytes),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", FailureKind::Protocol),
            ("HTTP/1.1 200 OK\r\n\r\n", FailureKind::Protocol),
            ("SSH-2.0\r\n", FailureKind::Protocol),
        ] {
            assert_eq!(line().take(answer.as_bytes()).err().map(|trouble| trouble.kind), Some(kind), "{answer}");
        }
    }
}
