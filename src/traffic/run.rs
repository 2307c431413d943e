//! Owns the running of a plan: each request is sent when it is due, whatever became of those before. Must not know how
//! the report is shown.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustls::ClientConfig;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::answer::Answer;
use super::check::{Trouble, check};
use super::exchange::{Event, exchange};
use super::mix::{Kind, Request};
use super::plan::{BadPlan, Plan, Target};
use super::pool::Pool;
use super::raw::Raw;
use super::report::{Failure, FailureKind, Post, Report, TargetReport};
use super::schedule::{Schedule, Wheel};
use super::tally::{Ending, Tally, total};
use super::websocket::{Life, live};

/// Traffic could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Plan(#[from] BadPlan),
    #[error("cannot start a thread for the traffic: {0}")]
    Thread(#[from] io::Error),
}

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Send,
    /// Send no more, wait for what is outstanding.
    Stop,
    /// Wait for nothing.
    Abort,
}

/// Traffic that runs on a thread of its own. Dropped, it is cut short.
pub struct Running {
    order: watch::Sender<Order>,
    state: Arc<State>,
    report: Option<oneshot::Receiver<Report>>,
}

/// Starts a plan on a thread of its own, so that nothing the caller does slows the sending.
pub fn start(plan: Plan) -> Result<Running, StartError> {
    plan.check()?;
    if plan.raw {
        return start_raw(plan);
    }
    let secure = plan.targets.iter().any(|target| target.url.secure);
    let tls = if secure { Some(plan.trust.config().map_err(BadPlan::Tls)?) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (order, orders) = watch::channel(Order::Send);
    let (send, report) = oneshot::channel();
    let state = Arc::new(State::new(plan, tls.as_ref()));
    let ours = Arc::clone(&state);
    thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        runtime.block_on(ours.run(orders));
        // Nobody may be waiting for it any more.
        let _ = send.send(ours.report(true));
    })?;
    Ok(Running { order, state, report: Some(report) })
}

/// As `start`, on a thread without a runtime.
fn start_raw(plan: Plan) -> Result<Running, StartError> {
    let (connections, duration) = (plan.connections_max, plan.duration);
    let (order, orders) = watch::channel(Order::Send);
    let (send, report) = oneshot::channel();
    let state = Arc::new(State::new(plan, None));
    let ours = Arc::clone(&state);
    let lane = Arc::clone(&state.targets[0]);
    let raw = Raw::new(Arc::clone(&lane), connections)?;
    thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        if let Err(error) = raw.run(duration, || *orders.borrow()) {
            tracing::error!(%error, "the traffic ended");
        }
        lane.tally().cut_short(lane.started.elapsed());
        // Nobody may be waiting for it any more.
        let _ = send.send(ours.report(true));
    })?;
    Ok(Running { order, state, report: Some(report) })
}

/// Runs a plan that has a duration to its end, and reports.
pub async fn run(plan: Plan) -> Result<Report, StartError> {
    Ok(start(plan)?.wait().await)
}

impl Running {
    /// Sends no more; answers under way are waited for.
    pub fn stop(&self) {
        self.order(Order::Stop);
    }

    /// Waits for nothing more; what is outstanding has failed.
    pub fn abort(&self) {
        self.order(Order::Abort);
    }

    /// The account as of now, without `posts`.
    pub fn snapshot(&self) -> Report {
        self.state.report(false)
    }

    /// The report, when the plan's duration is over or the run was stopped, and every answer is in or overdue.
    /// May be dropped half way and called again.
    pub async fn wait(&mut self) -> Report {
        if let Some(report) = &mut self.report {
            let ended = report.await;
            self.report = None;
            if let Ok(report) = ended {
                return report;
            }
        }
        self.state.report(true)
    }

    /// Stops, and waits for the report.
    pub async fn finish(mut self) -> Report {
        self.stop();
        self.wait().await
    }

    /// `finish`, for callers without a runtime; blocks the thread.
    pub fn finish_blocking(mut self) -> Report {
        self.stop();
        let ended = self.report.take().map(oneshot::Receiver::blocking_recv);
        ended.and_then(Result::ok).unwrap_or_else(|| self.state.report(true))
    }

    fn order(&self, order: Order) {
        self.order.send_if_modified(|now| std::mem::replace(now, order.max(*now)) < order);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.abort();
    }
}

/// All targets of a run, and when it started.
struct State {
    started: Instant,
    started_at: jiff::Timestamp,
    targets: Vec<Arc<Lane>>,
    duration: Option<Duration>,
}

impl State {
    fn new(plan: Plan, tls: Option<&Arc<ClientConfig>>) -> Self {
        let started = Instant::now();
        // Ids of two runs must never meet: programs log them.
        let run = ulid::Ulid::new().to_string().to_lowercase();
        let lane = |(number, target): (usize, Target)| {
            Arc::new(Lane {
                number,
                run: run.clone(),
                started,
                timeout: plan.timeout,
                pool: Pool::new(&target.url, plan.connections_max, tls.filter(|_| target.url.secure).cloned()),
                target,
                tally: Mutex::new(Tally::default()),
            })
        };
        let targets = plan.targets.into_iter().enumerate().map(lane).collect();
        Self { started, started_at: jiff::Timestamp::now(), targets, duration: plan.duration }
    }

    async fn run(&self, orders: watch::Receiver<Order>) {
        let mut lanes = JoinSet::new();
        for lane in &self.targets {
            lanes.spawn(Arc::clone(lane).drive(self.duration, orders.clone()));
        }
        while lanes.join_next().await.is_some() {}
    }

    fn report(&self, with_posts: bool) -> Report {
        let tallies: Vec<_> = self.targets.iter().map(|lane| lane.tally()).collect();
        let all = total(tallies.iter().map(|tally| &**tally));
        let mut posts = Vec::new();
        if with_posts {
            posts.extend(tallies.iter().flat_map(|tally| tally.posts().iter().cloned()));
        }
        let targets = self.targets.iter().zip(&tallies).map(|(lane, tally)| TargetReport {
            url: lane.target.url.to_string(),
            rate: lane.target.rate,
            counts: tally.counts(),
        });
        Report {
            started_at: self.started_at,
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            passed: all.sent > 0 && all.failed == 0,
            targets: targets.collect(),
            all,
            posts,
        }
    }
}

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
}

impl Lane {
    /// Sends each request when it is due, until the plan's end or an order, and then waits for the answers.
    async fn drive(self: Arc<Self>, duration: Option<Duration>, mut orders: watch::Receiver<Order>) {
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
        let requests = self.target.mix.requests();
        let schedule = Schedule::new(self.target.rate, duration);
        let mut wheel = Wheel::new(requests.iter().map(|request| request.weight));
        let mut under_way = JoinSet::new();
        for number in 0.. {
            let Some(due) = schedule.due(number) else { break };
            tokio::select! {
                biased;
                () = reached(orders, Order::Stop) => break,
                () = sleep_until(self.started + due) => {}
            }
            let entry = wheel.turn();
            let lag = self.started.elapsed().saturating_sub(due);
            self.tally().sent(due, lag, requests[entry].is_post());
            let id = format!("{}-{}-{number}", self.run, self.number);
            under_way.spawn(Arc::clone(self).request(entry, id, self.started + due, ending.clone()));
            while under_way.try_join_next().is_some() {}
        }
        under_way
    }

    /// One request, from the time it is due to its account.
    async fn request(self: Arc<Self>, entry: usize, id: String, due: Instant, ending: watch::Receiver<bool>) {
        let request = &self.target.mix.requests()[entry];
        let deadline = due + self.timeout + request.lifetime();
        let outcome = match timeout_at(deadline, self.ask(request, &id, ending)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let detail = format!("no whole answer within {} ms", (deadline - due).as_millis());
                Outcome::failed(Trouble::new(FailureKind::Timeout, detail))
            }
        };
        let ending = self.ending(request, id, due, outcome);
        self.tally().ended(ending);
    }

    async fn ask(&self, request: &Request, id: &str, ending: watch::Receiver<bool>) -> Outcome {
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
                match exchange(&self.pool, &self.target, request, id, &tell).await {
                    Ok(answer) => self.checked(request, id, (answer, Instant::now()), 0, None),
                    Err(trouble) => Outcome::failed(trouble),
                }
            }
            Kind::WebSocket { .. } => {
                self.tally().connection_opened();
                match live(&self.pool, &self.target, request, id, ending).await {
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
