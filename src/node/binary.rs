//! Owns how this node takes another binary: fetched from management, verified, tried, put where this one was started
//! from, and handed over to; and taken back where that does not come up. Must not know why it is to run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Signal, getpid, kill_process};

use super::NodeError;
use crate::config::Config;
use crate::link::client::{Client, Settings};
use crate::link::secret::Secret;
use crate::programs::binaries::{self, BadBinary, Binaries};
use crate::programs::disk::{self, DiskError};
use crate::programs::successor;
use crate::wire::api::path;
use crate::wire::binary::{Binary, BinaryStage, TakeBinary};

/// What taking another binary needs.
#[derive(Clone)]
pub struct Taker {
    binaries: Binaries,
    own: Binary,
    /// Where this process was started from, and the next will be.
    place: PathBuf,
    management: Vec<String>,
    settings: Settings,
    secret: Option<Secret>,
}

fn failed(error: DiskError) -> NodeError {
    NodeError::Failed(format!("this node's own binary: {error}"))
}

/// Finds out what this process runs.
pub fn own() -> Result<Binary, NodeError> {
    binaries::own().map_err(failed)
}

/// Takes orders from now on.
pub fn open(config: &Config, secret: Option<Secret>, own: Binary, place: &Path) -> Result<Taker, NodeError> {
    let taker = Taker {
        binaries: Binaries::open(config.node.data_dir.join("binaries")).map_err(failed)?,
        own,
        place: place.to_owned(),
        management: config.cluster.management.clone(),
        settings: config.client(),
        secret,
    };
    let worker = taker.clone();
    successor::open(taker.own.clone(), Arc::new(move |order| worker.clone().begin(order)));
    Ok(taker)
}

impl Taker {
    /// Works on a thread of its own: the roles, which may be stopped meanwhile, have no part in it.
    fn begin(self, order: TakeBinary) {
        let operation = order.operation.clone();
        let working = std::thread::Builder::new().name("successor".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let done = match runtime {
                Ok(runtime) => runtime.block_on(self.work(&order)),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = done {
                tracing::warn!(sha256 = ?order.sha256, reason, "another binary is not taken");
                successor::reached(&order.operation, BinaryStage::Failed { reason });
            }
        });
        if let Err(error) = working {
            successor::reached(&operation, BinaryStage::Failed { reason: error.to_string() });
        }
    }

    async fn work(&self, order: &TakeBinary) -> Result<(), String> {
        let told = |error: BadBinary| error.to_string();
        let (held, kept) = match self.binaries.path(order.sha256) {
            Some(held) => (held, true),
            None => (self.fetch(order).await?, false),
        };
        successor::reached(&order.operation, BinaryStage::Checking);
        let file = match binaries::check(&held).await {
            Ok(found) if found.sha256 == order.sha256 => held,
            Err(error) if !kept || matches!(error, BadBinary::Late(_) | BadBinary::Disk(_)) => return Err(told(error)),
            // What was kept is not what it was.
            _ => {
                disk::remove_any(&held);
                let file = self.fetch(order).await?;
                binaries::check(&file).await.map_err(told)?;
                file
            }
        };
        self.binaries.keep_own(self.own.sha256).map_err(told)?;
        if let Err(error) = self.binaries.sweep(&[order.sha256, self.own.sha256]) {
            tracing::warn!(%error, "old binaries stay");
        }
        // From here on the old process looks after the place, whatever becomes of the new one.
        successor::reached(&order.operation, BinaryStage::HandingOver);
        binaries::install(&file, &self.place).map_err(|error| error.to_string())?;
        tracing::info!(sha256 = ?order.sha256, place = %self.place.display(), "another binary is in place");
        kill_process(getpid(), Signal::USR2).map_err(|error| error.to_string())
    }

    /// Asks each management in turn; the last one's reason is told.
    async fn fetch(&self, order: &TakeBinary) -> Result<PathBuf, String> {
        let client = Client::new(self.settings, self.secret.clone());
        let mut why = "no management is configured to fetch it from".to_owned();
        for management in &self.management {
            let url = format!("{}{}", management.trim_end_matches('/'), path::BINARY);
            let url = url.replace("{sha256}", &order.sha256.to_string());
            match self.fetch_from(&client, &url, order).await {
                Ok(file) => return Ok(file),
                Err(reason) => why = format!("it cannot be fetched: {reason}"),
            }
        }
        Err(why)
    }

    async fn fetch_from(&self, client: &Client, url: &str, order: &TakeBinary) -> Result<PathBuf, String> {
        let arriving = self.binaries.receive(order.bytes).map_err(|error| error.to_string())?;
        let mut sink = Sink(arriving);
        client.fetch(url, &mut sink, order.bytes).await.map_err(|error| error.to_string())?;
        sink.0.finish(order.sha256).map_err(|error| error.to_string())
    }

    /// The process that was handed over to did not come up: what this one runs is put in its place again, and whoever
    /// gave the order is told why.
    pub fn take_back(&self, why: &str) {
        let Some(order) = successor::hands_over() else { return };
        let own = self.binaries.path(self.own.sha256).ok_or_else(|| "the old binary is not kept".to_owned());
        let back = own.and_then(|own| binaries::install(&own, &self.place).map_err(|error| error.to_string()));
        let reason = match back {
            Ok(()) => format!("{why}; the old process goes on"),
            Err(error) => {
                format!("{why}; the old process goes on, but {} is the new file: {error}", self.place.display())
            }
        };
        successor::reached(&order.operation, BinaryStage::Failed { reason });
    }
}

/// Writes to disk what is downloaded. Small pieces to a local file: waiting for them on this thread harms nobody.
struct Sink(binaries::Arriving);

impl tokio::io::AsyncWrite for Sink {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        piece: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(self.0.write(piece).map(|()| piece.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
