//! Owns what a request's head may say: parsed strictly, normalised once, one meaning or refused (RFC 9112, 3 and 6).
//! Must not know who asks, or where the request goes.

use std::mem::MaybeUninit;

use super::answer::Answer;
use super::body::Framing;
use super::fields::{self, Kind, Ruled, kind};
use super::limits::Limits;
use super::path;
use super::writer::HeadWriter;

/// Header fields of one head; more is 431.
pub(super) const HEADERS: usize = 100;

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

    /// Writes the forwarded head, without framing and without its last line.
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
        HeadWriter::new(out).add("Host", self.host);
        fields::copy(self.bytes, self.headers, |header| self.is_end_to_end(header.name) && keeps(header.name), out);
    }

    fn is_end_to_end(&self, name: &str) -> bool {
        matches!(kind(name), Kind::Passes | Kind::Neap)
            && !(self.lists_headers && connection_tokens(self.headers).any(|token| token.eq_ignore_ascii_case(name)))
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
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut storage) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return too_long(bytes, limits).map_or(Ok(None), Err),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(head_too_large(format!("more than {HEADERS} header fields")));
        }
        Err(httparse::Error::Version) => return Err(unsupported_version()),
        Err(error) => return Err(malformed(format!("the request's head is malformed: {error}"))),
    };
    if length > limits.head_bytes {
        return Err(head_too_large(format!("the head has more than {} bytes", limits.head_bytes)));
    }
    if has_bare_lf(&bytes[..length]) {
        return Err(malformed("a line of the head ends without CR"));
    }
    let http10 = parsed.version == Some(0);
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let target = Target::parse(method, target, limits)?;
    let path = match target.path {
        "*" => "*".into(),
        path => path::normalise(path).ok_or_else(|| malformed("the path has a broken percent escape"))?,
    };
    let headers: &[httparse::Header<'_>] = parsed.headers;
    let ruled = Ruled::of(headers);
    let ruled = ruled.headers();
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
        bytes: &bytes[..length],
    };
    Ok(Some(f(&head, length)))
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(method: &str, target: &'a str, limits: &Limits) -> Result<Self, Answer> {
        if target.len() > limits.target_bytes {
            return Err(target_too_long(limits));
        }
        match method {
            "CONNECT" => return Err(Answer::new(405, "method_refused", "CONNECT is not served here").closing()),
            "TRACE" => return Err(Answer::new(405, "method_refused", "TRACE is not served here").closing()),
            _ => {}
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(Self { authority: None, path: target, query: None });
        }
        if !target.is_ascii() || target.contains('#') {
            return Err(malformed("the target has a character that must be percent-encoded"));
        }
        let (authority, rest) = match target.starts_with('/') {
            true => (None, target),
            false => split_absolute(target).ok_or_else(|| malformed("the target is neither a path nor an http URL"))?,
        };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        Ok(Self { authority, path: if path.is_empty() { "/" } else { path }, query })
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

fn host<'a>(headers: &[httparse::Header<'a>], authority: Option<&'a str>, http10: bool) -> Result<&'a str, Answer> {
    let mut fields = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = match (fields.next(), fields.next()) {
        (_, Some(_)) => return Err(malformed("there are several Host fields")),
        (None, None) if !http10 => return Err(malformed("there is no Host field")),
        (None, None) => "",
        (Some(field), None) => std::str::from_utf8(field.value).map_err(|_| malformed("Host is not text"))?,
    };
    let host = authority.unwrap_or(host);
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&b);
    if host.bytes().all(valid) { Ok(host) } else { Err(malformed("Host is not a name and a port")) }
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
        for token in connection_tokens(headers) {
            match token {
                _ if token.eq_ignore_ascii_case("close") => connection.close = true,
                _ if token.eq_ignore_ascii_case("keep-alive") => connection.keep_alive = true,
                _ if token.eq_ignore_ascii_case("upgrade") => connection.upgrade = true,
                _ => connection.lists = true,
            }
        }
        connection
    }
}

fn asks_websocket(headers: &[httparse::Header<'_>]) -> bool {
    tokens(headers, "upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
}

fn expects_continue(headers: &[httparse::Header<'_>], http10: bool) -> Result<bool, Answer> {
    match header(headers, "expect") {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(!http10),
        Some(_) => Err(Answer::new(417, "expectation_failed", "the only expectation known is 100-continue").closing()),
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
    (bytes.len() >= limits.head_bytes)
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

fn unsupported_version() -> Answer {
    Answer::new(505, "version_not_supported", "HTTP/1.1 and HTTP/1.0 are spoken here").closing()
}

#[cfg(test)]
mod tests;
