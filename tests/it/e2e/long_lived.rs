//! What lives long passes both hops as it is: WebSockets, event streams, polls; and what is slow costs no memory.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::cluster::{Cluster, Shape};
use crate::support::kept::Kept;
use crate::support::release::installed;
use crate::support::{SOON, block_on, until};

/// Longer than every time that a connection or a request has in these tests.
const LONG: Duration = Duration::from_millis(1_300);

/// A cluster of one server, where all that is not long-lived ends within a second.
fn impatient() -> Option<Cluster> {
    let release = installed("express", "1.0.0")?.process(r#"request_timeout = "1s""#);
    let second = ["client_idle", "head_timeout", "write_timeout"].map(|key| format!("router.limits.{key}=1s"));
    let sets = second.into_iter().chain(["app_server.limits.head_timeout=1s".to_owned()]).collect();
    let cluster = Cluster::shaped(Shape { servers: 1, sets, ..Shape::default() });
    cluster.deploy(&release);
    Some(cluster)
}

async fn socket(router: SocketAddr) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(router).await.unwrap();
    tokio_tungstenite::client_async("ws://any/express/ws", stream).await.unwrap().0
}

async fn counts(router: SocketAddr) -> serde_json::Value {
    let came = Kept::to(router).await.ask("GET /express/counts", b"").await.unwrap();
    serde_json::from_slice(&came.body).unwrap()
}

#[test]
fn websockets_event_streams_and_polls_pass_both_hops_and_outlive_every_timeout() {
    let Some(cluster) = impatient() else { return };
    let router = cluster.router();
    block_on(async {
        tokio::join!(large_frames(router), idle_and_closed(router), closed_by_a_client(router), half_closed(router));
        tokio::join!(events(router), poll(router));
    });
    until("every request has ended", SOON, || {
        let closed = block_on(counts(router))["closed"].to_string();
        let all = ["4001 bye", "4002 done"].iter().all(|code| closed.contains(code));
        if all && cluster.active("server-1")? == 0 { Ok(()) } else { Err(closed) }
    });
}

/// Frames of a MiB both ways at once.
async fn large_frames(router: SocketAddr) {
    let (mut send, mut receive) = socket(router).await.split();
    let frame = |number: u8| Message::binary(vec![number; 1 << 20]);
    tokio::join!(
        async {
            for number in 0..12 {
                send.send(frame(number)).await.unwrap();
            }
        },
        async {
            for number in 0..12 {
                assert!(receive.next().await.unwrap().unwrap() == frame(number), "frame {number}");
            }
        }
    );
    send.close().await.unwrap();
}

/// Idle for longer than anything else may be; then closed by the program, with its code.
async fn idle_and_closed(router: SocketAddr) {
    let mut socket = socket(router).await;
    for _ in 0..2 {
        tokio::time::sleep(LONG).await;
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    }
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("p".into()));
    socket.send(Message::text("close 4001 bye")).await.unwrap();
    let close = CloseFrame { code: 4001.into(), reason: "bye".into() };
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(close)));
    assert!(socket.next().await.is_none(), "nothing after its end");
}

async fn closed_by_a_client(router: SocketAddr) {
    let mut socket = socket(router).await;
    let close = CloseFrame { code: 4002.into(), reason: "done".into() };
    socket.close(Some(close.clone())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(close)));
    assert!(socket.next().await.is_none(), "nothing after its end");
}

/// A client that ends its side still gets what is on its way.
async fn half_closed(router: SocketAddr) {
    let mut socket = socket(router).await;
    for number in 0..20 {
        socket.send(Message::text(number.to_string())).await.unwrap();
    }
    socket.get_mut().shutdown().await.unwrap();
    for number in 0..20 {
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(number.to_string()));
    }
    while let Some(Ok(_)) = socket.next().await {}
}

/// Each event comes before the next is made, and none is too late for a stream to be idle.
async fn events(router: SocketAddr) {
    let mut stream = Kept::to(router).await;
    stream.send("GET /express/events", b"").await.unwrap();
    assert!(stream.head().await.unwrap().starts_with("HTTP/1.1 200 "));
    tokio::time::sleep(LONG).await;
    for number in 0..40 {
        let mut asks = Kept::to(router).await;
        let told: serde_json::Value =
            serde_json::from_slice(&asks.ask("POST /express/tick", b"").await.unwrap().body).unwrap();
        let event = String::from_utf8(stream.until(b"\n\n").await.unwrap()).unwrap();
        assert!(event.ends_with(&format!("data: {}\n\n", told["tick"])), "{number}: {event}");
        stream.until(b"\r\n").await.unwrap();
    }
}

/// An answer that is long in coming, within its `request_timeout`; one beyond it is 504.
async fn poll(router: SocketAddr) {
    let mut client = Kept::to(router).await;
    client.send("GET /express/slow?ms=800", b"").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 200);
    let came = client.ask("GET /express/slow?ms=1500", b"").await.unwrap();
    assert_eq!(came.status, 504, "{}", came.head);
    assert_eq!(client.ask("GET /express/", b"").await.unwrap().status, 200, "the connection is kept");
}

const GIB: u64 = 1 << 30;
/// Transfers at once.
const TRANSFERS: usize = 8;
/// What they may cost, all together: buffers, far from what is on its way.
const GROWTH: u64 = 4 << 20;

#[test]
fn a_gib_that_nobody_takes_costs_kilobytes_whichever_way_it_goes() {
    let Some(release) = installed("express", "1.0.0") else { return };
    let mut cluster = Cluster::shaped(Shape { servers: 1, ..Shape::default() });
    cluster.deploy(&release.process(r#"body_limit = "2GiB""#));
    let router = cluster.router();
    // So that what comes later is no first time.
    assert_eq!(block_on(at_once(router, 8 << 20)), 8 << 20);
    let before = resident(&mut cluster);
    let downloads = block_on(stalled_downloads(router));
    costs_little(&mut cluster, before, "downloads that nobody reads");
    drop(downloads);
    all_ended(&cluster, TRANSFERS);
    let uploads = block_on(stalled_uploads(router));
    costs_little(&mut cluster, before, "uploads that the program does not read");
    uploads.iter().for_each(vanish);
    drop(uploads);
    until("clients that vanished hold nothing", SOON, || match cluster.active("server-1")? {
        0 => Ok(()),
        active => Err(format!("{active} active")),
    });
    // The program reads on, and only then can see that nobody is there.
    assert_eq!(block_on(async { Kept::to(router).await.ask("POST /express/tick", b"").await.unwrap().status }), 200);
    all_ended(&cluster, 2 * TRANSFERS);
}

/// The bytes of a download that is taken as it comes.
async fn at_once(router: SocketAddr, bytes: u64) -> u64 {
    Kept::to(router).await.ask(&format!("GET /express/download?bytes={bytes}"), b"").await.unwrap().body.len() as u64
}

fn resident(cluster: &mut Cluster) -> [u64; 2] {
    ["router-1", "server-1"].map(|node| cluster.node(node).resident())
}

#[track_caller]
fn costs_little(cluster: &mut Cluster, before: [u64; 2], what: &str) {
    let after = resident(cluster);
    let growth = [0, 1].map(|node| after[node].saturating_sub(before[node]));
    eprintln!("{what}: the router grew by {} KiB, the server by {} KiB", growth[0] >> 10, growth[1] >> 10);
    assert!(growth.iter().all(|bytes| *bytes < GROWTH), "{what}: {growth:?}");
    assert_eq!(cluster.active("server-1"), Ok(TRANSFERS as u64));
}

/// Reads nothing but the heads; until the program makes no more.
async fn stalled_downloads(router: SocketAddr) -> Vec<Kept> {
    let mut clients = Vec::new();
    for _ in 0..TRANSFERS {
        let mut client = Kept::to(router).await;
        client.send(&format!("GET /express/download?bytes={GIB}"), b"").await.unwrap();
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 "));
        clients.push(client);
    }
    let mut made = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = counts(router).await["made"].as_u64().unwrap();
        if now == made {
            break;
        }
        made = now;
    }
    assert!(made > 0 && made < GIB * TRANSFERS as u64 / 4, "it ran on: {made}");
    clients
}

/// Writes until nobody takes any more.
async fn stalled_uploads(router: SocketAddr) -> Vec<TcpStream> {
    let upload = || async move {
        let mut stream = TcpStream::connect(router).await.unwrap();
        let head = format!("POST /express/upload HTTP/1.1\r\nHost: any\r\nContent-Length: {GIB}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (piece, mut sent) = (vec![b'u'; 256 * 1024], 0);
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(700), stream.write(&piece)).await {
            sent += written.unwrap() as u64;
        }
        assert!(sent < GIB / 4, "it was taken: {sent}");
        stream
    };
    futures_util::future::join_all((0..TRANSFERS).map(|_| upload())).await
}

/// Has a client end as one that has died, whatever is on its way.
fn vanish(client: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO)).unwrap();
}

/// The clients have left: the claims are given back at once, and the program sees it.
#[track_caller]
fn all_ended(cluster: &Cluster, left: usize) {
    until("clients that left are gone everywhere", SOON, || {
        let seen = block_on(counts(cluster.router()))["left"].clone();
        let active = cluster.active("server-1")?;
        if active == 0 && seen == left { Ok(()) } else { Err(format!("{active} active, the program saw {seen} leave")) }
    });
}
