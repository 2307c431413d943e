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

use super::ahead::MadeAhead;
use super::external::Ground;
use super::hands::{Hands, Keeper, Life, Started, Up};
use super::living::{Living, with_lines};
use super::records;
use crate::domain::names::{ProgramName, Release};
use crate::domain::program::{Health, Kind, Manifest, StopSignal};
use crate::programs::adopt::{self, Found};
use crate::programs::instance::{self, Instance, InstanceRecord, Mark};
use crate::programs::launch::Waiting;
use crate::programs::orphans::Orphans;
use crate::programs::ports::Ports;
use crate::programs::probe;
use crate::programs::shelf::Rooms;
use crate::programs::stop::Foreseen;
use crate::programs::surroundings::Surroundings;
use crate::programs::usage::Usage;
use crate::programs::{launch, stop};
use crate::store::Store;

/// Grace for an instance whose manifest is not known any more.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks for an instance that could not be looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The real hands. Cheap to clone; all clones share what they hold.
#[derive(Clone)]
pub struct Machine {
    pub(super) inner: Rc<Inner>,
}

pub(super) struct Inner {
    pub(super) around: Surroundings,
    scope: String,
    ports: Ports,
    rooms: Rooms,
    store: Store,
    pub(super) held: RefCell<HashMap<String, Held>>,
    /// Of instances that may be stopped before long, by name.
    foreseen: RefCell<HashMap<String, Foreseen>>,
    ahead: MadeAhead,
    /// Rung when an instance is up, or gone.
    changed: Rc<Notify>,
    pub(super) usage: Rc<RefCell<Usage>>,
}

/// An instance that this run of the node has hold of.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) instance: Arc<Instance>,
    /// Counted once, when it was adopted; `None`: it was started by this run of the node, whose connections are none.
    orphans: Option<Rc<RefCell<Orphans>>>,
}

impl Machine {
    pub fn new(around: Surroundings, ports: Ports, rooms: Rooms, store: Store) -> Self {
        let scope = instance::scope(&around.node, &around.data_dir);
        let (held, foreseen, ahead, changed, usage) = Default::default();
        Self { inner: Rc::new(Inner { around, scope, ports, rooms, store, held, foreseen, ahead, changed, usage }) }
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

    fn foresee_stop(&self, keeper: &Keeper) {
        for record in keeper.all() {
            let Some(held) = self.inner.held.borrow().get(&record.name).cloned() else { continue };
            let inner = self.inner.clone();
            tokio::task::spawn_local(async move {
                let foreseen = stop::foresee(&held.instance).await;
                // It may have ended meanwhile.
                if inner.held.borrow().contains_key(&record.name) {
                    inner.foreseen.borrow_mut().insert(record.name, foreseen);
                }
            });
        }
    }

    fn make_ready(&self, manifest: Arc<Manifest>, release: Release, keeper: Keeper) {
        if matches!(manifest.kind, Kind::External(_)) {
            return;
        }
        let (inner, program, of) = (self.inner.clone(), manifest.name.clone(), release.clone());
        let making = async move { inner.make(&manifest, &of, &keeper, Mark::Running).await };
        self.inner.ahead.begin(&program, release, making);
    }

    fn let_go_of_ready(&self, program: &ProgramName, keeper: &Keeper) {
        self.inner.ahead.let_go(program, keeper);
    }

    fn stop(&self, keeper: Keeper) -> LocalBoxFuture<'static, Result<(), String>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            for record in keeper.all().into_iter().filter(|record| record.mark.stops()) {
                inner.clear(&record, &keeper).await?;
                keeper.let_go(&record.name);
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
        let ready = self.ahead.take(&manifest.name, &release).await;
        let is_ready = |name: &str| ready.as_ref().is_some_and(|waiting| waiting.record().name == name);
        let others = |record: &InstanceRecord| record.mark != Mark::Retired && !is_ready(&record.name);
        for record in keeper.all().into_iter().filter(others) {
            let fit = record.mark == Mark::Running && record.release == release && alive.is_none();
            match self.look_for(&record).await {
                Some(found) if fit => alive = Some(found),
                _ => self.end(&record, &keeper).await?,
            }
        }
        let began = Instant::now();
        let held = match (alive, ready) {
            (Some(held), _) => held,
            (None, Some(waiting)) => self.go(waiting).await?,
            (None, None) => self.launch(&manifest, &release, &keeper, Mark::Running).await?,
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
        self.go(self.make(manifest, release, keeper, mark).await?).await
    }

    /// Makes a process that waits, and is on record.
    async fn make(
        &self,
        manifest: &Manifest,
        release: &Release,
        keeper: &Keeper,
        mark: Mark,
    ) -> Result<Waiting, String> {
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
        Ok(waiting)
    }

    /// Gives the word: it becomes the program.
    async fn go(&self, waiting: Waiting) -> Result<Held, String> {
        let name = waiting.record().name.clone();
        let instance = waiting.go().await.map_err(|error| error.to_string())?;
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
        self.clear(record, keeper).await?;
        keeper.forget(&record.name).map_err(|error| format!("its record cannot be removed: {error}"))
    }

    /// Stops what there is of a recorded instance. It is on record still.
    async fn clear(&self, record: &InstanceRecord, keeper: &Keeper) -> Result<(), String> {
        let told = |error: stop::StopError| error.to_string();
        let manifest = records::manifest(&self.store, &record.program, &record.release).ok().flatten();
        if let Some((manifest, Kind::External(external))) = manifest.as_ref().map(|manifest| (manifest, &manifest.kind))
        {
            return self.ground().end(manifest, external, record, keeper).await;
        }
        match self.look_for(record).await {
            Some(Held { instance, .. }) => {
                let (signal, grace) = self.manner(record);
                let foreseen = self.foreseen.borrow_mut().remove(&record.name);
                let stopped = stop::stop(&instance, signal, grace, foreseen).await.map_err(told)?;
                tracing::info!(program = %record.program, version = %record.release.version, pid = record.pid,
                    exit = %stopped.exit, killed = stopped.killed, "an instance was stopped");
            }
            None => {
                stop::kill_rest(record).await.map_err(told)?;
            }
        }
        self.held.borrow_mut().remove(&record.name);
        self.foreseen.borrow_mut().remove(&record.name);
        self.changed.notify_one();
        Ok(())
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
