//! Owns what a response's head may say, and how it is written for the client (RFC 9112, 6.3). Must not know why it came.

use std::mem::MaybeUninit;
use std::time::Duration;

use super::body::Framing;
use super::fields::{self, FEW, Kind, Marks, Ruled, is, kind};
use super::head::{Connection, HEADERS, connection_tokens, header, tokens};
use super::limits::HeadBounds;
use super::plain::{self, Fields, Storage};
use super::writer::push_number;

/// A response's head that is well-formed.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    pub status: u16,
    pub reason: &'a str,
    pub headers: &'a [httparse::Header<'a>],
    pub body: Framing,
    /// The upstream keeps the connection.
    pub(super) keep_alive: bool,
    /// For how long it keeps an idle one, where it says so.
    pub(super) keeps_for: Option<Duration>,
    /// `Connection` names fields beyond the usual.
    lists_headers: bool,
    marks: Marks,
    plain: bool,
    /// All of it, as it came.
    bytes: &'a [u8],
}

impl<'a> ResponseHead<'a> {
    /// The first field of that name, when it is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        header(self.headers, name).and_then(|value| std::str::from_utf8(value).ok())
    }

    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.iter().find(|field| is(field.name, b"content-type"));
        kind.and_then(|kind| kind.value.get(..17)).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    }

    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    pub(super) fn accepts_websocket(&self) -> bool {
        self.status == 101 && tokens(self.headers, "upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
    }

    /// Writes the status line and the fields that concern the client, without framing and without the last line.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let line = self.line_as_it_is_written();
        if line == 0 {
            out.extend_from_slice(b"HTTP/1.1 ");
            push_number(out, self.status.into());
            out.push(b' ');
            out.extend_from_slice(self.reason.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let listed = |name: &str| connection_tokens(self.headers).any(|token| token.eq_ignore_ascii_case(name));
        let passes = |field: &httparse::Header<'_>, marked: bool| match marked {
            false => !(self.lists_headers && listed(field.name)),
            // Of the fields with a rule, only the length is one of an answer's.
            true => kind(field.name) == Kind::Ruled && !is(field.name, b"content-length"),
        };
        fields::copy(self.bytes, self.headers, self.marks, self.plain, line, passes, out);
    }

    /// Bytes of the status line, where it came as it would be written.
    fn line_as_it_is_written(&self) -> usize {
        if !(self.plain && self.bytes.starts_with(b"HTTP/1.1 ")) {
            return 0;
        }
        match self.headers.first() {
            Some(first) => first.name.as_ptr().addr().wrapping_sub(self.bytes.as_ptr().addr()),
            // Only the empty line follows.
            None => self.bytes.len() - 2,
        }
    }
}

/// Parses a head at the start of `bytes` and hands it, with its length, to `f`. `None`: more bytes are needed.
pub(super) fn parse<T>(
    bytes: &[u8],
    answers_head: bool,
    bounds: HeadBounds,
    f: impl FnOnce(&ResponseHead<'_>, usize) -> T,
) -> Result<Option<T>, &'static str> {
    let mut storage = [const { MaybeUninit::uninit() }; HEADERS];
    let read = match plain::response(bytes, &mut storage) {
        Some(read) => read,
        None => match judged(bytes, &mut storage)? {
            Some(read) => read,
            None => return Ok(None),
        },
    };
    let plain::Response { http10, status, reason, fields: Fields { headers, with_rules, length, plain } } = read;
    if !(100..=999).contains(&status) {
        return Err("the response's status is not one");
    }
    if headers.len() > bounds.fields || length > bounds.bytes {
        return Err("the response's head is too large");
    }
    let mut few = FEW;
    let Ruled { headers: ruled, marks } = Ruled::of(headers, with_rules, &mut few);
    let framing = Framing::of_response(ruled)?;
    let body = if answers_head || status < 200 || status == 204 || status == 304 { Framing::Empty } else { framing };
    let connection = Connection::of(ruled);
    // Of two framings, or of one that its version does not have (RFC 9112, 6.1).
    let doubtful = framing == Framing::Chunked && (http10 || header(ruled, "content-length").is_some());
    let keep_alive = !connection.close && (!http10 || connection.keep_alive);
    let head = ResponseHead {
        status,
        reason,
        headers,
        body,
        // A response of doubtful framing is read by the stronger, and its connection is not trusted with another.
        keep_alive: keep_alive && !doubtful && body != Framing::UntilClose,
        keeps_for: header(ruled, "keep-alive").and_then(announced),
        lists_headers: connection.lists,
        marks,
        plain,
        bytes: &bytes[..length],
    };
    Ok(Some(f(&head, length)))
}

/// Reads what is not plain. `None`: more bytes are needed.
#[cold]
fn judged<'f, 'a>(
    bytes: &'a [u8],
    storage: &'f mut Storage<'a>,
) -> Result<Option<plain::Response<'f, 'a>>, &'static str> {
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, storage) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err("the response has too many header fields"),
        Err(_) => return Err("the response's head is malformed"),
    };
    Ok(Some(plain::Response {
        http10: parsed.version == Some(0),
        status: parsed.code.unwrap_or_default(),
        reason: parsed.reason.unwrap_or_default(),
        fields: Fields { headers: parsed.headers, with_rules: u128::MAX, length, plain: false },
    }))
}

/// The time of `Keep-Alive: timeout=SECONDS`, among its other parameters.
fn announced(value: &[u8]) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?;
    let parameters = value.split(',').filter_map(|parameter| parameter.trim().split_once('='));
    let mut seconds = parameters.filter(|(name, _)| name.eq_ignore_ascii_case("timeout")).map(|(_, seconds)| seconds);
    seconds.next()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::limits::OF_PROGRAM;

    impl<'a> ResponseHead<'a> {
        /// One with these fields, as programs answer.
        pub(crate) fn of_test(status: u16, headers: &'a [httparse::Header<'a>]) -> Self {
            Self {
                status,
                reason: "",
                headers,
                body: Framing::Empty,
                keep_alive: true,
                keeps_for: None,
                lists_headers: false,
                marks: Marks::default(),
                plain: false,
                bytes: b"",
            }
        }
    }

    #[test]
    fn a_program_may_announce_how_long_it_keeps_idle_connections() {
        for (value, seconds) in [("timeout=5", Some(5)), ("max=100, Timeout=0", Some(0)), ("max=5", None), ("5", None)]
        {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: {value}\r\n\r\n");
            let kept = parse(head.as_bytes(), false, OF_PROGRAM, |head, _| head.keeps_for).unwrap().unwrap();
            assert_eq!(kept, seconds.map(Duration::from_secs), "{value}");
        }
    }

    fn framing(head: &str, answers_head: bool) -> Result<Option<(Framing, bool)>, &'static str> {
        parse(head.as_bytes(), answers_head, OF_PROGRAM, |head, _| (head.body, head.keep_alive))
    }

    #[test]
    fn some_answers_never_have_a_body() {
        let empty = Ok(Some((Framing::Empty, true)));
        assert_eq!(framing("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false), empty);
        assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false), empty);
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), empty);
        assert_eq!(framing("HTTP/1.1 103 Early Hints\r\n\r\n", false), empty);
    }

    #[test]
    fn an_answer_of_two_framings_is_read_by_chunks_and_its_connection_not_reused() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(framing(head, false), Ok(Some((Framing::Chunked, false))));
        let head = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(framing(head, false), Ok(Some((Framing::Chunked, false))));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n";
        assert!(framing(head, false).is_err());
    }

    #[test]
    fn a_status_line_is_written_the_same_however_it_came() {
        for (head, expected) in [
            ("HTTP/1.1 200 All Fine\r\nA: 1\r\nB: 2\r\n\r\n", "HTTP/1.1 200 All Fine\r\nA: 1\r\nB: 2\r\n"),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nA: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\n"),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200 \r\n"),
            ("HTTP/1.1 200\r\nA: 1\r\n\r\n", "HTTP/1.1 200 \r\nA: 1\r\n"),
            ("HTTP/1.0 200 OK\r\nA: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\n"),
            ("HTTP/1.1 200 OK\r\nA:1\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\n"),
        ] {
            let mut out = b"X".to_vec();
            parse(head.as_bytes(), false, OF_PROGRAM, |head, _| head.write(&mut out)).unwrap().unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("X{expected}"), "{head:?}");
        }
    }

    #[test]
    fn a_programs_neap_fields_are_not_written_for_the_client() {
        let head = b"HTTP/1.1 503 No\r\nNeap-Refused: r.1\r\nneap_x: 1\r\nKeep-Alive: timeout=5\r\nX: 1\r\n\r\n";
        let mut out = Vec::new();
        parse(head, false, OF_PROGRAM, |head, _| head.write(&mut out)).unwrap().unwrap();
        assert_eq!(out, b"HTTP/1.1 503 No\r\nX: 1\r\n");
    }
}
