//! The server's actor alone: no network, no processes; a real store on a disk of its own.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::app_server::claims::Claims;
use crate::app_server::ledger::Ledger;
use crate::app_server::machine::Machine;
use crate::app_server::session_lists::SessionLists;
use crate::app_server::sets::Sets;
use crate::app_server::shared::Clock;
use crate::app_server::{Bounds, Settings};
use crate::domain::manifest;
use crate::domain::names::{Generation, NodeName, OperationId, Release, Sha256, Term};
use crate::domain::placement::{Command, Order, Refusal};
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::programs::ports::Ports;
use crate::programs::shelf::{Rooms, Shelf};
use crate::programs::surroundings::Surroundings;
use crate::store::{Options, Store};
use crate::wire::messages::{Obeyed, Prepared, Sealed, ToServer};

struct Stage {
    _dir: tempfile::TempDir,
    store: Store,
    identity: Identity,
    server: Addr<Server>,
}

fn term(number: u64, management: &str) -> Term {
    Term { number, management: NodeName::new(management).unwrap() }
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
        management: Vec::new(),
        heartbeat: Duration::from_secs(1),
        lease: Duration::from_secs(60),
        boot_wait: Duration::from_secs(5),
        bounds: Bounds { mailbox: 4, programs: 2, active_requests: 64, ..Bounds::default() },
        proxy: crate::proxy::Limits::default(),
        client: Default::default(),
        outbox: Default::default(),
    }
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), "now", Options::default()).unwrap().store;
        let identity = Identity::begin(NodeName::new("s1").unwrap());
        let node = identity.name.clone();
        let ledger = Ledger::open(&dir.path().join("ledger"), node.clone(), 8, 64, "now").unwrap().ledger;
        let around = Surroundings { binary: "neap".into(), node, data_dir: dir.path().to_owned(), sessions: None };
        let rooms = Rooms::open(dir.path().join("programs")).unwrap();
        let machine = Machine::new(around, Ports::new(1..=1), rooms, store.clone());
        let preparer = Preparer {
            machine: machine.clone(),
            client: Client::new(Default::default(), None),
            management: Vec::new(),
            shelf: Arc::new(Shelf::open(dir.path().join("fetched")).unwrap()),
            store: store.clone(),
            fetch_timeout: Duration::from_secs(1),
            release_size: 1 << 20,
        };
        let kept = Kept::load(&store).unwrap();
        let settings = settings(dir.path());
        let mailbox = settings.bounds.mailbox;
        let components = Components::new(
            preparer.machine.clone(),
            store.clone(),
            Path::new("neap"),
            &settings.bounds,
            watch::channel(()).0,
        );
        let shared = Shared {
            identity: identity.clone(),
            store: store.clone(),
            settings,
            claims: Arc::new(Claims::default()),
            ledger: Arc::new(ledger),
            hands: Rc::new(machine),
            sets: Sets::load(store.clone(), dir.path().to_owned()).unwrap(),
            seal: RefCell::new(kept.seal.clone()),
            clock: Clock::begin(),
            outbox: None,
            nudge: watch::channel(()).0,
            sessions: Arc::new(SessionLists::new(100)),
            tag_keys: Default::default(),
        };
        let server = Server::create(|ctx| {
            ctx.set_mailbox_capacity(mailbox);
            Server::boot(Rc::new(shared), kept, preparer, components)
        });
        Self { _dir: dir, store, identity, server }
    }

    async fn ask(&self, message: ToServer) -> Result<Value, Problem> {
        let (reply, told) = oneshot::channel();
        self.server.try_send(Ask { message, reply }).unwrap();
        told.await.unwrap()
    }

    async fn seal(&self, term: Term) -> Sealed {
        serde_json::from_value(self.ask(ToServer::Seal { term, asked: 7 }).await.unwrap()).unwrap()
    }

    async fn command(&self, program: &str, term: Term) -> Result<Obeyed, Problem> {
        let command = Command {
            term,
            operation: OperationId::new("o1").unwrap(),
            run: self.identity.run.clone(),
            expected: Generation(0),
            order: Order::Quiesce { leased: true },
        };
        let program = ProgramName::new(program).unwrap();
        let answer = self.ask(ToServer::Command { program, command }).await?;
        Ok(serde_json::from_value(answer).unwrap())
    }
}

#[actix_rt::test]
async fn a_promise_is_on_disk_before_its_answer_and_lower_terms_are_refused_after_it() {
    let stage = Stage::new();
    let sealed = stage.seal(term(2, "b")).await;
    assert_eq!((sealed.asked, sealed.refusal, sealed.reports), (7, None, Vec::new()));
    assert_eq!(Kept::load(&stage.store).unwrap().seal.highest, Some(term(2, "b")));
    let refused = stage.seal(term(2, "a")).await;
    assert_eq!(refused.refusal, Some(Refusal::StaleTerm { highest: term(2, "b") }));
    let command = stage.command("shop", term(1, "b")).await.unwrap();
    assert_eq!(command.refusal, Some(Refusal::StaleTerm { highest: term(2, "b") }));
}

#[actix_rt::test]
async fn a_command_of_a_higher_term_is_a_promise_too() {
    let stage = Stage::new();
    assert_eq!(stage.command("shop", term(3, "a")).await.unwrap().refusal, None);
    assert!(stage.seal(term(2, "a")).await.refusal.is_some());
    let sealed = stage.seal(term(3, "a")).await;
    assert_eq!(sealed.reports[0].generation, Generation(1), "the seal's answer knows what was obeyed before it");
}

#[actix_rt::test]
async fn a_command_not_yet_obeyed_when_a_higher_term_is_promised_is_refused() {
    let stage = Stage::new();
    let command = Command {
        term: term(1, "a"),
        operation: OperationId::new("o1").unwrap(),
        run: stage.identity.run.clone(),
        expected: Generation(0),
        order: Order::Quiesce { leased: true },
    };
    let ((first, obeyed), (second, told)) = (oneshot::channel(), oneshot::channel());
    let message = ToServer::Command { program: ProgramName::new("shop").unwrap(), command };
    // Both wait in the mailbox before the actor looks at either.
    stage.server.try_send(Ask { message, reply: first }).unwrap();
    let message = ToServer::Seal { term: term(2, "a"), asked: 1 };
    stage.server.try_send(Ask { message, reply: second }).unwrap();
    let sealed: Sealed = serde_json::from_value(told.await.unwrap().unwrap()).unwrap();
    assert_eq!(sealed.reports[0].generation, Generation(0));
    let obeyed: Obeyed = serde_json::from_value(obeyed.await.unwrap().unwrap()).unwrap();
    assert_eq!(obeyed.refusal, Some(Refusal::StaleTerm { highest: term(2, "a") }));
}

#[actix_rt::test]
async fn a_full_mailbox_is_told_to_the_sender() {
    let stage = Stage::new();
    let mut taken = 0;
    let full = loop {
        let (reply, _) = oneshot::channel();
        if stage.server.try_send(Ask { message: ToServer::Ledger {}, reply }).is_err() {
            break taken;
        }
        taken += 1;
        assert!(taken < 1_000);
    };
    assert!(full <= 16);
}

#[actix_rt::test]
async fn more_programs_than_the_bound_are_refused_with_the_cure() {
    let stage = Stage::new();
    for program in ["a", "b"] {
        stage.command(program, term(1, "m")).await.unwrap();
    }
    let problem = stage.command("c", term(1, "m")).await.unwrap_err();
    assert!(problem.hint.unwrap().contains("programs"));
    let unknown = stage.ask(ToServer::Requests { program: ProgramName::new("c").unwrap() }).await;
    assert_eq!(unknown.unwrap_err().code, Code::UnknownProgram);
}

#[actix_rt::test]
async fn a_release_is_prepared_once_at_a_time_and_a_failure_is_told_once() {
    let stage = Stage::new();
    let program = ProgramName::new("shop").unwrap();
    let text = "name = 'shop'\nversion = '1.0'\nroutes = ['*/']\n[process]\ncommand = ['a']\n";
    let manifest = manifest::parse("program.toml", text).unwrap();
    let prepare = |version: &str| ToServer::Prepare {
        program: program.clone(),
        release: Release { version: version.parse().unwrap(), sha256: Sha256([1; 32]) },
        manifest: Box::new(manifest.clone()),
    };
    assert_eq!(stage.ask(prepare("2.0")).await.unwrap_err().code, Code::BadRequest);
    let mut answers = Vec::new();
    while answers.iter().filter(|answer| matches!(answer, Prepared::Failed { .. })).count() < 2 {
        let answer = stage.ask(prepare("1.0")).await.unwrap();
        answers.push(serde_json::from_value::<Prepared>(answer).unwrap());
        assert!(answers.len() < 10_000 && answers.last() != Some(&Prepared::Ready));
        tokio::task::yield_now().await;
    }
    assert_eq!(answers[0], Prepared::Preparing);
    let first = answers.iter().position(|answer| matches!(answer, Prepared::Failed { .. })).unwrap();
    assert_eq!(answers[first + 1], Prepared::Preparing, "it is tried again");
}
