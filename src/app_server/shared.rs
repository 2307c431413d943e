//! Owns what all actors of this role share on their one thread. Must not know what any of them does with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::watch;

use super::claims::Claims;
use super::hands::Hands;
use super::ledger::Ledger;
use super::session_lists::SessionLists;
use super::sets::Sets;
use super::settings::Settings;
use crate::domain::names::Term;
use crate::domain::placement::{Millis, Refusal};
use crate::domain::seal::Seal;
use crate::link::identity::Identity;
use crate::link::outbox::Post;
use crate::link::queue::Letter;
use crate::link::tag_keys::TagKeys;
use crate::store::Store;
use crate::wire::messages::ToManagement;

/// Shared by the server's actor and the programs' actors.
pub struct Shared {
    pub identity: Identity,
    pub store: Store,
    pub settings: Settings,
    pub claims: Arc<Claims>,
    pub ledger: Arc<Ledger>,
    pub hands: Rc<dyn Hands>,
    pub sets: Sets,
    /// The promise: read by every program's actor when it obeys, raised by the server's actor only.
    pub seal: RefCell<Seal>,
    pub clock: Clock,
    /// Where hints to management go; `None` in tests.
    pub outbox: Option<Recipient<Post>>,
    /// Heartbeats go at once when it is rung.
    pub nudge: watch::Sender<()>,
    /// The Active Session Lists of its programs.
    pub sessions: Arc<SessionLists>,
    pub tag_keys: TagKeys,
}

/// This run's own monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Millis {
        self.0.elapsed().as_millis() as Millis
    }
}

impl Shared {
    /// Whether a lower term than the one promised commands.
    pub fn check_term(&self, term: &Term) -> Result<(), Refusal> {
        match &self.seal.borrow().highest {
            Some(highest) if term < highest => Err(Refusal::StaleTerm { highest: highest.clone() }),
            _ => Ok(()),
        }
    }

    /// Has every management told at once how this server stands.
    pub fn nudge(&self) {
        self.nudge.send_replace(());
    }

    /// Tells every management. A hint: what is not delivered is heard from heartbeats and answers.
    pub fn tell(&self, key: &str, hint: &ToManagement) {
        let Some(outbox) = &self.outbox else { return };
        for management in &self.settings.management {
            let envelope = self.identity.envelope(None, hint);
            let bytes = match serde_json::to_vec(&envelope) {
                Ok(bytes) => Bytes::from(bytes),
                Err(error) => return tracing::error!(%error, "a hint cannot be written"),
            };
            let (to, key) = (management.clone(), Some(key.to_owned()));
            if outbox.try_send(Post(Letter { to, key, id: envelope.id, bytes })).is_err() {
                tracing::warn!(management, "the outbox is full: a hint was not sent");
            }
        }
    }
}
