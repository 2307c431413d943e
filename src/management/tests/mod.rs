//! Tests of management's actors alone: the servers are small fakes that obey through the domain's own code.

mod components;
mod fake;
mod listening;
mod skew;
mod telling;

use std::time::{Duration, Instant};

use actix::{Actor, Addr};

use super::control::{Bounds, Control};
use super::hooks::Hooks;
use super::list_actor::{ListActor, Look, With};
use super::nodes::FromNode;
use super::records::{Disk, ReleaseRecord};
use super::{asks, ripple_view};
use crate::domain::names::{NodeName, ProgramName, Release, RippleId, Sha256, Version};
use crate::domain::placement::State;
use crate::domain::ripple::Asked;
use crate::link::client::{Client, Settings};
use crate::link::identity::Identity;
use crate::programs::shelf::Shelf;
use crate::store::{Options, Store};
use crate::wire::api::{RippleOptions, RippleState, RippleView};
use crate::wire::envelope::Envelope;
use crate::wire::messages::ToManagement;
use fake::FakeServer;

fn program() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

fn version(name: &str) -> Version {
    Version::new(name).unwrap()
}

fn release(name: &str) -> Release {
    Release { version: version(name), sha256: Sha256([name.as_bytes()[0]; 32]) }
}

/// Management on a store of its own, without its HTTP listener.
struct Bench {
    dir: tempfile::TempDir,
    identity: Identity,
    list: Addr<ListActor>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (identity, list) = begin(dir.path());
        Self { dir, identity, list }
    }

    /// Ends, and begins anew on the same disk.
    async fn restart(self) -> Self {
        let Self { dir, list, .. } = self;
        list.send(super::list_messages::Stop).await.unwrap();
        while list.connected() {
            actix_rt::task::yield_now().await;
        }
        drop(list);
        let (identity, list) = begin(dir.path());
        Self { dir, identity, list }
    }

    async fn look<R: Send + 'static>(&self, code: impl FnOnce(&Control) -> R + Send + 'static) -> R {
        self.list.send(Look::new(code)).await.unwrap()
    }

    async fn with<R: Send + 'static>(&self, code: impl FnOnce(&mut Control) -> R + Send + 'static) -> R {
        self.list.send(With::new(code)).await.unwrap().unwrap()
    }

    async fn tell(&self, envelope: Envelope<ToManagement>) {
        self.list.send(FromNode(envelope)).await.unwrap().unwrap();
    }

    async fn push(&self, name: &str) {
        let release = release(name);
        let manifest = fake::manifest(&release.version);
        let record = ReleaseRecord { release, manifest, size: Some(1), pushed_at: jiff::Timestamp::now() };
        self.with(move |control| {
            control.releases.entry(program()).or_default().insert(record.release.version.clone(), record);
        })
        .await;
    }

    async fn upgrade(&self, to: &str) -> RippleId {
        let to = version(to);
        let planned = self.with(move |control| asks::upgrade(control, &program(), &to, &options(), None, None)).await;
        match planned.unwrap() {
            asks::Planned::Ripple(id) => id,
            asks::Planned::NothingToDo(..) => panic!("nothing to do"),
        }
    }

    async fn ripple(&self, id: &RippleId) -> RippleView {
        let id = id.clone();
        self.look(move |control| ripple_view::ripple(control, &control.ripples[&id])).await
    }

    /// Waits until a ripple is as it should be; says how it is if that takes too long.
    async fn until(&self, id: &RippleId, so: impl Fn(&RippleView) -> bool) -> RippleView {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let view = self.ripple(id).await;
            if so(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "still {view:#?}");
            actix_rt::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn options() -> RippleOptions {
    RippleOptions { soak_ms: Some(0), ..RippleOptions::default() }
}

fn begin(dir: &std::path::Path) -> (Identity, Addr<ListActor>) {
    let identity = Identity::begin(NodeName::new("management").unwrap());
    let store = Store::open(dir.join("store"), "now", Options::default()).unwrap().store;
    let control = Control::begin(&identity.name, Disk::new(store), Bounds::default()).unwrap();
    let client = Client::new(Settings::default(), None);
    let shelf = Shelf::open(dir.join("releases")).unwrap();
    let hooks = Hooks::open("neap".into(), identity.name.clone(), dir.to_owned(), shelf).unwrap();
    let actor = ListActor::new(control, identity.clone(), client, Duration::from_secs(3_600), hooks);
    (identity, actor.start())
}

async fn servers(bench: &Bench, count: usize) -> Vec<FakeServer> {
    let mut servers = Vec::new();
    for number in 1..=count {
        let server = FakeServer::start(&format!("app-{number}"));
        bench.tell(server.registration()).await;
        servers.push(server);
    }
    servers
}

#[actix_rt::test]
async fn a_ripple_installs_and_then_upgrades_server_by_server() {
    let bench = Bench::new();
    let servers = servers(&bench, 3).await;
    bench.push("1").await;
    let id = bench.upgrade("1").await;
    let view = bench.until(&id, |view| view.state.ended()).await;
    assert_eq!(view.state, RippleState::Upgraded, "{view:#?}");
    bench.push("2").await;
    let id = bench.upgrade("2").await;
    let view = bench.until(&id, |view| view.state.ended()).await;
    assert_eq!(view.state, RippleState::Upgraded, "{view:#?}");
    for server in &servers {
        assert_eq!(server.placement().release, Some(release("2")));
        assert_eq!(server.placement().state, State::Open);
    }
    let done = move |control: &Control| control.ripples[&id].receipt.clone();
    let deadline = Instant::now() + Duration::from_secs(20);
    let receipt = loop {
        if let Some(receipt) = bench.look(done.clone()).await {
            break receipt;
        }
        assert!(Instant::now() < deadline, "no receipt");
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(receipt.balanced, "{receipt:#?}");
    assert_eq!(receipt.kept_serving.map(|kept| kept.lowest), Some(2));
}

#[actix_rt::test]
async fn a_version_that_fails_is_taken_back_and_the_ripple_says_why() {
    let bench = Bench::new();
    let servers = servers(&bench, 2).await;
    bench.push("1").await;
    bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    servers[0].fail_starts_of("2", "it exited\nthe last line");
    bench.push("2").await;
    let view = bench.until(&bench.upgrade("2").await, |view| view.state.ended()).await;
    assert_eq!(view.state, RippleState::Failed);
    assert_eq!(view.reason.as_deref(), Some("it exited"));
    assert_eq!(view.failure.as_ref().unwrap().log, ["the last line"]);
    for server in &servers {
        assert_eq!(server.placement().release, Some(release("1")), "{:#?} {view:#?}", server.placement());
    }
}

#[actix_rt::test]
async fn repeated_and_reordered_reports_change_nothing() {
    let bench = Bench::new();
    let servers = servers(&bench, 1).await;
    bench.push("1").await;
    bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    let now = servers[0].report();
    let mut old = now.clone();
    (old.generation, old.state) = (crate::domain::names::Generation(0), State::Quiescing);
    for report in [now.clone(), now.clone(), old, now.clone()] {
        bench.tell(servers[0].envelope(ToManagement::Drained { report })).await;
        let seen = bench.look(|control| control.leader.list.observed(&program(), &fake::name("app-1")).cloned()).await;
        assert_eq!(seen.map(|seen| (seen.generation, seen.state)), Some((now.generation, State::Open)));
    }
}

#[actix_rt::test]
async fn a_dead_server_is_waited_for_with_its_reason_and_the_ripple_can_be_aborted() {
    let bench = Bench::new();
    let servers = servers(&bench, 2).await;
    bench.push("1").await;
    bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    servers[0].stop().await;
    bench.push("2").await;
    let id = bench.upgrade("2").await;
    let view = bench.until(&id, |view| view.waiting_for.as_ref().is_some_and(|wait| wait.reason == "preparing")).await;
    assert!(view.waiting_for.unwrap().detail.starts_with("app-1: "));
    let ripple = id.clone();
    bench.with(move |control| asks::ask(control, &ripple, Asked::Abort, None)).await.unwrap();
    assert_eq!(bench.until(&id, |view| view.state.ended()).await.state, RippleState::Aborted);
    for server in &servers {
        assert_eq!(server.placement().release, Some(release("1")));
    }
}

#[actix_rt::test]
async fn a_restarted_management_takes_a_higher_term_and_finishes_the_ripple() {
    let mut bench = Bench::new();
    let servers = servers(&bench, 2).await;
    bench.push("1").await;
    bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    servers[0].keep_active(1);
    bench.push("2").await;
    let id = bench.upgrade("2").await;
    bench.until(&id, |view| view.waiting_for.as_ref().is_some_and(|wait| wait.reason == "draining")).await;
    let before = bench.look(|control| control.leader.term().clone()).await;
    bench = bench.restart().await;
    assert!(bench.look(|control| control.leader.term().clone()).await > before);
    for server in &servers {
        bench.tell(server.registration()).await;
    }
    servers[0].keep_active(0);
    // A report that comes before the server is sealed does not count: heartbeats tell it again.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.ripple(&id).await.state.ended() && Instant::now() < deadline {
        bench.tell(servers[0].envelope(ToManagement::Drained { report: servers[0].report() })).await;
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.ripple(&id).await.state, RippleState::Upgraded);
    for server in &servers {
        assert_eq!(server.placement().release, Some(release("2")));
    }
}

#[actix_rt::test]
async fn a_full_mailbox_refuses_rather_than_to_grow() {
    let bench = Bench::new();
    assert_eq!(bench.identity.name.as_str(), "management");
    bench.look(|_| ()).await;
    let full = (0..Bounds::default().mailbox * 4).any(|_| bench.list.try_send(With::new(|_| ())).is_err());
    assert!(full, "the mailbox took everything");
    bench.look(|_| ()).await;
}

#[actix_rt::test]
async fn a_second_ripple_of_a_program_is_refused_with_the_first_ones_name() {
    let bench = Bench::new();
    let servers = servers(&bench, 2).await;
    bench.push("1").await;
    bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    servers[0].keep_active(1);
    bench.push("2").await;
    let id = bench.upgrade("2").await;
    let refused = bench.with(|control| asks::upgrade(control, &program(), &version("1"), &options(), None, None)).await;
    let Err(problem) = refused else { panic!("a second one was planned") };
    assert_eq!(problem.code.as_str(), "busy");
    assert!(problem.detail.contains(id.as_str()), "{problem}");
}

/// A release of another program, with a route.
async fn push_other(bench: &Bench, name: &str, route: &str) -> ProgramName {
    let program = ProgramName::new(name).unwrap();
    let text = format!("name = \"{name}\"\nversion = \"1\"\nroutes = [\"{route}\"]\n[process]\ncommand = [\"./x\"]\n");
    let manifest = crate::domain::manifest::parse("program.toml", &text).unwrap();
    let record = ReleaseRecord { release: release("1"), manifest, size: Some(1), pushed_at: jiff::Timestamp::now() };
    let owner = program.clone();
    bench.with(move |control| drop(control.releases.entry(owner).or_default().insert(version("1"), record))).await;
    program
}

#[actix_rt::test]
async fn a_program_cannot_take_anothers_route() {
    let bench = Bench::new();
    let _servers = servers(&bench, 2).await;
    bench.push("1").await;
    bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    let thief = push_other(&bench, "thief", "*/shop").await;
    let refused =
        bench.with(move |control| asks::upgrade(control, &thief, &version("1"), &options(), None, None)).await;
    let Err(problem) = refused else { panic!("the route was given away") };
    assert_eq!(problem.code.as_str(), "route_taken");
    assert!(problem.detail.contains("shop has the route */shop"), "{problem}");
    let honest = push_other(&bench, "honest", "*/shop/basket").await;
    let planned =
        bench.with(move |control| asks::upgrade(control, &honest, &version("1"), &options(), None, None)).await;
    assert!(planned.is_ok(), "a longer prefix is another route");
}

#[actix_rt::test]
async fn a_program_that_was_never_installed_well_can_be_removed() {
    let bench = Bench::new();
    let servers = servers(&bench, 2).await;
    bench.push("1").await;
    servers.iter().for_each(|server| server.fail_starts_of("1", "boom"));
    let failed = bench.until(&bench.upgrade("1").await, |view| view.state.ended()).await;
    assert_eq!(failed.state, RippleState::Failed);
    let removed = bench.with(|control| asks::remove(control, &program(), None)).await.unwrap();
    bench.until(&removed, |view| view.state == RippleState::Upgraded).await;
    assert!(bench.look(|control| !control.leader.list.programs.contains_key(&program())).await);
}

#[actix_rt::test]
async fn history_is_pruned_by_its_bound_the_oldest_first_and_is_so_after_a_restart() {
    let mut bench = Bench::new();
    bench.with(|control| control.bounds.ripples = 2).await;
    let _servers = servers(&bench, 2).await;
    let mut ids = Vec::new();
    for version in ["1", "2", "3"] {
        bench.push(version).await;
        let id = bench.upgrade(version).await;
        let (of, deadline) = (id.clone(), Instant::now() + Duration::from_secs(20));
        // What has no receipt yet is never pruned.
        while !bench
            .look({
                let of = of.clone();
                move |control| control.ripples[&of].receipt.is_some()
            })
            .await
        {
            assert!(Instant::now() < deadline, "{:#?}", bench.ripple(&id).await);
            actix_rt::time::sleep(Duration::from_millis(5)).await;
        }
        ids.push(id);
    }
    bench.with(|_| {}).await;
    let kept = |control: &Control| control.ripples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(bench.look(kept).await, ids[1..]);
    bench = bench.restart().await;
    assert_eq!(bench.look(kept).await, ids[1..]);
}
