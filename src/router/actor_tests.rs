use std::path::Path;

use actix::dev::SendError;
use tokio::net::TcpListener;

use super::super::samples::{self, list, program, stamped};
use super::*;
use crate::link::client::Client;
use crate::link::identity::Identity;
use crate::wire::messages::{NodeRole, Registration};

const PATIENCE: Duration = Duration::from_secs(10);

fn identity() -> Identity {
    Identity::begin("router-1".parse().unwrap())
}

fn shared() -> Arc<Shared> {
    samples::shared(1)
}

fn settings() -> Settings {
    let short = Duration::from_millis(20);
    Settings { mailbox: 4, heartbeat: short, probe_interval: short, connect_timeout: Duration::from_secs(1) }
}

fn begin(shared: &Arc<Shared>, dir: &Path) -> Addr<ListActor> {
    ListActor::begin(Arc::clone(shared), ListFile::in_dir(dir), settings(), None)
}

fn message(list: RouterList) -> (Take, oneshot::Receiver<Held>) {
    let (answer, held) = oneshot::channel();
    (Take { list: Box::new(list), answer }, held)
}

async fn take(actor: &Addr<ListActor>, list: RouterList) -> Held {
    let (take, held) = message(list);
    actor.send(take).await.unwrap();
    held.await.unwrap()
}

fn held(term: u64, revision: u64) -> Held {
    Held { held: Some(stamped(term, revision)) }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[actix::test]
async fn a_repeated_list_is_answered_and_changes_nothing() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let actor = begin(&shared, dir.path());
    assert!(!shared.is_ready());
    let came = list(1, 1, &[program("shop", &[("s1", true)])]);
    assert_eq!(take(&actor, came.clone()).await, held(1, 1));
    assert_eq!(take(&actor, came).await, held(1, 1));
    assert!(shared.is_ready() && shared.snapshot().programs.len() == 1);
}

#[actix::test]
async fn lists_in_any_order_leave_the_newest() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let actor = begin(&shared, dir.path());
    take(&actor, list(2, 2, &[program("new", &[])])).await;
    assert_eq!(take(&actor, list(2, 1, &[])).await, held(2, 2));
    assert_eq!(take(&actor, list(1, 9, &[])).await, held(2, 2));
    let mut change = list(2, 9, &[]);
    change.since = Some(stamped(2, 8));
    assert_eq!(take(&actor, change).await, held(2, 2), "a change of another list");
    assert_eq!(shared.snapshot().programs[0].name().as_str(), "new");
}

#[actix::test]
async fn a_full_mailbox_is_said_at_once_and_what_was_taken_is_done() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let actor = begin(&shared, dir.path());
    // Nothing is handled before this test waits for the first time.
    let sent: Vec<_> = (1..=9).map(|revision| actor.try_send(message(list(1, revision, &[])).0)).collect();
    let taken = sent.iter().filter(|sent| sent.is_ok()).count() as u64;
    assert!((1..9).contains(&taken), "{taken}");
    assert!(sent.iter().any(|sent| matches!(sent, Err(SendError::Full(_)))));
    let after = take(&actor, list(1, 0, &[])).await;
    assert_eq!(after, held(1, taken));
}

#[actix::test]
async fn a_server_set_aside_comes_back_once_it_answers_even_when_the_mailbox_was_full() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let actor = begin(&shared, dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut came = list(1, 1, &[program("shop", &[("s1", true)])]);
    came.servers[0].data = listener.local_addr().unwrap();
    drop(listener);
    take(&actor, came.clone()).await;
    let server = Arc::clone(shared.snapshot().server(&came.servers[0].name).unwrap());
    while actor.try_send(message(came.clone()).0).is_ok() {}
    // The mailbox lets every sender put in one more than its bound.
    for _ in 0..3 {
        server.take_back();
        shared.set_aside(&server);
    }
    assert!(!server.is_aside(), "nobody would probe it");
    take(&actor, came.clone()).await;
    shared.set_aside(&server);
    assert!(server.is_aside());
    let seen = shared.news_seen();
    let _listener = TcpListener::bind(came.servers[0].data).await.unwrap();
    until("the server is taken back", || !server.is_aside()).await;
    until("whoever waits is woken", || shared.news_seen() > seen).await;
}

#[actix::test]
async fn a_router_restarts_from_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let first = shared();
    take(&begin(&first, dir.path()), list(3, 7, &[program("shop", &[("s1", true)])])).await;
    let second = shared();
    let actor = begin(&second, dir.path());
    assert!(second.is_ready() && second.snapshot().programs[0].placements.len() == 1);
    assert_eq!(take(&actor, list(3, 6, &[])).await, held(3, 7));
    std::fs::write(ListFile::in_dir(dir.path()).path(), "{").unwrap();
    let third = shared();
    let actor = begin(&third, dir.path());
    assert!(!third.is_ready());
    assert_eq!(take(&actor, list(1, 1, &[])).await, held(1, 1));
}

#[actix::test]
async fn lists_that_follow_each_other_closely_are_on_disk_in_the_end() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let actor = begin(&shared, dir.path());
    let file = ListFile::in_dir(dir.path());
    let on_disk = || file.read().unwrap().map(|list| list.stamp);
    take(&actor, list(1, 1, &[])).await;
    assert_eq!(on_disk(), Some(stamped(1, 1)), "the first is written at once");
    for revision in 2..=50 {
        assert_eq!(take(&actor, list(1, revision, &[])).await, held(1, revision));
    }
    until("the last is written in time", || on_disk() == Some(stamped(1, 50))).await;
    for revision in 51..=60 {
        take(&actor, list(1, revision, &[])).await;
    }
    actor.send(Keep).await.unwrap();
    assert_eq!(on_disk(), Some(stamped(1, 60)), "or when it is asked for");
    for revision in 61..=70 {
        take(&actor, list(1, revision, &[])).await;
        assert_eq!(on_disk(), Some(stamped(1, revision)), "and at once from then on");
    }
}

#[actix::test]
async fn replaced_snapshots_are_taken_apart_by_the_actor_once_no_worker_has_them() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let actor = begin(&shared, dir.path());
    take(&actor, list(1, 1, &[])).await;
    let worker = Arc::clone(&*shared.snapshot());
    take(&actor, list(1, 2, &[])).await;
    assert_eq!(Arc::strong_count(&worker), 2, "the actor keeps what a worker has");
    take(&actor, list(1, 3, &[])).await;
    assert_eq!(Arc::strong_count(&worker), 2);
    let weak = Arc::downgrade(&worker);
    drop(worker);
    take(&actor, list(1, 4, &[])).await;
    assert!(weak.upgrade().is_none());
}

#[actix::test]
async fn a_dead_management_is_told_again_and_again_and_lists_are_taken_meanwhile() {
    let (shared, dir) = (shared(), tempfile::tempdir().unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let accepted = TcpListener::from_std(listener).unwrap();
    let any: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let hello = Hello {
        client: Client::new(
            crate::link::client::Settings { answer_timeout: Duration::from_millis(50), ..Default::default() },
            None,
        ),
        identity: identity(),
        registration: Arc::new(Registration {
            role: NodeRole::Router,
            control: any,
            data: any,
            labels: Default::default(),
            version: "0".into(),
            cores: 1,
            binary: None,
        }),
        management: vec![format!("http://{dead}")],
        tag_keys: Default::default(),
        at: 0,
        registered: false,
        refused: false,
    };
    let actor = ListActor::begin(Arc::clone(&shared), ListFile::in_dir(dir.path()), settings(), Some(hello));
    for revision in 1..=3 {
        // Each try is a connection of its own, which is never answered.
        let _ = tokio::time::timeout(PATIENCE, accepted.accept()).await.unwrap().unwrap();
        assert_eq!(take(&actor, list(1, revision, &[])).await, held(1, revision));
    }
}
