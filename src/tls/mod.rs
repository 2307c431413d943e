//! Floor 2, certificates and their keys: read and checked, chosen by name, watched for changes, made where none is there.
//! Must not know who serves with them, nor how bytes are encrypted: that is rustls', with ring, and with nothing else.

mod book;
mod certificates;
mod pair;
mod self_signed;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use certificates::{Certificates, Files, Status};
pub use pair::{BadPair, Pair};
pub use self_signed::SelfSigned;
pub use watch::Watch;

/// Where a certificate and its key come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Files(Files),
    SelfSigned(SelfSigned),
}

impl Source {
    /// Whether it can be served with. Makes nothing.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Files(files) => files.load().map(drop).map_err(|error| error.to_string()),
            Self::SelfSigned(own) => own.check(),
        }
    }

    /// The files; made first, where that is asked for and none will do. `now` is in seconds of Unix time.
    pub fn files(&self, now: i64) -> Result<Files, String> {
        match self {
            Self::Files(files) => Ok(files.clone()),
            Self::SelfSigned(own) => own
                .ensure(now)
                .map_err(|error| format!("a self-signed certificate cannot be made in {}: {error}", own.dir.display())),
        }
    }
}

/// The one source of cryptography. Two in one binary would be chosen between at run time, by a panic.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}
