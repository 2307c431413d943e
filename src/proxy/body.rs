//! Owns how bodies are framed: lengths, chunks and trailers, read strictly and written anew (RFC 9112, 6 and 7).
//! Must not know connections.

use std::io::Write;

use super::fields::is;
use super::forwarded::is_forwarding_header;
use super::head::{HEADERS, is_hop_by_hop, is_neap_header};
use super::writer::HeadWriter;

/// Bytes of one chunk-size line, with its extensions.
const SIZE_LINE_BYTES: usize = 1024;
/// Bytes of all trailers of one body.
const TRAILER_BYTES: usize = 8 * 1024;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// The connection's end; responses only.
    UntilClose,
}

impl Framing {
    /// The framing of a request; the error says what is ambiguous.
    pub(super) fn of_request(headers: &[httparse::Header<'_>], http10: bool) -> Result<Self, &'static str> {
        let lengths = headers.iter().filter(|header| is(header.name, b"content-length")).count();
        let mut codings = headers.iter().filter(|header| is(header.name, b"transfer-encoding"));
        match (codings.next(), codings.next(), lengths) {
            (None, _, 0) => Ok(Self::Empty),
            (None, _, 1) => headers
                .iter()
                .find(|header| is(header.name, b"content-length"))
                .and_then(|header| parse_length(header.value))
                .map(Self::Length)
                .ok_or("Content-Length is not a number"),
            (None, _, _) => Err("there are several Content-Length fields"),
            (Some(_), _, 1..) => Err("there are both Content-Length and Transfer-Encoding"),
            (Some(_), Some(_), _) => Err("there are several Transfer-Encoding fields"),
            (Some(_), _, _) if http10 => Err("HTTP/1.0 has no Transfer-Encoding"),
            (Some(coding), _, _) if coding.value.eq_ignore_ascii_case(b"chunked") => Ok(Self::Chunked),
            (Some(_), _, _) => Err("the only Transfer-Encoding known is chunked"),
        }
    }

    /// The framing of a response's body, where its status and the request's method allow one (RFC 9112, 6.3).
    pub(super) fn of_response(headers: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let mut codings = headers.iter().filter(|header| is(header.name, b"transfer-encoding"));
        if let Some(coding) = codings.next() {
            let chunked = coding.value.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            return if chunked { Ok(Self::Chunked) } else { Err("the only Transfer-Encoding known is chunked") };
        }
        let mut lengths = headers.iter().filter(|header| is(header.name, b"content-length"));
        let Some(first) = lengths.next() else { return Ok(Self::UntilClose) };
        if lengths.any(|other| other.value != first.value) {
            return Err("there are several Content-Length fields that differ");
        }
        parse_length(first.value).map(Self::Length).ok_or("Content-Length is not a number")
    }
}

/// Digits only, no sign, no list, no overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0, |length, digit| match digit.wrapping_sub(b'0') {
        digit @ 0..=9 => Some(length * 10 + u64::from(digit)),
        _ => None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes left of a body of known length.
    Length(u64),
    UntilClose,
    /// In the line that tells a chunk's size; the size so far.
    Size {
        digits: u8,
        size: u64,
        line: usize,
    },
    /// After `;` in that line.
    Extension {
        size: u64,
        line: usize,
    },
    /// After CR of that line.
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Reads a body piece by piece.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    trailers: Vec<u8>,
}

/// What [`Decoder::next`] found: the bytes it used, of which the last `data` are body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub used: usize,
    pub data: usize,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, size: 0, line: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Vec::new() }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of a body of known length that have not come.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Tells that so many bytes of a body of known length went another way, at most those that are left.
    pub fn skip(&mut self, bytes: u64) {
        if let State::Length(left) = self.state {
            self.state = self.after_data(left - bytes);
        }
    }

    /// Tells that the connection has ended; whether the body is whole.
    pub fn end(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// Uses framing at the start of `input` and at most one run of body after it. With input left and the body not
    /// done, it always uses something.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, &'static str> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            match self.state {
                State::Length(left) | State::Data(left) => {
                    let data = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    self.state = self.after_data(left - data as u64);
                    return Ok(Piece { used: used + data, data });
                }
                State::UntilClose => return Ok(Piece { used: input.len(), data: rest.len() }),
                State::Done => break,
                State::Trailers => used += self.read_trailers(rest)?,
                _ => {
                    self.state = self.after_byte(rest[0])?;
                    used += 1;
                }
            }
        }
        Ok(Piece { used, data: 0 })
    }

    fn after_data(&self, left: u64) -> State {
        match (self.state, left) {
            (State::Data(_), 0) => State::DataCr,
            (State::Data(_), left) => State::Data(left),
            (_, 0) => State::Done,
            (_, left) => State::Length(left),
        }
    }

    fn after_byte(&self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::Size { line, .. } | State::Extension { line, .. }, _) if line >= SIZE_LINE_BYTES => {
                Err("a chunk's size line is too long")
            }
            (State::Size { digits, size, line }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 15 {
                    return Err("a chunk's size is too large");
                }
                let digit = u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                Ok(State::Size { digits: digits + 1, size: size * 16 + digit, line: line + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err("a chunk has no size"),
            (State::Size { size, line, .. }, b';') => Ok(State::Extension { size, line: line + 1 }),
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => Ok(State::SizeLf(size)),
            (State::Size { .. }, _) => Err("a chunk's size is not a hexadecimal number"),
            (State::Extension { .. }, b'\n' | 0) => Err("a chunk's extension is malformed"),
            (State::Extension { size, line }, _) => Ok(State::Extension { size, line: line + 1 }),
            (State::SizeLf(0), b'\n') => Ok(State::Trailers),
            (State::SizeLf(size), b'\n') => Ok(State::Data(size)),
            (State::SizeLf(_), _) => Err("a chunk's size line does not end in CR LF"),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0, size: 0, line: 0 }),
            _ => Err("a chunk does not end in CR LF"),
        }
    }

    /// Collects trailers up to their empty line; bytes used.
    fn read_trailers(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        for (at, &byte) in rest.iter().enumerate() {
            self.trailers.push(byte);
            if byte == b'\n' && !self.trailers.ends_with(b"\r\n") {
                return Err("a trailer does not end in CR LF");
            }
            if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                self.check_trailers()?;
                self.state = State::Done;
                return Ok(at + 1);
            }
            if self.trailers.len() > TRAILER_BYTES {
                return Err("the trailers are too large");
            }
        }
        Ok(rest.len())
    }

    fn check_trailers(&self) -> Result<(), &'static str> {
        let mut storage = [httparse::EMPTY_HEADER; HEADERS];
        match httparse::parse_headers(&self.trailers, &mut storage) {
            Ok(httparse::Status::Complete(_)) => Ok(()),
            _ => Err("the trailers are malformed"),
        }
    }

    /// Writes the end of a chunked body, with the trailers that may be passed on.
    pub fn write_end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"0\r\n");
        if self.trailers.len() > 2 {
            let mut storage = [httparse::EMPTY_HEADER; HEADERS];
            if let Ok(httparse::Status::Complete((_, trailers))) = httparse::parse_headers(&self.trailers, &mut storage)
            {
                let mut writer = HeadWriter::new(out);
                trailers.iter().filter(|field| may_trail(field.name)).for_each(|field| writer.copy(field));
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Fields that decide about framing, routing, access, or how a message is to be understood have no business in trailers
/// (RFC 9110, 6.5.1): some programs take them for the head's.
fn may_trail(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "content-length",
        "host",
        "trailer",
        "authorization",
        "cookie",
        "set-cookie",
        "expect",
        "content-encoding",
        "content-type",
        "content-range",
        "range",
        "cache-control",
        "max-forwards",
        "location",
    ];
    let conditional = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("if-"));
    !(is_hop_by_hop(name)
        || is_neap_header(name)
        || is_forwarding_header(name)
        || conditional
        || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)))
}

/// Writes one chunk. An empty one would end the body, so none is written.
pub(super) fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    // Writing to a Vec does not fail.
    let _ = write!(out, "{:x}\r\n", data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
