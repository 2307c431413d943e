//! Owns the running of a plan: each request is sent when it is due, whatever became of those before. Must not know how
//! the report is shown.

use std::io;
use std::sync::Arc;
use std::thread;

use rustls::ClientConfig;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::lane::Lane;
use super::plan::{BadPlan, Plan};
use super::raw::Raw;
use super::report::{Report, TargetReport};
use super::tally::total;

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
        let lane = |number| Arc::new(Lane::new(number, &run, started, &plan, tls));
        let targets = (0..plan.targets.len()).map(lane).collect();
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
