use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::sync::mpsc;

use super::*;
use crate::link::client;

const PATIENCE: Duration = Duration::from_secs(10);

struct Owner(mpsc::UnboundedSender<Outcome>);

impl Actor for Owner {
    type Context = Context<Self>;
}

impl Handler<Outcome> for Owner {
    type Result = ();
    fn handle(&mut self, outcome: Outcome, _: &mut Context<Self>) {
        self.0.send(outcome).unwrap();
    }
}

fn outbox(letters: usize) -> (Addr<Outbox>, mpsc::UnboundedReceiver<Outcome>) {
    let (sender, outcomes) = mpsc::unbounded_channel();
    let owner = Owner(sender).start();
    let backoff = Backoff { first: Duration::from_millis(5), most: Duration::from_millis(20) };
    let settings = Settings { letters, mailbox: 64, backoff };
    let client = Client::new(client::Settings::default(), None);
    (Outbox::begin(client, settings, 1, owner.recipient()), outcomes)
}

async fn next(outcomes: &mut mpsc::UnboundedReceiver<Outcome>) -> (String, End) {
    let outcome = tokio::time::timeout(PATIENCE, outcomes.recv()).await.unwrap().unwrap();
    (outcome.letter.id, outcome.end)
}

fn letter(to: &str, key: Option<&str>, id: &str) -> Post {
    let (to, key) = (to.to_owned(), key.map(str::to_owned));
    Post(Letter { to, key, id: id.to_owned(), bytes: Bytes::from(id.to_owned()) })
}

/// A peer that is busy for the first `busy` messages, then takes all; and what it took.
fn peer(listener: std::net::TcpListener, busy: usize) -> Arc<Mutex<Vec<String>>> {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (log, count) = (web::Data::from(taken.clone()), web::Data::new(AtomicUsize::new(0)));
    let take = move |body: String, log: web::Data<Mutex<Vec<String>>>, count: web::Data<AtomicUsize>| async move {
        if count.fetch_add(1, Ordering::Relaxed) < busy {
            return HttpResponse::ServiceUnavailable().finish();
        }
        let refused = body.starts_with("bad");
        log.lock().unwrap().push(body);
        if refused { HttpResponse::Conflict().body("no") } else { HttpResponse::Ok().body("yes") }
    };
    let app =
        move || App::new().app_data(log.clone()).app_data(count.clone()).route(MESSAGES_PATH, web::post().to(take));
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
    actix_web::rt::spawn(server);
    taken
}

fn listener() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[actix_web::test]
async fn letters_reach_a_busy_peer_in_order_and_once_taken_go_no_more() {
    let (listener, url) = listener();
    let taken = peer(listener, 3);
    let (outbox, mut outcomes) = outbox(10);
    for id in ["1", "bad 2", "3"] {
        outbox.try_send(letter(&url, None, id)).unwrap();
    }
    for (expected, answered) in [("1", 200), ("bad 2", 409), ("3", 200)] {
        let (id, end) = next(&mut outcomes).await;
        assert_eq!(id, expected);
        assert!(matches!(end, End::Answered { status, .. } if status == answered), "{end:?}");
    }
    assert_eq!(*taken.lock().unwrap(), ["1", "bad 2", "3"]);
}

#[actix_web::test]
async fn a_peer_that_comes_back_gets_the_newest_of_what_waited() {
    let (reserved, url) = listener();
    drop(reserved);
    let (outbox, mut outcomes) = outbox(10);
    outbox.try_send(letter(&url, None, "1")).unwrap();
    for id in ["2", "3"] {
        outbox.try_send(letter(&url, Some("shop"), id)).unwrap();
    }
    let (id, end) = next(&mut outcomes).await;
    assert!(id == "2" && matches!(end, End::Replaced), "{id} {end:?}");
    let taken = peer(std::net::TcpListener::bind(url.trim_start_matches("http://")).unwrap(), 0);
    for expected in ["1", "3"] {
        assert_eq!(next(&mut outcomes).await.0, expected);
    }
    assert_eq!(*taken.lock().unwrap(), ["1", "3"]);
}

#[actix_web::test]
async fn a_full_outbox_says_so_and_a_dead_peer_can_be_forgotten() {
    let (reserved, url) = listener();
    drop(reserved);
    let (outbox, mut outcomes) = outbox(2);
    for id in ["1", "2", "3"] {
        outbox.try_send(letter(&url, None, id)).unwrap();
    }
    let (id, end) = next(&mut outcomes).await;
    assert!(id == "3" && matches!(end, End::Full), "{id} {end:?}");
    outbox.send(Forget(url)).await.unwrap();
    assert!(matches!(next(&mut outcomes).await.1, End::Forgotten));
}

#[actix_web::test]
async fn a_full_mailbox_answers_at_once() {
    let (outbox, _outcomes) = outbox(2);
    let full = (0..1_000).find(|_| outbox.try_send(letter("http://127.0.0.1:1", None, "x")).is_err());
    assert!(full.is_some(), "the mailbox is bounded");
}
