//! Owns what this router's workers, its actor and its control listener share: the snapshot, and the news that there is a
//! newer one. Must not know who reads or writes it.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::Recipient;
use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::actor::SetAside;
use super::here::Here;
use super::https::Redirect;
use super::ledger::Ledger;
use super::line::Line;
use super::overhead::Overhead;
use super::snapshot::{Server, Setting, Snapshot};
use crate::domain::placement::Millis;
use crate::link::identity::Identity;
use crate::link::secret::Secret;
use crate::link::tag_keys::TagKeys;
use crate::proxy::Crowd;
use crate::tls::Certificates;

/// Tells whose `X-Forwarded-*` are believed.
pub type Trusted = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What requests go by, beside the snapshot.
#[derive(Clone)]
pub struct Rules {
    pub identity: Identity,
    pub secret: Option<Secret>,
    pub tag_keys: TagKeys,
    pub trusted: Trusted,
    pub expose_version: bool,
    pub held_requests: usize,
    pub unreachable_wait: Duration,
    /// The clients that are connected.
    pub crowd: Arc<Crowd>,
    pub certificates: Option<Arc<Certificates>>,
    pub redirect: Option<Redirect>,
}

pub struct Shared {
    pub rules: Rules,
    pub ledger: Ledger,
    pub overhead: Overhead,
    pub setting: Setting,
    pub here: Option<Arc<dyn Here>>,
    /// The held requests of all workers, in their order.
    pub line: Line,
    snapshot: ArcSwap<Snapshot>,
    seen: AtomicU64,
    news: Notify,
    began: Instant,
    held: AtomicUsize,
    stopping: AtomicBool,
    prober: OnceLock<Recipient<SetAside>>,
}

impl Shared {
    pub fn new(rules: Rules, workers: usize, here: Option<Arc<dyn Here>>) -> Arc<Self> {
        let at = here.as_ref().map(|here| (here.name().clone(), here.data()));
        let setting = Setting { name: rules.identity.name.clone(), workers, here: at };
        Arc::new(Self {
            here,
            line: Line::default(),
            rules,
            ledger: Ledger::new(setting.workers),
            overhead: Overhead::default(),
            setting,
            snapshot: ArcSwap::default(),
            seen: AtomicU64::new(0),
            news: Notify::new(),
            began: Instant::now(),
            held: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            prober: OnceLock::new(),
        })
    }

    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Puts a newer snapshot in place, and wakes every request that waits. The one before comes back: a worker may have it
    /// still, and should not be the one that takes a large one apart.
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let before = self.snapshot.swap(Arc::new(snapshot));
        self.wake();
        before
    }

    /// Wakes every request that waits: something it goes by has changed.
    pub fn wake(&self) {
        self.seen.fetch_add(1, Ordering::Release);
        self.news.notify_waiters();
    }

    /// How much news there was. To be asked before the snapshot is read, so that nothing between is missed.
    pub fn news_seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Waits for more news than `seen`, at most until `until`.
    pub async fn news_since(&self, seen: u64, until: Instant) {
        let mut woken = pin!(self.news.notified());
        woken.as_mut().enable();
        if self.news_seen() == seen {
            // Either way there is something to look at again.
            let _ = tokio::time::timeout_at(until.into(), woken).await;
        }
    }

    /// This run's monotonic clock.
    pub fn millis(&self, at: Instant) -> Millis {
        Millis::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(Millis::MAX)
    }

    pub fn instant(&self, millis: Millis) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    /// Takes a place among the held requests; `None` when all are taken.
    pub fn hold(self: &Arc<Self>) -> Option<HeldPlace> {
        let most = self.rules.held_requests;
        let add = |held| (held < most).then_some(held + 1);
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.ok().map(|_| HeldPlace(Arc::clone(self)))
    }

    pub fn probes_through(&self, prober: Recipient<SetAside>) {
        // Set once, at the start.
        let _ = self.prober.set(prober);
    }

    /// Sets a server aside that could not be reached, and has it probed until it answers.
    pub fn set_aside(&self, server: &Arc<Server>) {
        if !server.set_aside() {
            return;
        }
        let asked = self.prober.get().is_some_and(|prober| prober.try_send(SetAside(server.name.clone())).is_ok());
        if !asked {
            // Nobody would take it back: the next failure tries again.
            server.take_back();
        }
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Ready for an outer load balancer: it knows where requests go, and is not about to leave.
    pub fn is_ready(&self) -> bool {
        self.snapshot().list.is_some() && !self.stopping.load(Ordering::Acquire)
    }
}

/// A held request's place, given back by drop.
pub struct HeldPlace(Arc<Shared>);

impl Drop for HeldPlace {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}
