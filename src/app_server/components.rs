//! Owns what this server's programs use: looked at when an instance is up, again and again, and when management asks;
//! kept over the node's restarts, and told by digest. Must not know what management does with it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::machine::Machine;
use super::records;
use super::settings::Bounds;
use crate::components::{Look, Reader, Subject};
use crate::domain::components::{Memory, Unread, Usage};
use crate::domain::names::{ProgramName, Sha256};
use crate::programs::adopt;
use crate::programs::instance::InstanceRecord;
use crate::store::Store;
use crate::wire::components::{digest, digest_of};
use crate::wire::messages::ToldComponents;

/// An instance that came up is looked at a moment later: first it is to serve.
const AFTER_UP: Duration = Duration::from_millis(250);
/// What it loads later is looked for this often, so many times.
const SETTLE: Duration = Duration::from_secs(3);
const SETTLE_LOOKS: u32 = 2;
/// Bytes of usages in one answer.
const ANSWER_BYTES: usize = 1 << 20;
const TOO_LONG: &str = "what is known of them is too long to be told";

/// What this server's programs use. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Components {
    inner: Rc<Inner>,
}

struct Inner {
    machine: Machine,
    store: Store,
    reader: Arc<Mutex<Reader>>,
    every: Duration,
    book: RefCell<BTreeMap<ProgramName, Page>>,
    memories: RefCell<BTreeMap<ProgramName, Memory>>,
    /// Instances of an earlier run of the node that are neither adopted nor given up yet. Until there are none, what is
    /// known is not all.
    awaited: RefCell<Vec<String>>,
    /// Rung for a look at once.
    asked: Notify,
    /// How often somebody has asked, and which of it has been done.
    asks: Cell<u64>,
    done: watch::Sender<u64>,
    /// Has management told at once.
    nudge: watch::Sender<()>,
}

struct Page {
    usage: Usage,
    digest: Sha256,
    bytes: usize,
}

impl Components {
    /// `neap`: the node's own binary.
    pub fn new(machine: Machine, store: Store, neap: &Path, bounds: &Bounds, nudge: watch::Sender<()>) -> Self {
        // What was seen since an instance started is worth having; without it, looking begins anew.
        let memories = records::memories(&store).unwrap_or_else(|error| {
            tracing::warn!(%error, "what was seen of instances before cannot be read");
            BTreeMap::new()
        });
        let awaited = RefCell::new(records::instances(&store).unwrap_or_default());
        let reader = Arc::new(Mutex::new(Reader::new(neap, bounds.components)));
        let (every, book, memories) = (bounds.component_scan, RefCell::default(), RefCell::new(memories));
        // The first look is nobody's ask, and counts as one.
        let (asked, asks, done) = (Notify::new(), Cell::new(1), watch::channel(0).0);
        Self {
            inner: Rc::new(Inner { machine, store, reader, every, book, memories, awaited, asked, asks, done, nudge }),
        }
    }

    /// Looks, again and again, for as long as it is run.
    pub async fn run(self) {
        let inner = self.inner;
        let changed = inner.machine.changed();
        let mut settling: BTreeMap<ProgramName, u32> = BTreeMap::new();
        loop {
            let asks = inner.asks.get();
            inner.look(None).await;
            inner.done.send_replace(asks);
            let whole = tokio::time::sleep(inner.every);
            tokio::pin!(whole);
            // Until everything is looked at again, only what is new: its neighbours have other things to do.
            loop {
                tokio::select! {
                    () = inner.asked.notified() => break,
                    () = &mut whole => break,
                    () = changed.notified() => {
                        tokio::time::sleep(AFTER_UP).await;
                        let new = inner.unseen();
                        inner.look(Some(&new)).await;
                        settling.extend(new.into_iter().map(|program| (program, SETTLE_LOOKS)));
                    }
                    () = tokio::time::sleep(SETTLE.min(inner.every)), if !settling.is_empty() => {
                        inner.look(Some(&settling.keys().cloned().collect())).await;
                        settling.values_mut().for_each(|looks| *looks -= 1);
                        settling.retain(|_, looks| *looks > 0);
                    }
                }
            }
        }
    }

    /// Waits for a look at everything that begins now.
    pub async fn scan(&self) {
        let mut done = self.inner.done.subscribe();
        let ask = self.inner.asks.get() + 1;
        self.inner.asks.set(ask);
        self.inner.asked.notify_one();
        // It ends only with the node.
        let _ = done.wait_for(|done| *done >= ask).await;
    }

    /// The digest of all that was found; `None`: not everything was looked at yet.
    pub fn digest(&self) -> Option<Sha256> {
        let looked = *self.inner.done.borrow() > 0 && self.inner.awaited.borrow().is_empty();
        looked.then(|| digest_of(&self.has()))
    }

    fn has(&self) -> BTreeMap<ProgramName, Sha256> {
        self.inner.book.borrow().iter().map(|(program, page)| (program.clone(), page.digest)).collect()
    }

    /// What was found, but for what is held already.
    pub fn tell(&self, have: &BTreeMap<ProgramName, Sha256>) -> ToldComponents {
        let book = self.inner.book.borrow();
        let new = book.iter().filter(|(program, page)| have.get(*program) != Some(&page.digest));
        let mut bytes = 0;
        let fits = new.take_while(|(_, page)| {
            let fits = bytes == 0 || bytes + page.bytes <= ANSWER_BYTES;
            bytes += page.bytes;
            fits
        });
        ToldComponents { usages: fits.map(|(_, page)| page.usage.clone()).collect(), has: self.has() }
    }
}

impl Inner {
    /// Programs whose newest instance was not looked at yet.
    fn unseen(&self) -> BTreeSet<ProgramName> {
        let memories = self.memories.borrow();
        let seen = |program: &ProgramName, name: &str| memories.get(program).is_some_and(|of| of.instance == name);
        let living = newest(self.machine.living()).into_iter();
        living.filter(|(program, record)| !seen(program, &record.name)).map(|(program, _)| program).collect()
    }

    /// Looks at these programs, or at all.
    async fn look(&self, only: Option<&BTreeSet<ProgramName>>) {
        let before = self.digests();
        let living = newest(self.machine.living());
        self.awaited
            .borrow_mut()
            .retain(|name| self.machine.is_on_record(name) && !living.values().any(|record| record.name == *name));
        self.book.borrow_mut().retain(|program, page| living.contains_key(program) || self.keeps(program, page));
        let wanted = |program: &ProgramName| only.is_none_or(|only| only.contains(program));
        for (program, record) in living.iter().filter(|(program, _)| wanted(program)) {
            let Look { usage, memory } = self.look_at(record).await;
            self.book.borrow_mut().insert(program.clone(), Page::fitting(usage));
            self.remember(program, memory);
        }
        self.forget(&living);
        if self.digests() != before {
            self.nudge.send_replace(());
        }
    }

    /// A program without an instance for a while, that is here still, uses what it used; nothing of it is in memory.
    fn keeps(&self, program: &ProgramName, page: &mut Page) -> bool {
        if page.usage.edges.iter().any(|edge| edge.stale.is_some()) {
            page.usage.edges.iter_mut().for_each(|edge| edge.stale = None);
            (page.digest, page.bytes) = digest(&page.usage);
        }
        records::holds(&self.store, program).unwrap_or(true)
    }

    fn digests(&self) -> Vec<Sha256> {
        self.book.borrow().values().map(|page| page.digest).collect()
    }

    async fn look_at(&self, record: &InstanceRecord) -> Look {
        let memory = self.memories.borrow().get(&record.program).cloned().unwrap_or_default();
        let (machine, store, reader) = (self.machine.around().clone(), self.store.clone(), self.reader.clone());
        let dir = self.machine.rooms().path(&record.program, record.release.sha256);
        let (of, before) = (record.clone(), memory.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let gone = || "its release is not unpacked here".to_owned();
            let manifest = records::manifest(&store, &of.program, &of.release).map_err(|error| error.to_string())?;
            let (manifest, dir) = manifest.zip(dir).ok_or_else(gone)?;
            let command = machine.command(&manifest, &dir, &of.name, of.port).map_err(|error| error.to_string())?;
            let subject = Subject {
                program: of.program.clone(),
                release: of.release.clone(),
                instance: of.name.clone(),
                dir,
                argv: command.argv,
                env: command.env,
                declared: manifest.components,
                pids: adopt::processes(&of),
            };
            Ok(reader.lock().unwrap_or_else(PoisonError::into_inner).look(&subject, before))
        });
        let looked = looking.await.unwrap_or_else(|error| Err(format!("neap made a mistake: {error}")));
        looked.unwrap_or_else(|why: String| {
            tracing::warn!(program = %record.program, why, "cannot look at what a program uses");
            let unread = vec![Unread { what: "all of it".to_owned(), why }];
            let (program, release) = (record.program.clone(), record.release.clone());
            Look { usage: Usage { program, release, edges: Vec::new(), unread }, memory }
        })
    }

    /// What was seen is kept on disk, for it may be out of memory when the node comes back.
    fn remember(&self, program: &ProgramName, memory: Memory) {
        if self.memories.borrow().get(program) == Some(&memory) {
            return;
        }
        if let Err(error) = records::save_memory(&self.store, program, &memory) {
            tracing::warn!(%program, %error, "what was seen of an instance cannot be saved");
        }
        self.memories.borrow_mut().insert(program.clone(), memory);
    }

    fn forget(&self, living: &BTreeMap<ProgramName, InstanceRecord>) {
        // An instance that is being looked for after a restart is not living yet.
        let held = |memory: &Memory| self.machine.is_on_record(&memory.instance);
        let mut memories = self.memories.borrow_mut();
        let gone = memories.extract_if(.., |program, memory| !living.contains_key(program) && !held(memory));
        for (program, _) in gone {
            if let Err(error) = records::forget_memory(&self.store, &program) {
                tracing::warn!(%program, %error, "what was seen of an instance stays");
            }
        }
    }
}

impl Page {
    /// A page that one answer holds. Paths of a hostile release may be so long that not all of it fits.
    fn fitting(mut usage: Usage) -> Self {
        let all = usage.edges.len();
        loop {
            let (digest, bytes) = digest(&usage);
            if bytes <= ANSWER_BYTES || usage.edges.is_empty() {
                return Self { usage, digest, bytes };
            }
            usage.edges.sort_by_key(|edge| !edge.quiesces());
            usage.edges.truncate(usage.edges.len() / 2);
            usage.edges.sort_by(|one, other| one.component.name.cmp(&other.component.name));
            usage.unread.retain(|unread| !unread.why.starts_with(TOO_LONG));
            let what = format!("{} more components", all - usage.edges.len());
            usage.unread.push(Unread { what, why: format!("{TOO_LONG}, and is more than {ANSWER_BYTES} bytes") });
        }
    }
}

/// Of each program the instance that was started last.
fn newest(living: Vec<InstanceRecord>) -> BTreeMap<ProgramName, InstanceRecord> {
    let mut newest = BTreeMap::<ProgramName, InstanceRecord>::new();
    for record in living {
        let older = newest.get(&record.program).is_none_or(|other| other.start_time <= record.start_time);
        if older {
            newest.insert(record.program.clone(), record);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::components::{Component, Edge, Evidence, Hop, How, Kind, Source};
    use crate::domain::names::{Release, Version};

    fn edge(number: usize, can_load: bool) -> Edge {
        let chain = vec![Hop { name: "x".repeat(4_000), how: How::Cache }];
        let name = format!("package-{number:04}").parse().unwrap();
        Edge {
            component: Component { name, kind: Kind::Package, version: None },
            files: Vec::new(),
            evidence: vec![Evidence { source: Source::Static, can_load, chain }],
            stale: None,
        }
    }

    #[test]
    fn what_is_too_long_to_be_told_is_cut_and_says_so() {
        let release = Release { version: Version::new("1").unwrap(), sha256: Sha256([1; 32]) };
        let edges = (0..400).map(|number| edge(number, number % 2 == 0)).collect();
        let usage = Usage { program: ProgramName::new("shop").unwrap(), release, edges, unread: Vec::new() };
        let page = Page::fitting(usage);
        assert!(page.bytes <= ANSWER_BYTES);
        assert_eq!(page.usage.edges.len(), 200);
        assert!(page.usage.edges.iter().all(Edge::quiesces), "what is only loadable goes first");
        let [unread] = &page.usage.unread[..] else { panic!("{:?}", page.usage.unread) };
        assert!(unread.to_string().starts_with("200 more components could not be read: what is known"), "{unread}");
        let small = Page::fitting(Usage { edges: vec![edge(1, true)], unread: Vec::new(), ..page.usage });
        assert_eq!((small.usage.edges.len(), small.usage.unread.len()), (1, 0));
    }
}
