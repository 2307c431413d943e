//! Owns the certificates that a router serves with now: looked up without a lock, replaced one by one.
//! Must not know when or why one is replaced.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};

use super::book::Book;
use super::pair::{BadPair, Pair};

/// The files of one certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    pub fn load(&self) -> Result<Pair, BadPair> {
        Pair::load(&self.cert, &self.key)
    }
}

/// What is served with, and where it comes from. Names of one client's handshake are looked up in one snapshot.
pub struct Certificates {
    files: Vec<Files>,
    now: ArcSwap<Now>,
}

struct Now {
    book: Book,
    /// Of each certificate, why its files cannot be used now; then the ones before are served with.
    problems: Vec<Option<String>>,
}

/// How one certificate is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its first name.
    pub title: String,
    pub cert: PathBuf,
    /// Seconds of Unix time.
    pub not_after: i64,
    pub problem: Option<String>,
}

impl Certificates {
    /// Reads all; the first is served to clients that ask for no name, or for one that none is made out for.
    pub fn load(files: Vec<Files>) -> Result<Arc<Self>, BadPair> {
        let pairs = files.iter().map(|files| files.load().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let now = Now { problems: vec![None; pairs.len()], book: Book::new(pairs) };
        Ok(Arc::new(Self { files, now: ArcSwap::from_pointee(now) }))
    }

    /// A configuration of TLS that serves with what is here at each handshake: TLS 1.2 and 1.3, HTTP/1.1 only, sessions
    /// resumed by tickets, which take no memory of this node; their keys change every six hours, and are all workers'.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(super::provider());
        let builder = builder.with_protocol_versions(&[&version::TLS13, &version::TLS12])?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Whether a certificate is made out for a host, as a URL names it, without its port and in lower case.
    pub fn is_for(&self, host: &str) -> bool {
        self.now.load().book.is_for(host)
    }

    pub fn status(&self) -> Vec<Status> {
        let now = self.now.load();
        let all = self.files.iter().zip(now.book.pairs()).zip(&now.problems);
        all.map(|((files, pair), problem)| Status {
            title: pair.title(),
            cert: files.cert.clone(),
            not_after: pair.not_after,
            problem: problem.clone(),
        })
        .collect()
    }

    pub(super) fn files(&self) -> &[Files] {
        &self.files
    }

    /// Serves with `pair` from the next handshake on. Connections that are there stay as they are.
    pub(super) fn replace(&self, number: usize, pair: Arc<Pair>) {
        self.change(|pairs, problems| {
            pairs[number] = pair;
            problems[number] = None;
        });
    }

    pub(super) fn tell(&self, number: usize, problem: Option<String>) {
        self.change(|_, problems| problems[number] = problem);
    }

    /// Only one thread changes anything.
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Pair>>, &mut Vec<Option<String>>)) {
        let before = self.now.load();
        let (mut pairs, mut problems) = (before.book.pairs().to_vec(), before.problems.clone());
        change(&mut pairs, &mut problems);
        self.now.store(Arc::new(Now { book: Book::new(pairs), problems }));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.now.load();
        let can = |pair: &Pair| pair.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        Some(Arc::clone(&now.book.choose(hello.server_name(), can).certified))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}
