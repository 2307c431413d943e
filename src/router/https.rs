//! Owns TLS at the router: where it is spoken, with which certificates, and which plain requests are sent there.
//! Must not know how records are made (`proxy`), nor what a certificate says (`tls`).

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::proxy::{Answer, RequestHead, listen};
use crate::tls::{Certificates, Source, Watch};

/// Where certificate authorities look whether a host is whose it is said to be, without TLS.
const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// What needs no mention in a URL.
const PORT: u16 = 443;

/// How the router is to speak TLS.
#[derive(Clone, Debug)]
pub struct Https {
    pub listen: SocketAddr,
    /// The first is for clients that name no host, or one that no certificate is made out for.
    pub sources: Vec<Source>,
    /// Plain requests for a host that a certificate names are sent to https.
    pub redirect: bool,
    /// The port that they are sent to, where it is not that of `listen`.
    pub redirect_port: Option<u16>,
    /// Between two looks at the certificates' files.
    pub check_every: Duration,
}

/// TLS, ready to be spoken.
pub(super) struct Open {
    pub address: SocketAddr,
    /// One for each worker.
    pub listeners: Vec<TcpListener>,
    pub config: Arc<ServerConfig>,
    pub certificates: Arc<Certificates>,
    pub redirect: Option<Redirect>,
    pub watch: Watch,
}

impl Https {
    /// Listens, reads the certificates and begins to watch them. A file that cannot be used is an error that names it.
    pub(super) fn open(&self, workers: usize) -> io::Result<Open> {
        let told = |error: String| io::Error::other(format!("[router] tls: {error}"));
        let now = jiff::Timestamp::now().as_second();
        let files = self.sources.iter().map(|source| source.files(now)).collect::<Result<Vec<_>, _>>();
        let certificates = Certificates::load(files.map_err(told)?).map_err(|error| told(error.to_string()))?;
        for status in certificates.status() {
            let (cert, until) = (status.cert.display(), jiff::Timestamp::from_second(status.not_after).ok());
            let until = until.map(tracing::field::display);
            tracing::info!(certificate = status.title, %cert, until, "a certificate is served");
        }
        let config = certificates.server_config().map_err(|error| told(error.to_string()))?;
        let listeners = listen(self.listen, workers)?;
        let address = listeners.first().map_or(Ok(self.listen), TcpListener::local_addr)?;
        let port = self.redirect_port.unwrap_or(address.port());
        let redirect = self.redirect.then(|| Redirect { certificates: Arc::clone(&certificates), port });
        let watch = Watch::begin(Arc::clone(&certificates), self.check_every)?;
        Ok(Open { address, listeners, config, certificates, redirect, watch })
    }
}

/// Sends plain requests to https, where there is a certificate for the host that they name; so a made-up host leads
/// nowhere, and one that TLS is not for is served as before.
#[derive(Clone, Debug)]
pub struct Redirect {
    certificates: Arc<Certificates>,
    port: u16,
}

impl Redirect {
    /// The answer to a plain request that is to come by https. A trusted peer may say that its client already did.
    pub fn of(&self, head: &RequestHead<'_>, trusted: bool) -> Option<Answer> {
        let came_secure = || head.header("x-forwarded-proto").is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        if head.path.starts_with(CHALLENGES) || !head.path.starts_with('/') || (trusted && came_secure()) {
            return None;
        }
        let host = bare(head.host)?;
        self.certificates.is_for(&host).then(|| {
            let port = if self.port == PORT { String::new() } else { format!(":{}", self.port) };
            let query = head.query.map_or_else(String::new, |query| format!("?{query}"));
            let location = format!("https://{host}{port}{}{query}", head.path);
            Answer::new(308, "https_only", "this host is served with TLS only").header("Location", location)
        })
    }
}

/// A host without its port, in lower case; `None` where it could be taken for something else in a URL.
fn bare(host: &str) -> Option<String> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, _) = rest.split_once(']')?;
        return address.parse::<Ipv6Addr>().ok().map(|address| format!("[{address}]"));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!name.is_empty() && name.bytes().all(good)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_taken_without_its_port_or_not_at_all() {
        for (host, taken) in [
            ("A.example.com", Some("a.example.com")),
            ("a.example.com:8080", Some("a.example.com")),
            ("[::1]:80", Some("[::1]")),
            ("[0:0::1]", Some("[::1]")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("", None),
            (":80", None),
            ("evil/x.example.com", None),
            ("user@a.example.com", None),
            ("a.example.com\\x", None),
            ("[x]", None),
            ("[::1", None),
        ] {
            assert_eq!(bare(host).as_deref(), taken, "{host}");
        }
    }
}
