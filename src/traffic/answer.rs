//! Owns the reading of one HTTP/1.1 answer, from bytes as they come to what can be checked. Pure: bytes in, answer out.
//! Strict where a broken answer could pass for a whole one. Must not know sockets or what was expected.

use bytes::{Buf, BytesMut};
use sha2::Digest;

/// Bytes of an answer's head, of one chunk's size line, and of trailers.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
const LINE_BYTES_MAX: usize = 4 * 1024;
/// Informational answers before the final one.
const INFORMATIONAL_MAX: u32 = 16;
/// Bytes of a body kept, to show in a failure.
const SAMPLE_BYTES_MAX: usize = 300;

/// A whole answer.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// `Neap-Version`, else `X-Version`.
    pub version: Option<String>,
    /// `X-Traffic-Id`: the id of the request that this answers, as the program saw it.
    pub traffic_id: Option<String>,
    pub post_id: Option<String>,
    /// `X-Body-Sha256`: of the body that the program received.
    pub body_sha256: Option<String>,
    pub retry_after: Option<String>,
    /// `Set-Cookie`, each as it came.
    pub set_cookies: Vec<String>,
    /// `X-Session-Id`, `X-Session-Items`, `X-Session-Last`: what the program says of the client's session.
    pub session_id: Option<String>,
    pub session_items: Option<u64>,
    pub session_last: Option<String>,
    /// `X-Server`: where the program says it runs.
    pub server: Option<String>,
    /// Bytes of the body, without its framing.
    pub body_bytes: u64,
    /// The beginning of the body.
    pub sample: Vec<u8>,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// Bytes came after the end of the answer, which nobody asked for.
    pub extra_bytes: bool,
}

/// Why what came is not a whole answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("not an HTTP answer: {0}")]
    Protocol(String),
    #[error("the connection ended before the answer's first byte")]
    NoAnswer,
    #[error("the connection ended in the head of the answer")]
    ShortHead,
    #[error("the connection ended in the body, {got} bytes in{}", announced(.of))]
    ShortBody { got: u64, of: Option<u64> },
}

fn announced(length: &Option<u64>) -> String {
    length.map_or_else(String::new, |length| format!(" of the {length} announced"))
}

/// Reads one answer; feed it until it is done, and tell it of the connection's end.
pub struct Reader {
    head_request: bool,
    phase: Phase,
    informational: u32,
    begun: bool,
    length: Option<u64>,
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Head,
    Sized { left: u64 },
    ChunkSize,
    Chunk { left: u64 },
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

fn protocol<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Protocol(what.into()))
}

impl Reader {
    /// `head_request`: the answer to HEAD has no body, whatever it announces.
    pub fn new(head_request: bool) -> Self {
        Self {
            head_request,
            phase: Phase::Head,
            informational: 0,
            begun: false,
            length: None,
            answer: Answer::default(),
        }
    }

    /// Takes what it can from `buffer`; true when the answer is whole.
    pub fn feed(&mut self, buffer: &mut BytesMut) -> Result<bool, Broken> {
        self.begun |= !buffer.is_empty();
        while self.phase != Phase::Done {
            if !self.advance(buffer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The connection ended: the answer, if that is a proper end of it.
    pub fn end(&mut self) -> Result<(), Broken> {
        match self.phase {
            Phase::Done => Ok(()),
            Phase::UntilClose => {
                self.phase = Phase::Done;
                Ok(())
            }
            Phase::Head if !self.begun => Err(Broken::NoAnswer),
            Phase::Head => Err(Broken::ShortHead),
            Phase::Sized { .. } | Phase::ChunkSize | Phase::Chunk { .. } | Phase::ChunkEnd | Phase::Trailers => {
                Err(Broken::ShortBody { got: self.answer.body_bytes, of: self.length })
            }
        }
    }

    /// Anything at all has come.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// Status and version, once the head is in.
    pub fn head_seen(&self) -> Option<(u16, Option<&str>)> {
        (self.answer.status > 0).then_some((self.answer.status, self.answer.version.as_deref()))
    }

    /// The whole answer; `left` is what came after it.
    pub fn finish(mut self, left: &BytesMut) -> Answer {
        self.answer.extra_bytes = !left.is_empty();
        self.answer.keep_alive &= left.is_empty();
        self.answer
    }

    /// One move; false when it needs more bytes.
    fn advance(&mut self, buffer: &mut BytesMut) -> Result<bool, Broken> {
        match self.phase {
            Phase::Head => self.head(buffer),
            Phase::Sized { left } => {
                let left = left - self.body(buffer, left);
                self.phase = if left == 0 { Phase::Done } else { Phase::Sized { left } };
                Ok(left == 0)
            }
            Phase::UntilClose => {
                self.body(buffer, u64::MAX);
                Ok(false)
            }
            Phase::ChunkSize => self.chunk_size(buffer),
            Phase::Chunk { left } => {
                let left = left - self.body(buffer, left);
                self.phase = if left == 0 { Phase::ChunkEnd } else { Phase::Chunk { left } };
                Ok(left == 0)
            }
            Phase::ChunkEnd => match line(buffer)? {
                None => Ok(false),
                Some(rest) if rest.is_empty() => self.enter(Phase::ChunkSize),
                Some(_) => protocol("a chunk is longer than it says"),
            },
            Phase::Trailers => match line(buffer)? {
                None => Ok(false),
                Some(trailer) => self.enter(if trailer.is_empty() { Phase::Done } else { Phase::Trailers }),
            },
            Phase::Done => Ok(true),
        }
    }

    fn enter(&mut self, phase: Phase) -> Result<bool, Broken> {
        self.phase = phase;
        Ok(true)
    }

    /// Counts up to `most` bytes of body away, and says how many.
    fn body(&mut self, buffer: &mut BytesMut, most: u64) -> u64 {
        let take = buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let room = SAMPLE_BYTES_MAX.saturating_sub(self.answer.sample.len());
        self.answer.sample.extend_from_slice(&buffer[..take.min(room)]);
        self.answer.body_bytes += take as u64;
        buffer.advance(take);
        take as u64
    }

    fn chunk_size(&mut self, buffer: &mut BytesMut) -> Result<bool, Broken> {
        let Some(line) = line(buffer)? else { return Ok(false) };
        let text = String::from_utf8_lossy(&line);
        let digits = text.split(';').next().unwrap_or_default().trim();
        let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match u64::from_str_radix(digits, 16) {
            Ok(0) if hex => self.enter(Phase::Trailers),
            Ok(left) if hex => self.enter(Phase::Chunk { left }),
            _ => protocol(format!("chunk size {text:?}")),
        }
    }

    fn head(&mut self, buffer: &mut BytesMut) -> Result<bool, Broken> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if buffer.len() < HEAD_BYTES_MAX => return Ok(false),
            Ok(httparse::Status::Partial) => return protocol(format!("a head of over {HEAD_BYTES_MAX} bytes")),
            Err(error) => return protocol(error.to_string()),
        };
        let status = head.code.unwrap_or_default();
        match status {
            100..=199 if status != 101 => {
                self.informational += 1;
                if self.informational > INFORMATIONAL_MAX {
                    return protocol(format!("over {INFORMATIONAL_MAX} informational answers"));
                }
            }
            _ => {
                let fields = Fields::read(head.headers)?;
                self.phase = self.framing(status, head.version == Some(1), &fields)?;
                self.length = fields.length;
                fields.tell(&mut self.answer);
            }
        }
        buffer.advance(length);
        Ok(true)
    }

    /// How the body ends (RFC 9112, section 6.3).
    fn framing(&mut self, status: u16, http_1_1: bool, fields: &Fields) -> Result<Phase, Broken> {
        self.answer.status = status;
        self.answer.keep_alive = !fields.close && (http_1_1 || fields.keep_alive) && status != 101;
        Ok(match (fields.chunked, fields.length) {
            _ if self.head_request || matches!(status, 101 | 204 | 304) => Phase::Done,
            (true, Some(_)) => return protocol("both Content-Length and Transfer-Encoding"),
            (true, None) => Phase::ChunkSize,
            (false, Some(0)) => Phase::Done,
            (false, Some(left)) => Phase::Sized { left },
            (false, None) => {
                self.answer.keep_alive = false;
                Phase::UntilClose
            }
        })
    }
}

/// What a head says that matters here.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    neap_version: Option<String>,
    x_version: Option<String>,
    /// What goes into the answer as it is.
    told: Answer,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, Broken> {
        let mut fields = Self::default();
        for header in headers {
            let value = String::from_utf8_lossy(header.value).trim().to_owned();
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => fields.content_length(&value)?,
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => fields.chunked = true,
                "transfer-encoding" => return protocol(format!("Transfer-Encoding {value:?}")),
                "connection" => fields.connection(&value),
                "neap-version" => fields.neap_version = Some(value),
                "x-version" => fields.x_version = Some(value),
                name => fields.told.tell(name, value),
            }
        }
        Ok(fields)
    }

    fn content_length(&mut self, value: &str) -> Result<(), Broken> {
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        match value.parse::<u64>() {
            Ok(length) if digits && self.length.is_none_or(|before| before == length) => self.length = Some(length),
            _ => return protocol(format!("Content-Length {value:?}")),
        }
        Ok(())
    }

    fn connection(&mut self, value: &str) {
        for token in value.split(',').map(str::trim) {
            self.close |= token.eq_ignore_ascii_case("close");
            self.keep_alive |= token.eq_ignore_ascii_case("keep-alive");
        }
    }

    /// Keeps the answer's framing, and gives it the rest.
    fn tell(self, answer: &mut Answer) {
        let Answer { status, keep_alive, .. } = *answer;
        *answer = Answer { status, keep_alive, version: self.neap_version.or(self.x_version), ..self.told };
    }
}

impl Answer {
    /// Takes a header field that says something of the program; `name` is in lower case.
    pub fn tell(&mut self, name: &str, value: String) {
        match name {
            "x-traffic-id" => self.traffic_id = Some(value),
            "x-post-id" => self.post_id = Some(value),
            "x-body-sha256" => self.body_sha256 = Some(value),
            "x-session-id" => self.session_id = Some(value),
            "x-session-items" => self.session_items = value.parse().ok(),
            "x-session-last" => self.session_last = Some(value),
            "x-server" => self.server = Some(value),
            "retry-after" => self.retry_after = Some(value),
            "set-cookie" => self.set_cookies.push(value),
            _ => {}
        }
    }
}

/// A line without its CRLF, when it is whole.
fn line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Broken> {
    match buffer.iter().position(|b| *b == b'\n') {
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end - 1);
            Ok(Some(line))
        }
        Some(_) => protocol("a line that does not end in CRLF"),
        None if buffer.len() > LINE_BYTES_MAX => protocol(format!("a line of over {LINE_BYTES_MAX} bytes")),
        None => Ok(None),
    }
}

/// SHA-256 of these parts in a row, in hexadecimal.
pub fn sha256(parts: &[&[u8]]) -> String {
    let mut hash = sha2::Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an answer that comes in pieces of `size` bytes, and then the connection's end.
    fn read(given: &str, size: usize) -> Result<Answer, Broken> {
        let (mut reader, mut buffer) = (Reader::new(false), BytesMut::new());
        for (index, piece) in given.as_bytes().chunks(size).enumerate() {
            buffer.extend_from_slice(piece);
            if reader.feed(&mut buffer)? {
                buffer.extend_from_slice(given.as_bytes().get((index + 1) * size..).unwrap_or_default());
                return Ok(reader.finish(&buffer));
            }
        }
        reader.end()?;
        Ok(reader.finish(&buffer))
    }

    #[test]
    fn an_answer_is_the_same_in_pieces_of_any_size() {
        let sized = "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Version: 1\r\nNeap-Version: 2\r\n\r\nhello";
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
        let closing = "HTTP/1.0 200 OK\r\n\r\nto the end";
        for size in 1..120 {
            let answer = read(sized, size).unwrap();
            assert_eq!((answer.status, answer.body_bytes, answer.keep_alive), (200, 5, true));
            assert_eq!((answer.version.as_deref(), answer.sample.as_slice()), (Some("2"), b"hello".as_slice()));
            let answer = read(chunked, size).unwrap();
            assert_eq!((answer.body_bytes, answer.keep_alive, answer.extra_bytes), (13, true, false));
            assert_eq!(answer.sample, b"abc0123456789");
            let answer = read(closing, size).unwrap();
            assert_eq!((answer.body_bytes, answer.keep_alive), (10, false));
        }
    }

    #[test]
    fn an_answer_cut_at_any_byte_is_not_whole() {
        for whole in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ] {
            assert!(read(whole, 7).is_ok());
            for end in 0..whole.len() {
                assert!(read(&whole[..end], 7).is_err(), "cut at {end} of {whole:?}");
            }
        }
        assert_eq!(read("", 1), Err(Broken::NoAnswer));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", 9),
            Err(Broken::ShortBody { got: 3, of: Some(5) })
        );
    }

    #[test]
    fn bytes_after_the_answer_are_noticed() {
        let answer = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", 999).unwrap();
        assert!(answer.extra_bytes && !answer.keep_alive);
    }

    #[test]
    fn answers_without_a_body_end_with_their_head() {
        for status in [101, 204, 304] {
            let answer = read(&format!("HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\n"), 5).unwrap();
            assert_eq!((answer.status, answer.body_bytes), (status, 0));
        }
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(Reader::new(true).feed(&mut buffer), Ok(true));
    }

    #[test]
    fn an_ambiguous_answer_is_refused() {
        for head in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
        ] {
            let given = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nx");
            assert!(matches!(read(&given, 999), Err(Broken::Protocol(_))), "{head}");
        }
        for body in ["x\r\n", "+1\r\na\r\n", "1\r\nab\r\n", "1\na\n"] {
            let given = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert!(matches!(read(&given, 999), Err(Broken::Protocol(_))), "{body:?}");
        }
        assert!(matches!(read("SSH-2.0-x\r\n\r\n", 999), Err(Broken::Protocol(_))));
    }
}
