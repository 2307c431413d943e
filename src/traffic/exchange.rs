//! Owns one HTTP request and its answer on the wire. Must not know when it was due or what becomes of the answer.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::answer::{Answer, Broken, Reader};
use super::check::{Trouble, body};
use super::mix::Request;
use super::plan::Target;
use super::pool::{Connection, Pool};
use super::report::FailureKind;
use super::stream::Stream;

/// Bytes that one read makes room for.
const READ_BYTES: usize = 64 * 1024;

/// What happens on the way that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Opened,
    Repeated,
}

/// A request's head, with the headers that make it known, and with the client's cookies.
pub fn head(target: &Target, request: &Request, id: &str, cookies: Option<&str>) -> String {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, target.url.join(&request.path));
    if !target.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {}\r\n", target.url.authority());
    }
    head += &format!("User-Agent: neap-traffic\r\nX-Request-Id: {id}\r\nX-Traffic-Id: {id}\r\n");
    if request.is_post() {
        head += &format!("X-Post-Id: {id}\r\n");
    }
    if request.body_bytes > 0 || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        head += &format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", request.body_bytes);
    }
    if let Some(cookies) = cookies {
        head += &format!("Cookie: {cookies}\r\n");
    }
    for (name, value) in &target.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// Sends a request and reads its whole answer. A reused connection that died before the first byte of an answer is
/// no error where the method may be repeated: the server closed it as the request was on its way.
pub async fn exchange(
    pool: &Pool,
    target: &Target,
    request: &Request,
    (id, cookies): (&str, Option<&str>),
    tell: &(dyn Fn(Event) + Sync),
) -> Result<Answer, Trouble> {
    let repeatable = matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
    let head = head(target, request, id, cookies);
    let wire = Wire { head: head.as_bytes(), body: body(request, id), head_request: request.method == "HEAD" };
    if let Some(connection) = pool.reuse(!repeatable) {
        match wire.attempt(pool, connection).await {
            Err(Lost { begun: false, .. }) if repeatable => tell(Event::Repeated),
            ended => return ended.map_err(|lost| lost.trouble),
        }
    }
    tell(Event::Opened);
    let connection = pool.open().await.map_err(|error| Trouble::new(FailureKind::Connect, error.to_string()))?;
    wire.attempt(pool, connection).await.map_err(|lost| lost.trouble)
}

/// A request as bytes.
struct Wire<'a> {
    head: &'a [u8],
    body: [&'a [u8]; 2],
    head_request: bool,
}

/// No whole answer came.
struct Lost {
    /// Something of it did.
    begun: bool,
    trouble: Trouble,
}

impl Wire<'_> {
    async fn attempt(&self, pool: &Pool, mut connection: Connection) -> Result<Answer, Lost> {
        let answer = self.converse(&mut connection).await?;
        if answer.keep_alive {
            pool.keep(connection);
        }
        Ok(answer)
    }

    /// Writes and reads at once, for an answer may come before the request's end.
    async fn converse(&self, connection: &mut Connection) -> Result<Answer, Lost> {
        let buffer = &mut connection.buffer;
        match &mut connection.stream {
            Stream::Plain(tcp) => {
                let (input, output) = tcp.split();
                self.talk(input, output, buffer).await
            }
            Stream::Tls(tls) => {
                let (input, output) = tokio::io::split(tls);
                self.talk(input, output, buffer).await
            }
        }
    }

    async fn talk(
        &self,
        mut input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
        buffer: &mut BytesMut,
    ) -> Result<Answer, Lost> {
        let write = async {
            output.write_all(self.head).await?;
            for part in self.body {
                output.write_all(part).await?;
            }
            output.flush().await
        };
        let read = receive(&mut input, buffer, self.head_request);
        tokio::pin!(write, read);
        let mut written = None;
        loop {
            tokio::select! {
                result = &mut write, if written.is_none() => written = Some(result),
                answer = &mut read => {
                    let mut answer = answer?;
                    // Without the request's end on the wire, another cannot follow.
                    answer.keep_alive &= matches!(written, Some(Ok(())));
                    return Ok(answer);
                }
            }
        }
    }
}

async fn receive(
    input: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    head_request: bool,
) -> Result<Answer, Lost> {
    let mut reader = Reader::new(head_request);
    loop {
        match reader.feed(buffer) {
            Ok(true) => return Ok(reader.finish(buffer)),
            Ok(false) => {}
            Err(broken) => return Err(lost(&reader, &broken, None)),
        }
        buffer.reserve(READ_BYTES);
        let error = match input.read_buf(buffer).await {
            Ok(1..) => continue,
            Ok(_) => None,
            Err(error) => Some(error),
        };
        return match (reader.end(), error) {
            (Ok(()), None) => Ok(reader.finish(buffer)),
            (Err(broken), error) => Err(lost(&reader, &broken, error)),
            (Ok(()), error) => Err(lost(&reader, &Broken::ShortHead, error)),
        };
    }
}

fn lost(reader: &Reader, broken: &Broken, error: Option<io::Error>) -> Lost {
    let kind = match broken {
        Broken::Protocol(_) => FailureKind::Protocol,
        Broken::NoAnswer | Broken::ShortHead => FailureKind::Lost,
        Broken::ShortBody { .. } => FailureKind::ShortBody,
    };
    let mut detail = broken.to_string();
    if let Some((status, version)) = reader.head_seen() {
        detail += &format!(", of a {status} from version {}", version.unwrap_or("none"));
    }
    if let Some(error) = error {
        detail += &format!(" ({error})");
    }
    Lost { begun: reader.begun(), trouble: Trouble { kind, detail } }
}
