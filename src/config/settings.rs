//! Owns how a configuration becomes the settings of the lower floors. Must not know what they do with them.

use super::values::Config;
use crate::link::{client, outbox, queue::Backoff, seen::Seen};
use crate::store;

impl Config {
    /// Of the clients that talk to other nodes.
    pub fn client(&self) -> client::Settings {
        let limits = &self.cluster.limits;
        client::Settings {
            connect_timeout: limits.connect_timeout,
            answer_timeout: limits.answer_timeout,
            answer_size: limits.message_size as usize,
            reuse_idle: limits.reuse_idle,
            idle_peers: limits.idle_peers,
        }
    }

    /// Of the outboxes of actors whose mailboxes hold `mailbox` messages.
    pub fn outbox(&self, mailbox: usize) -> outbox::Settings {
        let limits = &self.cluster.limits;
        let backoff = Backoff { first: limits.backoff_first, most: limits.backoff_most };
        outbox::Settings { letters: limits.outbox, mailbox, backoff }
    }

    /// A memory of messages, as large as is configured.
    pub fn seen(&self) -> Seen {
        Seen::new(self.cluster.limits.messages_seen, self.cluster.limits.answers_size as usize)
    }

    pub fn store(&self) -> store::Options {
        let limits = &self.store.limits;
        store::Options { cache_bytes: limits.cache_size, kept_aside: limits.kept_aside }
    }
}
