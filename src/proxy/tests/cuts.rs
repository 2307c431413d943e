//! Requests changed at random and cut at random: nothing panics, how a request is cut makes no difference, and what is
//! forwarded of it is one request with one meaning, read by a second reader. It starts from the vectors of
//! `tests/vectors`.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::proxy::body::{Decoder, write_chunk};
use crate::proxy::head::{has_end, parse};
use crate::proxy::{Framing, HeadWriter, Limits, is_neap_header};

#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/vectors/format.rs"]
mod format;
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/vectors/strict.rs"]
mod strict;

const CASES: u32 = 6000;
/// Larger vectors are about bounds.
const VECTOR_BYTES_MAX: usize = 4096;

/// What became of a connection's bytes, in order.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// What is forwarded, its body in one piece.
    Forwarded(Vec<u8>),
    Refused(u16, &'static str),
    /// The bytes ended within a request; whether its head was whole.
    Ended {
        in_body: bool,
    },
}

/// A client's connection as `conn.rs` and `upload.rs` read it, without sockets.
struct Connection<'b> {
    pieces: std::vec::IntoIter<&'b [u8]>,
    input: Vec<u8>,
}

impl Connection<'_> {
    fn fill(&mut self) -> bool {
        let piece = self.pieces.next();
        self.input.extend_from_slice(piece.unwrap_or_default());
        piece.is_some()
    }

    /// Skips empty lines; whether a request begins.
    fn wait(&mut self) -> bool {
        loop {
            while self.input.starts_with(b"\r\n") {
                self.input.drain(..2);
            }
            if !matches!(self.input[..], [] | [b'\r']) {
                return true;
            }
            if !self.fill() {
                return false;
            }
        }
    }

    fn head(&mut self, limits: &Limits) -> Result<(Vec<u8>, Framing), Event> {
        let (mut first, mut searched) = (true, 0);
        loop {
            if std::mem::take(&mut first)
                || has_end(&self.input, &mut searched)
                || self.input.len() > limits.target_bytes
            {
                let parsed = parse(&self.input, limits, |head, length| {
                    let mut out = Vec::new();
                    head.write(0, |name| !is_neap_header(name), &mut out);
                    (out, head.body, length)
                });
                match parsed {
                    Ok(Some((out, body, length))) => {
                        self.input.drain(..length);
                        return Ok((out, body));
                    }
                    Ok(None) => {}
                    Err(answer) => return Err(Event::Refused(answer.status, answer.code)),
                }
            }
            if !self.fill() {
                return Err(Event::Ended { in_body: false });
            }
        }
    }

    fn request(&mut self, limits: &Limits) -> Result<Vec<u8>, Event> {
        let (mut out, framing) = self.head(limits)?;
        let (mut decoder, mut body) = (Decoder::new(framing), Vec::new());
        loop {
            while !self.input.is_empty() && !decoder.is_done() {
                let piece = decoder.next(&self.input).map_err(|_| Event::Refused(400, "malformed_request"))?;
                assert!(piece.used > 0, "a decoder that uses nothing never ends");
                body.extend_from_slice(&self.input[piece.used - piece.data..piece.used]);
                self.input.drain(..piece.used);
            }
            if decoder.is_done() {
                break;
            }
            if !self.fill() {
                return Err(Event::Ended { in_body: true });
            }
        }
        let mut head = HeadWriter::new(&mut out);
        match framing {
            Framing::Length(length) => head.add_display("Content-Length", length),
            Framing::Chunked => head.add("Transfer-Encoding", "chunked"),
            Framing::Empty | Framing::UntilClose => {}
        }
        out.extend_from_slice(b"\r\n");
        match framing {
            Framing::Chunked => {
                write_chunk(&body, &mut out);
                decoder.write_end(&mut out);
            }
            _ => out.extend_from_slice(&body),
        }
        is_one_request(&out, &body);
        Ok(out)
    }
}

#[track_caller]
fn is_one_request(bytes: &[u8], body: &[u8]) {
    match strict::request(bytes) {
        strict::Read::Whole(message, length) => {
            assert_eq!(length, bytes.len(), "more than one request: {}", strict::shown(bytes));
            assert_eq!(message.body, body, "another body: {}", strict::shown(bytes));
        }
        bad => panic!("{bad:?}: {}", strict::shown(bytes)),
    }
}

fn events(pieces: Vec<&[u8]>) -> Vec<Event> {
    let limits = Limits::default();
    let mut connection = Connection { pieces: pieces.into_iter(), input: Vec::new() };
    let mut events = Vec::new();
    while connection.wait() {
        match connection.request(&limits) {
            Ok(forwarded) => events.push(Event::Forwarded(forwarded)),
            Err(end) => {
                events.push(end);
                break;
            }
        }
    }
    events
}

fn cut<'b>(bytes: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// What clients send in the vectors.
fn requests() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    let mut requests: Vec<Vec<u8>> = texts
        .flat_map(|path| format::read(&path.display().to_string(), &fs::read_to_string(&path).unwrap()))
        .map(|vector| {
            let sent = vector.steps.into_iter().filter_map(|step| match step {
                format::Step::Send { router, .. } => Some(router),
                _ => None,
            });
            sent.flatten().collect::<Vec<u8>>()
        })
        .filter(|bytes| (1..VECTOR_BYTES_MAX).contains(&bytes.len()))
        .collect();
    requests.sort();
    requests.dedup();
    assert!(requests.len() > 300, "the vectors are not where they were");
    requests
}

/// One change to a request's bytes.
#[derive(Clone, Debug)]
enum Change {
    Put(Index, Vec<u8>),
    Set(Index, u8),
    Remove(Index, usize),
    /// A stretch of it, once more, somewhere else.
    Repeat {
        from: Index,
        length: usize,
        to: Index,
    },
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let room = bytes.len();
        match self {
            Self::Put(at, what) => drop(bytes.splice(at.index(room + 1)..at.index(room + 1), what.iter().copied())),
            _ if room == 0 => {}
            Self::Set(at, byte) => bytes[at.index(room)] = *byte,
            Self::Remove(at, length) => drop(bytes.drain(at.index(room)..(at.index(room) + length).min(room))),
            Self::Repeat { from, length, to } => {
                let what = bytes[from.index(room)..(from.index(room) + length).min(room)].to_vec();
                bytes.splice(to.index(room)..to.index(room), what);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let words: Vec<&[u8]> = vec![
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"%",
        b"%2e",
        b"/",
        b"..",
        b"?",
        b"#",
        b"\\",
        b"\xff",
        b"\r\n\r\n",
        b"\r\n ",
        b"0\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"Host: b\r\n",
        b"Connection: X, close\r\n",
        b"GET / HTTP/1.1\r\nHost: c\r\n\r\n",
        b"HTTP/1.1",
        b"http://b",
        b"Expect: 100-continue\r\n",
    ];
    let word = prop::sample::select(words).prop_map(<[u8]>::to_vec);
    let byte = prop_oneof![prop::sample::select(b"\r\n \t:;,/%.0\0\x7f\x80".to_vec()), any::<u8>()];
    prop_oneof![
        (any::<Index>(), word).prop_map(|(at, word)| Change::Put(at, word)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), 1..9_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<Index>(), 1..60_usize, any::<Index>()).prop_map(|(from, length, to)| Change::Repeat {
            from,
            length,
            to
        }),
    ]
}

fn seed() -> [u8; 32] {
    let given = std::env::var("NEAP_TEST_SEED").ok();
    let number: u64 = given.map_or_else(rand::random, |number| number.parse().expect("a number"));
    println!("NEAP_TEST_SEED={number} repeats this run");
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

#[test]
fn how_a_request_is_cut_makes_no_difference_and_what_is_forwarded_is_one_request() {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed()));
    let given = (
        prop::collection::vec(prop::sample::select(requests()), 1..3),
        prop::collection::vec(change(), 0..5),
        prop::collection::vec(any::<Index>(), 0..9),
        any::<bool>(),
    );
    let ran = runner.run(&given, |(requests, changes, cuts, each_byte)| {
        let mut bytes = requests.concat();
        changes.iter().for_each(|change| change.apply(&mut bytes));
        // A head that does not end is looked at only as it comes, not once more: let each end.
        bytes.extend_from_slice(b"\r\n\r\n");
        let at_once = events(vec![&bytes]);
        prop_assert_eq!(&events(cut(&bytes, &cuts)), &at_once);
        if each_byte {
            prop_assert_eq!(&events(bytes.chunks(1).collect()), &at_once);
        }
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_vector_is_read_the_same_byte_by_byte() {
    let (mut forwarded, mut refused) = (0, 0);
    for mut bytes in requests() {
        bytes.extend_from_slice(b"\r\n\r\n");
        let at_once = events(vec![&bytes]);
        assert_eq!(events(bytes.chunks(1).collect()), at_once, "{}", strict::shown(&bytes));
        match at_once.first() {
            Some(Event::Forwarded(_)) => forwarded += 1,
            _ => refused += 1,
        }
    }
    assert!(forwarded > 100 && refused > 100, "{forwarded} and {refused}");
}
