//! Requests changed at random and cut at random: nothing panics, how a request is cut makes no difference, and what is
//! forwarded of it is one request with one meaning, read by a second reader. It starts from the vectors of
//! `tests/vectors`.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::proxy::body::{Decoder, write_chunk};
use crate::proxy::head::{has_end, parse};
use crate::proxy::{Framing, HeadWriter, Limits, is_neap_header};

#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/vectors/changes.rs"]
mod changes;
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/vectors/format.rs"]
mod format;
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../../../tests/it/vectors/strict.rs"]
mod strict;

use changes::{change, requests, runner};

const CASES: u32 = 6000;

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

#[test]
fn how_a_request_is_cut_makes_no_difference_and_what_is_forwarded_is_one_request() {
    let given = (
        prop::collection::vec(prop::sample::select(requests()), 1..3),
        prop::collection::vec(change(), 0..5),
        prop::collection::vec(any::<Index>(), 0..9),
        any::<bool>(),
    );
    let ran = runner(CASES).run(&given, |(requests, changes, cuts, each_byte)| {
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
