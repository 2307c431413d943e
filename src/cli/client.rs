//! Owns how a command talks to management: one request over plain HTTP/1.1, its deadline, and what its answer means.
//! Must not know what is asked, nor how it is shown.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::address::Address;
use super::failure::Failure;
use crate::domain::duration;
use crate::wire::page::Page;
use crate::wire::problem::{PROBLEM_JSON, Problem};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, where the user named none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait while a release is sent, where the user named none.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(900);
/// Largest answer read.
const ANSWER_LIMIT: usize = 64 << 20;
/// Most pages of a list that are followed.
const PAGES_LIMIT: usize = 1_000;
/// Read from disk at a time.
const CHUNK: usize = 64 << 10;

/// All that need not be escaped in a query's value.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Query<'a> = &'a [(&'a str, &'a str)];

struct Answer {
    status: StatusCode,
    /// Says of itself that it is a problem.
    problem: bool,
    body: Bytes,
}

/// Management, as a command reaches it.
pub struct Client {
    address: Address,
    token: Option<String>,
    /// `--timeout`, and when it runs out.
    wait: Option<(Duration, Instant)>,
}

impl Client {
    pub fn new(address: Address, token: Option<String>, timeout: Option<Duration>) -> Self {
        Self { address, token, wait: timeout.map(|timeout| (timeout, Instant::now() + timeout)) }
    }

    /// What is left of `--timeout`; `None`: the user named none.
    pub fn time_left(&self) -> Option<Duration> {
        self.wait.map(|(_, end)| end.saturating_duration_since(Instant::now()))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<T, Failure> {
        self.answer(Method::GET, path, query, None).await
    }

    /// Reads a whole list, page by page.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<Page<T>, Failure> {
        let mut all = Page { items: Vec::new(), next: None };
        for _ in 0..PAGES_LIMIT {
            let cursor = all.next.take();
            let mut query = query.to_vec();
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.get(path, &query).await?;
            all.items.extend(page.items);
            all.next = page.next;
            if all.next.is_none() || all.next == cursor {
                all.next = None;
                break;
            }
        }
        Ok(all)
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query<'_>,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.to_string()))?;
        self.answer(Method::POST, path, query, Some(body)).await
    }

    /// Deletes; what comes back, if anything does.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let request = self.request(Method::DELETE, path, &[])?.body(nothing()).map_err(malformed)?;
        let (status, body) = self.send(request, ANSWER_TIMEOUT).await?;
        if status == StatusCode::NO_CONTENT || body.is_empty() { Ok(None) } else { self.read(&body).map(Some) }
    }

    /// Sends a file; whether it was new to management, and its answer.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query<'_>,
        file: &Path,
    ) -> Result<(bool, T), Failure> {
        let unreadable = |error| Failure::Failed(format!("{} cannot be read: {error}", file.display()));
        let open = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = open.metadata().await.map_err(unreadable)?.len();
        let request = self
            .request(Method::POST, path, query)?
            .header(CONTENT_TYPE, "application/zstd")
            .header(CONTENT_LENGTH, length)
            .body(content(open))
            .map_err(malformed)?;
        let (status, body) = self.send(request, UPLOAD_TIMEOUT).await?;
        Ok((status == StatusCode::CREATED, self.read(&body)?))
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<Vec<u8>>,
    ) -> Result<T, Failure> {
        let request = self.request(method, path, query)?;
        let request = match body {
            Some(body) => request
                .header(CONTENT_TYPE, "application/json")
                .body(Full::from(body).map_err(|never| match never {}).boxed_unsync()),
            None => request.body(nothing()),
        };
        let (_, body) = self.send(request.map_err(malformed)?, ANSWER_TIMEOUT).await?;
        self.read(&body)
    }

    fn request(&self, method: Method, path: &str, query: Query<'_>) -> Result<hyper::http::request::Builder, Failure> {
        let mut target = path.to_owned();
        for (index, (key, value)) in query.iter().enumerate() {
            let sign = if index == 0 { '?' } else { '&' };
            target.push_str(&format!("{sign}{key}={}", utf8_percent_encode(value, QUERY)));
        }
        let repeatable = method == Method::POST;
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, self.address.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, user_agent());
        if repeatable {
            request = request.header("Idempotency-Key", ulid::Ulid::new().to_string());
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(request)
    }

    /// Sends, and reads the answer; one of 400 and above is a problem, and so is one that says it is.
    async fn send(&self, request: Request<Body>, longest: Duration) -> Result<(StatusCode, Bytes), Failure> {
        let limit = self.time_left().map_or(longest, |left| left.min(longest));
        let answer = tokio::time::timeout(limit, self.exchange(request)).await;
        let Answer { status, problem, body } = answer.unwrap_or_else(|_| Err(self.ran_out(limit, longest)))?;
        if status.is_success() && !problem {
            return Ok((status, body));
        }
        Err(Problem::read(status.as_u16(), &body).into())
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Answer, Failure> {
        let connecting = TcpStream::connect((self.address.host(), self.address.port()));
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream.map_err(|error| self.unreachable(&error.to_string()))?,
            Err(_) => return Err(self.unreachable("no connection within 5s")),
        };
        let lost = |error: &dyn std::fmt::Display| self.unreachable(&format!("the connection was lost: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        let driver = tokio::spawn(connection);
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
            let status = answer.status();
            let kind = answer.headers().get(CONTENT_TYPE);
            let problem = kind.is_some_and(|kind| kind.as_bytes().starts_with(PROBLEM_JSON.as_bytes()));
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| lost(&error))?;
            Ok(Answer { status, problem, body: body.to_bytes() })
        };
        let result = exchange.await;
        driver.abort();
        result
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        let mut reader = serde_json::Deserializer::from_slice(body);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            Failure::Failed(format!(
                "{} answered what this version of neap cannot read, at {}: {}",
                self.address,
                error.path(),
                error.inner()
            ))
        })
    }

    fn ran_out(&self, limit: Duration, longest: Duration) -> Failure {
        match self.wait {
            Some((timeout, _)) if limit < longest => Failure::TimedOut(format!(
                "{} did not answer within --timeout {}",
                self.address,
                duration::show(timeout)
            )),
            _ => self.unreachable(&format!("no answer within {}", duration::show(longest))),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "management at {} cannot be reached: {why}\n  \
             is it running? `neap run` starts it, or `neap run --role management`\n  \
             is the address right? give --address URL, or set NEAP_ADDRESS",
            self.address
        ))
    }
}

/// Who asks, as far as this machine knows; management shows it with what was asked.
fn user_agent() -> String {
    let user = std::env::var("USER").ok().filter(|user| user.bytes().all(|byte| byte.is_ascii_graphic()));
    format!("neap/{}{}", env!("CARGO_PKG_VERSION"), user.map(|user| format!(" ({user})")).unwrap_or_default())
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn content(file: tokio::fs::File) -> Body {
    let chunks = stream::try_unfold(file, |mut file| async move {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        let read = file.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (Frame::data(chunk.freeze()), file)))
    });
    StreamBody::new(chunks).boxed_unsync()
}

fn malformed(error: hyper::http::Error) -> Failure {
    Failure::Usage(format!("the request cannot be written: {error}"))
}
