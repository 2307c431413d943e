//! Owns `neap serve-static`: a directory of files over HTTP, as one instance of a static program.
//! Must not know that it runs inside a cluster: it is a server like any other program's.
//!
//! GET and HEAD only. An ETag is the content's own hash, never a time, so that two servers, or two versions with
//! the same file, agree on it, and a download that is resumed on another version starts anew. `x.br` and `x.gz`
//! beside `x` are sent in its place to clients that take them. Files and directories whose name begins with a dot
//! are not served, save `.well-known`.

mod answer;
mod find;

use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpServer, web};

use answer::Tags;

/// Longer than routers keep a connection idle: it is they who close it (protocol P2c).
const KEEP_ALIVE: Duration = Duration::from_secs(3600);
/// What a stop leaves to requests under way; the node's own grace ends before it.
const SHUTDOWN_SECONDS: u64 = 3600;
const WORKERS: usize = 2;
const USAGE: &str = "usage: neap serve-static --root DIR --port PORT [--spa]";

/// What is served.
#[derive(Clone, Debug)]
pub struct Site {
    pub root: PathBuf,
    /// Unknown paths get `index.html`.
    pub spa: bool,
    pub port: u16,
}

/// The whole life of the command: serves until it is told to stop, then exits.
pub fn main(args: &[OsString]) -> ! {
    let outcome = parse(args).map_err(|usage| (2, usage)).and_then(|site| {
        let told = format!("cannot serve {} on port {}", site.root.display(), site.port);
        actix_web::rt::System::new().block_on(serve(site)).map_err(|error| (1, format!("{told}: {error}")))
    });
    match outcome {
        Ok(()) => std::process::exit(0),
        Err((code, told)) => {
            eprintln!("neap: {told}");
            std::process::exit(code)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Site, String> {
    let (mut root, mut port, mut spa) = (None, None, false);
    let mut left = args.iter();
    while let Some(word) = left.next() {
        match word.to_str() {
            Some("--root") => root = left.next().map(PathBuf::from),
            Some("--port") => port = left.next().and_then(|port| port.to_str()?.parse().ok()),
            Some("--spa") => spa = true,
            _ => return Err(format!("unknown argument {word:?}; {USAGE}")),
        }
    }
    Ok(Site { root: root.ok_or(USAGE)?, port: port.ok_or(USAGE)?, spa })
}

/// Serves a site on loopback until the process is told to stop (TERM, INT).
pub async fn serve(mut site: Site) -> io::Result<()> {
    site.root = site.root.canonicalize()?;
    if !site.root.is_dir() {
        return Err(io::Error::other("it is no directory"));
    }
    let (port, site, tags) = (site.port, Arc::new(site), Arc::new(Tags::default()));
    let app = move || {
        let (site, tags) = (site.clone(), tags.clone());
        App::new().default_service(web::to(move |request: HttpRequest| {
            let (site, tags) = (site.clone(), tags.clone());
            async move { answer::answer(&request, site, tags).await }
        }))
    };
    HttpServer::new(app)
        .workers(WORKERS)
        .keep_alive(KEEP_ALIVE)
        .on_connect(|connection, _| no_delay(connection))
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .bind((Ipv4Addr::LOCALHOST, port))?
        .run()
        .await
}

/// A head and its file leave in two writes: without this, the second waits for the first's acknowledgement (40 ms).
fn no_delay(connection: &dyn std::any::Any) {
    if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
        // A connection that is gone by now is noticed where it is used.
        let _ = stream.set_nodelay(true);
    }
}

#[cfg(test)]
mod tests;
