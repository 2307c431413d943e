//! Owns how a peer is addressed, and what is said when it cannot be talked to. Must not know what was to be said.

use std::io;
use std::time::Duration;

use hyper::Uri;

use crate::domain::duration;
use crate::wire::problem::{Code, Problem};

/// Why there is no answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("\"{url}\" is not an address: {why}; write it as in \"http://127.0.0.1:7400\"")]
    BadUrl { url: String, why: String },
    /// Nothing was sent.
    #[error("{peer} cannot be reached: {source}")]
    Unreachable { peer: String, source: io::Error },
    #[error("{peer} did not {what} within {}", duration::show(*.after))]
    TimedOut { peer: String, what: &'static str, after: Duration },
    /// It may or may not have been obeyed.
    #[error("the connection to {peer} broke: {why}")]
    Broken { peer: String, why: String },
    #[error("{peer} answered with more than {limit} bytes")]
    TooLarge { peer: String, limit: u64 },
    /// An answer other than the 200 that a stream needs.
    #[error("{0}")]
    Refused(Box<Problem>),
    #[error("what {peer} sent cannot be written: {source}")]
    Write { peer: String, source: io::Error },
}

impl LinkError {
    /// As it is told to people and other nodes.
    pub fn problem(&self) -> Problem {
        let code = match self {
            Self::Refused(problem) => return problem.as_ref().clone(),
            Self::BadUrl { .. } => Code::BadRequest,
            Self::Unreachable { .. } | Self::Broken { .. } => Code::Unreachable,
            Self::TimedOut { .. } => Code::TimedOut,
            Self::TooLarge { .. } => Code::PayloadTooLarge,
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::DiskFull,
            Self::Write { .. } => Code::Internal,
        };
        Problem::new(code, self.to_string())
    }
}

/// A peer's "host:port", and what to ask of it.
pub(super) struct Target {
    pub peer: String,
    pub path: Uri,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, LinkError> {
        let bad = |why: String| LinkError::BadUrl { url: url.chars().take(200).collect(), why };
        let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(error.to_string()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("https between nodes is not built yet".to_owned())),
            _ => return Err(bad("it must start with http://".to_owned())),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host".to_owned()))?;
        let peer = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(error.to_string()))?;
        Ok(Self { peer, path })
    }

    pub fn broken(&self, error: &hyper::Error) -> LinkError {
        let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        LinkError::Broken { peer: self.peer.clone(), why: format!("{error}{cause}") }
    }
}
