//! Owns the state of the modelled cluster, its faults and what may happen next. Must not know how a server or a
//! management handles a message (`server.rs`, `management.rs`); both are shells around the domain, as the product's are.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use neap::domain::names::{NodeName, OperationId, ProgramName, Release, RunId, ServerName, Sha256, Term, Version};
use neap::domain::placement::{Command, Refusal, State};
use neap::domain::program::{OnDrainTimeout, Strategy};
use neap::domain::server_list::Report;
use stateright::{Model, Property};

use super::management::{self, Management};
use super::overlap;
use super::server::{self, Srv};

/// A time after all that was ever to be waited for.
pub const LATER: u64 = 1 << 40;

/// The rule that is left out of the shells, or said less strictly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Off {
    Nothing,
    /// The gate is checked, then the request is counted.
    P1OneStep,
    P3GenerationMatched,
    /// A gate that opens again keeps the generation that the quiesce found.
    P3GenerationRises,
    P4OwnCheck,
    P5NewRunUnseals,
    P6TermsDiffer,
    P6Sealing,
    P6Adoption,
    P7UnansweredCounts,
    P7HealthCounts,
    /// The margin that one gate needs is enough for all of its batch.
    P7EachGate,
    P8Matching,
    P9bMarked,
    P9bTakenBack,
    P9dOrphans,
    /// A claim that finds a gate closed which it read the pointer to before refuses.
    P14ReadAgain,
    /// The old gate is closed before the new one is open.
    P14Order,
    /// The switch is made, then put on disk.
    P14DiskFirst,
    P11SavedFirst,
    P11TermSavedFirst,
}

/// How often each fault may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Faults {
    pub crashes: u8,
    pub management_crashes: u8,
    pub repeats: u8,
    pub leases: u8,
    pub failed_starts: u8,
    pub unhealthy: u8,
    pub aborts: u8,
    /// A person asks for the first ripple to be undone.
    pub undos: u8,
    /// A server is thought down that is not.
    pub suspicions: u8,
    /// Management's patience, timeouts of drains.
    pub timeouts: u8,
}

/// A closed configuration.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub servers: usize,
    pub managements: usize,
    pub requests: usize,
    pub faults: Faults,
    pub strategy: Strategy,
    pub batch: usize,
    /// Servers that go first, until a person promotes them.
    pub canary: usize,
    pub min_serving: u32,
    pub lossy: bool,
    /// Messages under way at a time, each way.
    pub to_servers: usize,
    pub to_managements: usize,
    /// A management that crashes has lost its disk.
    pub loses_disk: bool,
    /// A management that crashes does not come back.
    pub for_good: bool,
    /// The version that a ripple brings does not start.
    pub bad_release: bool,
    pub on_drain_timeout: OnDrainTimeout,
    pub most_terms: u64,
    /// A management that starts is asked for a ripple to version 3.
    pub starts_again: bool,
    /// Management believes that whatever is closed is drained.
    pub credulous: bool,
    /// Leases run out.
    pub leases: bool,
    pub off: Off,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            servers: 2,
            managements: 1,
            requests: 1,
            faults: Faults::default(),
            strategy: Strategy::Quiesce,
            batch: 1,
            canary: 0,
            min_serving: 1,
            lossy: false,
            to_servers: 1,
            to_managements: 1,
            loses_disk: false,
            for_good: false,
            bad_release: false,
            on_drain_timeout: OnDrainTimeout::Abort,
            most_terms: 3,
            starts_again: false,
            credulous: false,
            leases: true,
            off: Off::Nothing,
        }
    }
}

/// A part of the state that is cheap to copy and to compare.
pub struct Shared<T>(Arc<T>, u64);

impl<T: Hash> Shared<T> {
    pub fn new(value: T) -> Self {
        let hash = hash_of(&value);
        Self(Arc::new(value), hash)
    }
}

pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl<T> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.1);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    Seal {
        to: usize,
        from: usize,
        term: Term,
        asked: u64,
    },
    Command {
        to: usize,
        from: usize,
        command: Command,
    },
    Sealed {
        to: usize,
        from: usize,
        run: RunId,
        term: Term,
        asked: u64,
        answer: Result<Report, Refusal>,
    },
    /// The answer to a command, or a heartbeat.
    Report {
        to: usize,
        from: usize,
        run: RunId,
        refusal: Option<Refusal>,
        report: Report,
    },
}

impl Message {
    fn is_to_server(&self) -> bool {
        matches!(self, Self::Seal { .. } | Self::Command { .. })
    }
}

/// A request, seen from its router.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Request {
    Waiting,
    /// Only where P1 is off: the gate was seen open, and the request is not counted yet.
    Checked(usize),
    /// Of an overlap: the pointer to the gate was read; to the one that has been switched away from since.
    Looking(usize),
    LookingOld(usize),
    Admitted(usize),
    /// Admitted at the gate that was switched away from since.
    Old(usize),
    Completed,
    Cut,
}

/// The whole cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub servers: Vec<Srv>,
    pub managements: Vec<Management>,
    pub network: Vec<Shared<Message>>,
    pub requests: Vec<Request>,
    pub left: Faults,
    /// Quiesces ordered and not obeyed yet; and whether a fault excuses what they find.
    pub ordered: Vec<(u64, bool)>,
    pub broken: Option<&'static str>,
}

/// Something that happens.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Deliver(usize),
    DeliverAgain(usize),
    /// The receiving server dies after it saved and before it acted or answered.
    DeliverAndDie(usize),
    Lose(usize),
    Send(usize, usize),
    Report(usize, usize),
    Claim(usize),
    Count(usize),
    Look(usize),
    ClaimLooking(usize),
    End(usize),
    OldDrained(usize),
    SwitchesWhole(usize),
    Started(usize),
    StartFailed(usize),
    Stopped(usize),
    /// A marked instance ends, after its server was killed.
    Exit(usize),
    OrphanEnds(usize),
    Tick(usize),
    Unhealthy(usize),
    Recovers(usize),
    Crash(usize),
    Boot(usize),
    Down(usize, usize),
    Abort(usize),
    Undo(usize),
    Promote(usize),
    Later(usize),
    CrashManagement(usize),
    BootManagement(usize),
}

pub fn server_name(server: usize) -> ServerName {
    NodeName::new(["a", "b", "c"][server]).expect("a name")
}

pub fn server_of(name: &ServerName) -> usize {
    usize::from(name.as_str().as_bytes()[0] - b'a')
}

pub fn program() -> ProgramName {
    ProgramName::new("p").expect("a name")
}

pub fn release(number: u8) -> Release {
    Release { version: Version::new(number.to_string()).expect("a version"), sha256: Sha256([number; 32]) }
}

impl World {
    pub fn post(&mut self, cluster: &Cluster, message: Message) {
        let room = if message.is_to_server() { cluster.to_servers } else { cluster.to_managements };
        let message = Shared::new(message);
        let under_way = self.network.iter().filter(|other| other.is_to_server() == message.is_to_server()).count();
        if under_way < room && !self.network.contains(&message) {
            self.network.push(message);
            self.network.sort_by_key(|message| message.1);
        }
    }

    /// Takes requests in truth.
    pub fn serves(&self, server: usize) -> bool {
        let server = &self.servers[server];
        let open = server.up.as_ref().is_some_and(|up| up.word.is_open());
        open && server.placement.state.takes_requests() && server.is_healthy()
    }

    pub fn admitted(&self, server: usize) -> usize {
        self.requests.iter().filter(|request| **request == Request::Admitted(server)).count()
    }

    /// Something happened that no management can know of yet.
    pub fn fault(&mut self, server: usize) {
        for management in &mut self.managements {
            management.unheard |= 1 << server;
        }
        self.ordered.iter_mut().for_each(|(_, excused)| *excused = true);
    }

    pub fn ordered_now(&mut self, operation: &OperationId, excused: bool) {
        let id = hash_of(operation);
        if !self.ordered.iter().any(|(known, _)| *known == id) {
            self.ordered.push((id, excused));
            self.ordered.sort_unstable();
        }
    }

    /// A gate was closed: were enough others open, faults apart?
    pub fn closed(&mut self, cluster: &Cluster, server: usize, operation: &OperationId) {
        let id = hash_of(operation);
        let excused = self.ordered.iter().any(|(known, excused)| *known == id && *excused);
        self.ordered.retain(|(known, _)| *known != id);
        let others = (0..self.servers.len()).filter(|&other| other != server && self.serves(other)).count();
        if others < cluster.min_serving as usize && !excused {
            self.broken = Some("I3: a gate closed and fewer than min_serving were left");
        }
    }

    fn canonical(mut self) -> Self {
        self.requests.sort_unstable();
        self
    }
}

impl Cluster {
    pub fn is_calm(&self, world: &World) -> bool {
        let server_rests = |server: &Srv| {
            let open = server.placement.state == State::Open;
            let failed = server.placement.state == State::Failed && server.placement.failure.is_some();
            server.up.as_ref().is_some_and(|up| up.starting.is_none() && !up.stopping) && (open || failed)
        };
        // Where all have failed, and say why, a router has nobody to send a request to.
        let nobody = world.servers.iter().all(|server| server.placement.state == State::Failed);
        let ended = |request: &Request| match request {
            Request::Completed | Request::Cut => true,
            Request::Waiting => nobody,
            _ => false,
        };
        world.requests.iter().all(ended)
            && world.servers.iter().all(server_rests)
            && world.managements.iter().all(|management| management.rests(world))
    }

    fn may_expire(&self, world: &World, server: usize) -> bool {
        let Some(operation) = &world.servers[server].placement.operation.as_ref().filter(|_| self.leases) else {
            return false;
        };
        let renewed = world.managements.iter().any(|management| management.renews(self.off, &operation.id));
        if !world.managements.iter().any(|management| management.up.is_some()) {
            return true;
        }
        if renewed { self.lossy && world.left.leases > 0 } else { true }
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            servers: (0..self.servers).map(server::first).collect(),
            managements: Vec::new(),
            network: Vec::new(),
            requests: vec![Request::Waiting; self.requests],
            left: self.faults,
            ordered: Vec::new(),
            broken: None,
        };
        management::first(self, &mut world);
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (index, message) in world.network.iter().enumerate() {
            actions.push(Action::Deliver(index));
            if world.left.repeats > 0 {
                actions.push(Action::DeliverAgain(index));
            }
            if self.lossy {
                actions.push(Action::Lose(index));
            }
            if message.is_to_server() && world.left.crashes > 0 {
                actions.push(Action::DeliverAndDie(index));
            }
        }
        for (server, held) in world.servers.iter().enumerate() {
            server_actions(self, world, server, held, actions);
        }
        for (index, request) in world.requests.iter().enumerate() {
            if index > 0 && world.requests[index - 1] == *request {
                continue;
            }
            match request {
                Request::Waiting if self.strategy == Strategy::Overlap => {
                    actions.extend((0..self.servers).map(Action::Look));
                }
                Request::Waiting => actions.extend((0..self.servers).map(Action::Claim)),
                Request::Looking(_) | Request::LookingOld(_) => actions.push(Action::ClaimLooking(index)),
                Request::Checked(_) => actions.push(Action::Count(index)),
                Request::Admitted(_) | Request::Old(_) => actions.push(Action::End(index)),
                Request::Completed | Request::Cut => {}
            }
        }
        for (index, held) in world.managements.iter().enumerate() {
            management_actions(self, world, index, held, actions);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Deliver(index) => {
                let message = world.network.remove(index);
                deliver(self, &mut world, &message, false);
            }
            Action::DeliverAgain(index) => {
                world.left.repeats -= 1;
                let message = world.network[index].clone();
                deliver(self, &mut world, &message, false);
            }
            Action::DeliverAndDie(index) => {
                world.left.crashes -= 1;
                let message = world.network.remove(index);
                deliver(self, &mut world, &message, true);
            }
            Action::Lose(index) => {
                world.network.remove(index);
            }
            Action::Send(management, index) => management::send(self, &mut world, management, index),
            Action::Report(server, management) => server::report(self, &mut world, server, management),
            Action::Claim(server) => server::claim(self, &mut world, server),
            Action::Count(index) => server::count(&mut world, index),
            Action::Look(server) => overlap::look(&mut world, server),
            Action::ClaimLooking(index) => overlap::claim_looking(self, &mut world, index),
            Action::End(index) if matches!(world.requests[index], Request::Old(_)) => {
                overlap::end_old(&mut world, index);
            }
            Action::End(index) => server::end(&mut world, index),
            Action::OldDrained(server) => overlap::old_drained(self, &mut world, server),
            Action::SwitchesWhole(server) => overlap::switch(self, &mut world, server),
            Action::Started(server) => server::started(self, &mut world, server),
            Action::StartFailed(server) => server::start_failed(self, &mut world, server),
            Action::Stopped(server) => server::stopped(self, &mut world, server),
            Action::Exit(server) => server::exit(&mut world, server),
            Action::OrphanEnds(server) => server::orphan_ends(&mut world, server),
            Action::Tick(server) => server::tick(self, &mut world, server),
            Action::Unhealthy(server) => server::unhealthy(&mut world, server),
            Action::Recovers(server) => server::recovers(&mut world, server),
            Action::Crash(server) => {
                world.left.crashes -= 1;
                server::crash(self, &mut world, server);
            }
            Action::Boot(server) => server::boot(self, &mut world, server),
            Action::Down(index, server) => management::down(self, &mut world, index, server),
            Action::Abort(index) => management::abort(self, &mut world, index),
            Action::Undo(index) => management::undo(self, &mut world, index),
            Action::Promote(index) => management::promote(self, &mut world, index),
            Action::Later(index) => management::later(self, &mut world, index),
            Action::CrashManagement(index) => management::crash(self, &mut world, index),
            Action::BootManagement(index) => management::boot(self, &mut world, index),
        }
        let next = world.canonical();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no invariant is broken on the way", |_, world: &World| world.broken.is_none()),
            Property::always("I5: the ledger balances", |_, world: &World| {
                (0..world.servers.len()).all(|server| {
                    let up = world.servers[server].up.as_ref();
                    let counted = up.map_or(0, |up| up.word.active() + up.retired.map_or(0, |word| word.active()));
                    let old = world.requests.iter().filter(|request| **request == Request::Old(server)).count();
                    counted == (world.admitted(server) + old) as u64
                })
            }),
        ]
    }

    fn format_action(&self, action: &Action) -> String {
        format!("{action:?}")
    }
}

fn deliver(cluster: &Cluster, world: &mut World, message: &Message, dies: bool) {
    match message {
        Message::Seal { to, from, term, asked } => server::sealed(cluster, world, *to, *from, term, *asked, dies),
        Message::Command { to, from, command } => server::command(cluster, world, *to, *from, command, dies),
        Message::Sealed { .. } | Message::Report { .. } => management::hear(cluster, world, message),
    }
}

fn server_actions(cluster: &Cluster, world: &World, server: usize, held: &Srv, actions: &mut Vec<Action>) {
    if held.instances.iter().any(|instance| instance.orphans > 0) {
        actions.push(Action::OrphanEnds(server));
    }
    let Some(up) = &held.up else {
        actions.push(Action::Boot(server));
        if held.instances.iter().any(|instance| instance.stopping) {
            actions.push(Action::Exit(server));
        }
        return;
    };
    if !up.stopping && held.instances.iter().any(|instance| instance.stopping) {
        actions.push(Action::Exit(server));
    }
    if let Some(starting) = up.starting {
        if !(cluster.bad_release && starting == 2) {
            actions.push(Action::Started(server));
        }
        if (cluster.bad_release && starting == 2) || world.left.failed_starts > 0 {
            actions.push(Action::StartFailed(server));
        }
    }
    if up.stopping {
        actions.push(Action::Stopped(server));
    }
    if up.half_switched {
        actions.push(Action::SwitchesWhole(server));
    }
    if overlap::old_is_drained(held) {
        actions.push(Action::OldDrained(server));
    }
    match held.placement.state {
        State::Quiescing if cluster.may_expire(world, server) => actions.push(Action::Tick(server)),
        State::Overlapping if held.placement.overlap_begins() && cluster.may_expire(world, server) => {
            actions.push(Action::Tick(server));
        }
        State::Closed => actions.push(Action::Tick(server)),
        _ => {}
    }
    if world.left.unhealthy > 0 && held.is_healthy() {
        actions.push(Action::Unhealthy(server));
    }
    let running = up.starting.is_none() && !up.stopping;
    if running && held.instances.iter().any(|instance| !instance.healthy && !instance.stopping) {
        actions.push(Action::Recovers(server));
    }
    if world.left.crashes > 0 {
        actions.push(Action::Crash(server));
    }
    let (run, report) = (held.run(server), held.report(cluster));
    let news = |management: &Management| management.does_not_know(server, &run, &report);
    let listening = world.managements.iter().enumerate().filter(|(_, management)| news(management));
    actions.extend(listening.map(|(management, _)| Action::Report(server, management)));
}

fn management_actions(cluster: &Cluster, world: &World, index: usize, held: &Management, actions: &mut Vec<Action>) {
    let Some(leader) = &held.up else {
        if !cluster.for_good || held.disk.is_fresh() {
            actions.push(Action::BootManagement(index));
        }
        return;
    };
    actions.extend((0..held.sends.len()).map(|send| Action::Send(index, send)));
    for server in 0..world.servers.len() {
        let thought_up = leader.list.servers.get(&server_name(server)).is_some_and(|server| server.up);
        if thought_up && (world.servers[server].up.is_none() || world.left.suspicions > 0) {
            actions.push(Action::Down(index, server));
        }
    }
    let under_way = leader.ripples.values().any(|ripple| !ripple.state.is_over());
    if under_way && world.left.aborts > 0 {
        actions.push(Action::Abort(index));
    }
    if world.left.undos > 0 && held.may_undo() {
        actions.push(Action::Undo(index));
    }
    if held.waits_to_be_promoted() {
        actions.push(Action::Promote(index));
    }
    if under_way && world.left.timeouts > 0 {
        actions.push(Action::Later(index));
    }
    if world.left.management_crashes > 0 {
        actions.push(Action::CrashManagement(index));
    }
}
