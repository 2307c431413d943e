//! Owns what a mix may hold: the kinds of requests, their weights, and what each answer must be.
//! Must not know where or when they are sent.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::duration;

/// The largest body that a mix may send, bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Requests in a mix, and the weight of one.
const REQUESTS_MAX: usize = 100;
const WEIGHT_MAX: u32 = 1_000_000;
/// Requests in the life of a client that holds a session.
const LIFE_MAX: u32 = 1_000_000;
const LIFETIME_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that a WebSocket may live.
const LIFETIME_MAX: Duration = Duration::from_secs(3_600);

/// Why a mix is not valid, with its place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMix {
    #[error("{0}")]
    Toml(String),
    #[error("[[request]] number {number}: {rule}")]
    Request { number: usize, rule: String },
    #[error("a mix has 1 to {REQUESTS_MAX} [[request]] tables, this one has {0}")]
    Size(usize),
    #[error("[session]: {0}")]
    Session(String),
}

/// What is sent to one target; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    requests: Vec<Request>,
    /// Requests in the life of a client that holds a session, and the one that is its last, if any is meant for that.
    life: Option<u32>,
    end: Option<Request>,
}

/// One kind of request, and the answer that it must get.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its share: weight over the sum of the mix's weights, exactly, in every window as long as that sum.
    pub weight: u32,
    pub kind: Kind,
    pub method: String,
    /// Joined to the target's path. Starts with `/`.
    pub path: String,
    pub body_bytes: usize,
    pub expect_status: u16,
    /// The exact length of the answer's body.
    pub expect_bytes: Option<u64>,
    /// The answer must repeat the request's id (`X-Traffic-Id`). Without this, only a wrong id fails.
    pub expect_echo: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    /// Opens, sends frames that must come back as they were sent, lives this long, and closes.
    WebSocket {
        lifetime: Duration,
    },
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self {
            weight: 1,
            kind: Kind::Http,
            method: "GET".to_owned(),
            path: path.to_owned(),
            body_bytes: 0,
            expect_status: 200,
            expect_bytes: None,
            expect_echo: false,
        }
    }

    /// A POST with a unique id in `X-Post-Id`; its body starts with that id, as far as `body_bytes` allow.
    pub fn post(path: &str, body_bytes: usize) -> Self {
        Self { method: "POST".to_owned(), body_bytes, ..Self::get(path) }
    }

    pub fn websocket(path: &str, lifetime: Duration) -> Self {
        Self { kind: Kind::WebSocket { lifetime }, expect_status: 101, ..Self::get(path) }
    }

    pub fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    pub fn expect_bytes(self, bytes: u64) -> Self {
        Self { expect_bytes: Some(bytes), ..self }
    }

    pub fn expect_status(self, status: u16) -> Self {
        Self { expect_status: status, ..self }
    }

    pub fn expect_echo(self) -> Self {
        Self { expect_echo: true, ..self }
    }

    pub(super) fn is_post(&self) -> bool {
        self.method == "POST"
    }

    /// How long this request takes when all is well, beside the time for an answer.
    pub(super) fn lifetime(&self) -> Duration {
        match self.kind {
            Kind::Http => Duration::ZERO,
            Kind::WebSocket { lifetime } => lifetime,
        }
    }

    fn check(&self) -> Result<(), String> {
        let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let websocket = matches!(self.kind, Kind::WebSocket { .. });
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return Err(format!("weight is 1 to {WEIGHT_MAX}, not {}", self.weight));
        }
        if self.method.is_empty() || !self.method.bytes().all(token) || self.method == "CONNECT" {
            return Err(format!("method \"{}\" is not a method that can be sent", self.method));
        }
        if !self.path.starts_with('/') || !self.path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(format!("path \"{}\" starts with / and has no spaces, # or control characters", self.path));
        }
        if self.body_bytes > BODY_BYTES_MAX {
            return Err(format!("body_bytes is at most {BODY_BYTES_MAX}, not {}", self.body_bytes));
        }
        if !(100..=599).contains(&self.expect_status) {
            return Err(format!("expect_status is 100 to 599, not {}", self.expect_status));
        }
        if websocket && (self.method != "GET" || self.body_bytes > 0 || self.expect_bytes.is_some()) {
            return Err("a websocket has no method, body_bytes or expect_bytes of its own".to_owned());
        }
        if self.lifetime() > LIFETIME_MAX {
            return Err(format!("lifetime is at most {}", duration::show(LIFETIME_MAX)));
        }
        Ok(())
    }
}

impl Mix {
    /// A mix of these requests.
    pub fn new(requests: Vec<Request>) -> Result<Self, BadMix> {
        if !(1..=REQUESTS_MAX).contains(&requests.len()) {
            return Err(BadMix::Size(requests.len()));
        }
        for (index, request) in requests.iter().enumerate() {
            request.check().map_err(|rule| BadMix::Request { number: index + 1, rule })?;
        }
        Ok(Self { requests, life: None, end: None })
    }

    /// Clients leave after so many requests, the last of them a POST to `end`, and come back as others.
    pub fn leaving(&self, requests: u32, end: Option<&str>) -> Result<Self, BadMix> {
        if !(1..=LIFE_MAX).contains(&requests) {
            return Err(BadMix::Session(format!("requests is 1 to {LIFE_MAX}, not {requests}")));
        }
        let end = end.map(|path| Request::post(path, 0));
        end.as_ref().map_or(Ok(()), Request::check).map_err(BadMix::Session)?;
        Ok(Self { requests: self.requests.clone(), life: Some(requests), end })
    }

    /// Reads a mix file. An error of TOML tells line and column, one of a value the number of its table.
    pub fn parse(toml: &str) -> Result<Self, BadMix> {
        let raw: RawMix =
            toml::from_str(toml).map_err(|error| BadMix::Toml(error.to_string().trim_end().to_owned()))?;
        let requests = raw.request.into_iter().enumerate();
        let requests = requests
            .map(|(index, raw)| Request::try_from(raw).map_err(|rule| BadMix::Request { number: index + 1, rule }));
        let mix = Self::new(requests.collect::<Result<_, _>>()?)?;
        raw.session.map_or(Ok(mix.clone()), |session| mix.leaving(session.requests, session.end.as_deref()))
    }

    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The request with this number: one of `requests`, or the one after them, which ends a session.
    pub fn request(&self, entry: usize) -> &Request {
        self.requests.get(entry).or(self.end.as_ref()).unwrap_or(&self.requests[0])
    }

    /// How many requests a client makes before it leaves.
    pub fn life(&self) -> Option<u32> {
        self.life
    }

    /// The number of the request that ends a session.
    pub fn end(&self) -> Option<usize> {
        self.end.as_ref().map(|_| self.requests.len())
    }
}

impl Default for Mix {
    /// Just the target's own path.
    fn default() -> Self {
        Self { requests: vec![Request::get("/")], life: None, end: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMix {
    #[serde(default)]
    request: Vec<RawRequest>,
    session: Option<RawSession>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSession {
    requests: u32,
    end: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    #[serde(default)]
    kind: RawKind,
    weight: Option<u32>,
    method: Option<String>,
    path: String,
    body_bytes: Option<usize>,
    expect_status: Option<u16>,
    expect_bytes: Option<u64>,
    #[serde(default)]
    expect_echo: bool,
    lifetime: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    #[default]
    Http,
    WebSocket,
}

impl TryFrom<RawRequest> for Request {
    type Error = String;

    fn try_from(raw: RawRequest) -> Result<Self, String> {
        let kind = match (raw.kind, raw.lifetime) {
            (RawKind::Http, None) => Kind::Http,
            (RawKind::Http, Some(_)) => return Err("lifetime is for kind = \"websocket\" only".to_owned()),
            (RawKind::WebSocket, None) => Kind::WebSocket { lifetime: LIFETIME_DEFAULT },
            (RawKind::WebSocket, Some(given)) => Kind::WebSocket { lifetime: duration::parse(&given)? },
        };
        let status = if kind == Kind::Http { 200 } else { 101 };
        Ok(Self {
            weight: raw.weight.unwrap_or(1),
            kind,
            method: raw.method.unwrap_or_else(|| "GET".to_owned()),
            path: raw.path,
            body_bytes: raw.body_bytes.unwrap_or(0),
            expect_status: raw.expect_status.unwrap_or(status),
            expect_bytes: raw.expect_bytes,
            expect_echo: raw.expect_echo,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_file_is_read_whole() {
        let mix = Mix::parse(
            r#"
            [[request]]
            weight = 90
            path = "/"
            [[request]]
            method = "POST"
            path = "/orders"
            body_bytes = 1048576
            expect_echo = true
            [[request]]
            kind = "websocket"
            path = "/ws"
            lifetime = "3s"
            [session]
            requests = 40
            end = "/logout"
            "#,
        )
        .unwrap();
        assert_eq!(
            mix.requests(),
            [
                Request::get("/").weight(90),
                Request::post("/orders", BODY_BYTES_MAX).expect_echo(),
                Request::websocket("/ws", Duration::from_secs(3)),
            ]
        );
        assert_eq!((mix.life(), mix.end()), (Some(40), Some(3)));
        assert_eq!(mix.request(3), &Request::post("/logout", 0));
    }

    #[test]
    fn a_bad_mix_is_told_with_its_place() {
        for (given, told) in [
            ("", "1 to 100 [[request]]"),
            ("[[request]]\npath = \"/\"\nwait = 1", "line 3, column 1"),
            ("[[request]]\npath = \"/\"\n[[request]]\npath = \"x\"", "number 2: path \"x\""),
            ("[[request]]\npath = \"/\"\n[session]\nrequests = 0", "[session]: requests is 1 to"),
            ("[[request]]\npath = \"/\"\n[session]\nrequests = 2\nend = \"x\"", "[session]: path \"x\""),
            ("[[request]]\npath = \"/\"\nweight = 0", "weight is 1 to"),
            ("[[request]]\npath = \"/a b\"", "no spaces"),
            ("[[request]]\npath = \"/\"\nbody_bytes = 1048577", "at most 1048576"),
            ("[[request]]\npath = \"/\"\nlifetime = \"3s\"", "kind = \"websocket\" only"),
            ("[[request]]\npath = \"/\"\nkind = \"websocket\"\nlifetime = \"3\"", "not a duration"),
            ("[[request]]\npath = \"/\"\nkind = \"websocket\"\nmethod = \"POST\"", "a websocket has no method"),
        ] {
            let error = Mix::parse(given).unwrap_err().to_string();
            assert!(error.contains(told), "{given:?}: {error}");
        }
    }
}
