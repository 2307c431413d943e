//! Owns how a configuration becomes the settings of the lower floors. Must not know what they do with them.

use super::values::{Certificate, Config};
use crate::link::{client, outbox, queue::Backoff, seen::Seen};
use crate::store;
use crate::tls::{Files, SelfSigned, Source};

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

    /// Where the router's certificates come from, in their order; or what is wrong, and at which of them.
    pub fn certificates(&self) -> Result<Vec<Source>, String> {
        let mut own = false;
        let source = |(number, given): (usize, &Certificate)| {
            let at = |why: &str| Err(format!("[{number}] {why}"));
            match (&given.cert, &given.key, &given.self_signed) {
                (Some(cert), Some(key), None) => Ok(Source::Files(Files { cert: cert.clone(), key: key.clone() })),
                (None, None, Some(_)) if std::mem::replace(&mut own, true) => {
                    at("is a second one to be made: name all hosts in one")
                }
                (None, None, Some(names)) => {
                    Ok(Source::SelfSigned(SelfSigned { names: names.clone(), dir: self.node.data_dir.join("tls") }))
                }
                (Some(_), None, None) => at("has a cert without its key: add key = \"site.key\""),
                (None, Some(_), None) => at("has a key without its cert: add cert = \"site.pem\""),
                (None, None, None) => {
                    at("names no certificate: give cert and key, or self_signed = [\"dev.example.com\"]")
                }
                (_, _, Some(_)) => at("has files and self_signed: it is one or the other"),
            }
        };
        self.router.tls.iter().enumerate().map(source).collect()
    }

    pub fn store(&self) -> store::Options {
        let limits = &self.store.limits;
        store::Options { cache_bytes: limits.cache_size, kept_aside: limits.kept_aside, late: None }
    }
}
