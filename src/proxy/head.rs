//! Owns what a request's head may say: parsed strictly, normalised once, one meaning or refused (RFC 9112, 3 and 6).
//! Must not know who asks, or where the request goes.

mod host;

use std::mem::MaybeUninit;

use super::answer::Answer;
use super::body::Framing;
use super::buffer::BUFFER_BYTES;
use super::fields::{self, FEW, Kind, Marks, Ruled, is, kind, same};
use super::limits::Limits;
use super::path::{self, Bytes};
use super::plain::{self, Fields, Storage};
use super::writer::HeadWriter;
use host::host;

/// Header fields of one head that can be read at all; what is allowed is in the limits.
pub(super) const HEADERS: usize = 128;
/// By which nodes know a request: whoever names them in `Connection` does not take them away.
const NAMES_OF_REQUESTS: [&str; 2] = ["x-request-id", "traceparent"];

/// A request's head that is well-formed and unambiguous.
#[derive(Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// Normalised; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// What follows `?`, as it came.
    pub query: Option<&'a str>,
    /// As it came, with its port; of the target where that is absolute. Empty only in HTTP/1.0.
    pub host: &'a str,
    pub headers: &'a [httparse::Header<'a>],
    pub body: Framing,
    /// Asks to become a WebSocket.
    pub websocket: bool,
    /// Waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    pub http10: bool,
    /// The client wants the connection kept.
    pub keep_alive: bool,
    /// `Connection` names fields beyond the usual.
    lists_headers: bool,
    marks: Marks,
    plain: bool,
    /// All of it, as it came.
    bytes: &'a [u8],
}

/// The value of the first field of that name, in any case.
pub fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Whether a name is `Neap-*`; also with `_`, since many programs see no difference.
pub fn is_neap_header(name: &str) -> bool {
    kind(name) == Kind::Neap
}

impl<'a> RequestHead<'a> {
    /// The first field of that name, when it is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        header(self.headers, name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether repeating the request does no more than sending it once (RFC 9110, 9.2.2).
    pub fn idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }

    /// Writes the forwarded head, without framing and without its last line. Of the fields that only pass, `keeps` is asked.
    pub(super) fn write(&self, strip: usize, keeps: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        let path = self.path.get(strip..).unwrap_or(self.path);
        if strip > 0 && !path.starts_with('/') {
            out.push(b'/');
        }
        out.extend_from_slice(path.as_bytes());
        if let Some(query) = self.query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        HeadWriter::new(out).add_clean("Host", self.host.as_bytes());
        let passes = |field: &httparse::Header<'_>, marked: bool| {
            !marked && keeps(field.name) && !(self.lists_headers && self.is_listed(field.name))
        };
        fields::copy(self.bytes, self.headers, self.marks, self.plain, 0, passes, out);
    }
}

impl RequestHead<'_> {
    fn is_listed(&self, name: &str) -> bool {
        let named = |known: &str| known.eq_ignore_ascii_case(name);
        connection_tokens(self.headers).any(named) && !NAMES_OF_REQUESTS.into_iter().any(named)
    }
}

/// Fields that concern one connection only.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    kind(name) == Kind::HopByHop
}

/// What the `Connection` fields name.
pub(super) fn connection_tokens<'a>(headers: &'a [httparse::Header<'a>]) -> impl Iterator<Item = &'a str> {
    tokens(headers, "connection")
}

/// The comma-separated parts of all fields of a name, trimmed, none empty.
pub(super) fn tokens<'a>(headers: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    let text = fields.map(|header| std::str::from_utf8(header.value).unwrap_or(""));
    text.flat_map(|value| value.split(','))
        .map(|token| token.trim_matches([' ', '\t']))
        .filter(|token| !token.is_empty())
}

/// Parses a head at the start of `bytes` and hands it, with its length, to `f`. `None`: more bytes are needed.
pub(super) fn parse<T>(
    bytes: &[u8],
    limits: &Limits,
    f: impl FnOnce(&RequestHead<'_>, usize) -> T,
) -> Result<Option<T>, Answer> {
    let mut storage = [const { MaybeUninit::uninit() }; HEADERS];
    let read = match plain::request(bytes, &mut storage) {
        Some(read) => read,
        None => match judged(bytes, &mut storage, limits)? {
            Some(read) => read,
            None => return too_long(bytes, limits).map_or(Ok(None), Err),
        },
    };
    let plain::Request { method, target, http10, fields: Fields { headers, with_rules, length, plain } } = read;
    if length > limits.head_bytes {
        return Err(head_too_large(format!("the head has more than {} bytes", limits.head_bytes)));
    }
    let target = Target::parse(method, target, limits)?;
    let path = match target.path {
        "*" => "*".into(),
        path => path::normalise(path, target.bytes).ok_or_else(|| malformed("the path has a broken percent escape"))?,
    };
    // What was escaped is longer.
    if path.len() + target.query.map_or(0, |query| query.len() + 1) > limits.target_bytes {
        return Err(target_too_long(limits));
    }
    if headers.len() > limits.fields {
        return Err(too_many_fields(limits));
    }
    let mut few = FEW;
    let Ruled { headers: ruled, marks } = Ruled::of(headers, with_rules, &mut few);
    let host = host(ruled, target.authority, http10)?;
    let body = Framing::of_request(ruled, http10).map_err(malformed)?;
    let connection = Connection::of(ruled);
    let head = RequestHead {
        method,
        path: &path,
        query: target.query,
        host,
        headers,
        body,
        websocket: connection.upgrade && method == "GET" && !http10 && body == Framing::Empty && asks_websocket(ruled),
        expects_continue: expects_continue(ruled, http10)?,
        http10,
        keep_alive: !connection.close && (!http10 || connection.keep_alive),
        lists_headers: connection.lists,
        marks,
        plain,
        bytes: &bytes[..length],
    };
    Ok(Some(f(&head, length)))
}

/// Reads what is not plain, or has no one meaning. `None`: more bytes are needed.
#[cold]
fn judged<'f, 'a>(
    bytes: &'a [u8],
    storage: &'f mut Storage<'a>,
    limits: &Limits,
) -> Result<Option<plain::Request<'f, 'a>>, Answer> {
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, storage) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(too_many_fields(limits)),
        Err(httparse::Error::Version) => return Err(bad_version(bytes)),
        Err(error) => return Err(malformed(format!("the request's head is malformed: {error}"))),
    };
    // One that is too long is told so first.
    if length <= limits.head_bytes && has_bare_lf(&bytes[..length]) {
        return Err(malformed("a line of the head ends without CR"));
    }
    Ok(Some(plain::Request {
        method: parsed.method.unwrap_or_default(),
        target: parsed.path.unwrap_or_default(),
        http10: parsed.version == Some(0),
        fields: Fields { headers: parsed.headers, with_rules: u128::MAX, length, plain: false },
    }))
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
    bytes: Bytes,
}

impl<'a> Target<'a> {
    fn parse(method: &str, target: &'a str, limits: &Limits) -> Result<Self, Answer> {
        if target.len() > limits.target_bytes {
            return Err(target_too_long(limits));
        }
        match method {
            "CONNECT" | "TRACE" => return Err(method_refused(method)),
            _ => {}
        }
        let bytes = Bytes::of(target);
        if target == "*" && method == "OPTIONS" {
            return Ok(Self { authority: None, path: target, query: None, bytes });
        }
        if bytes == Bytes::Refused {
            return Err(malformed("the target has a character that must be percent-encoded"));
        }
        let (authority, rest) = match target.starts_with('/') {
            true => (None, target),
            false => split_absolute(target).ok_or_else(|| malformed("the target is neither a path nor an http URL"))?,
        };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let path = match path {
            // All that the host has (RFC 9112, 3.2.4).
            "" if method == "OPTIONS" && query.is_none() => "*",
            "" => "/",
            path => path,
        };
        Ok(Self { authority, path, query, bytes })
    }
}

fn split_absolute(target: &str) -> Option<(Option<&str>, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")) {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (end > 0).then(|| (Some(&rest[..end]), &rest[end..]))
}

/// What the `Connection` fields say.
#[derive(Default)]
pub(super) struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// They name fields beyond the usual.
    pub lists: bool,
}

impl Connection {
    pub fn of(headers: &[httparse::Header<'_>]) -> Self {
        let mut connection = Self::default();
        for field in headers.iter().filter(|header| is(header.name, b"connection")) {
            // One token is what nearly every field is.
            if !connection.hear(field.value) {
                for token in tokens(std::slice::from_ref(field), "connection") {
                    connection.lists |= !connection.hear(token.as_bytes());
                }
            }
        }
        connection
    }

    /// Whether it is one of the tokens that mean something here.
    fn hear(&mut self, token: &[u8]) -> bool {
        let meant = match token.len() {
            5 if same(token, b"close") => &mut self.close,
            7 if same(token, b"upgrade") => &mut self.upgrade,
            10 if same(token, b"keep-alive") => &mut self.keep_alive,
            _ => return false,
        };
        *meant = true;
        true
    }
}

fn asks_websocket(headers: &[httparse::Header<'_>]) -> bool {
    tokens(headers, "upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
}

fn expects_continue(headers: &[httparse::Header<'_>], http10: bool) -> Result<bool, Answer> {
    let mut expectations = headers.iter().filter(|header| is(header.name, b"expect"));
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.value.eq_ignore_ascii_case(b"100-continue") => Ok(!http10),
        _ => Err(Answer::new(417, "expectation_failed", "the only expectation known is one 100-continue").closing()),
    }
}

/// Looks at all bytes at once rather than one by one, which compiles to vector instructions.
fn has_bare_lf(head: &[u8]) -> bool {
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    head.first() == Some(&b'\n')
        || pairs.fold(0, |bad, (a, b)| bad | u8::from(*b == b'\n') & u8::from(*a != b'\r')) != 0
}

/// Whether an unfinished head can no longer be within its bounds.
fn too_long(bytes: &[u8], limits: &Limits) -> Option<Answer> {
    let line_ended = bytes.contains(&b'\n');
    // The method, the version and the spaces come with the target.
    if !line_ended && bytes.len() > limits.target_bytes + 64 {
        return Some(target_too_long(limits));
    }
    (bytes.len() >= limits.head_bytes.min(BUFFER_BYTES))
        .then(|| head_too_large(format!("the head has more than {} bytes", limits.head_bytes)))
}

/// Whether the empty line that ends a head has come; looks at no byte twice.
pub(super) fn has_end(bytes: &[u8], searched: &mut usize) -> bool {
    let from = searched.saturating_sub(2);
    *searched = bytes.len();
    let lines = bytes.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b'\n');
    lines.map(|(at, _)| &bytes[at + 1..]).any(|rest| rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
}

/// 400: what was sent has no one meaning, so the connection ends with it.
pub(super) fn malformed(detail: impl Into<String>) -> Answer {
    Answer::new(400, "malformed_request", detail).closing()
}

fn head_too_large(detail: String) -> Answer {
    Answer::new(431, "head_too_large", detail).hint("send fewer or smaller cookies and header fields").closing()
}

fn target_too_long(limits: &Limits) -> Answer {
    Answer::new(414, "target_too_long", format!("the target has more than {} bytes", limits.target_bytes)).closing()
}

fn too_many_fields(limits: &Limits) -> Answer {
    head_too_large(format!("the head has more than {} fields", limits.fields))
}

fn method_refused(method: &str) -> Answer {
    Answer::new(405, "method_refused", format!("{method} is not served here"))
        .header("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        .closing()
}

/// Another version of HTTP, or something else where one should stand.
fn bad_version(bytes: &[u8]) -> Answer {
    let mut lines = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).filter(|line| !line.is_empty());
    let words: Vec<&[u8]> = lines.next().unwrap_or_default().split(|byte| *byte == b' ').collect();
    match words[..] {
        [_, _, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..], ..] => {
            Answer::new(505, "version_not_supported", "HTTP/1.1 and HTTP/1.0 are spoken here").closing()
        }
        _ => malformed("the request line does not end in HTTP/1.1 or HTTP/1.0"),
    }
}

#[cfg(test)]
mod tests;
