//! Owns how this machine's processes are started, adopted and stopped for the program actors: the real [`Hands`].
//! Must not know placements or gates.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;

use super::external::Ground;
use super::hands::{Hands, Keeper, Life, Started, Up};
use super::records;
use crate::domain::names::{ProgramName, Release};
use crate::domain::program::{Health, Kind, Manifest, StopSignal};
use crate::programs::adopt::{self, Found};
use crate::programs::instance::{self, Instance, InstanceRecord, Mark};
use crate::programs::orphans::Orphans;
use crate::programs::ports::Ports;
use crate::programs::probe;
use crate::programs::shelf::Rooms;
use crate::programs::surroundings::Surroundings;
use crate::programs::usage::{self, Usage};
use crate::programs::{launch, output, stop};
use crate::store::Store;

/// Grace for an instance whose manifest is not known any more.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks for an instance that could not be looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at what instances use.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at what instances have written.
const HOUSE_EVERY: Duration = Duration::from_secs(10);

/// The real hands. Cheap to clone; all clones share what they hold.
#[derive(Clone)]
pub struct Machine {
    inner: Rc<Inner>,
}

struct Inner {
    around: Surroundings,
    scope: String,
    ports: Ports,
    rooms: Rooms,
    store: Store,
    held: RefCell<HashMap<String, Held>>,
    /// Rung when an instance is up, or gone.
    changed: Rc<Notify>,
    usage: Rc<RefCell<Usage>>,
}

/// An instance that this run of the node has hold of.
#[derive(Clone)]
struct Held {
    instance: Arc<Instance>,
    /// Counted once, when it was adopted; `None`: it was started by this run of the node, whose connections are none.
    orphans: Option<Rc<RefCell<Orphans>>>,
}

impl Machine {
    pub fn new(around: Surroundings, ports: Ports, rooms: Rooms, store: Store) -> Self {
        let scope = instance::scope(&around.node, &around.data_dir);
        let (held, changed, usage) = Default::default();
        Self { inner: Rc::new(Inner { around, scope, ports, rooms, store, held, changed, usage }) }
    }

    pub fn scope(&self) -> &str {
        &self.inner.scope
    }

    pub fn rooms(&self) -> &Rooms {
        &self.inner.rooms
    }

    pub fn around(&self) -> &Surroundings {
        &self.inner.around
    }

    /// The instances that this run of the node has hold of, and that live.
    pub fn living(&self) -> Vec<InstanceRecord> {
        let held = self.inner.held.borrow();
        let living = held.values().filter(|held| held.instance.try_exited().is_none());
        living.map(|held| held.instance.record().clone()).collect()
    }

    /// Whether there is an instance of this name on record.
    pub fn is_on_record(&self, instance: &str) -> bool {
        let found = records::has_instance(&self.inner.store, instance);
        // What cannot be told may be so.
        found.unwrap_or(true)
    }

    /// Rung when an instance is up, or gone.
    pub fn changed(&self) -> Rc<Notify> {
        self.inner.changed.clone()
    }

    /// What the instances use of this machine's cores.
    pub fn usage(&self) -> Rc<RefCell<Usage>> {
        self.inner.usage.clone()
    }

    /// Measures it, again and again.
    pub async fn measure(self) {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            let records: Vec<_> =
                self.inner.held.borrow().values().map(|held| held.instance.record().clone()).collect();
            let looked = tokio::task::spawn_blocking(move || (Instant::now(), usage::look(&records))).await;
            match looked {
                Ok((at, used)) => self.inner.usage.borrow_mut().take(at, used),
                Err(error) => tracing::error!(%error, "measuring what instances use ended"),
            }
        }
    }

    /// Keeps what instances write within its bounds, again and again.
    pub async fn keep_house(self) {
        loop {
            tokio::time::sleep(HOUSE_EVERY).await;
            let around = self.inner.around.clone();
            let records: Vec<_> =
                self.inner.held.borrow().values().map(|held| held.instance.record().clone()).collect();
            let tidying = tokio::task::spawn_blocking(move || tidy_logs(&around, &records)).await;
            if let Err(error) = tidying {
                tracing::error!(%error, "rotating logs ended");
            }
        }
    }

    /// Ends the processes that carry an instance's name of this node and that no record knows.
    pub async fn clear_strays(&self, known: Vec<String>) {
        let scope = self.inner.scope.clone();
        let strays = tokio::task::spawn_blocking(move || adopt::strays(&scope, &known)).await.unwrap_or_default();
        let mut names: Vec<String> = strays.into_iter().map(|stray| stray.instance).collect();
        names.dedup();
        for name in names {
            match stop::kill_stray(&name).await {
                Ok(count) => tracing::warn!(instance = name, count, "ended processes that no record knows"),
                Err(error) => tracing::warn!(instance = name, %error, "cannot end a stray"),
            }
        }
    }
}

impl Hands for Machine {
    fn start(&self, manifest: Arc<Manifest>, release: Release, keeper: Keeper) -> LocalBoxFuture<'static, Started> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.start(manifest, release, keeper).await })
    }

    fn start_beside(
        &self,
        manifest: Arc<Manifest>,
        release: Release,
        keeper: Keeper,
    ) -> LocalBoxFuture<'static, Started> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let began = Instant::now();
            let held = inner.launch(&manifest, &release, &keeper, Mark::Beside).await?;
            inner.until_up(&manifest, &release, held, began.elapsed()).await
        })
    }

    fn retired(&self, keeper: Keeper) -> LocalBoxFuture<'static, Vec<Rc<dyn Life>>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut alive: Vec<Rc<dyn Life>> = Vec::new();
            for record in keeper.all().into_iter().filter(|record| record.mark == Mark::Retired) {
                if let Some(Held { instance, orphans }) = inner.look_for(&record).await {
                    alive.push(Rc::new(Living { instance, health: inner.health(&record), orphans }));
                }
            }
            alive
        })
    }

    fn stop(&self, keeper: Keeper) -> LocalBoxFuture<'static, Result<(), String>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            for record in keeper.all().into_iter().filter(|record| record.mark.stops()) {
                inner.end(&record, &keeper).await?;
            }
            Ok(())
        })
    }

    fn is_ready(&self, program: &ProgramName, release: &Release) -> bool {
        let rooms = &self.inner.rooms;
        let unpacked = rooms.path(program, release.sha256).is_some() && rooms.is_prepared(program, release.sha256);
        unpacked && records::manifest(&self.inner.store, program, release).is_ok_and(|found| found.is_some())
    }
}

impl Inner {
    fn ground(&self) -> Ground<'_> {
        Ground { around: &self.around, rooms: &self.rooms, scope: &self.scope }
    }

    async fn start(&self, manifest: Arc<Manifest>, release: Release, keeper: Keeper) -> Started {
        if let Kind::External(external) = &manifest.kind {
            return self.ground().start(&manifest, external, &release, &keeper).await;
        }
        let mut alive = None;
        for record in keeper.all().into_iter().filter(|record| record.mark != Mark::Retired) {
            let fit = record.mark == Mark::Running && record.release == release && alive.is_none();
            match self.look_for(&record).await {
                Some(found) if fit => alive = Some(found),
                _ => self.end(&record, &keeper).await?,
            }
        }
        let began = Instant::now();
        let held = match alive {
            Some(held) => held,
            None => self.launch(&manifest, &release, &keeper, Mark::Running).await?,
        };
        self.until_up(&manifest, &release, held, began.elapsed()).await
    }

    /// Probes it until it is healthy.
    async fn until_up(&self, manifest: &Manifest, release: &Release, held: Held, launch: Duration) -> Started {
        let Held { instance, orphans } = held;
        let log = self.log(instance.record());
        let adopted = instance.is_adopted();
        if let Err(failure) = probe::started(&instance, &manifest.health, &log).await {
            return Err(with_lines(&failure.to_string(), &failure.lines));
        }
        tracing::info!(program = %manifest.name, version = %release.version, pid = instance.record().pid, adopted,
            "an instance is up");
        self.changed.notify_one();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, instance.record().port));
        let health = manifest.health.clone();
        Ok(Up { addr, launch, life: Rc::new(Living { instance, health, orphans }) })
    }

    async fn launch(
        &self,
        manifest: &Manifest,
        release: &Release,
        keeper: &Keeper,
        mark: Mark,
    ) -> Result<Held, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let none = || format!("release {} of {} is not unpacked here", release.version, manifest.name);
        let dir = self.rooms.path(&manifest.name, release.sha256).ok_or_else(none)?;
        let port = self.ports.lease().map_err(|error| told(&error))?;
        let name = instance::new_name(&self.scope, &manifest.name);
        let waiting = launch::spawn(&self.around, manifest, release.sha256, &dir, &name, port).await;
        let waiting = waiting.map_err(|error| told(&error))?;
        // The launcher waits for the word until its record is on disk (protocol P9a).
        let record = InstanceRecord { mark, ..waiting.record().clone() };
        keeper.add(&record).map_err(|error| format!("its record cannot be saved: {error}"))?;
        let instance = waiting.go().await.map_err(|error| told(&error))?;
        let held = Held { instance, orphans: None };
        self.held.borrow_mut().insert(name, held.clone());
        Ok(held)
    }

    fn find(&self, record: &InstanceRecord) -> io::Result<Option<Held>> {
        let held = self.held.borrow().get(&record.name).cloned();
        if let Some(held) = held {
            return Ok(held.instance.try_exited().is_none().then_some(held));
        }
        let Found::Alive(instance) = adopt::adopt(record, &self.ports)? else { return Ok(None) };
        // Looked at before the first probe of this run opens a connection of its own.
        let orphans = Orphans::at_boot(record.port)?;
        let held = Held { instance, orphans: Some(Rc::new(RefCell::new(orphans))) };
        self.held.borrow_mut().insert(record.name.clone(), held.clone());
        Ok(Some(held))
    }

    /// Looks until there is an answer: an instance that cannot be looked for may be alive, with requests, and is neither
    /// replaced nor ended. Whoever gives up the work ends the looking.
    async fn look_for(&self, record: &InstanceRecord) -> Option<Held> {
        loop {
            match self.find(record) {
                Ok(found) => return found,
                Err(error) => {
                    tracing::error!(instance = record.name, %error, "cannot look for an instance; it is left alone")
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Stops what there is of a recorded instance, then forgets it.
    async fn end(&self, record: &InstanceRecord, keeper: &Keeper) -> Result<(), String> {
        let told = |error: stop::StopError| error.to_string();
        let manifest = records::manifest(&self.store, &record.program, &record.release).ok().flatten();
        if let Some((manifest, Kind::External(external))) = manifest.as_ref().map(|manifest| (manifest, &manifest.kind))
        {
            return self.ground().end(manifest, external, record, keeper).await;
        }
        match self.look_for(record).await {
            Some(Held { instance, .. }) => {
                let (signal, grace) = self.manner(record);
                let stopped = stop::stop(&instance, signal, grace).await.map_err(told)?;
                tracing::info!(program = %record.program, version = %record.release.version, pid = record.pid,
                    exit = %stopped.exit, killed = stopped.killed, "an instance was stopped");
            }
            None => {
                stop::kill_rest(record).await.map_err(told)?;
            }
        }
        self.held.borrow_mut().remove(&record.name);
        self.changed.notify_one();
        keeper.forget(&record.name).map_err(|error| format!("its record cannot be removed: {error}"))
    }

    fn manner(&self, record: &InstanceRecord) -> (StopSignal, Duration) {
        let manifest = records::manifest(&self.store, &record.program, &record.release).ok().flatten();
        match manifest.map(|manifest| manifest.kind) {
            Some(Kind::Process(process)) => (process.stop_signal, process.stop_timeout),
            Some(Kind::Static(_) | Kind::External(_)) | None => (StopSignal::Term, STOP_TIMEOUT),
        }
    }

    fn health(&self, record: &InstanceRecord) -> Health {
        let manifest = records::manifest(&self.store, &record.program, &record.release).ok().flatten();
        manifest.map_or_else(Health::default, |manifest| manifest.health)
    }

    fn log(&self, record: &InstanceRecord) -> PathBuf {
        self.around.log(&record.program, &record.name)
    }
}

fn tidy_logs(around: &Surroundings, living: &[InstanceRecord]) {
    for record in living {
        if let Err(error) = output::rotate(&around.log(&record.program, &record.name), &output::LIMITS) {
            tracing::warn!(instance = record.name, %error, "cannot rotate a log");
        }
        let same = living.iter().filter(|other| other.program == record.program);
        let names: Vec<String> = same.map(|other| other.name.clone()).collect();
        output::sweep(&around.logs(&record.program), &names, &output::LIMITS);
    }
}

/// A failure and the last lines of output, as people read them.
pub fn with_lines(failure: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return failure.to_owned();
    }
    format!("{failure}; its last lines:\n{}", lines.join("\n"))
}

struct Living {
    instance: Arc<Instance>,
    health: Health,
    /// `None`: it was started by this run of the node.
    orphans: Option<Rc<RefCell<Orphans>>>,
}

impl Life for Living {
    fn ended(&self) -> LocalBoxFuture<'static, String> {
        let instance = self.instance.clone();
        Box::pin(async move { instance.exited().await.to_string() })
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.instance.record().port));
        let health = self.health.clone();
        Box::pin(async move { probe::probe(at, &health).await.map_err(|failure| failure.to_string()) })
    }

    fn orphans(&self) -> u64 {
        match self.orphans.as_ref().map_or(Ok(0), |orphans| orphans.borrow_mut().remaining()) {
            Ok(left) => left as u64,
            Err(error) => {
                // What cannot be seen may be there.
                tracing::warn!(%error, "cannot count orphans");
                1
            }
        }
    }
}
