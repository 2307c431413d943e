//! Owns a client's connection that is kept from request to request. Must not know who is asked, or why.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For one answer, on a busy machine.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection, and what was read from it beyond the last answer.
pub struct Kept {
    pub stream: TcpStream,
    ahead: Vec<u8>,
}

/// What came back, with the head as it came.
#[derive(Debug)]
pub struct Came {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Came {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Kept {
    pub async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    /// `METHOD PATH` and fields, each on its line; a length is added where there is a body.
    pub async fn ask(&mut self, head: &str, body: &[u8]) -> Result<Came, String> {
        self.send(head, body).await?;
        self.answer().await
    }

    pub async fn send(&mut self, head: &str, body: &[u8]) -> Result<(), String> {
        let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
        let end = if fields.is_empty() { "" } else { "\r\n" };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut request = format!("{line} HTTP/1.1\r\nHost: any\r\n{fields}{end}{length}\r\n").into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await.map_err(|error| error.to_string())
    }

    /// The next answer; 1xx are answers, too.
    pub async fn answer(&mut self) -> Result<Came, String> {
        let head = self.head().await?;
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(format!("no status: {head}"))?;
        let lower = head.to_ascii_lowercase();
        let length = lower.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.ahead.len() < length {
            self.read().await.map_err(|error| format!("{error}, in the body of {head}"))?;
        }
        let body = self.ahead.drain(..length).collect();
        Ok(Came { status, head, body })
    }

    /// A head, without its body.
    pub async fn head(&mut self) -> Result<String, String> {
        let head = self.until(b"\r\n\r\n").await?;
        String::from_utf8(head).map_err(|error| error.to_string())
    }

    /// Up to and with `end`.
    pub async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            self.read().await?;
        }
    }

    /// Reads once more; the end is an error.
    async fn read(&mut self) -> Result<(), String> {
        let read = tokio::time::timeout(ANSWER, self.stream.read_buf(&mut self.ahead)).await;
        match read {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(_)) => Err(format!("ended after {:?}", String::from_utf8_lossy(&self.ahead))),
            Ok(Err(error)) => Err(format!("{error} after {:?}", String::from_utf8_lossy(&self.ahead))),
            Err(_) => Err(format!("nothing came in time, after {:?}", String::from_utf8_lossy(&self.ahead))),
        }
    }
}
