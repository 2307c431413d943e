//! shop: a small program to upgrade. Owns nothing but its orders; knows nothing of neap but what neap gives every
//! program: a port, its version in the environment, TERM when it is to end.
//!
//! ```text
//! GET  /                        JSON: program and version
//! GET  /healthz                 200
//! POST /orders                  logs "id bytes" once per execution, answers id, bytes and SHA-256 of what it received
//! GET  /slow?ms=N               answers after N milliseconds
//! GET  /stream?bytes=N&chunks=N&ms=N   a body in chunks, N milliseconds apart
//! GET  /events?ms=N             server-sent events, five a second, for N milliseconds
//! GET  /ws                      a WebSocket that echoes
//! ```
//!
//! `SHOP_MODE` makes it a bad program: `exit` ends at once, `hang` takes connections and never answers, `deaf` listens
//! on nothing, `errors` answers 500 to all but `/healthz`, `flaky` to every fifth of these, `slow` takes five times as long
//! for `/slow`, `stubborn` ignores TERM, `leak` keeps some memory of each request, until it is killed.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use futures_util::{SinkExt, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

/// Longest that a request may ask to take, and bytes that a stream or an order may have.
const WAIT_MS_MAX: u64 = 120_000;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What `leak` keeps at the most.
const LEAKED_MIB_MAX: usize = 40;
/// After TERM, what is under way has this long.
const GRACE: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Parser)]
struct Args {
    #[arg(long, env = "PORT")]
    port: u16,
    /// Where orders are logged; standard output without it.
    #[arg(long, env = "SHOP_LOG")]
    log: Option<PathBuf>,
    #[arg(long, env = "SHOP_MODE", default_value = "well")]
    mode: Mode,
    #[arg(long, env = "NEAP_VERSION", default_value = "0")]
    version: String,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Well,
    Exit,
    Hang,
    Deaf,
    Errors,
    Flaky,
    Slow,
    Stubborn,
    Leak,
}

struct Shop {
    version: String,
    mode: Mode,
    log: Option<File>,
    asked: AtomicU64,
    /// What is never given back.
    leaked: Mutex<Vec<Vec<u8>>>,
    /// True once TERM has come.
    ending: watch::Receiver<bool>,
    /// Held by whatever is under way; gone when nothing is.
    under_way: mpsc::Sender<()>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop: {error}");
            ExitCode::from(3)
        }
    }
}

async fn serve(args: Args) -> std::io::Result<()> {
    match args.mode {
        Mode::Exit => return Err(std::io::Error::other("told to exit at once (SHOP_MODE=exit)")),
        Mode::Deaf => std::future::pending().await,
        Mode::Well | Mode::Hang | Mode::Errors | Mode::Flaky | Mode::Slow | Mode::Stubborn | Mode::Leak => {}
    }
    let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
    let log = args.log.as_ref().map(open).transpose()?;
    let mut term = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await?;
    println!("shop {} listens on {}", args.version, listener.local_addr()?);
    let (end, ending) = watch::channel(false);
    let (under_way, mut idle) = mpsc::channel(1);
    let shop = Arc::new(Shop {
        version: args.version,
        mode: args.mode,
        log,
        asked: AtomicU64::new(0),
        leaked: Mutex::default(),
        ending,
        under_way,
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, Arc::clone(&shop)))),
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            _ = term.recv(), if args.mode != Mode::Stubborn => break,
        }
    }
    drop((listener, shop));
    end.send_replace(true);
    let _ = tokio::time::timeout(GRACE, idle.recv()).await;
    Ok(())
}

async fn connection(stream: TcpStream, shop: Arc<Shop>) {
    if shop.mode == Mode::Hang {
        std::future::pending::<()>().await;
    }
    let _ = stream.set_nodelay(true);
    let _under_way = shop.under_way.clone();
    let mut ending = shop.ending.clone();
    let service = service_fn(move |request| answer(Arc::clone(&shop), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ending.wait_for(|ending| *ending) => {}
    }
    // Finishes the request under way, and takes no other.
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer(shop: Arc<Shop>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let id = request.headers().get("x-traffic-id").cloned();
    let version = HeaderValue::from_str(&shop.version).unwrap_or(HeaderValue::from_static("?"));
    let mut response = route(shop, request).await;
    response.headers_mut().insert("x-version", version);
    if let Some(id) = id {
        response.headers_mut().insert("x-traffic-id", id);
    }
    Ok(response)
}

async fn route(shop: Arc<Shop>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    if path != "/healthz" {
        if shop.mode == Mode::Leak {
            leak(&shop);
        }
        let fifth = shop.asked.fetch_add(1, Ordering::Relaxed) % 5 == 4;
        if shop.mode == Mode::Errors || (shop.mode == Mode::Flaky && fifth) {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "told to fail (SHOP_MODE)\n");
        }
    }
    match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/") => json(format!(r#"{{"program":"shop","version":"{}"}}"#, shop.version)),
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::POST, "/orders") => order(&shop, request).await,
        (&Method::GET, "/slow") => slow(&shop, &request).await,
        (&Method::GET, "/stream") => streamed(&request),
        (&Method::GET, "/events") => events(&shop, &request),
        (&Method::GET, "/ws") => websocket(&shop, request),
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

/// Keeps a megabyte; too many of them, and it is killed, as by a kernel that has no more to give.
fn leak(shop: &Shop) {
    let mut leaked = shop.leaked.lock().unwrap_or_else(PoisonError::into_inner);
    leaked.push(vec![1; 1 << 20]);
    if leaked.len() > LEAKED_MIB_MAX {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Reads an order whole, logs it in one write, and answers what it received.
async fn order(shop: &Shop, request: Request<Incoming>) -> Response<Body> {
    let id = request.headers().get("x-post-id").cloned().unwrap_or(HeaderValue::from_static("-"));
    let Ok(name) = id.to_str().map(str::to_owned) else { return text(StatusCode::BAD_REQUEST, "bad id\n") };
    let Ok(body) = http_body_util::Limited::new(request.into_body(), BYTES_MAX as usize).collect().await else {
        return text(StatusCode::BAD_REQUEST, "the order is not whole\n");
    };
    let body = body.to_bytes();
    let line = format!("{name} {}\n", body.len());
    let logged = match &shop.log {
        Some(log) => (&mut &*log).write_all(line.as_bytes()),
        None => std::io::stdout().write_all(line.as_bytes()),
    };
    if let Err(error) = logged {
        return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("not logged: {error}\n"));
    }
    let mut response = json(format!(r#"{{"order":"{name}","bytes":{}}}"#, body.len()));
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    response.headers_mut().insert("x-post-id", id);
    if let Ok(digest) = HeaderValue::from_str(&digest) {
        response.headers_mut().insert("x-body-sha256", digest);
    }
    response
}

async fn slow(shop: &Shop, request: &Request<Incoming>) -> Response<Body> {
    let times = if shop.mode == Mode::Slow { 5 } else { 1 };
    let wait = (number(request, "ms", 1_000).min(WAIT_MS_MAX) * times).min(WAIT_MS_MAX);
    sleep(Duration::from_millis(wait)).await;
    text(StatusCode::OK, &format!("after {wait} ms\n"))
}

/// `bytes` in `chunks`, `ms` apart: with a length when asked for `length=1`, else chunked.
fn streamed(request: &Request<Incoming>) -> Response<Body> {
    let bytes = number(request, "bytes", 65_536).min(BYTES_MAX);
    let chunks = number(request, "chunks", 16).clamp(1, bytes.max(1));
    let pause = Duration::from_millis(number(request, "ms", 10).min(WAIT_MS_MAX));
    let parts = stream::unfold((0, bytes), move |(sent, left)| async move {
        if left == 0 {
            return None;
        }
        if sent > 0 {
            sleep(pause).await;
        }
        let size = if sent + 1 == chunks { left } else { left.min(bytes / chunks) };
        let part = Bytes::from(vec![b'a' + (sent % 26) as u8; size as usize]);
        Some((Ok::<_, Infallible>(Frame::data(part)), (sent + 1, left - size)))
    });
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    if number(request, "length", 0) == 1 {
        response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
    }
    response
}

fn events(shop: &Shop, request: &Request<Incoming>) -> Response<Body> {
    let end = Instant::now() + Duration::from_millis(number(request, "ms", 10_000).min(WAIT_MS_MAX));
    let version = shop.version.clone();
    let start = (0, interval(Duration::from_millis(200)), shop.ending.clone());
    let parts = stream::unfold(start, move |(number, mut tick, ending)| {
        let event = format!("id: {number}\ndata: {{\"version\":\"{version}\"}}\n\n");
        async move {
            let ended = *ending.borrow() || Instant::now() >= end;
            tick.tick().await;
            (!ended).then(|| (Ok::<_, Infallible>(Frame::data(Bytes::from(event))), (number + 1, tick, ending)))
        }
    });
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn websocket(shop: &Arc<Shop>, mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return text(StatusCode::UPGRADE_REQUIRED, "this is for WebSockets\n");
    };
    let accept = derive_accept_key(key.as_bytes());
    let shop = Arc::clone(shop);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _under_way = shop.under_way.clone();
        if let Ok(upgraded) = upgrade.await {
            echo(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await, &shop).await;
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Sends every message back, until either side ends.
async fn echo(mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, shop: &Shop) {
    let mut ending = shop.ending.clone();
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = ending.wait_for(|ending| *ending) => break,
        };
        let Some(Ok(message)) = message else { return };
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
    let away = CloseFrame { code: CloseCode::Away, reason: "the program ends".into() };
    if socket.send(Message::Close(Some(away))).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

fn number(request: &Request<Incoming>, name: &str, default: u64) -> u64 {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(default)
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn json(body: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, &body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
