//! Owns a client that speaks TLS and tells what it was shown, and certificates for it. Must not know who serves.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use neap::traffic::Anyone;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

const DEADLINE: Duration = Duration::from_secs(20);

/// A certificate and its key as files.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

impl Files {
    /// Makes them, or replaces what is there: the certificate, then the key.
    pub fn write(dir: &Path, name: &str, hosts: &[&str]) -> Self {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&cert, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        Self { cert, key, der: made.cert.der().clone() }
    }

    /// As `[router] tls` has it.
    pub fn entry(&self) -> String {
        format!("{{ cert = \"{}\", key = \"{}\" }}", self.cert.display(), self.key.display())
    }
}

/// A client's configuration; one that is kept resumes sessions.
pub fn config(versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    Arc::new(config.with_no_client_auth())
}

pub fn both() -> Arc<ClientConfig> {
    config(rustls::ALL_VERSIONS)
}

/// One connection.
pub struct Client {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    pending: Vec<u8>,
}

impl Client {
    /// Connects and ends the handshake. An address as name means: no SNI.
    pub fn connect(addr: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(addr)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        tcp.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(tls, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream, pending: Vec::new() })
    }

    /// Which certificate it was shown.
    pub fn shown(&self, files: &Files) -> bool {
        self.stream.conn.peer_certificates().unwrap()[0] == files.der
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Asks, and reads the whole answer; its status.
    pub fn get(&mut self, host: &str, path: &str) -> u16 {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.status()
    }

    /// Reads a whole answer of known length; its status.
    pub fn status(&mut self) -> u16 {
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read_more(), "ended after {:?}", String::from_utf8_lossy(&self.pending));
        };
        let head = String::from_utf8(self.pending.drain(..end).collect()).unwrap();
        let length = head.to_ascii_lowercase();
        let length = length.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.pending.len() < length {
            assert!(self.read_more(), "ended in a body");
        }
        self.pending.drain(..length);
        head[9..12].parse().unwrap()
    }

    fn read_more(&mut self) -> bool {
        let mut bytes = [0; 65_536];
        let read = self.stream.read(&mut bytes).unwrap();
        self.pending.extend_from_slice(&bytes[..read]);
        read > 0
    }

    /// Whether the other side ends in order, with nothing more to say.
    pub fn ends_in_order(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => panic!("it has more to say"),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => panic!("{error}"),
        }
    }
}
