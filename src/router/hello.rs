//! Owns what this router tells management of itself: that it is there, that it lives, and which Server List it holds.
//! Must not know what management does about it: without management, routing goes on for ever.

use std::sync::Arc;

use tracing::{debug, info};

use super::list;
use super::snapshot::Snapshot;
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::link::tag_keys::TagKeys;
use crate::wire::envelope::MESSAGES_PATH;
use crate::wire::messages::{ActiveThere, Heartbeat, Load, NodeRole, Registration, Renewals, ToManagement, Welcome};

/// How management is reached, and who tells it what.
#[derive(Clone)]
pub struct Hello {
    pub client: Client,
    pub identity: Identity,
    pub registration: Arc<Registration>,
    pub tag_keys: TagKeys,
    /// Base URLs; the first that answers is kept.
    pub management: Vec<String>,
    pub at: usize,
    pub registered: bool,
    /// That it could not register was told.
    pub refused: bool,
}

impl Hello {
    /// Registers, or tells that it lives, and how many of its requests last at which placement; answers with what to go on
    /// from the next time.
    pub async fn say(mut self, snapshot: &Snapshot, active: ActiveThere) -> Self {
        if self.management.is_empty() {
            return self;
        }
        let said = if self.registered { self.beat(snapshot, active).await } else { self.register().await };
        if let Err(why) = said {
            if self.registered {
                info!(management = self.url(), why, "management is away; routing goes on");
            }
            if !self.registered && !self.refused {
                // Also why it is not taken: its release may be too far from management's.
                info!(management = self.url(), why, "this router is not registered");
                self.refused = true;
            }
            debug!(management = self.url(), why, "management was not told");
            self.registered = false;
            self.at = (self.at + 1) % self.management.len();
        }
        self
    }

    async fn register(&mut self) -> Result<(), String> {
        let body = ToManagement::Register(Box::new(self.registration.as_ref().clone()));
        let welcome: Welcome = self.post(body).await?;
        info!(management = %welcome.management, term = %welcome.term, "registered with management");
        welcome.tag_keys.iter().for_each(|told| self.tag_keys.hear(told));
        (self.registered, self.refused) = (true, false);
        Ok(())
    }

    async fn beat(&mut self, snapshot: &Snapshot, active: ActiveThere) -> Result<(), String> {
        let load = Load { load_average: load_average(), active_requests: snapshot.active(), connections: 0 };
        let held = list::stamp(snapshot.list.as_ref());
        let (components, cpu_milli) = Default::default();
        let beat = Heartbeat {
            role: NodeRole::Router,
            held,
            reports: Vec::new(),
            load,
            components,
            cpu_milli,
            sessions_only_here: None,
            active,
        };
        let renewals: Renewals = self.post(ToManagement::Heartbeat(Box::new(beat))).await?;
        renewals.tag_keys.iter().for_each(|told| self.tag_keys.hear(told));
        self.registered = !renewals.unknown;
        Ok(())
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, body: ToManagement) -> Result<T, String> {
        let envelope = self.identity.envelope(None, body);
        let json = serde_json::to_vec(&envelope).map_err(|error| error.to_string())?;
        let url = format!("{}{MESSAGES_PATH}", self.url());
        let answer = self.client.post(&url, json).await.map_err(|error| error.to_string())?;
        answer.json().map_err(|problem| problem.to_string())
    }

    fn url(&self) -> &str {
        &self.management[self.at]
    }
}

/// The machine's load average of a minute; 0 where it is not told.
fn load_average() -> f64 {
    let told = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    told.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}
