//! Owns the server's word to each management: it registers, and then tells how it stands, again and again. Must not know
//! what is answered beyond handing it on. Without management it goes on asking, and nothing else changes.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::watch;
use tracing::{debug, info};

use super::server::{Beat, Renewed, Server};
use crate::domain::duration;
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::link::tag_keys::TagKeys;
use crate::wire::envelope::MESSAGES_PATH;
use crate::wire::messages::{Registration, Renewals, ToManagement, Welcome};
use crate::wire::problem::{Code, Problem};

/// How many heartbeats' time one may wait for its answer, and no less than that: a management that has much to do is not
/// asked all the more. It is less than what makes a node silent.
const HEARTBEATS_PATIENCE: u32 = 3;
const PATIENCE_LEAST: Duration = Duration::from_secs(2);

/// What one management hears.
pub struct Herald {
    pub url: String,
    pub identity: Identity,
    pub client: Client,
    pub registration: Registration,
    pub heartbeat: Duration,
    /// Rung when something has changed that the next heartbeat tells.
    pub nudge: watch::Receiver<()>,
    pub server: Addr<Server>,
    pub tag_keys: TagKeys,
}

impl Herald {
    /// Goes on until the server's actor has ended.
    pub async fn run(mut self) {
        let (mut known, mut told) = (false, false);
        while self.server.connected() {
            match self.speak(&mut known).await {
                Ok(()) => told = false,
                Err(problem) if told => debug!(management = self.url, %problem, "no answer"),
                Err(problem) => {
                    info!(management = self.url, %problem, "no answer; this server goes on without it");
                    told = true;
                }
            }
            let pause = tokio::time::sleep(self.heartbeat);
            tokio::select! {
                () = pause => {}
                // Rung in a burst, it is still one heartbeat; a failing management is not asked faster.
                Ok(()) = self.nudge.changed(), if known => {}
            }
        }
    }

    async fn speak(&self, known: &mut bool) -> Result<(), Problem> {
        if !*known {
            let welcome: Welcome = self.post(&ToManagement::Register(Box::new(self.registration.clone()))).await?;
            info!(management = %welcome.management, term = %welcome.term, "registered");
            // Before this server has a program whose requests need them.
            welcome.tag_keys.iter().for_each(|told| self.tag_keys.hear(told));
            *known = true;
        }
        let gone = |error: MailboxError| Problem::new(Code::Unavailable, error.to_string());
        let heartbeat = self.server.send(Beat).await.map_err(gone)??;
        let renewals: Renewals = self.post(&ToManagement::Heartbeat(Box::new(heartbeat))).await.inspect_err(|_| {
            // Another may answer at this address by then.
            *known = false;
        })?;
        renewals.tag_keys.iter().for_each(|told| self.tag_keys.hear(told));
        *known = !renewals.unknown;
        if self.server.try_send(Renewed(renewals)).is_err() {
            debug!("a full mailbox: a heartbeat's answer was not heard");
        }
        Ok(())
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, message: &ToManagement) -> Result<T, Problem> {
        let envelope = self.identity.envelope(None, message);
        let bytes = serde_json::to_vec(&envelope).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let url = format!("{}{MESSAGES_PATH}", self.url.trim_end_matches('/'));
        // One that hangs must not keep the next from being heard.
        let patience = (self.heartbeat * HEARTBEATS_PATIENCE).max(PATIENCE_LEAST);
        let late = |_| Problem::new(Code::TimedOut, format!("no answer within {}", duration::show(patience)));
        let answer = tokio::time::timeout(patience, self.client.post(&url, bytes)).await.map_err(late)?;
        answer.map_err(|error| error.problem())?.json()
    }
}
