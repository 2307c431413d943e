//! Owns how the Components List is kept up: which servers are asked, and when, and that what they say is on disk. Must not
//! know how it is shown, nor how a server finds out.

use std::collections::HashMap;

use actix::prelude::*;

use super::control::{About, Control};
use super::list_actor::ListActor;
use crate::domain::components::Taken;
use crate::domain::names::{ServerName, Sha256};
use crate::store::StoreError;
use crate::wire::components::{digest, digest_of};
use crate::wire::messages::{NodeRole, ToServer, ToldComponents};
use crate::wire::problem::Problem;

/// What is asked of servers now, and for which word of theirs all has been heard.
#[derive(Default)]
pub struct Asking {
    servers: HashMap<ServerName, Asked>,
}

#[derive(Default)]
struct Asked {
    under_way: bool,
    /// All that fits was taken in for this digest.
    heard: Option<Sha256>,
}

impl ListActor {
    /// A server's heartbeat says what it has, as a digest: it is asked if that is something else than is held.
    pub(super) fn ask_components(&mut self, server: &ServerName, told: Option<Sha256>, ctx: &mut Context<Self>) {
        let Some(told) = told else { return };
        let have = self.control.components.digests(server);
        let asked = self.asking.servers.entry(server.clone()).or_default();
        if asked.under_way || asked.heard == Some(told) || digest_of(&have) == told {
            return;
        }
        let Some(node) = self.control.nodes.get(&(NodeRole::AppServer, server.clone())) else { return };
        asked.under_way = true;
        let (client, url) = (self.client.clone(), node.messages_url());
        let ask = self.identity.envelope(None, ToServer::Components { have, scan: false });
        let asking = async move {
            let body = serde_json::to_vec(&ask).unwrap_or_default();
            client.post(&url, body).await.map_err(|error| error.problem())?.json::<ToldComponents>()
        };
        let server = server.clone();
        ctx.spawn(asking.into_actor(self).map(move |answer, actor, ctx| actor.heard_components(&server, answer, ctx)));
    }

    fn heard_components(
        &mut self,
        server: &ServerName,
        answer: Result<ToldComponents, Problem>,
        ctx: &mut Context<Self>,
    ) {
        if let Some(asked) = self.asking.servers.get_mut(server) {
            asked.under_way = false;
        }
        // The next heartbeat has it asked again.
        let heard = answer.and_then(|told| {
            let has = digest_of(&told.has);
            let taken = self.control.take_components(server, told).map_err(|error| error.problem())?;
            Ok((has, !taken.kept.is_empty()))
        });
        match heard {
            // One answer does not hold everything; one of which nothing finds a place is the last.
            Ok((has, true)) => self.ask_components(server, Some(has), ctx),
            Ok((has, false)) => {
                self.asking.servers.entry(server.clone()).or_default().heard = Some(has);
            }
            Err(problem) => tracing::warn!(%server, %problem, "what its programs use was not heard"),
        }
    }
}

impl Control {
    /// Takes in a server's word; it is on disk before anybody hears of it.
    pub fn take_components(&mut self, server: &ServerName, told: ToldComponents) -> Result<Taken, StoreError> {
        let sent = told.usages.into_iter().map(|usage| {
            let (digest, bytes) = digest(&usage);
            (usage, digest, bytes)
        });
        let mut next = self.components.clone();
        let taken = next.take(server, &told.has, sent.collect(), self.bounds.components_size);
        self.save_components(server, &next, &taken)?;
        self.components = next;
        for program in &taken.refused {
            let message = format!(
                "what {program} on {server} uses is not kept: there is no room for it; raise [management.limits] \
                 components_size"
            );
            self.event(
                "components_refused",
                message,
                About { node: Some(server), program: Some(program), ripple: None },
            );
        }
        Ok(taken)
    }
}

/// A scan was answered.
pub struct Scanned {
    pub server: ServerName,
    pub told: ToldComponents,
}

impl Message for Scanned {
    type Result = Result<(), Problem>;
}

impl Handler<Scanned> for ListActor {
    type Result = Result<(), Problem>;

    fn handle(&mut self, Scanned { server, told }: Scanned, _: &mut Context<Self>) -> Self::Result {
        self.control.take_components(&server, told).map(drop).map_err(|error| error.problem())
    }
}
