//! Owns the cluster's secret: read once, never shown, compared in constant time. Must not know who asks with it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::http::header::HeaderMap;
use hyper::header::HeaderValue;
use subtle::ConstantTimeEq;

/// The header that carries the cluster's key between nodes. Stripped before a program sees the request.
pub const CLUSTER_KEY: &str = "neap-cluster-key";
/// Shorter ones can be guessed.
pub const MIN_SECRET_LEN: usize = 32;
/// Longer ones are another file, by mistake.
pub const MAX_SECRET_LEN: usize = 1024;
/// How to make one.
pub const HOW_TO_MAKE: &str = "(umask 077; head -c 32 /dev/urandom | base64 > neap.secret)";

/// A secret file that cannot be used, and the cure.
#[derive(Debug, thiserror::Error)]
pub enum BadSecret {
    #[error("the cluster's secret file {path} cannot be read: {source}; make one with: {HOW_TO_MAKE}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the cluster's secret file {0} is not a file")]
    NotAFile(PathBuf),
    #[error("others than its owner may read the cluster's secret file {path} (mode {mode:04o}): chmod 600 {path}")]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "the cluster's secret file {path} holds {len} characters: use {MIN_SECRET_LEN} to {MAX_SECRET_LEN}, as made by: {HOW_TO_MAKE}"
    )]
    Length { path: PathBuf, len: usize },
    #[error(
        "the cluster's secret file {0} must be one line of printable ASCII without blanks, as made by: {HOW_TO_MAKE}"
    )]
    NotText(PathBuf),
}

/// What nodes of one cluster know. Does not print itself.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Reads the secret from a file that only its owner may read. White space around it does not count.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, BadSecret> {
        let path = path.as_ref();
        let unreadable = |source| BadSecret::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let mode = meta.permissions().mode() & 0o7777;
        if !meta.is_file() {
            return Err(BadSecret::NotAFile(path.to_owned()));
        }
        if mode & 0o077 != 0 {
            return Err(BadSecret::Open { path: path.to_owned(), mode });
        }
        if meta.size() > 2 * MAX_SECRET_LEN as u64 {
            return Err(BadSecret::Length { path: path.to_owned(), len: meta.size() as usize });
        }
        let mut text = String::new();
        file.take(2 * MAX_SECRET_LEN as u64).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(text.trim(), path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, BadSecret> {
        if !(MIN_SECRET_LEN..=MAX_SECRET_LEN).contains(&text.len()) {
            return Err(BadSecret::Length { path: path.to_owned(), len: text.len() });
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadSecret::NotText(path.to_owned()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// Is it what was given? Takes as long wherever the first difference is. Eight bytes at a time, for every request to a
    /// server is asked.
    pub fn verify(&self, given: &[u8]) -> bool {
        let (ours, theirs) = (self.0.as_bytes().as_chunks::<8>(), given.as_chunks::<8>());
        if self.0.len() != given.len() {
            return false;
        }
        let words = ours.0.iter().zip(theirs.0);
        let same = words.fold(ours.1.ct_eq(theirs.1), |same, (ours, theirs)| {
            same & u64::from_ne_bytes(*ours).ct_eq(&u64::from_ne_bytes(*theirs))
        });
        same.into()
    }

    /// Does a request carry it, as `Neap-Cluster-Key` or as `Authorization: Bearer`?
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let key = headers.get(CLUSTER_KEY).map(|value| value.as_bytes());
        let bearer = headers.get("authorization").and_then(|value| bearer(value.as_bytes()));
        [key, bearer].into_iter().flatten().any(|given| self.verify(given))
    }

    /// What a request to a node carries, for its head only.
    pub fn key(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The value of `Neap-Cluster-Key`, marked so that HTTP libraries do not print it.
    pub fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).expect("a secret is printable ASCII");
        value.set_sensitive(true);
        value
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn write(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_secret_verifies_itself_alone_and_never_prints() {
        let text = "s".repeat(32);
        let secret = Secret::load(write(&format!("{text}\n"), 0o600).path()).unwrap();
        assert!(secret.verify(text.as_bytes()));
        for other in ["", &text[1..], &format!("{text}s"), &"t".repeat(32)] {
            assert!(!secret.verify(other.as_bytes()));
        }
        assert!(!format!("{secret:?} {:?}", secret.header()).contains("ss"));
    }

    #[test]
    fn a_secret_file_that_others_can_read_is_refused_with_the_cure() {
        let file = write(&"s".repeat(32), 0o640);
        let error = Secret::load(file.path()).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_secret_that_is_short_or_no_text_or_not_there_is_refused() {
        assert!(matches!(Secret::load(write("short", 0o600).path()), Err(BadSecret::Length { len: 5, .. })));
        assert!(matches!(Secret::load(write(&"s".repeat(9_999), 0o600).path()), Err(BadSecret::Length { .. })));
        assert!(matches!(Secret::load(write(&"s s".repeat(32), 0o600).path()), Err(BadSecret::NotText(_))));
        assert!(matches!(Secret::load("/"), Err(BadSecret::NotAFile(_) | BadSecret::Open { .. })));
        assert!(Secret::load("/nowhere").unwrap_err().to_string().contains("urandom"));
    }

    #[test]
    fn a_request_carries_it_as_key_or_as_bearer() {
        let secret = Secret::parse(&"s".repeat(32), Path::new("x")).unwrap();
        let carries = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            secret.is_in(&headers)
        };
        let text = "s".repeat(32);
        assert!(carries(CLUSTER_KEY, &text));
        assert!(carries("authorization", &format!("bearer {text}")));
        assert!(!carries("authorization", &text));
        assert!(!carries("authorization", "Bearer"));
        assert!(!carries(CLUSTER_KEY, "x"));
    }
}
