//! Owns management's whole state in memory: the leadership, the nodes, the releases, the ripples' records; how it is
//! loaded, and what has to be saved. Decides nothing by itself: `Leader` does. Must not know actors or HTTP.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::glob::matches_glob;
use super::node_ripples::{NodeRipples, is_driven};
use super::observer::Watch;
use super::records::{Disk, NodeRecord, ReleaseRecord, RippleRecord, SetRecord};
use super::tag_keys;
use crate::domain::components::{ComponentsList, Taken, Usage};
use crate::domain::leader::Leader;
use crate::domain::names::{NodeName, ProgramName, Release, Revision, RippleId, RunId, ServerName, Term, Version};
use crate::domain::placement::Millis;
use crate::domain::program::Manifest;
use crate::domain::server_list::{Server, ServerList};
use crate::store::StoreError;
use crate::wire::api::EventView;
use crate::wire::components::digest;
use crate::wire::messages::{ActiveThere, ListStamp, Load, NodeRole, Registration, TagKeys};

/// How much management keeps at the most; see `[management.limits]`.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub nodes: usize,
    pub programs: usize,
    pub releases_kept: usize,
    /// Events kept in memory and shown.
    pub events: usize,
    /// Ripples that are over and kept; the oldest is pruned.
    pub ripples: usize,
    /// Failures that a receipt names.
    pub failures: usize,
    /// Items of a list's page.
    pub page: usize,
    pub mailbox: usize,
    /// How long a quiesce waits for routers to acknowledge the list before it; then they are known to be stale
    /// (protocol P10).
    pub router_wait: Duration,
    /// Bytes of the Components List.
    pub components_size: usize,
    /// Sessions of one program in the master list.
    pub sessions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            nodes: 1_000,
            programs: 1_000,
            releases_kept: 5,
            events: 10_000,
            ripples: 200,
            failures: 100,
            page: 500,
            mailbox: 1_024,
            router_wait: Duration::from_secs(2),
            components_size: 64 << 20,
            sessions: 1_000_000,
        }
    }
}

/// A node in one role, as it was last heard of.
pub struct Node {
    pub record: NodeRecord,
    pub run: Option<RunId>,
    pub up: bool,
    pub since: Timestamp,
    pub heard: Option<Instant>,
    pub load: Load,
    /// Of a router.
    pub held: Option<ListStamp>,
    /// Of a router.
    pub active: ActiveThere,
    /// Whether it has told what it holds, or that it holds nothing, since this management started.
    pub told_held: bool,
    /// Of how many sessions it has data that was not given here, as a server's heartbeat said.
    pub sessions_only_there: Option<u64>,
}

/// Everything that management knows.
pub struct Control {
    pub leader: Leader,
    pub bounds: Bounds,
    pub nodes: BTreeMap<(NodeRole, NodeName), Node>,
    pub releases: BTreeMap<ProgramName, BTreeMap<Version, ReleaseRecord>>,
    pub ripples: BTreeMap<RippleId, RippleRecord>,
    pub sets: BTreeMap<RippleId, SetRecord>,
    pub node_ripples: NodeRipples,
    /// The Server List that routers should hold.
    pub published: Option<ListStamp>,
    pub events: VecDeque<EventView>,
    pub watches: HashMap<(RippleId, ServerName), Watch>,
    pub components: ComponentsList,
    /// Of sessions' tags.
    pub tag_keys: TagKeys,
    /// Every node makes them of the cluster's secret.
    pub has_secret: bool,
    next_event: u64,
    pub(super) disk: Disk,
    began: Instant,
    /// When it was last looked for nodes that are silent.
    pub(super) watched: Option<Instant>,
    /// Servers that the disk knew of at the start and that have not been sealed since.
    awaited: Vec<ServerName>,
    /// Whether all is heard that could be, after a start.
    settled: bool,
}

impl Control {
    /// Loads the state and begins a leadership: a higher term, saved (protocol P6).
    pub fn begin(name: &NodeName, mut disk: Disk, bounds: Bounds) -> Result<Self, StoreError> {
        let loaded = disk.load()?;
        let term = Term { number: loaded.term.number + 1, management: loaded.term.id.unwrap_or_else(|| new_id(name)) };
        let mut list = ServerList { programs: loaded.programs, cells: loaded.cells, ..ServerList::default() };
        for node in loaded.nodes.iter().filter(|node| node.registration.role == NodeRole::AppServer) {
            list.servers.insert(node.name.clone(), Server::default());
        }
        let driven = loaded.ripples.values().filter(|record| is_driven(&loaded.node_ripples, record));
        let live = driven.filter_map(|record| record.ripple.clone());
        let live = live.filter(|ripple| !ripple.state.is_over()).map(|ripple| (ripple.plan.id.clone(), ripple));
        let awaited = list.servers.keys().cloned().collect();
        let mut leader = Leader::new(term, Revision(0), list, live.collect());
        let live = loaded.sets.values().map(|record| record.set.clone()).filter(|set| !set.state.is_over());
        leader.sets = live.map(|set| (set.plan.id.clone(), set)).collect();
        leader.drains = loaded.drains;
        let nodes = loaded.nodes.into_iter().map(Node::loaded).collect();
        let mut control = Self {
            leader,
            bounds,
            nodes,
            releases: loaded.releases,
            ripples: loaded.ripples,
            sets: loaded.sets,
            node_ripples: NodeRipples::loaded(loaded.node_ripples),
            published: None,
            events: VecDeque::new(),
            watches: HashMap::new(),
            components: ComponentsList::default(),
            tag_keys: loaded.tag_keys.unwrap_or_else(tag_keys::make),
            has_secret: false,
            next_event: 1,
            disk,
            began: Instant::now(),
            watched: None,
            awaited,
            settled: false,
        };
        control.load_components();
        control.save()?;
        Ok(control)
    }

    /// What servers' programs used when that was last said.
    fn load_components(&mut self) {
        let mut by_server: BTreeMap<ServerName, Vec<Usage>> = BTreeMap::new();
        for (server, usage) in self.disk.components() {
            by_server.entry(server).or_default().push(usage);
        }
        for (server, usages) in by_server {
            let with_digest = |usage| {
                let (digest, bytes) = digest(&usage);
                (usage, digest, bytes)
            };
            let sent: Vec<_> = usages.into_iter().map(with_digest).collect();
            let has = sent.iter().map(|(usage, digest, _)| (usage.program.clone(), *digest)).collect();
            self.components.take(&server, &has, sent, self.bounds.components_size);
        }
    }

    /// Writes what was taken in of a server's word on components.
    pub fn save_components(&self, server: &ServerName, list: &ComponentsList, taken: &Taken) -> Result<(), StoreError> {
        self.disk.save_components(server, list, taken)
    }

    /// Whether this management knows what there is: every server that it knew is sealed, or all have had their time.
    /// One that knew none may have lost its disk, and waits as well.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Looks again whether it is settled; once it is, it stays so.
    pub fn settle(&mut self, patience: Duration) {
        if self.settled {
            return;
        }
        let sealed = |name: &ServerName| self.leader.list.servers.get(name).is_some_and(|s| s.sealed.is_some());
        let heard = !self.awaited.is_empty() && self.awaited.iter().all(sealed);
        self.settled = heard || self.began.elapsed() >= patience;
    }

    /// Management's own monotonic clock.
    pub fn now(&self) -> Millis {
        self.began.elapsed().as_millis() as Millis
    }

    /// When an instant of that clock is, on the wall, for people.
    pub fn wall(&self, at: Millis) -> Timestamp {
        let ahead = at as i64 - self.now() as i64;
        Timestamp::now() + jiff::SignedDuration::from_millis(ahead)
    }

    /// What nodes are told of the keys of sessions' tags.
    pub fn told_keys(&self) -> Option<TagKeys> {
        Some(tag_keys::told(&self.tag_keys, self.has_secret))
    }

    /// A node registered, or registered again.
    pub fn register(&mut self, name: &NodeName, run: &RunId, registration: Registration) {
        let role = registration.role;
        let record = NodeRecord { name: name.clone(), registration };
        let node = self.nodes.entry((role, name.clone())).or_insert_with(|| Node::loaded(record.clone()).1);
        node.record = record;
        if !node.up || node.run.as_ref() != Some(run) {
            (node.since, node.sessions_only_there) = (Timestamp::now(), None);
        }
        (node.run, node.up, node.heard) = (Some(run.clone()), true, Some(Instant::now()));
        if role == NodeRole::AppServer {
            let now = self.now();
            self.leader.up(name, run, now);
            self.place();
        }
    }

    /// Works out again which servers host which program, by the rules of the manifests.
    pub fn place(&mut self) {
        let names: Vec<ProgramName> = self.leader.list.programs.keys().cloned().collect();
        for program in names {
            let Some(manifest) = self.manifest(&program) else { continue };
            let servers = self.servers_for(&manifest.clone());
            if let Some(wanted) = self.leader.list.programs.get_mut(&program) {
                wanted.servers = servers;
            }
        }
    }

    /// The servers that a manifest's placement names.
    pub fn servers_for(&self, manifest: &Manifest) -> Vec<ServerName> {
        let servers = self.nodes.values().filter(|node| node.record.registration.role == NodeRole::AppServer);
        let placed = servers.filter(|node| {
            let labels = &node.record.registration.labels;
            let named = manifest.placement.servers.iter().any(|glob| matches_glob(glob, node.record.name.as_str()));
            named && manifest.placement.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        placed.map(|node| node.record.name.clone()).collect()
    }

    /// The manifest that speaks for a program: of its desired release, else of the release that comes.
    pub fn manifest(&self, program: &ProgramName) -> Option<&Manifest> {
        let wanted = self.leader.list.programs.get(program)?;
        let coming = self.leader.under_way(program).and_then(|ripple| ripple.plan.to.as_ref());
        let release = wanted.release.as_ref().or(coming)?;
        self.release(program, release).map(|record| &record.manifest)
    }

    pub fn release(&self, program: &ProgramName, release: &Release) -> Option<&ReleaseRecord> {
        self.releases.get(program)?.values().find(|record| record.release == *release)
    }

    /// Whether a ripple that is over may be told of: routers hear of the last gate that opened before anybody hears of
    /// the end (protocol P10); one that does not answer is waited for as long as before a quiesce.
    pub fn told_the_end(&self, record: &RippleRecord) -> bool {
        let mut routers = self.nodes.iter().filter(|((role, _), node)| *role == NodeRole::Router && node.up);
        let wait = self.bounds.router_wait.as_millis() as i128;
        let waited = record.ended_at.is_some_and(|at| Timestamp::now().duration_since(at).as_millis() >= wait);
        waited || routers.all(|(_, node)| node.held >= self.published)
    }

    /// Keeps something that a person may want to know.
    pub fn event(&mut self, kind: &str, message: String, about: About<'_>) {
        tracing::info!(kind, "{message}");
        while self.events.len() >= self.bounds.events.max(1) {
            self.events.pop_front();
        }
        self.events.push_back(EventView {
            id: format!("{:012}", self.next_event),
            at: Timestamp::now(),
            kind: kind.to_owned(),
            message,
            node: about.node.cloned(),
            program: about.program.cloned(),
            ripple: about.ripple.cloned(),
        });
        self.next_event += 1;
    }
}

/// An id for terms that no other store's management has.
fn new_id(name: &NodeName) -> NodeName {
    let kept: String = name.as_str().chars().take(50).collect();
    let unique = NodeName::new(format!("{kept}-{:08x}", rand::random::<u32>()));
    unique.unwrap_or_else(|_| name.clone())
}

/// What an event is about.
#[derive(Clone, Copy, Default)]
pub struct About<'a> {
    pub node: Option<&'a NodeName>,
    pub program: Option<&'a ProgramName>,
    pub ripple: Option<&'a RippleId>,
}

impl Node {
    fn loaded(record: NodeRecord) -> ((NodeRole, NodeName), Self) {
        let key = (record.registration.role, record.name.clone());
        let (since, load) = (Timestamp::now(), Load::default());
        let unheard = Self {
            record,
            run: None,
            up: false,
            since,
            heard: None,
            load,
            held: None,
            active: ActiveThere::new(),
            told_held: false,
            sessions_only_there: None,
        };
        (key, unheard)
    }

    /// Where its control messages go.
    pub fn messages_url(&self) -> String {
        format!("http://{}{}", self.record.registration.control, crate::wire::envelope::MESSAGES_PATH)
    }
}
