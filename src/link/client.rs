//! Owns HTTP out on the control path: connections to peers, kept one a peer, every wait and every body bounded.
//! Must not know what is sent, nor when to send it again (`queue`).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256 as Hasher};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use super::peer::LinkError;
use super::peer::Target;
use super::secret::{CLUSTER_KEY, Secret};
use crate::domain::names::Sha256;
use crate::wire::problem::{Code, Problem};

/// A request's body: bytes at hand, or read from a file as it goes.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes read from a file at a time.
const CHUNK: usize = 64 << 10;

/// Bounds of a client; see `[cluster.limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub connect_timeout: Duration,
    /// From the request's last byte to the answer's last, and between two parts of one that is streamed.
    pub answer_timeout: Duration,
    /// Bytes of an answer that is read whole.
    pub answer_size: usize,
    /// A connection that was idle for longer is not used again: the peer may be closing it.
    pub reuse_idle: Duration,
    /// Peers to keep a connection to.
    pub idle_peers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(10),
            answer_size: 4 << 20,
            reuse_idle: Duration::from_secs(3),
            idle_peers: 256,
        }
    }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads the JSON of a success; any other answer is its problem.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        if !self.is_success() {
            return Err(Problem::read(self.status, &self.body));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::new(Code::Internal, format!("the answer cannot be read: {error}")))
    }
}

/// What was fetched, as counted and hashed on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetched {
    pub bytes: u64,
    pub sha256: Sha256,
}

/// Sends requests to peers, with the cluster's key where there is one. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    secret: Option<Secret>,
    idle: Mutex<HashMap<String, Idle>>,
}

struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
}

impl Client {
    pub fn new(settings: Settings, secret: Option<Secret>) -> Self {
        Self { shared: Arc::new(Shared { settings, secret, idle: Mutex::default() }) }
    }

    /// Asks for a URL and reads the answer whole.
    pub async fn get(&self, url: &str) -> Result<Answer, LinkError> {
        self.send(Method::GET, url, &[], Bytes::new()).await
    }

    /// Posts JSON and reads the answer whole.
    pub async fn post(&self, url: &str, json: impl Into<Bytes>) -> Result<Answer, LinkError> {
        let json_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(Method::POST, url, &[json_type], json.into()).await
    }

    /// Sends any request and reads the answer whole. It is sent again, once, only where no byte of it was sent, or
    /// where the method is GET or HEAD, and the connection was a kept one.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, LinkError> {
        let target = Target::parse(url)?;
        let whole = async {
            let (response, sender) = self.exchange(&method, &target, headers, &body).await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = self.read_whole(response.into_body(), &target).await?;
            self.keep(&target.peer, sender);
            Ok(Answer { status, headers, body })
        };
        self.within("answer", &target, whole).await
    }

    /// Sends a body of `len` bytes as it is read, and reads the answer whole. `patience` bounds it all.
    pub async fn upload<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        url: &str,
        content_type: &'static str,
        reader: R,
        len: u64,
        patience: Duration,
    ) -> Result<Answer, LinkError> {
        let target = Target::parse(url)?;
        let headers =
            [(CONTENT_TYPE, HeaderValue::from_static(content_type)), (CONTENT_LENGTH, HeaderValue::from(len))];
        let whole = async {
            let mut sender = self.connect(&target).await?;
            let request = self.request(&Method::POST, &target, &headers, streamed(reader));
            let response = sender.send_request(request).await.map_err(|error| target.broken(&error))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = self.read_whole(response.into_body(), &target).await?;
            Ok(Answer { status, headers, body })
        };
        let late = |_| LinkError::TimedOut { peer: target.peer.clone(), what: "take it", after: patience };
        timeout(patience, whole).await.map_err(late)?
    }

    /// Asks for a URL and answers as soon as the head is there; the body comes as it comes. Anything but 200 is the problem.
    pub async fn open(
        &self,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, LinkError> {
        let target = Target::parse(url)?;
        let head = async {
            let (response, _) = self.exchange(&Method::GET, &target, headers, &Bytes::new()).await?;
            if response.status() == StatusCode::OK {
                return Ok(response);
            }
            let status = response.status().as_u16();
            let body = self.read_whole(response.into_body(), &target).await?;
            Err(LinkError::Refused(Box::new(Problem::read(status, &body))))
        };
        self.within("answer", &target, head).await
    }

    /// Downloads a URL of at most `limit` bytes into `to`, hashing on the way. What was written of a download that failed
    /// is the caller's to remove.
    pub async fn fetch<W: AsyncWrite + Unpin>(&self, url: &str, to: &mut W, limit: u64) -> Result<Fetched, LinkError> {
        let target = Target::parse(url)?;
        let mut body = self.open(url, &[]).await?.into_body();
        let cannot_write = |source| LinkError::Write { peer: target.peer.clone(), source };
        let (mut bytes, mut hasher) = (0_u64, Hasher::new());
        loop {
            let next = async { Ok(body.frame().await) };
            let Some(frame) = self.within("go on sending", &target, next).await? else { break };
            let frame = frame.map_err(|error| target.broken(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len() as u64;
            if bytes > limit {
                return Err(LinkError::TooLarge { peer: target.peer, limit });
            }
            hasher.update(&data);
            to.write_all(&data).await.map_err(cannot_write)?;
        }
        to.flush().await.map_err(cannot_write)?;
        Ok(Fetched { bytes, sha256: Sha256(hasher.finalize().into()) })
    }

    async fn exchange(
        &self,
        method: &Method,
        target: &Target,
        headers: &[(HeaderName, HeaderValue)],
        body: &Bytes,
    ) -> Result<(Response<Incoming>, SendRequest<Body>), LinkError> {
        let request = || self.request(method, target, headers, whole(body.clone()));
        if let Some(mut kept) = self.kept(&target.peer).await {
            match kept.try_send_request(request()).await {
                Ok(response) => return Ok((response, kept)),
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    if !unsent && !method.is_safe() {
                        return Err(target.broken(error.error()));
                    }
                }
            }
        }
        let mut sender = self.connect(target).await?;
        let response = sender.send_request(request()).await.map_err(|error| target.broken(&error))?;
        Ok((response, sender))
    }

    fn request(
        &self,
        method: &Method,
        target: &Target,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
    ) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = target.path.clone();
        let map = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&target.peer) {
            map.insert(HOST, host);
        }
        if let Some(secret) = &self.shared.secret {
            map.insert(CLUSTER_KEY, secret.header());
        }
        map.extend(headers.iter().cloned());
        request
    }

    async fn connect(&self, target: &Target) -> Result<SendRequest<Body>, LinkError> {
        let after = self.shared.settings.connect_timeout;
        let unreachable = |source| LinkError::Unreachable { peer: target.peer.clone(), source };
        let late = |_| unreachable(io::Error::from(io::ErrorKind::TimedOut));
        let stream = timeout(after, TcpStream::connect(&target.peer)).await.map_err(late)?.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| target.broken(&error))?;
        // Ends with its sender, or with the peer; what went wrong is told to whoever waits for the answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn kept(&self, peer: &str) -> Option<SendRequest<Body>> {
        let Idle { mut sender, since } = self.idle().remove(peer)?;
        let fresh = since.elapsed() < self.shared.settings.reuse_idle;
        (fresh && sender.ready().await.is_ok()).then_some(sender)
    }

    fn keep(&self, peer: &str, sender: SendRequest<Body>) {
        let reuse = self.shared.settings.reuse_idle;
        let mut idle = self.idle();
        idle.retain(|_, kept| kept.since.elapsed() < reuse && !kept.sender.is_closed());
        if idle.len() < self.shared.settings.idle_peers && !sender.is_closed() {
            idle.insert(peer.to_owned(), Idle { sender, since: Instant::now() });
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, Idle>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_whole(&self, mut body: Incoming, target: &Target) -> Result<Bytes, LinkError> {
        let limit = self.shared.settings.answer_size;
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| target.broken(&error))?.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Err(LinkError::TooLarge { peer: target.peer.clone(), limit: limit as u64 });
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }

    async fn within<T>(
        &self,
        what: &'static str,
        target: &Target,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let after = self.shared.settings.answer_timeout;
        let late = |_| LinkError::TimedOut { peer: target.peer.clone(), what, after };
        timeout(after, work).await.map_err(late)?
    }
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn streamed<R: AsyncRead + Send + Unpin + 'static>(reader: R) -> Body {
    let parts = stream::try_unfold(reader, |mut reader| async move {
        let mut part = vec![0; CHUNK];
        let read = reader.read(&mut part).await?;
        part.truncate(read);
        Ok((read > 0).then_some((Bytes::from(part), reader)))
    });
    StreamBody::new(parts.map_ok(Frame::data)).boxed_unsync()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
