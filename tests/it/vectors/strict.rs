//! Owns a second reader of HTTP/1.1, written apart from the one under test: it takes one form of everything that neap
//! writes, and nothing else. Must not know neap.

use std::fmt::Write;

/// One message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The request line or status line.
    pub start: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Until the connection's end.
    Close,
}

/// What bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A message, and its length.
    Whole(Message, usize),
    /// Its head is whole, its body is not yet.
    Body(Message),
    /// Not even a head.
    Partial,
    Bad(String),
}

impl Message {
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    pub fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count()
    }

    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.fields.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(self.fields.remove(at).1)
    }

    /// Of a status line.
    pub fn status(&self) -> u16 {
        self.start.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// As text, a line each, so that two can be compared by eye.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.start.clone()];
        lines.extend(self.fields.iter().map(|(name, value)| format!("{name}: {}", shown(value))));
        if self.framing != Framing::None {
            lines.push(format!("({:?}) {}", self.framing, shown(&self.body)));
        }
        lines.extend(self.trailers.iter().map(|(name, value)| format!("(trailer) {name}: {}", shown(value))));
        lines
    }
}

/// Bytes as text; long ones in short.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(400) {
        match byte {
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(*byte)),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            _ => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    if bytes.len() > 400 {
        write!(text, "… ({} bytes)", bytes.len()).unwrap();
    }
    text
}

/// Reads a request.
pub fn request(bytes: &[u8]) -> Read {
    let read = Head::read(bytes, is_request_line).and_then(|head| {
        if head.count("host") != 1 {
            return Err(Stop::bad("not one Host"));
        }
        let framing = head.framing()?.unwrap_or(Framing::None);
        for name in ["keep-alive", "te", "proxy-connection", "http2-settings", "proxy-authorization"] {
            if head.count(name) > 0 {
                return Err(Stop::bad(format!("{name} concerns one connection only")));
            }
        }
        match (head.field("connection"), head.field("upgrade")) {
            (None, None) => {}
            (Some(b"Upgrade"), Some(b"websocket")) if framing == Framing::None => {}
            _ => return Err(Stop::bad("Connection or Upgrade is not what neap writes")),
        }
        head.body(bytes, framing, false)
    });
    read.unwrap_or_else(Stop::read)
}

/// Reads a response to a request of this method; `ended`: no byte follows.
pub fn response(bytes: &[u8], method: &str, ended: bool) -> Read {
    let read = Head::read(bytes, is_status_line).and_then(|head| {
        let status = head.message.status();
        let framing = head.framing()?;
        let framing = match status {
            100..=199 | 204 | 304 => Framing::None,
            _ if method == "HEAD" => Framing::None,
            _ => framing.unwrap_or(Framing::Close),
        };
        head.body(bytes, framing, ended)
    });
    read.unwrap_or_else(Stop::read)
}

enum Stop {
    Partial,
    Bad(String),
}

impl Stop {
    fn bad(why: impl Into<String>) -> Self {
        Self::Bad(why.into())
    }

    fn read(self) -> Read {
        match self {
            Self::Partial => Read::Partial,
            Self::Bad(why) => Read::Bad(why),
        }
    }
}

/// A whole head, and where it ends.
struct Head {
    message: Message,
    end: usize,
}

impl std::ops::Deref for Head {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Head {
    fn read(bytes: &[u8], is_start: fn(&str) -> bool) -> Result<Self, Stop> {
        let (start, mut at) = line(bytes, 0)?;
        let start = std::str::from_utf8(start).map_err(|_| Stop::bad("the first line is not text"))?;
        if !is_start(start) {
            return Err(Stop::bad(format!("the first line is {start:?}")));
        }
        let start = start.to_owned();
        let fields = fields(bytes, &mut at)?;
        let message = Message { start, fields, framing: Framing::None, body: Vec::new(), trailers: Vec::new() };
        Ok(Self { message, end: at })
    }

    fn framing(&self) -> Result<Option<Framing>, Stop> {
        let lengths = self.message.count("content-length");
        let codings = self.message.count("transfer-encoding");
        match (lengths, codings) {
            (0, 0) => Ok(None),
            (1, 0) => {
                let value = self.message.field("content-length").unwrap_or_default();
                let digits = std::str::from_utf8(value).unwrap_or_default();
                let number = digits.parse::<u64>().ok().filter(|number| number.to_string() == digits);
                number.map(Framing::Length).map(Some).ok_or_else(|| Stop::bad("Content-Length is odd"))
            }
            (0, 1) if self.message.field("transfer-encoding") == Some(b"chunked") => Ok(Some(Framing::Chunked)),
            _ => Err(Stop::bad("the framing is not one of those that neap writes")),
        }
    }

    fn body(mut self, bytes: &[u8], framing: Framing, ended: bool) -> Result<Read, Stop> {
        self.message.framing = framing;
        let rest = &bytes[self.end..];
        let (mut message, mut at) = (self.message, self.end);
        match framing {
            Framing::None => Ok(Read::Whole(message, at)),
            Framing::Close => {
                message.body = rest.to_vec();
                Ok(if ended { Read::Whole(message, bytes.len()) } else { Read::Body(message) })
            }
            Framing::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                message.body = rest[..length.min(rest.len())].to_vec();
                if rest.len() < length {
                    return Ok(Read::Body(message));
                }
                Ok(Read::Whole(message, at + length))
            }
            Framing::Chunked => match chunks(bytes, &mut at, &mut message) {
                Ok(()) => Ok(Read::Whole(message, at)),
                Err(Stop::Partial) => Ok(Read::Body(message)),
                Err(bad) => Err(bad),
            },
        }
    }
}

fn chunks(bytes: &[u8], at: &mut usize, message: &mut Message) -> Result<(), Stop> {
    loop {
        let (size, after) = line(bytes, *at)?;
        let text = std::str::from_utf8(size).unwrap_or_default();
        let length = usize::from_str_radix(text, 16).ok().filter(|length| format!("{length:x}") == text);
        let length = length.ok_or_else(|| Stop::bad(format!("a chunk's size is {}", shown(size))))?;
        if length == 0 {
            let mut end = after;
            message.trailers = fields(bytes, &mut end)?;
            *at = end;
            return Ok(());
        }
        let rest = &bytes[after..];
        message.body.extend_from_slice(&rest[..length.min(rest.len())]);
        let Some(end) = rest.get(length..length + 2) else { return Err(Stop::Partial) };
        if end != b"\r\n" {
            return Err(Stop::bad("a chunk does not end in CR LF"));
        }
        *at = after + length + 2;
    }
}

/// Fields up to their empty line.
fn fields(bytes: &[u8], at: &mut usize) -> Result<Vec<(String, Vec<u8>)>, Stop> {
    let mut fields = Vec::new();
    loop {
        let (line, after) = line(bytes, *at)?;
        *at = after;
        if line.is_empty() {
            return Ok(fields);
        }
        let bad = || Stop::bad(format!("a field is {:?}", shown(line)));
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(bad)?;
        let (name, value) = (&line[..colon], line[colon + 1..].strip_prefix(b" ").ok_or_else(bad)?);
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        let good = |byte: &u8| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..);
        if name.is_empty() || !name.iter().all(is_token) || !value.iter().all(good) {
            return Err(bad());
        }
        if blank(value.first()) || blank(value.last()) {
            return Err(bad());
        }
        fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
}

/// The line at `at` without its CR LF, and where the next begins. CR and LF stand nowhere else.
fn line(bytes: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return Err(Stop::Partial) };
    match &rest[end..] {
        [b'\r', b'\n', ..] => Ok((&rest[..end], at + end + 2)),
        [b'\r'] => Err(Stop::Partial),
        _ => Err(Stop::bad(format!("a line ends without CR LF: {}", shown(&rest[..(end + 2).min(rest.len())])))),
    }
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// `METHOD TARGET HTTP/1.1`, the target a path without dot segments, or `*`.
fn is_request_line(line: &str) -> bool {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return false };
    let path = target.split('?').next().unwrap_or_default();
    let plain = target.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#');
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    !method.is_empty()
        && method.bytes().all(|byte| is_token(&byte))
        && plain
        && !dots
        && (path.starts_with('/') || (target == "*" && method == "OPTIONS"))
}

/// `HTTP/1.1 NNN REASON`.
fn is_status_line(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("HTTP/1.1 ") else { return false };
    let bytes = rest.as_bytes();
    bytes.len() >= 4
        && bytes[..3].iter().all(u8::is_ascii_digit)
        && bytes[0] != b'0'
        && bytes[3] == b' '
        && bytes.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e))
}
