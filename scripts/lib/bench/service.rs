//! The program of `bench upgrade`: a fixed capacity that CPU freed elsewhere cannot hide. A request sleeps in one of so many
//! slots, and is turned away where none is free. Its start and its stop take as long as they are told to, so that both are
//! known. Run as `service SLOTS SLEEP_MS START_MS STOP_MS DIR`, with PORT in its environment.
//!
//! It notes in `DIR/answers-PID`, by the machine's monotonic clock: how many answers it has given, fifty times a second; when
//! it began, listened, was asked for the first time, answered the last time, was told to end, and ended.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FULL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n";
const TERM: i32 = 15;
const MONOTONIC: i32 = 1;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    fn write(file: i32, bytes: *const u8, count: usize) -> isize;
}

static TOLD_AT: AtomicU64 = AtomicU64::new(0);
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Nanoseconds.
fn now() -> u64 {
    let mut time = [0; 2];
    // SAFETY: `time` is as large as a `timespec` of a machine with 64 bits.
    unsafe { clock_gettime(MONOTONIC, &mut time) };
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

extern "C" fn told(_: i32) {
    TOLD_AT.store(now(), SeqCst);
    // SAFETY: `write` may be called in a handler of signals; the descriptor is open until the process ends.
    unsafe { write(WAKE.load(SeqCst), [1].as_ptr(), 1) };
}

struct Service {
    slots: usize,
    sleep: Duration,
    busy: AtomicUsize,
    answers: AtomicU64,
    asked: AtomicU64,
    last: AtomicU64,
    notes: Mutex<File>,
}

impl Service {
    fn note(&self, what: &str, at: u64) {
        let line = format!("{what} {:.6} {}\n", at as f64 / 1e9, self.answers.load(SeqCst));
        let _ = self.notes.lock().unwrap().write_all(line.as_bytes());
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                let is_probe = seen.starts_with(b"GET /healthz ");
                seen.drain(..end + 4);
                stream.write_all(if is_probe { OK } else { self.take() })?;
            }
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                read => seen.extend_from_slice(&bytes[..read]),
            }
        }
    }

    fn take(&self) -> &'static [u8] {
        if self.asked.fetch_add(1, SeqCst) == 0 {
            self.note("first", now());
        }
        if self.busy.fetch_add(1, SeqCst) >= self.slots {
            self.busy.fetch_sub(1, SeqCst);
            return FULL;
        }
        std::thread::sleep(self.sleep);
        self.busy.fetch_sub(1, SeqCst);
        self.answers.fetch_add(1, SeqCst);
        self.last.store(now(), SeqCst);
        OK
    }
}

fn main() -> std::io::Result<()> {
    let began = now();
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let millis = |at: usize| Duration::from_millis(number(at));
    let notes = Mutex::new(File::create(format!("{}/answers-{}", words[5], std::process::id()))?);
    let service = Arc::new(Service {
        slots: number(1) as usize,
        sleep: millis(2),
        busy: AtomicUsize::new(0),
        answers: AtomicU64::new(0),
        asked: AtomicU64::new(0),
        last: AtomicU64::new(0),
        notes,
    });
    service.note("began", began);
    let (mut woken, wake) = UnixStream::pair()?;
    WAKE.store(wake.as_raw_fd(), SeqCst);
    // SAFETY: the handler does what one may do.
    unsafe { signal(TERM, told) };
    std::thread::sleep(millis(3));
    let port: u16 = std::env::var("PORT").expect("PORT").parse().expect("a port");
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    service.note("listens", now());
    let serving = service.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let service = serving.clone();
            std::thread::spawn(move || service.serve(stream));
        }
    });
    woken.set_read_timeout(Some(Duration::from_millis(20)))?;
    while TOLD_AT.load(SeqCst) == 0 {
        service.note("at", now());
        let _ = woken.read(&mut [0]);
    }
    service.note("told", TOLD_AT.load(SeqCst));
    service.note("last", service.last.load(SeqCst));
    std::thread::sleep(millis(4));
    service.note("ended", now());
    Ok(())
}
