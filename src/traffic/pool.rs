//! Owns the connections to one target: bounded, reused where that is safe. Must not know what is sent on them.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::RecvFlags;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::plan::Url;
use super::stream::Stream;

/// A POST never travels on a connection that was idle for longer.
const POST_IDLE_MAX: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is dropped.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A connection, with what was read from it beyond the last answer (nothing, when it is idle).
pub struct Connection {
    pub stream: Stream,
    pub buffer: BytesMut,
    idle_since: Instant,
}

/// The connections to one target.
pub struct Pool {
    address: (String, u16),
    /// Of https.
    tls: Option<Arc<ClientConfig>>,
    max: usize,
    permits: Semaphore,
    /// The last is the one used last.
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub fn new(url: &Url, max: usize, tls: Option<Arc<ClientConfig>>) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self { address: url.address(), tls, max, permits: Semaphore::new(max), idle: Mutex::new(Vec::new()) }
    }

    /// The right to use one connection; calls `waiting` once if there is none at this moment.
    pub async fn permit(&self, waiting: impl FnOnce()) -> io::Result<SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        waiting();
        self.permits.acquire().await.map_err(io::Error::other)
    }

    /// An idle connection that seems alive; `fresh`: that was idle for a second at the most.
    pub fn reuse(&self, fresh: bool) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some(connection) = idle.pop() {
            let idle_for = connection.idle_since.elapsed();
            if idle_for > IDLE_MAX {
                // The rest were idle for longer still.
                idle.clear();
                return None;
            }
            if fresh && idle_for > POST_IDLE_MAX {
                idle.push(connection);
                return None;
            }
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// A new connection. The longest idle one makes room for it at the bound.
    pub async fn open(&self) -> io::Result<Connection> {
        {
            let mut idle = self.lock();
            let busy = self.max - self.permits.available_permits();
            if !idle.is_empty() && idle.len() + busy > self.max {
                idle.remove(0);
            }
        }
        let stream = TcpStream::connect((self.address.0.as_str(), self.address.1)).await?;
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            Some(config) => Stream::secure(stream, &self.address.0, config).await?,
            None => Stream::Plain(stream),
        };
        Ok(Connection { stream, buffer: BytesMut::new(), idle_since: Instant::now() })
    }

    /// Keeps a connection for another request.
    pub fn keep(&self, mut connection: Connection) {
        connection.idle_since = Instant::now();
        self.lock().push(connection);
    }

    /// Drops the idle connections.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Connection {
    /// Nothing waits to be read, neither bytes nor the end.
    fn is_quiet(&self) -> bool {
        let peeked = rustix::net::recv(self.stream.tcp(), &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }
}
