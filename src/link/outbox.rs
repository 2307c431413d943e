//! Owns the actor that carries out the queue's decisions: posts what is due, tries again what was not answered, and
//! tells its owner what became of every letter. Must not know what the letters say.

use std::time::Instant;

use actix::prelude::*;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::{debug, warn};

use super::client::{Answer, Client, LinkError};
use super::queue::{Backoff, Letter, Put, Queue};
use crate::wire::envelope::MESSAGES_PATH;

/// Bounds of an outbox; see `[cluster.limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Letters that wait or are under way.
    pub letters: usize,
    /// Letters that the actor has not looked at yet.
    pub mailbox: usize,
    pub backoff: Backoff,
}

impl Default for Settings {
    fn default() -> Self {
        Self { letters: 4_096, mailbox: 1_024, backoff: Backoff::default() }
    }
}

/// Sends a letter, for `try_send`. A mailbox that is full answers so at once; what becomes of one that was taken is an `Outcome`.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct Post(pub Letter);

/// Forgets what waits for a peer.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct Forget(pub String);

/// What became of a letter: every one that was posted gets exactly one.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct Outcome {
    pub letter: Letter,
    pub end: End,
}

#[derive(Clone, Debug)]
pub enum End {
    /// The peer answered, with whatever status: 4xx and 500 are answers too.
    Answered { status: u16, body: Bytes },
    /// A newer letter of its key took its place.
    Replaced,
    /// The outbox was full.
    Full,
    /// Its peer was forgotten.
    Forgotten,
}

/// The actor.
pub struct Outbox {
    client: Client,
    queue: Queue,
    settings: Settings,
    chance: StdRng,
    owner: Recipient<Outcome>,
    timer: Option<SpawnHandle>,
}

impl Outbox {
    /// Starts an outbox on this thread. `seed` is of its jitter.
    pub fn begin(client: Client, settings: Settings, seed: u64, owner: Recipient<Outcome>) -> Addr<Self> {
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(settings.mailbox);
            let queue = Queue::new(settings.letters, settings.backoff);
            Self { client, queue, settings, chance: StdRng::seed_from_u64(seed), owner, timer: None }
        })
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        for letter in self.queue.due(Instant::now()) {
            let (client, owner) = (self.client.clone(), self.owner.clone());
            let errand = async move {
                let result = deliver(&client, &letter).await;
                if let Ok(end) = &result {
                    // Waits for room in the owner's mailbox: until then this peer gets no more.
                    let outcome = Outcome { letter: letter.clone(), end: end.clone() };
                    if owner.send(outcome).await.is_err() {
                        debug!(id = letter.id, "nobody is left to hear of an answer");
                    }
                }
                (letter, result)
            };
            ctx.spawn(errand.into_actor(self).map(|(letter, result), outbox, ctx| outbox.back(&letter, result, ctx)));
        }
        self.wake(ctx);
    }

    fn back(&mut self, letter: &Letter, result: Result<End, Unanswered>, ctx: &mut Context<Self>) {
        match result {
            Ok(_) => self.queue.answered(&letter.to, &letter.id),
            Err(why) => {
                debug!(to = letter.to, id = letter.id, %why, "a message was not answered; it goes again");
                let chance = self.chance.random::<f64>();
                let replaced = self.queue.failed(&letter.to, &letter.id, Instant::now(), chance);
                self.tell(replaced, &End::Replaced, ctx);
            }
        }
        self.pump(ctx);
    }

    /// Sets the one timer to when the next letter may be due.
    fn wake(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let wait = self.queue.next_at().map(|at| at.saturating_duration_since(Instant::now()));
        self.timer = wait.map(|wait| {
            ctx.run_later(wait, |outbox, ctx| {
                outbox.timer = None;
                outbox.pump(ctx);
            })
        });
    }

    fn tell(&self, letters: impl IntoIterator<Item = Letter>, end: &End, ctx: &mut Context<Self>) {
        for letter in letters {
            if matches!(end, End::Full) {
                warn!(to = letter.to, bound = self.settings.letters, "outbox full: a message was not taken");
            }
            let told = self.owner.send(Outcome { letter, end: end.clone() });
            ctx.spawn(told.into_actor(self).map(|_, _, _| ()));
        }
    }
}

impl Actor for Outbox {
    type Context = Context<Self>;
}

impl Handler<Post> for Outbox {
    type Result = ();

    fn handle(&mut self, Post(letter): Post, ctx: &mut Context<Self>) {
        match self.queue.put(letter) {
            Put::Waits => {}
            Put::Replaced(older) => self.tell([older], &End::Replaced, ctx),
            Put::Full(letter) => self.tell([letter], &End::Full, ctx),
        }
        self.pump(ctx);
    }
}

impl Handler<Forget> for Outbox {
    type Result = ();

    fn handle(&mut self, Forget(to): Forget, ctx: &mut Context<Self>) {
        let gone = self.queue.forget(&to);
        self.tell(gone, &End::Forgotten, ctx);
    }
}

/// Why a letter goes again.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("the peer answered {0}")]
    NotNow(u16),
}

async fn deliver(client: &Client, letter: &Letter) -> Result<End, Unanswered> {
    let url = format!("{}{MESSAGES_PATH}", letter.to.trim_end_matches('/'));
    let Answer { status, body, .. } = client.post(&url, letter.bytes.clone()).await?;
    // These say that nothing was decided; anything else is the peer's word on it.
    match status {
        408 | 425 | 429 | 502 | 503 | 504 => Err(Unanswered::NotNow(status)),
        _ => Ok(End::Answered { status, body }),
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
