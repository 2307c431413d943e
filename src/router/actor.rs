//! Owns the Server List snapshot actor: it takes lists and puts them in place, tells management that this router lives,
//! and probes servers that could not be reached. Must not know requests: nothing of it is on their path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::hello::Hello;
use super::lasting::Lasting;
use super::list::{self, ListFile, Taken};
use super::shared::Shared;
use super::snapshot::Snapshot;
use crate::domain::names::ServerName;
use crate::wire::messages::{Held, RouterList};

/// Between the first probes of a server set aside; doubled up to `probe_interval`.
const FIRST_PROBE: Duration = Duration::from_millis(50);

/// Placements of which management is told how many of this router's requests last there.
const PLACEMENTS_TOLD_MAX: usize = 10_000;

/// A list is written at most so often that writing takes this part of the time: a large one that changes all the time
/// would keep the machine busy with its file.
const WRITING_PART: u32 = 20;

/// Bounds of the actor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub mailbox: usize,
    pub heartbeat: Duration,
    pub probe_interval: Duration,
    pub connect_timeout: Duration,
}

/// A Server List from management, for `try_send`. The answer says what is held then, whatever became of it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Take {
    pub list: Box<RouterList>,
    pub answer: oneshot::Sender<Held>,
}

/// Write what is not written yet, and whatever comes at once: the router is about to end, and who takes its place goes on
/// from the file.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Keep;

/// Probe this server until it answers, then take it back.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SetAside(pub ServerName);

/// The actor.
pub struct ListActor {
    shared: Arc<Shared>,
    file: ListFile,
    settings: Settings,
    hello: Option<Hello>,
    saying: bool,
    lasting: Lasting,
    /// Snapshots that were replaced and that a worker may have still.
    replaced: Vec<Arc<Snapshot>>,
    writing: Writing,
}

/// What of the list is on disk.
enum Writing {
    /// All of it; and from when on the next may be written.
    Written { next: Instant },
    /// Not the newest: it is written once it is time.
    Due,
    /// All of it, always.
    AtOnce,
}

impl ListActor {
    /// Starts on this thread, with what the last run held. Without `hello` nobody is told of this router.
    pub fn begin(shared: Arc<Shared>, file: ListFile, settings: Settings, hello: Option<Hello>) -> Addr<Self> {
        match file.read() {
            Ok(Some(held)) => {
                info!(stamp = ?held.stamp, "goes on with the Server List of the last run");
                shared.publish(Snapshot::build(held, &Snapshot::default(), &shared.setting));
            }
            Ok(None) => {}
            Err(error) => warn!(path = %file.path().display(), %error, "the Server List kept on disk cannot be read"),
        }
        let writing = Writing::Written { next: Instant::now() };
        let addr = Self::create(|ctx| {
            ctx.set_mailbox_capacity(settings.mailbox);
            Self {
                shared: Arc::clone(&shared),
                file,
                settings,
                hello,
                saying: false,
                lasting: Lasting::default(),
                replaced: Vec::new(),
                writing,
            }
        });
        shared.probes_through(addr.clone().recipient());
        addr
    }

    fn take(&mut self, came: RouterList, ctx: &mut Context<Self>) -> Held {
        let before = Arc::clone(&*self.shared.snapshot());
        let held = before.list.as_ref();
        let stamp = came.stamp.clone();
        match list::take(held, came) {
            Taken::New(list) => {
                let worth_a_write = held.is_none_or(|held| list::differ(held, &list));
                let snapshot = Snapshot::build(list, &before, &self.shared.setting);
                self.replaced.push(self.shared.publish(snapshot));
                if worth_a_write {
                    self.write_in_time(ctx);
                }
            }
            Taken::Ignored => debug!(?stamp, "a Server List that is not newer"),
            Taken::OtherBase => debug!(?stamp, "a change of a Server List that is not held"),
        }
        drop(before);
        self.drop_replaced();
        Held { held: list::stamp(self.shared.snapshot().list.as_ref()) }
    }

    /// Takes apart the snapshots that nobody else has any more. A worker has one at a time, so only so many are left.
    fn drop_replaced(&mut self) {
        self.replaced.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn write_in_time(&mut self, ctx: &mut Context<Self>) {
        let next = match self.writing {
            Writing::Written { next } => next,
            Writing::Due => return,
            Writing::AtOnce => return self.write(),
        };
        let pause = next.saturating_duration_since(Instant::now());
        if pause.is_zero() {
            return self.write();
        }
        self.writing = Writing::Due;
        ctx.run_later(pause, |actor, _| actor.write_what_is_due());
    }

    fn write_what_is_due(&mut self) {
        if matches!(self.writing, Writing::Due) {
            self.write();
        }
    }

    fn write(&mut self) {
        let began = Instant::now();
        // Routing goes on from memory; only a restart would go on from the older one.
        if let Some(list) = &self.shared.snapshot().list
            && let Err(error) = self.file.write(list)
        {
            warn!(path = %self.file.path().display(), %error, "the Server List cannot be kept on disk");
        }
        if !matches!(self.writing, Writing::AtOnce) {
            self.writing = Writing::Written { next: Instant::now() + began.elapsed() * (WRITING_PART - 1) };
        }
    }

    /// Tells management, unless the last time has not ended yet.
    fn say_hello(&mut self, ctx: &mut Context<Self>) {
        let Some(hello) = self.hello.clone().filter(|_| !self.saying) else { return };
        self.saying = true;
        let snapshot = Arc::clone(&*self.shared.snapshot());
        let active = self.lasting.look(snapshot.active_there(PLACEMENTS_TOLD_MAX));
        let saying = async move { hello.say(&snapshot, active).await };
        ctx.spawn(saying.into_actor(self).map(|hello, actor, _| {
            actor.hello = Some(hello);
            actor.saying = false;
        }));
    }

    /// Where the server takes requests by the newest list; `None`: it is in no list any more.
    fn address(&self, server: &ServerName) -> Option<SocketAddr> {
        self.shared.snapshot().server(server).filter(|server| server.is_aside()).map(|server| server.data)
    }

    fn probe(&mut self, server: ServerName, pause: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(pause, move |actor, ctx| {
            // Gone, moved, or taken back by a request that reached it: whoever fails next sets it aside anew.
            let Some(addr) = actor.address(&server) else { return };
            let reach = tokio::time::timeout(actor.settings.connect_timeout, TcpStream::connect(addr));
            ctx.spawn(reach.into_actor(actor).map(move |reached, actor, ctx| match reached {
                Ok(Ok(_)) => actor.take_back(&server, addr),
                Ok(Err(_)) | Err(_) => {
                    let pause = (pause * 2).min(actor.settings.probe_interval);
                    actor.probe(server, pause, ctx);
                }
            }));
        });
    }

    fn take_back(&self, server: &ServerName, addr: SocketAddr) {
        if let Some(server) = self.shared.snapshot().server(server).filter(|server| server.data == addr) {
            info!(server = %server.name, "a server that was set aside can be reached again");
            server.take_back();
            self.shared.wake();
        }
    }
}

impl Actor for ListActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.say_hello(ctx);
        ctx.run_interval(self.settings.heartbeat, Self::say_hello);
    }
}

impl Handler<Take> for ListActor {
    type Result = ();

    fn handle(&mut self, Take { list, answer }: Take, ctx: &mut Context<Self>) {
        // Whoever sent it may have gone meanwhile; it is taken all the same.
        let _ = answer.send(self.take(*list, ctx));
    }
}

/// The actor ends: another process of this router has taken its place.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Retire;

impl Handler<Retire> for ListActor {
    type Result = ();

    fn handle(&mut self, Retire: Retire, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<Keep> for ListActor {
    type Result = ();

    fn handle(&mut self, Keep: Keep, _: &mut Context<Self>) {
        self.write_what_is_due();
        self.writing = Writing::AtOnce;
    }
}

impl Handler<SetAside> for ListActor {
    type Result = ();

    fn handle(&mut self, SetAside(server): SetAside, ctx: &mut Context<Self>) {
        warn!(%server, "a server cannot be reached: it is set aside and probed");
        self.probe(server, FIRST_PROBE.min(self.settings.probe_interval), ctx);
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
