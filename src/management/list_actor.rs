//! Owns the Server List actor: every event that management hears passes here, and every handler is four moves: take it
//! in, decide (`Leader`), save, perform. Must not know HTTP handlers or what a receipt holds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::components::Asking;
use super::control::{About, Control};
use super::flights::{Flights, Key};
use super::hooks::Hooks;
pub use super::list_messages::{Look, With};
use super::observer;
use super::ripple_actor::{RippleActor, RippleOver};
use super::routers::{Routers, Told};
use crate::domain::leader::{Heard, Leader};
use crate::domain::names::{NodeName, ProgramName, RippleId, Term};
use crate::domain::placement::{Order, Worked};
use crate::domain::ripple::hooks::{HookEnd, HookOrder};
use crate::domain::ripple::machine::Send as Outgoing;
use crate::domain::server_list::Measured;
use crate::link::client::{Answer, Client, LinkError};
use crate::link::identity::Identity;
use crate::wire::messages::{
    Held, HookTold, NodeRole, Obeyed, Prepared, Sealed, ToRouter, ToServer, TogetherObeyed, VersionFigures,
};
use crate::wire::problem::{Code, Problem};

/// How often the actor looks at the clock: leases, silent nodes, waits that end.
const TICK: Duration = Duration::from_millis(100);
/// Rounds of decisions on one event, so that one move's consequences do not wait for the next tick.
const ROUNDS: usize = 3;

pub struct ListActor {
    pub(super) control: Control,
    pub(super) identity: Identity,
    pub(super) client: Client,
    pub(super) down_after: Duration,
    pub(super) asking: Asking,
    flights: Flights,
    routers: Routers,
    ripples: HashMap<RippleId, Addr<RippleActor>>,
    hooks: Hooks,
    /// A turn follows what is being taken in.
    pub(super) due: bool,
    /// The last turn's state could not be saved.
    pub(super) unsaved: bool,
}

impl ListActor {
    pub fn new(control: Control, identity: Identity, client: Client, down_after: Duration, hooks: Hooks) -> Self {
        let (asking, flights, routers, ripples) = Default::default();
        let (due, unsaved) = (false, false);
        Self { control, identity, client, down_after, asking, flights, routers, ripples, hooks, due, unsaved }
    }

    /// A turn once all is taken in that has come by now: a decision costs as much as there is to decide on, so that many
    /// words at once are not one each. What is heard of a node does not wait for it.
    pub(super) fn turn_soon(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.due, true) {
            return;
        }
        // What is on its way leaves first: a turn holds this thread up while it saves.
        let soon = tokio::task::yield_now().into_actor(self);
        ctx.spawn(soon.map(|(), actor, ctx| {
            // Another may have come before it.
            if actor.due {
                actor.turn(ctx);
            }
        }));
    }

    /// Routers hear at once what a server has just said of a placement, and not only when all that follows from it is decided
    /// and saved: the server has it on disk. Nothing else may have come that is not saved here (protocol P11).
    pub(super) fn tell_what_is_seen(&mut self, ctx: &mut Context<Self>) {
        if self.due || self.unsaved || self.control.leader.stepped_down.is_some() {
            return;
        }
        let now = Instant::now();
        self.routers.publish(&mut self.control, now);
        self.tell_routers(ctx, now);
    }

    /// Decide, save, perform. Nothing leaves if the state could not be saved (protocol P11).
    pub(super) fn turn(&mut self, ctx: &mut Context<Self>) {
        self.due = false;
        let now = self.control.now();
        let takings = self.advance_nodes();
        let mut sends = Vec::new();
        for _ in 0..ROUNDS {
            sends = self.control.leader.decide(now);
        }
        observer::observe(&mut self.control);
        if let Err(error) = self.control.save() {
            tracing::error!(%error, "the control state cannot be saved: nothing is sent until it can");
            self.unsaved = true;
            return;
        }
        self.unsaved = false;
        let instant = Instant::now();
        self.control.settle(self.down_after);
        // Routers are the new leadership's: one that has stepped down tells them nothing (protocol P6).
        if self.control.leader.stepped_down.is_none() {
            self.routers.publish(&mut self.control, instant);
            self.tell_routers(ctx, instant);
        }
        self.dispatch(sends, ctx, instant);
        self.take_binaries(takings, ctx);
        self.attend_ripples(ctx);
    }

    fn dispatch(&mut self, sends: Vec<Outgoing>, ctx: &mut Context<Self>, now: Instant) {
        let keys: Vec<Key> = sends.iter().map(Key::of).collect();
        for (send, key) in sends.into_iter().zip(&keys) {
            if self.may_leave(&send, now) && self.flights.depart(key, now) {
                self.send(send, key.clone(), ctx);
            }
        }
        self.flights.keep(&keys);
        let Leader { ripples, drains, .. } = &self.control.leader;
        self.routers.forget(|operation| {
            ripples.values().any(|ripple| ripple.owns(operation))
                || drains.values().any(|drain| drain.operation == *operation)
        });
    }

    /// Routers hear of a quiesce before its server does (protocol P10).
    fn may_leave(&mut self, send: &Outgoing, now: Instant) -> bool {
        let Outgoing::Command { program, command, .. } = send else { return true };
        if !matches!(command.order, Order::Quiesce { .. }) {
            return true;
        }
        match self.routers.told(&self.control, &command.operation, now) {
            Told::All => true,
            Told::NotYet => false,
            Told::Stale(routers) => {
                let id = self.control.leader.under_way(program).map(|ripple| ripple.plan.id.clone());
                if let Some(record) = id.and_then(|id| self.control.ripples.get_mut(&id)) {
                    record.stale_routers.extend(routers);
                    record.stale_routers.sort();
                    record.stale_routers.dedup();
                }
                true
            }
        }
    }

    fn send(&self, send: Outgoing, key: Key, ctx: &mut Context<Self>) {
        let (server, message) = match &send {
            Outgoing::Seal { server, asked } => {
                (server, ToServer::Seal { term: self.control.leader.term().clone(), asked: *asked })
            }
            Outgoing::Prepare { server, program, release } => {
                let Some(record) = self.control.release(program, release) else {
                    let problem = format!("no manifest of {program} {} is known", release.version);
                    let result = Prepared::Failed { reason: problem };
                    return self.post_back(ctx, Answered { send, key, result: Ok(to_answer(&result)) });
                };
                let manifest = Box::new(record.manifest.clone());
                (server, ToServer::Prepare { program: program.clone(), release: release.clone(), manifest })
            }
            Outgoing::Hook { server: None, program, order } => {
                let (program, order) = (program.clone(), order.clone());
                return self.run_hook(&program, order, Answered { send, key, result: Ok(to_answer(&())) }, ctx);
            }
            Outgoing::Hook { server: Some(server), program, order } => {
                (server, ToServer::Hook { program: program.clone(), order: order.clone() })
            }
            Outgoing::Measure { server, program } => (server, ToServer::Measure { program: program.clone() }),
            Outgoing::Command { server, program, command } => {
                (server, ToServer::Command { program: program.clone(), command: command.clone() })
            }
            Outgoing::Together { server, operation, members, work, .. } => {
                let (operation, members, work) = (operation.clone(), members.clone(), work.clone());
                (server, ToServer::Together { operation, members, work })
            }
            Outgoing::Worked { server, operation, .. } => (server, ToServer::Worked { operation: operation.clone() }),
        };
        let Some(node) = self.control.nodes.get(&(NodeRole::AppServer, server.clone())) else {
            let peer = server.to_string();
            let problem = Problem::new(Code::Unreachable, format!("{peer} has not registered"));
            return self.post_back(ctx, Answered { send, key, result: Err(LinkError::Refused(Box::new(problem))) });
        };
        let url = node.messages_url();
        let envelope = self.identity.envelope(Some(self.control.leader.term().clone()), message);
        let client = self.client.clone();
        let post = async move {
            let body = serde_json::to_vec(&envelope).unwrap_or_default();
            client.post(&url, body).await
        };
        ctx.spawn(post.into_actor(self).map(move |result, actor, ctx| {
            actor.answered(Answered { send, key, result }, ctx);
        }));
    }

    /// A hook that management runs itself: the message is under way until it has ended.
    fn run_hook(&self, program: &ProgramName, order: HookOrder, answered: Answered, ctx: &mut Context<Self>) {
        let manifest = self.control.release(program, &order.release).map(|record| record.manifest.clone());
        let (hooks, program) = (self.hooks.clone(), program.clone());
        let running = async move {
            let end = match manifest {
                Some(manifest) => hooks.run(&program, &manifest, &order).await,
                None => HookEnd::lost(format!("no manifest of {program} {} is known", order.release.version)),
            };
            Answered { result: Ok(to_answer(&HookTold { end: Some(end) })), ..answered }
        };
        ctx.spawn(running.into_actor(self).map(|answered, actor, ctx| actor.answered(answered, ctx)));
    }

    fn post_back(&self, ctx: &mut Context<Self>, answered: Answered) {
        let ready = std::future::ready(answered).into_actor(self);
        ctx.spawn(ready.map(|answered, actor, ctx| actor.answered(answered, ctx)));
    }

    fn answered(&mut self, answered: Answered, ctx: &mut Context<Self>) {
        let Answered { send, key, result } = answered;
        match result.map_err(|error| error.problem()).and_then(|answer| self.take(&send, answer)) {
            Ok(()) => self.flights.answered(&key, Instant::now()),
            Err(problem) => {
                tracing::debug!(?send, %problem, "not answered");
                self.flights.failed(&key, Instant::now(), rand::random());
            }
        }
        self.turn_soon(ctx);
    }

    fn take(&mut self, send: &Outgoing, answer: Answer) -> Result<(), Problem> {
        match send {
            Outgoing::Seal { server, .. } => {
                let sealed: Sealed = answer.json()?;
                if let Some(refusal) = &sealed.refusal {
                    if let Heard::LearnAgain(highest) = self.control.leader.refused(refusal, true) {
                        self.learn(&highest);
                    }
                    return Ok(());
                }
                observer::adopt(&mut self.control, server, sealed);
            }
            Outgoing::Prepare { server, program, release } => match answer.json()? {
                Prepared::Preparing => {}
                Prepared::Ready => self.control.leader.prepared(server, program, release, Ok(())),
                Prepared::Failed { reason } => self.control.leader.prepared(server, program, release, Err(reason)),
            },
            Outgoing::Hook { server, order, .. } => {
                let told: HookTold = answer.json()?;
                if let Some(end) = told.end {
                    observer::hooked(&mut self.control, order, server.as_ref(), end);
                }
            }
            Outgoing::Measure { server, program } => {
                let versions: Vec<VersionFigures> = answer.json()?;
                let versions = versions.into_iter().map(|told| (told.version, told.figures)).collect();
                self.control.leader.measured(server, program, Measured { at: self.control.now(), versions });
            }
            Outgoing::Command { server, .. } => {
                let obeyed: Obeyed = answer.json()?;
                if let Some(refusal) = &obeyed.refusal {
                    tracing::debug!(%server, %refusal, ?send, "refused");
                    self.control.leader.refused(refusal, false);
                    self.note_stepping_down();
                }
                observer::heard_of(&mut self.control, server, &obeyed.run);
                self.control.leader.heard(server, &obeyed.run, obeyed.report);
            }
            Outgoing::Together { server, .. } => {
                let obeyed: TogetherObeyed = answer.json()?;
                if let Some(refused) = &obeyed.refused {
                    tracing::debug!(%server, ?refused, ?send, "refused");
                    self.control.leader.refused(&refused.refusal, false);
                    self.note_stepping_down();
                }
                for report in obeyed.reports {
                    self.control.leader.heard(server, &obeyed.run, report);
                }
            }
            Outgoing::Worked { server, set, .. } => {
                if let Some(worked) = answer.json::<Option<Worked>>()? {
                    self.control.leader.worked(set, server, worked);
                }
            }
        }
        Ok(())
    }

    fn learn(&mut self, highest: &Term) {
        self.control.leader.take_term(highest.number + 1);
        let term = self.control.leader.term().clone();
        self.control.event(
            "term_learned",
            format!("a server had promised term {highest}; this is {term}"),
            About::default(),
        );
    }

    fn note_stepping_down(&mut self) {
        if let Some(higher) = self.control.leader.stepped_down.clone() {
            let message = format!("a server obeys the higher term {higher}: this management commands no more");
            self.control.event("stepped_down", message, About::default());
        }
    }

    fn tell_routers(&mut self, ctx: &mut Context<Self>, now: Instant) {
        for (router, url, list) in self.routers.due(&self.control, now) {
            let message = ToRouter::ServerList(Box::new(list));
            let envelope = self.identity.envelope(Some(self.control.leader.term().clone()), message);
            let client = self.client.clone();
            let push = async move {
                let body = serde_json::to_vec(&envelope).unwrap_or_default();
                client.post(&url, body).await.map_err(|error| error.problem())?.json::<Held>()
            };
            ctx.spawn(push.into_actor(self).map(move |result, actor, ctx| actor.pushed(&router, result, ctx)));
        }
    }

    fn pushed(&mut self, router: &NodeName, result: Result<Held, Problem>, ctx: &mut Context<Self>) {
        if let Err(problem) = &result {
            tracing::debug!(%router, %problem, "the Server List was not acknowledged");
        }
        self.routers.answered(&mut self.control, router, result.ok(), Instant::now());
        self.turn_soon(ctx);
    }

    /// Every ripple that is not accounted for has an actor; those that are over are told so.
    fn attend_ripples(&mut self, ctx: &mut Context<Self>) {
        self.ripples.retain(|_, ripple| ripple.connected());
        for (id, record) in &self.control.ripples {
            if record.receipt.is_some() {
                continue;
            }
            let list = ctx.address();
            let actor = self.ripples.entry(id.clone()).or_insert_with(|| {
                RippleActor::new(id.clone(), list, self.identity.clone(), self.client.clone()).start()
            });
            if record.ripple.as_ref().is_some_and(|ripple| ripple.state.is_over()) {
                // A full mailbox is one that has been told already.
                let _ = actor.try_send(RippleOver);
            }
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        observer::watch(&mut self.control, self.down_after);
        self.turn(ctx);
        self.control.export();
    }
}

struct Answered {
    send: Outgoing,
    key: Key,
    result: Result<Answer, LinkError>,
}

fn to_answer<T: serde::Serialize>(value: &T) -> Answer {
    Answer { status: 200, headers: Default::default(), body: serde_json::to_vec(value).unwrap_or_default().into() }
}

impl Actor for ListActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(self.control.bounds.mailbox);
        ctx.run_interval(TICK, Self::tick);
        self.turn(ctx);
    }
}
