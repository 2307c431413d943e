//! Traffic against a tiny server of the tests' own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What the tiny server does with the n-th request on a connection (from 0): bytes to answer, and whether to go on.
type Behave = dyn Fn(&Seen) -> Act + Send + Sync;

struct Seen {
    line: String,
    traffic_id: String,
    cookies: String,
    body: Vec<u8>,
    on_connection: usize,
}

struct Act {
    answer: Vec<u8>,
    after: Duration,
    close: bool,
}

fn act(answer: impl Into<Vec<u8>>) -> Act {
    Act { answer: answer.into(), after: Duration::ZERO, close: false }
}

fn ok(version: &str, body: &str) -> Act {
    act(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Version: {version}\r\n\r\n{body}", body.len()))
}

struct Tiny {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Tiny {
    async fn start(behave: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, behave): (_, Arc<Behave>) = (Arc::new(AtomicUsize::new(0)), Arc::new(behave));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&behave), Arc::clone(&counter)));
            }
        });
        Self { port, requests }
    }

    fn plan(&self, rate: f64, mix: Vec<Request>) -> Plan {
        let url = format!("http://127.0.0.1:{}/", self.port).parse().unwrap();
        Plan::new(vec![Target::new(url, rate).mix(Mix::new(mix).unwrap())]).duration(Duration::from_millis(500))
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, behave: Arc<Behave>, counter: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    for on_connection in 0.. {
        let Some(seen) = read(&mut stream, on_connection).await else { return };
        counter.fetch_add(1, Ordering::SeqCst);
        let act = behave(&seen);
        tokio::time::sleep(act.after).await;
        if stream.write_all(&act.answer).await.is_err() || act.close {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>, on_connection: usize) -> Option<Seen> {
    let mut seen = Seen {
        line: String::new(),
        traffic_id: String::new(),
        cookies: String::new(),
        body: Vec::new(),
        on_connection,
    };
    stream.read_line(&mut seen.line).await.ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name {
            "Content-Length" => seen.body = vec![0; value.parse().unwrap()],
            "Cookie" => seen.cookies = value.to_owned(),
            "X-Traffic-Id" => seen.traffic_id = value.to_owned(),
            _ => {}
        }
    }
    stream.read_exact(&mut seen.body).await.ok()?;
    Some(seen)
}

fn kinds(report: &Report) -> Vec<(FailureKind, u64)> {
    report.all.by_failure.iter().map(|(kind, count)| (*kind, *count)).collect()
}

#[tokio::test]
async fn every_request_is_sent_once_and_counted() {
    let tiny = Tiny::start(|_| ok("1", "hello")).await;
    let report = run(tiny.plan(200.0, vec![Request::get("/")])).await.unwrap();
    let all = &report.all;
    assert!(report.passed, "{:?}", all.errors);
    assert_eq!((all.sent, all.ok, all.failed, tiny.requests()), (100, 100, 0, 100));
    assert_eq!((all.by_status["200"], all.by_version["1"], all.body_bytes_received), (100, 100, 500));
    assert_eq!(all.latency_ms.count, 100);
    assert_eq!(all.per_second.iter().map(|second| second.sent).sum::<u64>(), 100);
}

#[tokio::test]
async fn slow_answers_do_not_slow_the_sending() {
    let tiny = Tiny::start(|_| Act { after: Duration::from_millis(500), ..ok("1", "") }).await;
    let begun = Instant::now();
    let report = run(tiny.plan(100.0, vec![Request::get("/")])).await.unwrap();
    let all = &report.all;
    assert_eq!((all.sent, all.ok), (50, 50), "{:?}", all.errors);
    assert!(all.connections_opened > 25, "{} connections", all.connections_opened);
    assert!(all.latency_ms.p50 >= 490.0, "{:?}", all.latency_ms);
    // One after the other they would take 25 s.
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn latency_counts_from_the_time_a_request_was_due() {
    let tiny = Tiny::start(|_| Act { after: Duration::from_millis(100), ..ok("1", "") }).await;
    let mut plan = tiny.plan(20.0, vec![Request::get("/")]);
    plan.connections_max = 1;
    let all = run(plan).await.unwrap().all;
    // Ten requests through one connection, 100 ms each, due every 50 ms: the last waits for about half a second.
    assert_eq!((all.sent, all.ok), (10, 10), "{:?}", all.errors);
    assert!(all.waited_for_connection >= 5, "{} waited", all.waited_for_connection);
    assert!(all.latency_ms.max >= 450.0, "{:?}", all.latency_ms);
    assert_eq!(all.connections_opened, 1);
}

#[tokio::test]
async fn an_answer_that_is_not_the_one_due_is_a_failure_of_its_kind() {
    let tiny = Tiny::start(|seen| match seen.line.split(' ').nth(1).unwrap() {
        "/short" => Act { close: true, ..act("HTTP/1.1 200 OK\r\nX-Version: 1\r\nContent-Length: 9\r\n\r\nshort") },
        "/status" => act("HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno"),
        "/length" => ok("1", "four"),
        "/extra" => act("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello"),
        "/crossed" => act("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Traffic-Id: another\r\n\r\n"),
        "/lost" => Act { close: true, ..act("") },
        "/junk" => act("hello\r\n\r\n"),
        "/mute" => act(""),
        _ => ok("1", "fine"),
    })
    .await;
    let paths = ["/short", "/status", "/length", "/extra", "/crossed", "/lost", "/junk", "/mute", "/fine"];
    let mix = paths.map(|path| Request::get(path).expect_bytes(5));
    let mix =
        mix.map(|request| if request.path == "/length" { request } else { Request { expect_bytes: None, ..request } });
    let plan = tiny.plan(18.0, mix.to_vec()).timeout(Duration::from_secs(2));
    let report = run(plan).await.unwrap();
    use FailureKind::{Crossed, ExtraBytes, Length, Lost, Protocol, ShortBody, Status, Timeout};
    let expected = [Lost, Timeout, Status, ShortBody, Length, ExtraBytes, Protocol, Crossed].map(|kind| (kind, 1));
    assert_eq!(kinds(&report), expected, "{:#?}", report.all.errors);
    assert_eq!((report.all.sent, report.all.ok, report.passed), (9, 1, false));
    let detail = |kind| &report.all.errors.iter().find(|failure| failure.kind == kind).unwrap().detail;
    assert_eq!(
        detail(ShortBody),
        "the connection ended in the body, 5 bytes in of the 9 announced, of a 200 from version 1"
    );
    assert_eq!(detail(Status), "status 503, expected 200 (Retry-After: 1): no");
}

#[tokio::test]
async fn versions_are_told_apart_and_may_be_expected() {
    let count = AtomicUsize::new(0);
    let tiny = Tiny::start(move |_| ok(if count.fetch_add(1, Ordering::SeqCst) < 10 { "1" } else { "2" }, "")).await;
    let mut plan = tiny.plan(40.0, vec![Request::get("/")]);
    plan.targets[0].expect_versions = vec!["1".to_owned()];
    let report = run(plan).await.unwrap();
    assert_eq!((report.all.by_version["1"], report.all.by_version["2"]), (10, 10));
    assert_eq!(kinds(&report), [(FailureKind::Version, 10)]);
}

#[tokio::test]
async fn posts_have_unique_ids_and_whole_bodies() {
    let (send, bodies) = std::sync::mpsc::channel();
    let tiny = Tiny::start(move |seen| {
        send.send((seen.traffic_id.clone(), seen.body.clone())).unwrap();
        ok("1", "")
    })
    .await;
    let mix = vec![Request::post("/orders", 100), Request::post("/orders", mix::BODY_BYTES_MAX), Request::get("/")];
    let report = run(tiny.plan(30.0, mix)).await.unwrap();
    assert!(report.passed, "{:?}", report.all.errors);
    assert_eq!((report.all.posts_sent, report.all.posts_ok), (10, 10));
    let mut seen: Vec<_> = bodies.try_iter().filter(|(_, body)| !body.is_empty()).collect();
    assert!(seen.iter().all(|(id, body)| body.starts_with(id.as_bytes())));
    seen.sort();
    let mut acknowledged: Vec<_> = report.acknowledged(0).collect();
    acknowledged.sort_unstable();
    acknowledged.dedup();
    assert_eq!(acknowledged, seen.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>());
    assert_eq!(report.all.body_bytes_sent, 5 * 100 + 5 * mix::BODY_BYTES_MAX as u64);
}

#[tokio::test]
async fn a_reused_connection_that_dies_is_tried_again_for_get_alone() {
    // Every connection dies at its second request, unanswered.
    let dying = |seen: &Seen| if seen.on_connection == 1 { Act { close: true, ..act("") } } else { ok("1", "") };
    let tiny = Tiny::start(dying).await;
    let report = run(tiny.plan(20.0, vec![Request::get("/")])).await.unwrap();
    assert!(report.passed && report.all.repeated >= 4, "{:?}", report.all);
    let tiny = Tiny::start(dying).await;
    let report = run(tiny.plan(20.0, vec![Request::post("/", 1)])).await.unwrap();
    assert_eq!(kinds(&report), [(FailureKind::Lost, 5)]);
    assert_eq!((report.all.ok, tiny.requests(), report.all.repeated), (5, 10, 0), "no POST is sent twice");
}

#[tokio::test]
async fn an_early_answer_to_a_long_body_is_an_answer() {
    let tiny = Tiny::start(|_| ok("1", "")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Answers the head and does not take the body, but lets the answer arrive.
            let mut some = [0; 1024];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(b"HTTP/1.1 413 Big\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            tokio::spawn(async move { while stream.read(&mut [0; 65536]).await.is_ok_and(|read| read > 0) {} });
        }
    });
    let mut plan = tiny.plan(10.0, vec![Request::post("/", mix::BODY_BYTES_MAX).expect_status(413)]);
    plan.targets[0].url.port = port;
    let report = run(plan).await.unwrap();
    assert!(report.passed, "{:?}", report.all.errors);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_failure_of_each_request() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let target = Target::new(format!("http://127.0.0.1:{port}").parse().unwrap(), 20.0);
    let report = run(Plan::new(vec![target]).duration(Duration::from_millis(500))).await.unwrap();
    assert_eq!(kinds(&report), [(FailureKind::Connect, 10)]);
}

#[tokio::test]
async fn stopped_traffic_waits_for_what_is_outstanding_and_aborted_traffic_does_not() {
    let slow = |seen: &Seen| {
        let millis = if seen.line.contains("/slow") { 300 } else { 60_000 };
        Act { after: Duration::from_millis(millis), ..ok("1", "") }
    };
    let tiny = Tiny::start(slow).await;
    let begun = |path| {
        let mut plan = tiny.plan(100.0, vec![Request::get(path)]);
        plan.duration = None;
        start(plan).unwrap()
    };
    let running = begun("/slow");
    until(|| running.snapshot().all.sent >= 5).await;
    let report = running.finish().await;
    assert!(report.passed && report.all.ok == report.all.sent, "{:?}", report.all);

    let mut running = begun("/never");
    until(|| running.snapshot().all.sent >= 5).await;
    running.abort();
    let report = running.wait().await;
    assert_eq!(kinds(&report), [(FailureKind::Unfinished, report.all.sent)]);
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_target_has_its_own_rate_and_account() {
    let (one, two) = (Tiny::start(|_| ok("1", "")).await, Tiny::start(|_| ok("2", "")).await);
    let mut plan = one.plan(40.0, vec![Request::get("/")]);
    plan.targets.push(two.plan(20.0, vec![Request::post("/", 1)]).targets.remove(0));
    let report = run(plan).await.unwrap();
    assert_eq!((report.all.sent, report.targets[0].counts.sent, report.targets[1].counts.sent), (30, 20, 10));
    assert_eq!((report.targets[0].counts.by_version["1"], report.targets[1].counts.by_version["2"]), (20, 10));
    assert_eq!((report.acknowledged(0).count(), report.acknowledged(1).count()), (0, 10));
}

#[tokio::test]
async fn a_report_is_read_back_from_its_json() {
    let tiny = Tiny::start(|_| act("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")).await;
    let report = run(tiny.plan(20.0, vec![Request::get("/")])).await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["sent"].as_u64(), json["by_status"]["500"].as_u64()), (Some(10), Some(10)));
    assert_eq!(json["targets"][0]["errors"][0]["kind"], "status");
    let read: Report = serde_json::from_value(json).unwrap();
    assert_eq!((read.all.failed, read.targets[0].counts.failed), (10, 10));
}

/// A WebSocket server that echoes, or does what else `answer` says to a frame.
async fn websocket_server(answer: fn(&str) -> Option<String>) -> u16 {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    let Message::Text(text) = message else { continue };
                    match answer(&text) {
                        Some(text) => socket.send(Message::text(text)).await.unwrap(),
                        None => return socket.close(None).await.unwrap(),
                    }
                }
            });
        }
    });
    port
}

async fn websocket_run(port: u16, lifetime_ms: u64) -> Report {
    let mix = Mix::new(vec![Request::websocket("/ws", Duration::from_millis(lifetime_ms))]).unwrap();
    let target = Target::new(format!("http://127.0.0.1:{port}").parse().unwrap(), 10.0).mix(mix);
    run(Plan::new(vec![target]).duration(Duration::from_secs(1))).await.unwrap()
}

#[tokio::test]
async fn a_websocket_lives_its_time_and_its_frames_come_back() {
    let report = websocket_run(websocket_server(|text| Some(text.to_owned())).await, 300).await;
    let all = &report.all;
    assert!(report.passed, "{:?}", all.errors);
    assert_eq!((all.sent, all.ok, all.by_status["101"]), (10, 10, 10));
    assert!(all.frames_echoed >= 10, "{} frames", all.frames_echoed);
}

#[tokio::test]
async fn a_websocket_that_closes_early_or_alters_a_frame_has_failed() {
    let report = websocket_run(websocket_server(|_| None).await, 300).await;
    assert_eq!(kinds(&report), [(FailureKind::ClosedEarly, 10)]);
    let report = websocket_run(websocket_server(|text| Some(format!("{text}!"))).await, 300).await;
    assert_eq!(kinds(&report), [(FailureKind::WebSocket, 10)]);
    let tiny = Tiny::start(|_| ok("1", "no socket here")).await;
    let report = websocket_run(tiny.port, 300).await;
    assert_eq!(kinds(&report), [(FailureKind::Status, 10)]);
}

fn raw(tiny: &Tiny, rate: f64, connections: usize) -> Plan {
    Plan { raw: true, connections_max: connections, ..tiny.plan(rate, vec![Request::get("/")]) }
}

#[tokio::test]
async fn raw_traffic_sends_every_request_on_time_over_the_connections_that_it_has() {
    let tiny = Tiny::start(|_| ok("1", "hello")).await;
    let report = run(raw(&tiny, 2_000.0, 16)).await.unwrap();
    let all = &report.all;
    assert!(report.passed, "{:?}", all.errors);
    assert_eq!((all.sent, all.ok, tiny.requests()), (1_000, 1_000, 1_000));
    assert_eq!((all.by_status["200"], all.body_bytes_received, all.connections_opened), (1_000, 5_000, 16));
    assert_eq!(all.latency_ms.count, 1_000);
}

#[tokio::test]
async fn raw_latency_counts_from_the_time_a_request_was_due() {
    let tiny = Tiny::start(|_| Act { after: Duration::from_millis(100), ..ok("1", "") }).await;
    let all = run(raw(&tiny, 20.0, 1)).await.unwrap().all;
    // Ten requests through one connection, 100 ms each, due every 50 ms: the last waits for about half a second.
    assert_eq!((all.ok, all.connections_opened), (10, 1), "{:?}", all.errors);
    assert!(all.waited_for_connection >= 8 && all.latency_ms.max >= 500.0, "{all:?}");
}

#[tokio::test]
async fn raw_traffic_fails_what_is_not_the_answer_and_goes_on() {
    let tiny = Tiny::start(|seen| match seen.on_connection {
        0 => ok("1", "hello"),
        1 => act("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
        2 => Act { close: true, ..act("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel") },
        _ => unreachable!("the connection was closed"),
    })
    .await;
    let report = run(raw(&tiny, 60.0, 1)).await.unwrap();
    let thirds = |n| (n, report.all.sent / 3);
    assert!(!report.passed && report.all.sent == 30, "{:?}", report.all);
    assert_eq!(kinds(&report), [thirds(FailureKind::Status), thirds(FailureKind::ShortBody)]);
    assert_eq!((report.all.ok, report.all.connections_opened), (10, 10));
}

#[tokio::test]
async fn raw_traffic_that_gets_no_answer_or_no_connection_ends_with_it_told() {
    let silent = Tiny::start(|_| Act { after: Duration::from_secs(60), ..ok("1", "") }).await;
    let mut plan = raw(&silent, 20.0, 2);
    plan.timeout = Duration::from_millis(200);
    assert_eq!(kinds(&run(plan).await.unwrap()), [(FailureKind::Timeout, 10)]);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let nobody = Tiny { port: free, requests: Arc::default() };
    assert_eq!(kinds(&run(raw(&nobody, 20.0, 2)).await.unwrap()), [(FailureKind::Connect, 10)]);
}

/// A program that keeps what is posted by its clients' cookie, and forgets everything once `forget` requests have come.
async fn keeper(forget: usize) -> Tiny {
    let (kept, asked) =
        (std::sync::Mutex::new(std::collections::HashMap::<String, Vec<String>>::new()), AtomicUsize::new(0));
    Tiny::start(move |seen| {
        let mut kept = kept.lock().unwrap();
        if asked.fetch_add(1, Ordering::SeqCst) == forget {
            kept.clear();
        }
        let known = seen.cookies.strip_prefix("sid=").filter(|sid| kept.contains_key(*sid));
        let mut fields = String::new();
        let sid = match known {
            Some(sid) => sid.to_owned(),
            None if seen.line.starts_with("GET") => return ok("1", ""),
            None => {
                fields += &format!("Set-Cookie: sid=s{}; Path=/\r\n", seen.traffic_id);
                format!("s{}", seen.traffic_id)
            }
        };
        if seen.line.starts_with("POST /bye") {
            kept.remove(&sid);
            return act("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: sid=; Path=/; Max-Age=0\r\n\r\n");
        }
        let items = kept.entry(sid.clone()).or_default();
        if seen.line.starts_with("POST") {
            items.push(seen.traffic_id.clone());
        }
        let last = items.last().cloned().unwrap_or_default();
        fields += &format!("X-Session-Id: {sid}\r\nX-Session-Items: {}\r\nX-Session-Last: {last}\r\n", items.len());
        act(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Version: 1\r\n{fields}\r\n"))
    })
    .await
}

async fn drive_sessions(tiny: &Tiny) -> Report {
    let mut plan = tiny.plan(400.0, Vec::from([Request::get("/"), Request::post("/items", 10)]));
    let target = &mut plan.targets[0];
    (target.sessions, target.mix) = (20, target.mix.leaving(8, Some("/bye")).unwrap());
    run(plan).await.unwrap()
}

#[tokio::test]
async fn clients_keep_their_cookies_leave_and_come_back_as_others() {
    let tiny = keeper(usize::MAX).await;
    let report = drive_sessions(&tiny).await;
    assert!(report.passed, "{:?}", report.all.errors);
    let sessions = report.all.sessions;
    // 200 requests of 20 clients, of which one in eight is the last of a life.
    assert_eq!((report.all.sent, sessions.clients), (200, 20));
    assert!((20..=25).contains(&sessions.ended) && sessions.begun >= sessions.ended, "{sessions:?}");
    assert_eq!((sessions.lost, sessions.mixed, sessions.regressed), (0, 0, 0));
}

#[tokio::test]
async fn a_session_that_the_program_forgot_is_lost() {
    let tiny = keeper(100).await;
    let report = drive_sessions(&tiny).await;
    let lost = report.all.sessions.lost;
    assert!(lost > 0 && !report.passed, "{:?}", report.all);
    assert_eq!(kinds(&report), [(FailureKind::SessionLost, lost)]);
}
