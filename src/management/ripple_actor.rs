//! Owns one ripple's account: the cut of every ledger before it begins and after it is over, and the receipt that is
//! their difference. The ripple's decisions are `Leader`'s. Must not know what the receipt shows.

use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;

use super::control::Control;
use super::list_actor::{ListActor, Look, With};
use super::receipt;
use super::records::{NodeCut, RippleRecord};
use crate::domain::ledger::LedgerCut;
use crate::domain::names::{NodeName, RippleId};
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::wire::messages::{NodeRole, ToRouter, ToServer};

/// How long a node may take to tell its ledger, however often it is asked: a busy one is waited for, and one that is
/// started again has its ledger still, but a dead one holds nobody up for longer.
const CUT_WITHIN: Duration = Duration::from_secs(6);
/// Between an answer that is none and the next question.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How often the ripple's end is looked for, should the word of it have been lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MAILBOX: usize = 4;

/// The ripple has ended. A hint: the actor looks for itself as well.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RippleOver;

pub struct RippleActor {
    id: RippleId,
    list: Addr<ListActor>,
    identity: Identity,
    client: Client,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Looking,
    Cutting,
}

/// What the actor finds of its ripple.
enum Found {
    /// Not begun: the ledgers are to be read first.
    Planned(Vec<Peer>),
    /// Begun by the leadership itself, before the ledgers were read.
    Uncut(Vec<Peer>),
    Running,
    Over(Vec<Peer>),
    Accounted,
}

/// A node whose ledger counts.
struct Peer {
    name: NodeName,
    role: NodeRole,
    url: String,
    up: bool,
}

impl RippleActor {
    pub fn new(id: RippleId, list: Addr<ListActor>, identity: Identity, client: Client) -> Self {
        Self { id, list, identity, client, stage: Stage::Looking }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.stage == Stage::Cutting {
            return;
        }
        self.stage = Stage::Cutting;
        let id = self.id.clone();
        let look = self.list.send(Look::new(move |control| find(control, &id)));
        ctx.spawn(look.into_actor(self).map(|found, actor, ctx| match found {
            Ok(Found::Planned(peers)) => actor.cut(peers, ctx, begin),
            Ok(Found::Uncut(peers)) => actor.cut(peers, ctx, note_before),
            Ok(Found::Over(peers)) => actor.cut(peers, ctx, receipt::close),
            Ok(Found::Accounted) | Err(_) => ctx.stop(),
            Ok(Found::Running) => actor.stage = Stage::Looking,
        }));
    }

    /// Reads every ledger, then hands the cuts to the state.
    fn cut(&mut self, peers: Vec<Peer>, ctx: &mut Context<Self>, then: fn(&mut Control, &RippleId, Vec<NodeCut>)) {
        let (client, identity) = (self.client.clone(), self.identity.clone());
        let reads = peers.into_iter().map(move |peer| read(client.clone(), identity.clone(), peer));
        let (id, list) = (self.id.clone(), self.list.clone());
        let work = async move {
            let cuts = join_all(reads).await;
            list.send(With::new(move |control| then(control, &id, cuts))).await
        };
        ctx.spawn(work.into_actor(self).map(|done, actor, _| {
            if let Ok(Err(problem)) = done {
                tracing::error!(ripple = %actor.id, %problem, "the ripple's account cannot be saved yet");
            }
            actor.stage = Stage::Looking;
        }));
    }
}

fn find(control: &Control, id: &RippleId) -> Found {
    let Some(record) = control.ripples.get(id) else { return Found::Accounted };
    match &record.ripple {
        _ if record.receipt.is_some() => Found::Accounted,
        None => Found::Planned(peers(control)),
        Some(ripple) if ripple.state.is_over() && control.told_the_end(record) => Found::Over(peers(control)),
        Some(ripple) if ripple.state.is_over() => Found::Running,
        Some(_) if record.before.is_empty() => Found::Uncut(peers(control)),
        Some(_) => Found::Running,
    }
}

fn peers(control: &Control) -> Vec<Peer> {
    let counts = |role: &NodeRole| matches!(role, NodeRole::AppServer | NodeRole::Router);
    let nodes = control.nodes.iter().filter(|((role, _), _)| counts(role));
    nodes
        .map(|((role, name), node)| Peer { name: name.clone(), role: *role, url: node.messages_url(), up: node.up })
        .collect()
}

async fn read(client: Client, identity: Identity, peer: Peer) -> NodeCut {
    let body = match peer.role {
        NodeRole::Router => serde_json::to_vec(&identity.envelope(None, ToRouter::Ledger {})),
        _ => serde_json::to_vec(&identity.envelope(None, ToServer::Ledger {})),
    };
    let asks = async |body: Vec<u8>| loop {
        let answer = client.post(&peer.url, body.clone()).await;
        if let Some(cut) = answer.ok().and_then(|answer| answer.json::<LedgerCut>().ok()) {
            return cut;
        }
        actix_rt::time::sleep(ASK_AGAIN).await;
    };
    let cut = match body {
        Ok(body) if peer.up => actix_rt::time::timeout(CUT_WITHIN, asks(body)).await.ok(),
        _ => None,
    };
    NodeCut { node: peer.name, role: peer.role, cut }
}

/// The ledgers are read: the ripple begins.
fn begin(control: &mut Control, id: &RippleId, before: Vec<NodeCut>) {
    if let Some(record) = control.ripples.get_mut(id).filter(|record| record.ripple.is_none()) {
        record.before = before;
        let plan = record.plan.clone();
        control.leader.start(plan);
        record.ripple = control.leader.ripples.get(id).cloned();
    }
}

/// The ledgers are read as soon as could be after the ripple began: it prepares before it closes a gate.
fn note_before(control: &mut Control, id: &RippleId, before: Vec<NodeCut>) {
    let running = |record: &&mut RippleRecord| record.before.is_empty() && record.ended_at.is_none();
    if let Some(record) = control.ripples.get_mut(id).filter(running) {
        record.before = before;
    }
}

impl Actor for RippleActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(LOOK_EVERY, Self::look);
        self.look(ctx);
    }
}

impl Handler<RippleOver> for RippleActor {
    type Result = ();

    fn handle(&mut self, _: RippleOver, ctx: &mut Context<Self>) {
        self.look(ctx);
    }
}
