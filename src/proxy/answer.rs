//! Owns neap's own answers: small problem+json bodies with a code and a hint. Must not know why one was given.

use std::io::Write;
use std::time::Duration;

use super::writer::HeadWriter;

/// An answer that neap gives itself, without a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Stable, in snake_case: what programs that read answers go by.
    pub code: &'static str,
    pub detail: String,
    pub hint: Option<String>,
    pub retry_after: Option<Duration>,
    /// Further header fields, such as `Neap-Refused`.
    pub headers: Vec<(&'static str, String)>,
    /// Closes the client's connection after this answer.
    pub close: bool,
}

impl Answer {
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        let (detail, headers) = (detail.into(), Vec::new());
        Self { status, code, detail, hint: None, retry_after: None, headers, close: false }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Writes the whole answer; without its body for HEAD.
    pub(super) fn write(&self, out: &mut Vec<u8>, head_only: bool, connection: &str) {
        let body = self.body();
        // Writing to a Vec does not fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut head = HeadWriter::new(out);
        head.add("Content-Type", "application/problem+json");
        head.add_display("Content-Length", body.len());
        if let Some(after) = self.retry_after {
            head.add_display("Retry-After", after.as_millis().div_ceil(1000));
        }
        self.headers.iter().for_each(|(name, value)| head.add(name, value));
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
        if !head_only {
            out.extend_from_slice(&body);
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut problem = serde_json::json!({
            "title": reason(self.status), "status": self.status, "code": self.code, "detail": self.detail,
        });
        if let Some(hint) = &self.hint {
            problem["hint"] = hint.as_str().into();
        }
        let mut body = problem.to_string().into_bytes();
        body.push(b'\n');
        body
    }
}

/// The reason phrase of a status.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_length_a_code_and_whole_seconds_to_wait() {
        let answer =
            Answer::new(503, "no_server", "none is open").hint("wait").retry_after(Duration::from_millis(1200));
        let mut out = Vec::new();
        answer.write(&mut out, false, "Connection: close\r\n");
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains("Retry-After: 2") && head.contains("Connection: close"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(body.contains("\"code\":\"no_server\"") && body.contains("\"hint\":\"wait\""));
    }
}
