//! Owns one certificate with its key as files have them: read whole, checked, or refused with the place and the cure.
//! Must not know which of several is used.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// Larger files are no certificates.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;
/// What nobody but the owner and the group may do with a key, and the group no more than read: some systems have a group
/// of those who may.
const KEY_FORBIDDEN: u32 = 0o037;

/// Why a certificate and a key cannot be used, and the cure.
#[derive(Debug, thiserror::Error)]
pub enum BadPair {
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0} is not a file, or has more than {MAX_FILE_BYTES} bytes")]
    NotAFile(PathBuf),
    #[error("{path} is no PEM file: {why}; it may have been written by half")]
    NotPem { path: PathBuf, why: String },
    #[error("{0} holds no certificate: it needs the server's own, in PEM, and behind it those that vouch for it")]
    NoCertificate(PathBuf),
    #[error("{path} holds a certificate that cannot be read: {why}")]
    BadCertificate { path: PathBuf, why: String },
    #[error("{0} holds no private key in PEM")]
    NoKey(PathBuf),
    #[error(
        "the key in {0} has a password, which neap cannot ask for: write it without, openssl pkey -in {0} -out KEY"
    )]
    Encrypted(PathBuf),
    #[error("others may use the key {path} (mode {mode:04o}): chmod 600 {path}")]
    Open { path: PathBuf, mode: u32 },
    #[error("the key in {path} cannot be used: {why}; RSA of 2048 to 8192 bits, P-256, P-384 and Ed25519 can")]
    BadKey { path: PathBuf, why: String },
    #[error(
        "the key in {key} is not that of the certificate in {cert}: openssl pkey -in {key} -pubout and openssl x509 -in {cert} -noout -pubkey print the same for a pair"
    )]
    Mismatch { cert: PathBuf, key: PathBuf },
}

/// A certificate that can be served with.
#[derive(Debug)]
pub struct Pair {
    pub certified: Arc<CertifiedKey>,
    /// In lower case; `*.` in front stands for one label.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Seconds of Unix time.
    pub not_after: i64,
}

impl Pair {
    /// Reads both files and checks that they belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, BadPair> {
        let chain = read_chain(cert)?;
        let about = About::of(&chain[0]).map_err(|why| BadPair::BadCertificate { path: cert.to_owned(), why })?;
        let key_der = read_key(key)?;
        let certified = CertifiedKey::from_der(chain, key_der, &super::provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => BadPair::Mismatch { cert: cert.to_owned(), key: key.to_owned() },
            other => BadPair::BadKey { path: key.to_owned(), why: other.to_string() },
        })?;
        let About { names, addresses, not_after } = about;
        Ok(Self { certified: Arc::new(certified), names, addresses, not_after })
    }

    /// What it is called where people read of it.
    pub fn title(&self) -> String {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let mut all = self.names.iter().cloned().chain(addresses);
        all.next().unwrap_or_else(|| "(no name)".to_owned())
    }
}

/// What a certificate says of itself.
struct About {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    not_after: i64,
}

impl About {
    fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        let alternatives = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        if names.is_empty() && addresses.is_empty() {
            names.extend(common_name(&parsed));
        }
        Ok(Self { names, addresses, not_after: parsed.validity().not_after.timestamp() })
    }
}

/// Some old certificates name their host only here.
fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    (name.contains('.') && !name.contains(char::is_whitespace)).then(|| name.to_ascii_lowercase())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadPair> {
    let bytes = read(path, 0)?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| not_pem(path, &error))?;
    if chain.is_empty() { Err(BadPair::NoCertificate(path.to_owned())) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, BadPair> {
    let bytes = read(path, KEY_FORBIDDEN)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if is_encrypted(&bytes) => Err(BadPair::Encrypted(path.to_owned())),
        Err(pem::Error::NoItemsFound) => Err(BadPair::NoKey(path.to_owned())),
        Err(error) => Err(not_pem(path, &error)),
    }
}

/// Both ways that a key with a password is written; the first has a kind of section of its own.
fn is_encrypted(bytes: &[u8]) -> bool {
    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn not_pem(path: &Path, error: &pem::Error) -> BadPair {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section's first line is not one".to_owned(),
        other => other.to_string(),
    };
    BadPair::NotPem { path: path.to_owned(), why }
}

/// Reads a file that has none of the `forbidden` bits in its mode.
fn read(path: &Path, forbidden: u32) -> Result<Vec<u8>, BadPair> {
    let unreadable = |source| BadPair::Unreadable { path: path.to_owned(), source };
    // A pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() || meta.size() > MAX_FILE_BYTES {
        return Err(BadPair::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(BadPair::Open { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
