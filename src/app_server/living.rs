//! Owns what is asked about an instance that lives: its end, its health, its orphans. Must not know what is done about it.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;

use super::hands::Life;
use crate::domain::program::Health;
use crate::programs::instance::Instance;
use crate::programs::orphans::Orphans;
use crate::programs::probe;

/// A failure and the last lines of output, as people read them.
pub fn with_lines(failure: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return failure.to_owned();
    }
    format!("{failure}; its last lines:\n{}", lines.join("\n"))
}

/// An instance that lives, as its program's actor asks about it.
pub struct Living {
    pub instance: Arc<Instance>,
    pub health: Health,
    /// `None`: it was started by this run of the node.
    pub orphans: Option<Rc<RefCell<Orphans>>>,
}

impl Life for Living {
    fn ended(&self) -> LocalBoxFuture<'static, String> {
        let instance = self.instance.clone();
        Box::pin(async move { instance.exited().await.to_string() })
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.instance.record().port));
        let health = self.health.clone();
        Box::pin(async move { probe::probe(at, &health).await.map_err(|failure| failure.to_string()) })
    }

    fn orphans(&self) -> u64 {
        match self.orphans.as_ref().map_or(Ok(0), |orphans| orphans.borrow_mut().remaining()) {
            Ok(left) => left as u64,
            Err(error) => {
                // What cannot be seen may be there.
                tracing::warn!(%error, "cannot count orphans");
                1
            }
        }
    }
}
