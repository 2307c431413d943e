//! Owns one plain HTTP/1.1 exchange on a connection of its own. Must not know who is asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks, and reads to the end of the connection. A body that begins as a JSON object says that it is one. Answers with a length or chunked; bodies are for what is small.
pub fn ask(address: SocketAddr, head: &str, body: &[u8], timeout: Duration) -> Result<Answer, String> {
    ask_with(address, head, &[], body, timeout)
}

/// The same, with fields of one's own.
pub fn ask_with(
    address: SocketAddr,
    head: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Result<Answer, String> {
    let told = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(told)?;
    stream.set_read_timeout(Some(timeout)).map_err(told)?;
    let kind = if body.starts_with(b"{") { "Content-Type: application/json\r\n" } else { "" };
    let length = body.len();
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{kind}{fields}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(told)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(told)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| format!("{address}: no answer"))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { dechunked(&answer[end + 4..]) } else { Some(answer[end + 4..].to_vec()) };
    match (status, body) {
        (Some(status), Some(body)) => Ok(Answer { status, head, body }),
        _ => Err(format!("{address}: not a whole answer: {head}")),
    }
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
