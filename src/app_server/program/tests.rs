//! The actor alone: no processes, no network; a real store on a disk of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{Notify, oneshot, watch};

use super::*;
use crate::app_server::claims::Claims;
use crate::app_server::hands::{Hands, Life, Started};
use crate::app_server::ledger::Ledger;
use crate::app_server::sets::Sets;
use crate::app_server::shared::Clock;
use crate::app_server::stay;
use crate::app_server::{Bounds, Settings, records};
use crate::domain::ledger::Sessions as Left;
use crate::domain::manifest;
use crate::domain::names::{NodeName, OperationId, ProgramName, Release, Revision, Sha256, Term};
use crate::domain::placement::{Command, Desired, Ended, Operation, Order, Outcome, Phase, Refusal, Stamp};
use crate::domain::session::{Place, SessionId};
use crate::domain::session_list::End;
use crate::link::identity::Identity;
use crate::link::outbox::Post;
use crate::store::{Options, Store, Tree};
use crate::wire::messages::{HeldManifest, Obeyed};
use crate::wire::problem::Problem;

const DEADLINE: Duration = Duration::from_secs(10);

/// Hands that do what the test says: starts end as told, one after the other; stops end when they may.
#[derive(Default)]
struct Puppet {
    starts: RefCell<VecDeque<Result<(), String>>>,
    started: RefCell<Vec<Release>>,
    stops: Cell<usize>,
    may_stop: Rc<Notify>,
    holds_stops: Cell<bool>,
    /// So many starts wait until they may end.
    held_starts: Cell<usize>,
    may_start: Rc<Notify>,
    dies: Rc<Notify>,
    orphans: Rc<Cell<u64>>,
    /// Of which release a process was made ahead, and is there still.
    ready: RefCell<Option<Release>>,
}

struct PuppetLife {
    dies: Rc<Notify>,
    orphans: Rc<Cell<u64>>,
}

impl Life for PuppetLife {
    fn ended(&self) -> LocalBoxFuture<'static, String> {
        let dies = self.dies.clone();
        Box::pin(async move {
            dies.notified().await;
            "exit status 1".to_owned()
        })
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn orphans(&self) -> u64 {
        self.orphans.get()
    }
}

impl Hands for Puppet {
    fn start(&self, _: Arc<Manifest>, release: Release, _: Keeper) -> LocalBoxFuture<'static, Started> {
        self.started.borrow_mut().push(release);
        self.ready.take();
        let ends = self.starts.borrow_mut().pop_front().unwrap_or(Ok(()));
        let life = Rc::new(PuppetLife { dies: self.dies.clone(), orphans: self.orphans.clone() });
        let up = Up { addr: "127.0.0.1:1".parse().unwrap(), launch: Duration::ZERO, life };
        let (held, may_start) = (self.held_starts.get(), self.may_start.clone());
        self.held_starts.set(held.saturating_sub(1));
        Box::pin(async move {
            if held > 0 {
                may_start.notified().await;
            }
            ends.map(|()| up)
        })
    }

    fn start_beside(
        &self,
        manifest: Arc<Manifest>,
        release: Release,
        keeper: Keeper,
    ) -> LocalBoxFuture<'static, Started> {
        self.start(manifest, release, keeper)
    }

    fn retired(&self, _: Keeper) -> LocalBoxFuture<'static, Vec<Rc<dyn Life>>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn make_ready(&self, _: Arc<Manifest>, release: Release, _: Keeper) {
        *self.ready.borrow_mut() = Some(release);
    }

    fn let_go_of_ready(&self, _: &ProgramName, _: &Keeper) {
        self.ready.take();
    }

    fn stop(&self, _: Keeper) -> LocalBoxFuture<'static, Result<(), String>> {
        self.stops.set(self.stops.get() + 1);
        let (held, may_stop) = (self.holds_stops.get(), self.may_stop.clone());
        Box::pin(async move {
            if held {
                may_stop.notified().await;
            }
            Ok(())
        })
    }

    fn is_ready(&self, _: &ProgramName, _: &Release) -> bool {
        true
    }
}

/// Takes hints in the outbox's place.
#[derive(Default)]
struct Recorder(Rc<RefCell<Vec<Post>>>);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Post> for Recorder {
    type Result = ();

    fn handle(&mut self, post: Post, _: &mut Context<Self>) {
        self.0.borrow_mut().push(post);
    }
}

struct Stage {
    _dir: tempfile::TempDir,
    hints: Rc<RefCell<Vec<Post>>>,
    shared: Rc<Shared>,
    puppet: Rc<Puppet>,
}

fn shop() -> ProgramName {
    ProgramName::new("shop").unwrap()
}

fn release(version: &str) -> Release {
    let digit = version.bytes().next().unwrap_or_default();
    Release { version: version.parse().unwrap(), sha256: Sha256([digit; 32]) }
}

fn term() -> Term {
    Term { number: 1, management: NodeName::new("m1").unwrap() }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        data: "127.0.0.1:0".parse().unwrap(),
        control: "127.0.0.1:0".parse().unwrap(),
        ports: 1..=1,
        data_dir: dir.to_owned(),
        binary: "neap".into(),
        labels: Default::default(),
        cores: 1,
        workers: 1,
        management: vec!["http://127.0.0.1:1".to_owned()],
        heartbeat: Duration::from_secs(1),
        lease: Duration::from_secs(60),
        boot_wait: Duration::from_millis(200),
        bounds: Bounds { mailbox: 4, active_requests: 64, ..Bounds::default() },
        proxy: crate::proxy::Limits::default(),
        client: Default::default(),
        outbox: Default::default(),
    }
}

impl Stage {
    fn new() -> Self {
        Self::with("")
    }

    /// With more in its manifests.
    fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), "now", Options::default()).unwrap().store;
        let name = NodeName::new("s1").unwrap();
        let ledger = Ledger::open(&dir.path().join("ledger"), name.clone(), 8, 64, "now").unwrap().ledger;
        for version in ["1.0", "2.0"] {
            let text = format!(
                "name = 'shop'\nversion = '{version}'\nroutes = ['*/']\n[process]\ncommand = ['a']\n\
                 [upgrade]\ndrain_timeout = '300ms'\n{more}\n"
            );
            let manifest = manifest::parse("program.toml", &text).unwrap();
            let held = HeldManifest { release: release(version), manifest };
            records::save_manifest(&store, &shop(), &held).unwrap();
        }
        let (puppet, hints) = (Rc::new(Puppet::default()), Rc::<RefCell<Vec<Post>>>::default());
        let shared = Shared {
            identity: Identity::begin(name),
            store: store.clone(),
            settings: settings(dir.path()),
            claims: Arc::new(Claims::default()),
            ledger: Arc::new(ledger),
            sets: Sets::load(store.clone(), dir.path().to_owned()).unwrap(),
            hands: puppet.clone(),
            seal: Default::default(),
            clock: Clock::begin(),
            outbox: Some(Recorder(hints.clone()).start().recipient()),
            nudge: watch::channel(()).0,
            sessions: Arc::new(crate::app_server::session_lists::SessionLists::new(100)),
            tag_keys: Default::default(),
        };
        Self { _dir: dir, hints, shared: Rc::new(shared), puppet }
    }

    fn begin(&self, placement: Placement) -> Addr<Program> {
        let keeper = Keeper::new(self.shared.store.clone(), Vec::new());
        Program::new(self.shared.clone(), placement, keeper).begin()
    }

    fn command(&self, operation: &str, expected: u64, order: Order) -> Command {
        Command {
            term: term(),
            operation: OperationId::new(operation).unwrap(),
            run: self.shared.identity.run.clone(),
            expected: Generation(expected),
            order,
        }
    }

    fn upgrade(&self, operation: &str, expected: u64, version: &str) -> Command {
        let desired = Desired { release: Some(release(version)), stamp: Stamp { term: term(), revision: Revision(1) } };
        self.command(operation, expected, Order::Upgrade { to: release(version), desired, force: false })
    }

    /// Whether a hint of this type was sent.
    fn told(&self, kind: &str) -> bool {
        let says = |post: &Post| String::from_utf8_lossy(&post.0.bytes).contains(&format!("\"type\":\"{kind}\""));
        self.hints.borrow().iter().any(says)
    }

    fn kept(&self) -> Placement {
        self.shared.store.get(Tree::Control, "server/placement/shop").unwrap().unwrap()
    }

    /// A program that is open at version 1.0 and generation 2.
    async fn opened(&self) -> Addr<Program> {
        let program = self.begin(Placement::absent(shop()));
        obey(&program, self.upgrade("install", 0, "1.0")).await.unwrap();
        until(&program, |report| report.state == State::Open).await;
        program
    }
}

async fn obey(program: &Addr<Program>, command: Command) -> Result<Obeyed, Problem> {
    let (reply, told) = oneshot::channel();
    program.try_send(Obey { command, reply }).unwrap();
    told.await.unwrap()
}

async fn until(program: &Addr<Program>, so: impl Fn(&Report) -> bool) -> Report {
    let began = Instant::now();
    loop {
        let report = program.send(Tell).await.unwrap();
        if so(&report) {
            return report;
        }
        assert!(began.elapsed() < DEADLINE, "{report:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn open_at(generation: u64) -> Placement {
    let (state, generation) = (State::Open, Generation(generation));
    Placement { state, generation, release: Some(release("1.0")), ..Placement::absent(shop()) }
}

#[actix_rt::test]
async fn what_an_answer_reveals_is_on_disk_before_it() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let obeyed = obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    assert_eq!((obeyed.refusal, obeyed.report.state), (None, State::Quiescing));
    assert_eq!((stage.kept().state, stage.kept().generation), (State::Quiescing, Generation(3)));
    assert!(!stage.shared.claims.slot("shop").unwrap().admission().gate.word().is_open());
}

#[actix_rt::test]
async fn a_repeated_command_is_answered_and_not_obeyed_again() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let quiesce = stage.command("o1", 2, Order::Quiesce { leased: true });
    let first = obey(&program, quiesce.clone()).await.unwrap();
    let second = obey(&program, quiesce).await.unwrap();
    assert_eq!(first.report.generation, second.report.generation);
    let upgrade = stage.upgrade("o1", 3, "2.0");
    obey(&program, upgrade.clone()).await.unwrap();
    obey(&program, upgrade.clone()).await.unwrap();
    until(&program, |report| report.state == State::Open).await;
    let late = obey(&program, upgrade).await.unwrap();
    assert_eq!((late.refusal, late.report.state), (None, State::Open));
    assert_eq!(*stage.puppet.started.borrow(), [release("1.0"), release("2.0")]);
}

#[actix_rt::test]
async fn reordered_commands_leave_the_gate_open() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let reopen = obey(&program, stage.command("o1", 2, Order::Reopen)).await.unwrap();
    assert_eq!((reopen.report.state, reopen.report.generation), (State::Open, Generation(3)));
    let late = obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    assert!(matches!(late.refusal, Some(Refusal::StaleGeneration { .. })));
    let slot = stage.shared.claims.slot("shop").unwrap();
    assert!(slot.claim().is_ok());
    assert_eq!(slot.admission().gate.word().generation(), Generation(3));
}

#[actix_rt::test]
async fn a_full_mailbox_is_told_to_the_sender_and_nothing_is_lost_of_what_was_taken() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let mut told = Vec::new();
    let refused = loop {
        let (reply, answer) = oneshot::channel();
        let command = stage.command("o1", 2, Order::Quiesce { leased: true });
        match program.try_send(Obey { command, reply }) {
            Ok(()) => told.push(answer),
            Err(error) => break error,
        }
        assert!(told.len() < 1_000, "the mailbox has no bound");
    };
    assert!(matches!(refused, SendError::Full(_)));
    for answer in told {
        assert_eq!(answer.await.unwrap().unwrap().report.state, State::Quiescing);
    }
}

#[actix_rt::test]
async fn a_drained_gate_is_noticed_although_the_mailbox_is_full() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let claim = stage.shared.claims.slot("shop").unwrap().claim().unwrap();
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    let early = obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    assert_eq!(early.refusal, Some(Refusal::NotDrained { active: 1, orphans: 0 }));
    assert!(!stage.told("drained"));
    while program.try_send(Heard::KeptClosed).is_ok() {}
    drop(claim);
    let began = Instant::now();
    while !stage.told("drained") {
        assert!(began.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() < TICK, "at once, and not by looking again");
    let done = obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    assert_eq!(done.refusal, None);
}

#[actix_rt::test]
async fn a_claim_at_the_gate_of_an_earlier_instance_counts_against_drained() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let slot = stage.shared.claims.slot("shop").unwrap();
    let claim = slot.claim().unwrap();
    stage.puppet.dies.notify_one();
    until(&program, |report| !report.healthy).await;
    until(&program, |report| report.healthy).await;
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    let early = obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    assert_eq!(early.refusal, Some(Refusal::NotDrained { active: 1, orphans: 0 }));
    drop(claim);
    assert_eq!(obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap().refusal, None);
}

#[actix_rt::test]
async fn a_version_that_does_not_start_is_stopped_and_the_old_one_is_back() {
    let stage = Stage::new();
    let program = stage.opened().await;
    stage.puppet.starts.borrow_mut().push_back(Err("no port".to_owned()));
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    let report = until(&program, |report| report.state == State::Open).await;
    assert_eq!(report.release, Some(release("1.0")));
    assert!(matches!(report.ended, Some(Ended { outcome: Outcome::TakenBack(reason), .. }) if reason == "no port"));
    assert_eq!(stage.puppet.stops.get(), 3, "the install's, the old one's, the new one's");
}

#[actix_rt::test]
async fn a_process_that_was_made_ahead_goes_with_the_upgrade_that_does_not_start_it() {
    let stage = Stage::new();
    stage.puppet.holds_stops.set(true);
    let program = stage.begin(Placement::absent(shop()));
    obey(&program, stage.upgrade("install", 0, "1.0")).await.unwrap();
    assert_eq!(*stage.puppet.ready.borrow(), Some(release("1.0")));
    // What it is started with is gone when it could be.
    let keys = stage.shared.store.keys(Tree::Programs, "").unwrap();
    keys.iter().for_each(|key| stage.shared.store.remove(Tree::Programs, key.as_str()).unwrap());
    stage.puppet.holds_stops.set(false);
    stage.puppet.may_stop.notify_one();
    until(&program, |report| report.state == State::Failed).await;
    assert_eq!((stage.puppet.ready.take(), stage.puppet.started.take()), (None, vec![]));
}

#[actix_rt::test]
async fn a_program_of_which_nothing_starts_has_failed_with_both_reasons() {
    let stage = Stage::new();
    let program = stage.opened().await;
    stage.puppet.starts.borrow_mut().extend([Err("new".to_owned()), Err("old".to_owned())]);
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    let report = until(&program, |report| report.state == State::Failed).await;
    let failure = report.failure.unwrap();
    assert!(failure.contains("new") && failure.contains("old"), "{failure}");
    let slot = stage.shared.claims.slot("shop").unwrap();
    assert_eq!(slot.claim().unwrap_err().generation, report.generation);
}

#[actix_rt::test]
async fn a_restarted_server_opens_by_itself_what_was_open() {
    let stage = Stage::new();
    let program = stage.begin(open_at(5));
    let closed = program.send(Tell).await.unwrap();
    assert_eq!((closed.state, closed.generation), (State::Closed, Generation(6)));
    assert_eq!(stage.kept().state, State::Closed);
    let opened = until(&program, |report| report.state == State::Open).await;
    assert_eq!(opened.generation, Generation(7));
    assert!(stage.shared.claims.slot("shop").unwrap().claim().is_ok());
}

#[actix_rt::test]
async fn a_server_restarted_in_any_phase_of_an_upgrade_ends_it() {
    for (phase, stops, expected) in [
        (Phase::Stopping, 1, "2.0"),
        (Phase::Starting, 0, "2.0"),
        (Phase::StoppingNew, 1, "1.0"),
        (Phase::TakingBack, 0, "1.0"),
    ] {
        let stage = Stage::new();
        let operation = Operation {
            id: OperationId::new("o1").unwrap(),
            expected: Generation(4),
            term: term(),
            leased: true,
            was: State::Open,
            phase,
            from: Some(release("1.0")),
            to: Some(release("2.0")),
            reason: Some("why".to_owned()),
            desired: None,
            back: None,
            set: None,
        };
        let program = stage.begin(Placement { state: State::Upgrading, operation: Some(operation), ..open_at(6) });
        let report = until(&program, |report| report.state == State::Open).await;
        assert_eq!((report.release, stage.puppet.stops.get()), (Some(release(expected)), stops), "{phase:?}");
    }
}

#[actix_rt::test]
async fn orphans_count_against_drained_until_drain_timeout() {
    let stage = Stage::new();
    stage.puppet.orphans.set(2);
    let program = stage.begin(open_at(5));
    until(&program, |report| report.state == State::Open).await;
    let quiesced = obey(&program, stage.command("o1", 7, Order::Quiesce { leased: true })).await.unwrap();
    if quiesced.report.orphans > 0 {
        let early = obey(&program, stage.upgrade("o1", 8, "2.0")).await.unwrap();
        assert_eq!(early.refusal, Some(Refusal::NotDrained { active: 0, orphans: 2 }));
    }
    until(&program, |report| report.orphans == 0).await;
    assert_eq!(obey(&program, stage.upgrade("o1", 8, "2.0")).await.unwrap().refusal, None);
}

#[actix_rt::test]
async fn an_instance_that_ends_by_itself_is_replaced_and_its_gate_stays_as_it_is() {
    let stage = Stage::new();
    let program = stage.opened().await;
    stage.puppet.starts.borrow_mut().push_back(Err("not yet".to_owned()));
    stage.puppet.dies.notify_one();
    let down = until(&program, |report| !report.healthy).await;
    assert_eq!((down.state, down.generation), (State::Open, Generation(2)));
    let back = until(&program, |report| report.healthy).await;
    assert_eq!((back.state, back.generation), (State::Open, Generation(2)));
    assert_eq!(stage.puppet.started.borrow().len(), 3, "the first, the one that failed, the one that did not");
    let slot = stage.shared.claims.slot("shop").unwrap();
    assert!(slot.claim().is_ok());
    assert!(slot.restarts.load(Relaxed) >= 1);
}

#[actix_rt::test]
async fn a_lower_term_than_the_one_promised_is_refused_even_after_it_was_let_through() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let higher = Term { number: 2, ..term() };
    stage.shared.seal.borrow_mut().admit(&higher).unwrap();
    let late = obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    assert_eq!((late.refusal, late.report.state), (Some(Refusal::StaleTerm { highest: higher }), State::Open));
}

#[actix_rt::test]
async fn one_operation_is_under_way_at_a_time() {
    let stage = Stage::new();
    let program = stage.opened().await;
    stage.puppet.holds_stops.set(true);
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    let upgrading = obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    assert_eq!(upgrading.report.state, State::Upgrading);
    let other = obey(&program, stage.command("o2", 4, Order::Quiesce { leased: true })).await.unwrap();
    assert!(matches!(other.refusal, Some(Refusal::Busy { .. })));
    stage.puppet.may_stop.notify_one();
    until(&program, |report| report.state == State::Open).await;
}

#[actix_rt::test]
async fn a_start_that_was_given_up_is_not_heard_of() {
    let stage = Stage::new();
    stage.puppet.held_starts.set(1);
    let program = stage.begin(open_at(5));
    let closed = program.send(Tell).await.unwrap();
    assert_eq!((closed.state, closed.healthy), (State::Closed, false));
    obey(&program, stage.command("o1", 6, Order::Quiesce { leased: true })).await.unwrap();
    obey(&program, stage.upgrade("o1", 7, "2.0")).await.unwrap();
    until(&program, |report| report.state == State::Open).await;
    let key = || stage.shared.claims.slot("shop").unwrap().admission().target.as_ref().map(|target| target.key);
    let before = key();
    stage.puppet.may_start.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(key(), before);
    assert_eq!(program.send(Tell).await.unwrap().release, Some(release("2.0")));
}

#[actix_rt::test]
async fn a_quiesce_before_the_instance_is_up_does_not_keep_the_placement_closed() {
    let stage = Stage::new();
    stage.puppet.held_starts.set(1);
    let program = stage.begin(open_at(5));
    obey(&program, stage.command("o1", 6, Order::Quiesce { leased: true })).await.unwrap();
    stage.puppet.may_start.notify_one();
    until(&program, |report| report.healthy).await;
    let back = obey(&program, stage.command("o1", 6, Order::Reopen)).await.unwrap();
    assert_eq!(back.report.state, State::Closed);
    obey(&program, stage.command("o2", 8, Order::Open)).await.unwrap();
    until(&program, |report| report.state == State::Open).await;
}

fn overlap(stage: &Stage, operation: &str, expected: u64, version: &str) -> Command {
    let desired = Desired { release: Some(release(version)), stamp: Stamp { term: term(), revision: Revision(2) } };
    stage.command(operation, expected, Order::Overlap { to: release(version), desired })
}

#[actix_rt::test]
async fn an_overlap_refuses_nobody_and_stops_the_old_instance_when_its_last_request_has_ended() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let slot = stage.shared.claims.slot("shop").unwrap();
    let old = slot.claim().unwrap();
    stage.puppet.held_starts.set(1);
    obey(&program, overlap(&stage, "o1", 2, "2.0")).await.unwrap();
    let report = until(&program, |report| report.state == State::Overlapping).await;
    assert_eq!((report.healthy, &report.release), (true, &Some(release("1.0"))));
    assert_eq!(slot.claim().unwrap().target().unwrap().release, release("1.0"));
    stage.puppet.may_start.notify_one();
    let report = until(&program, |report| report.retiring == 1).await;
    assert_eq!((report.release, report.generation), (Some(release("2.0")), Generation(4)));
    assert_eq!(slot.claim().unwrap().target().unwrap().release, release("2.0"));
    let stops = stage.puppet.stops.get();
    assert_eq!(stage.kept().operation.unwrap().phase, Phase::Switched);
    drop(old);
    let report = until(&program, |report| report.state == State::Open).await;
    assert_eq!((report.generation, stage.puppet.stops.get()), (Generation(5), stops + 1));
    assert_eq!(report.ended.unwrap().outcome, Outcome::Upgraded);
}

#[actix_rt::test]
async fn an_overlap_that_is_given_up_or_does_not_start_leaves_the_old_instance_as_it_was() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let slot = stage.shared.claims.slot("shop").unwrap();
    let key = slot.claim().unwrap().target().unwrap().key;
    stage.puppet.held_starts.set(1);
    obey(&program, overlap(&stage, "o1", 2, "2.0")).await.unwrap();
    obey(&program, stage.command("o1", 2, Order::Reopen)).await.unwrap();
    let report = until(&program, |report| report.state == State::Open).await;
    assert_eq!(report.ended.unwrap().outcome, Outcome::Reopened);
    stage.puppet.starts.borrow_mut().push_back(Err("exit status 1".to_owned()));
    obey(&program, overlap(&stage, "o2", report.generation.0, "2.0")).await.unwrap();
    let report = until(&program, |report| report.state == State::Open && report.ended.is_some()).await;
    let report = match &report.ended {
        Some(ended) if ended.operation.as_str() == "o2" => report,
        _ => {
            until(&program, |report| report.ended.as_ref().is_some_and(|ended| ended.operation.as_str() == "o2")).await
        }
    };
    assert_eq!(report.ended.unwrap().outcome, Outcome::TakenBack("exit status 1".to_owned()));
    assert_eq!((report.release, report.desired.unwrap().release), (Some(release("1.0")), Some(release("1.0"))));
    assert_eq!(slot.claim().unwrap().target().unwrap().key, key, "the same instance all along");
}

/// A sticky program whose drain waits so long for sessions, and one session at home there.
async fn with_a_session(deadline: &str) -> (Stage, Addr<Program>, SessionId) {
    let stage = Stage::with(&format!("[session]\npolicy = 'sticky'\ndeadline = '{deadline}'"));
    let (program, id) = (stage.opened().await, SessionId(7));
    let (list, place) = (stage.shared.sessions.program(&shop()), stage.place());
    assert!(list.begin(id, &place, stay::now()));
    list.finish(id, stay::now());
    (stage, program, id)
}

impl Stage {
    fn place(&self) -> Place {
        let admission = self.shared.claims.slot("shop").unwrap().admission();
        admission.target.as_ref().unwrap().sessions.as_ref().unwrap().place.clone()
    }

    fn sessions_counted(&self) -> Left {
        self.shared.ledger.cut(&self.shared.identity.run).entries[0].counts.sessions
    }
}

#[actix_rt::test]
async fn a_drain_waits_for_sessions_and_tells_of_them_until_the_last_has_ended() {
    let (stage, program, id) = with_a_session("10m").await;
    let quiesced = obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    let left = quiesced.report.sessions.clone().expect("it waits for sessions");
    assert_eq!((left.figures.left, left.figures.oldest.unwrap().id), (1, id));
    assert!(left.deadline_in_ms > 500_000 && !quiesced.report.is_drained());
    let slot = stage.shared.claims.slot("shop").unwrap();
    let word = slot.admission().gate.word();
    assert!(word.is_known() && slot.claim().is_err(), "a new one goes elsewhere");
    let early = obey(&program, stage.upgrade("o1", 3, "2.0")).await.unwrap();
    assert!(matches!(early.refusal, Some(Refusal::NotDrained { .. })), "{:?}", early.refusal);
    assert!(!stage.told("drained"));
    stage.shared.sessions.program(&shop()).end(id, End::Cleared, stay::now());
    let drained = until(&program, |report| report.is_drained()).await;
    assert_eq!((drained.generation, drained.sessions), (Generation(4), None));
    assert!(stage.told("drained") && !slot.admission().gate.word().is_known());
    obey(&program, stage.upgrade("o1", 4, "2.0")).await.unwrap();
    let open = until(&program, |report| report.state == State::Open).await;
    assert_eq!(open.release, Some(release("2.0")));
    assert_eq!(
        (stage.place().version.as_str(), stage.sessions_counted()),
        ("2.0", Left { finished: 1, ..Left::default() })
    );
}

#[actix_rt::test]
async fn at_the_deadline_or_when_told_to_sessions_go_on_elsewhere_and_are_counted() {
    for deadline in ["200ms", "10m"] {
        let (stage, program, id) = with_a_session(deadline).await;
        obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
        if deadline == "10m" {
            obey(&program, stage.command("o1", 3, Order::Migrate)).await.unwrap();
        }
        until(&program, |report| report.is_drained()).await;
        assert!(!stage.shared.sessions.program(&shop()).contains(id));
        assert_eq!(stage.sessions_counted(), Left { migrated: 1, ..Left::default() });
    }
}

#[actix_rt::test]
async fn a_drain_of_a_sticky_program_waits_for_requests_that_may_begin_a_session() {
    let stage = Stage::with("[session]\npolicy = 'sticky'");
    let program = stage.opened().await;
    let slot = stage.shared.claims.slot("shop").unwrap();
    let claim = slot.claim().unwrap();
    let quiesced = obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    assert_eq!(quiesced.report.sessions.map(|left| left.figures.left), Some(0));
    assert!(slot.admission().gate.word().is_known());
    assert!(stage.shared.sessions.program(&shop()).begin(SessionId(9), &stage.place(), stay::now()));
    drop(claim);
    let left = until(&program, |report| report.active == 0).await.sessions;
    assert_eq!(left.map(|left| left.figures.left), Some(1), "it began in time to be waited for");
}

#[actix_rt::test]
async fn a_drain_without_sessions_and_one_by_force_do_not_wait() {
    let stage = Stage::with("[session]\npolicy = 'shared'");
    let program = stage.opened().await;
    stage.shared.sessions.program(&shop()).begin(SessionId(9), &stage.place(), stay::now());
    let quiesced = obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    assert!(quiesced.report.is_drained());
    let (stage, program, _) = with_a_session("10m").await;
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    let mut upgrade = stage.upgrade("o1", 3, "2.0");
    if let Order::Upgrade { force, .. } = &mut upgrade.order {
        *force = true;
    }
    let obeyed = obey(&program, upgrade).await.unwrap();
    assert_eq!(obeyed.refusal, None);
    assert_eq!(stage.sessions_counted(), Left { cut: 1, ..Left::default() });
}

fn together(stage: &Stage, expected: u64, set: &str) -> Command {
    let desired = Desired { release: Some(release("1.0")), stamp: Stamp { term: term(), revision: Revision(1) } };
    let set = OperationId::new(set).unwrap();
    stage.command("o1", expected, Order::Together { to: release("1.0"), desired, force: false, set })
}

#[actix_rt::test]
async fn a_member_of_a_set_is_moved_by_nothing_until_it_is_decided_and_then_as_all_are() {
    let stage = Stage::new();
    let program = stage.opened().await;
    let set = OperationId::new("set").unwrap();
    let reserve = || Reserve { set: set.clone(), command: together(&stage, 3, "set") };
    let early = program.send(reserve()).await.unwrap().unwrap();
    assert!(matches!(early, Reserved::Refused(Refusal::StaleGeneration { .. })), "it is open");
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    assert!(matches!(program.send(reserve()).await.unwrap().unwrap(), Reserved::Frozen(_)));
    assert_eq!(stage.kept().state, State::Quiescing, "nothing of it is on disk");
    let busy = obey(&program, stage.command("o1", 2, Order::Reopen)).await.unwrap();
    assert_eq!(busy.refusal, Some(Refusal::Busy { under_way: set.clone() }));
    program.send(GiveBack { set: set.clone() }).await.unwrap();
    assert_eq!((stage.kept().state, stage.puppet.stops.get()), (State::Quiescing, 1), "it was installed, no more");
    let reopened = obey(&program, stage.command("o1", 2, Order::Reopen)).await.unwrap();
    assert_eq!(reopened.report.state, State::Open);
    assert!(stage.shared.claims.slot("shop").unwrap().claim().is_ok());
}

#[actix_rt::test]
async fn a_member_that_is_committed_stops_waits_for_the_work_and_starts_again() {
    let stage = Stage::new();
    let program = stage.opened().await;
    obey(&program, stage.command("o1", 2, Order::Quiesce { leased: true })).await.unwrap();
    let set = OperationId::new("set").unwrap();
    let reserved = program.send(Reserve { set: set.clone(), command: together(&stage, 3, "set") }).await.unwrap();
    let Reserved::Frozen(mut changes) = reserved.unwrap() else { panic!("it is drained") };
    let mark = stage._dir.path().join("ran");
    let run = vec!["touch".to_owned(), mark.display().to_string()];
    let work = crate::domain::placement::Work { run, within: Duration::from_secs(60) };
    let record = stage.shared.sets.record(&set, [shop()].into(), work);
    changes.push(records::set(&record).unwrap());
    stage.shared.store.save(changes).unwrap();
    stage.shared.sets.begin(record);
    program.send(Commit { set: set.clone() }).await.unwrap();
    let report = until(&program, |report| report.state == State::Open).await;
    assert_eq!(report.ended.unwrap().outcome, Outcome::Upgraded);
    assert!(mark.exists());
    assert_eq!(stage.puppet.started.borrow().len(), 2);
    assert_eq!(stage.shared.sets.worked(&set).unwrap().failure, None);
}
