//! Owns the traffic to one target: who sends what when it is due, and what comes of each request. Must not know the
//! run's other targets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::answer::Answer;
use super::check::{Trouble, check};
use super::client::{Ask, Client};
use super::exchange::{Event, exchange};
use super::mix::{Kind, Request};
use super::plan::{Plan, Target};
use super::pool::Pool;
use super::report::{Failure, FailureKind, Post};
use super::run::Order;
use super::schedule::{Schedule, Turn, Turns};
use super::tally::{Ending, Tally};
use super::websocket::{Life, live};

/// Waits for an order, or one beyond it. Nobody left to order anything is one, too.
async fn reached(orders: &mut watch::Receiver<Order>, due: Order) {
    let _ = orders.wait_for(|order| *order >= due).await;
}

/// One target of a run.
pub(super) struct Lane {
    number: usize,
    run: String,
    pub(super) target: Target,
    pub(super) started: Instant,
    pub(super) timeout: Duration,
    pool: Pool,
    tally: Mutex<Tally>,
    /// With sessions: whoever asks holds its client, for a client asks one thing at a time.
    clients: Vec<tokio::sync::Mutex<Client>>,
}

impl Lane {
    pub(super) fn new(
        number: usize,
        run: &str,
        started: Instant,
        plan: &Plan,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Self {
        let target = plan.targets[number].clone();
        let tls = tls.filter(|_| target.url.secure).cloned();
        let mut tally = Tally::default();
        tally.clients(target.sessions);
        Self {
            number,
            run: run.to_owned(),
            started,
            timeout: plan.timeout,
            pool: Pool::new(&target.url, plan.connections_max, tls),
            tally: Mutex::new(tally),
            clients: (0..target.sessions).map(|_| tokio::sync::Mutex::default()).collect(),
            target,
        }
    }

    /// Sends each request when it is due, until the plan's end or an order, and then waits for the answers.
    pub(super) async fn drive(self: Arc<Self>, duration: Option<Duration>, mut orders: watch::Receiver<Order>) {
        let (ended, ending) = watch::channel(false);
        let mut under_way = self.send(duration, &mut orders, &ending).await;
        if let Some(duration) = duration {
            // WebSockets live on to the end of the duration, which is a moment after the last request was due.
            let _ = timeout_at(self.started + duration, reached(&mut orders, Order::Stop)).await;
        }
        ended.send_replace(true);
        tokio::select! {
            () = async { while under_way.join_next().await.is_some() {} } => {}
            () = reached(&mut orders, Order::Abort) => under_way.shutdown().await,
        }
        self.pool.clear();
        self.tally().cut_short(self.started.elapsed());
    }

    async fn send(
        self: &Arc<Self>,
        duration: Option<Duration>,
        orders: &mut watch::Receiver<Order>,
        ending: &watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let schedule = Schedule::new(self.target.rate, duration);
        let mut turns = Turns::new(&self.target.mix, self.target.sessions);
        let mut under_way = JoinSet::new();
        for number in 0.. {
            let Some(due) = schedule.due(number) else { break };
            tokio::select! {
                biased;
                () = reached(orders, Order::Stop) => break,
                () = sleep_until(self.started + due) => {}
            }
            let turn = turns.next();
            let lag = self.started.elapsed().saturating_sub(due);
            self.tally().sent(due, lag, self.target.mix.request(turn.entry).is_post());
            let id = format!("{}-{}-{number}", self.run, self.number);
            under_way.spawn(Arc::clone(self).request(turn, id, self.started + due, ending.clone()));
            while under_way.try_join_next().is_some() {}
        }
        under_way
    }

    /// One request, from the time it is due to its account.
    async fn request(self: Arc<Self>, turn: Turn, id: String, due: Instant, ending: watch::Receiver<bool>) {
        let request = self.target.mix.request(turn.entry);
        let deadline = due + self.timeout + request.lifetime();
        let outcome = match turn.client {
            Some(client) => self.ask_as(client, turn.last, request, &id, (due, deadline), ending).await,
            None => ask_by(due, deadline, self.ask(request, &id, None, ending)).await,
        };
        let ending = self.ending(request, id, due, outcome);
        self.tally().ended(ending);
    }

    /// As a client with its cookies, after what it asked before; `last`: it leaves then.
    async fn ask_as(
        &self,
        client: usize,
        last: bool,
        request: &Request,
        id: &str,
        (due, deadline): (Instant, Instant),
        ending: watch::Receiver<bool>,
    ) -> Outcome {
        let Ok(mut client) = timeout_at(deadline, self.clients[client].lock()).await else {
            let detail = "not sent: its client still waits for an earlier answer".to_owned();
            return Outcome::failed(Trouble::new(FailureKind::Timeout, detail));
        };
        let path = self.target.url.join(&request.path);
        let cookies = client.cookies(&path, self.target.url.secure, Timestamp::now());
        if request.kind != Kind::Http {
            // It lives on beside its client's other requests.
            drop(client);
            return ask_by(due, deadline, self.ask(request, id, cookies.as_deref(), ending)).await;
        }
        let mut outcome = ask_by(due, deadline, self.ask(request, id, cookies.as_deref(), ending)).await;
        let mut tally = self.tally();
        let seen = match &outcome.answer {
            Some((answer, _)) => {
                let ask = Ask { request, id, path: &path, last, now: Timestamp::now() };
                client.answered(ask, answer, tally.sessions())
            }
            None => {
                client.unanswered(request);
                Ok(())
            }
        };
        outcome.trouble = outcome.trouble.or(seen.err());
        if last {
            client.leave(tally.sessions());
        }
        outcome
    }

    async fn ask(&self, request: &Request, id: &str, cookies: Option<&str>, ending: watch::Receiver<bool>) -> Outcome {
        let waiting = || self.tally().waited_for_connection();
        let _permit = match self.pool.permit(waiting).await {
            Ok(permit) => permit,
            Err(error) => return Outcome::failed(Trouble::new(FailureKind::Connect, error.to_string())),
        };
        match request.kind {
            Kind::Http => {
                let tell = |event| match event {
                    Event::Opened => self.tally().connection_opened(),
                    Event::Repeated => self.tally().repeated(),
                };
                match exchange(&self.pool, &self.target, request, (id, cookies), &tell).await {
                    Ok(answer) => self.checked(request, id, (answer, Instant::now()), 0, None),
                    Err(trouble) => Outcome::failed(trouble),
                }
            }
            Kind::WebSocket { .. } => {
                self.tally().connection_opened();
                match live(&self.pool, &self.target, request, (id, cookies), ending).await {
                    Life { opened: Some(answer), frames, trouble } => {
                        self.checked(request, id, answer, frames, trouble)
                    }
                    Life { opened: None, trouble, .. } => Outcome { trouble, ..Outcome::default() },
                }
            }
        }
    }

    fn checked(
        &self,
        request: &Request,
        id: &str,
        (answer, at): (Answer, Instant),
        frames: u64,
        trouble: Option<Trouble>,
    ) -> Outcome {
        let trouble = check(request, &self.target.expect_versions, id, &answer).err().or(trouble);
        Outcome { answer: Some((answer, at)), frames, trouble }
    }

    fn ending(&self, request: &Request, id: String, due: Instant, outcome: Outcome) -> Ending {
        let Outcome { answer, frames, trouble } = outcome;
        let at = self.started.elapsed();
        let (answer, answered) = answer.unzip();
        let status = answer.as_ref().map(|answer| answer.status);
        let version = answer.as_ref().and_then(|answer| answer.version.clone());
        let post =
            request.is_post().then(|| Post { id: id.clone(), target: self.number, status, ok: trouble.is_none() });
        let failure = trouble.map(|trouble| self.failure(request, id, due, trouble, status, version.clone()));
        Ending {
            at,
            latency: answered.map(|answered| answered.saturating_duration_since(due)),
            status,
            version,
            body_bytes_sent: if status.is_some() { request.body_bytes as u64 } else { 0 },
            body_bytes_received: answer.map_or(0, |answer| answer.body_bytes),
            frames_echoed: frames,
            post,
            failure,
        }
    }

    pub(super) fn failure(
        &self,
        request: &Request,
        id: String,
        due: Instant,
        trouble: Trouble,
        status: Option<u16>,
        version: Option<String>,
    ) -> Failure {
        let url = &self.target.url;
        Failure {
            id,
            at: jiff::Timestamp::now(),
            after_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            took_ms: u64::try_from(due.elapsed().as_millis()).unwrap_or(u64::MAX),
            method: request.method.clone(),
            url: format!("{}://{}{}", url.scheme(), url.authority(), url.join(&request.path)),
            kind: trouble.kind,
            detail: trouble.detail,
            status,
            version,
        }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives up at the deadline.
async fn ask_by(due: Instant, deadline: Instant, ask: impl Future<Output = Outcome>) -> Outcome {
    timeout_at(deadline, ask).await.unwrap_or_else(|_| {
        let detail = format!("no whole answer within {} ms", (deadline - due).as_millis());
        Outcome::failed(Trouble::new(FailureKind::Timeout, detail))
    })
}

/// What came of one request: a whole answer and when it was in, frames, and what is wrong.
#[derive(Default)]
struct Outcome {
    answer: Option<(Answer, Instant)>,
    frames: u64,
    trouble: Option<Trouble>,
}

impl Outcome {
    fn failed(trouble: Trouble) -> Self {
        Self { trouble: Some(trouble), ..Self::default() }
    }
}
