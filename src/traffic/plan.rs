//! Owns what one run of traffic is: its targets, rates and bounds. A value of these types is valid once `check` says so.
//! Must not know how it is sent.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::mix::{Kind, Mix};
use super::stream::Trust;

/// How long an answer may take, from the time its request was due.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// Connections to one target, busy and idle.
pub const CONNECTIONS_MAX_DEFAULT: usize = 2_000;
/// Requests a second to one target.
pub const RATE_MAX: f64 = 100_000.0;
/// Clients with a cookie jar each, of one target.
const SESSIONS_MAX: usize = 100_000;
const TARGETS_MAX: usize = 100;
/// Connections of raw traffic: all of them are made before the first request.
const RAW_CONNECTIONS_MAX: usize = 10_000;

/// Why a plan or a URL is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlan {
    #[error("\"{given}\" is not a URL that traffic can be sent to: {rule}")]
    Url { given: String, rule: &'static str },
    #[error("the rate is more than 0 and at most {RATE_MAX} requests a second, not {0}")]
    Rate(String),
    #[error("give 1 to {TARGETS_MAX} URLs, not {0}")]
    Targets(usize),
    #[error("header \"{0}\" is not \"Name: value\"")]
    Header(String),
    #[error("at most {SESSIONS_MAX} clients with sessions, not {0}")]
    Sessions(usize),
    #[error("{0} is more than 0")]
    Zero(&'static str),
    #[error(
        "raw traffic is one GET without a body or sessions, to one http URL, with at most {RAW_CONNECTIONS_MAX} connections and any version"
    )]
    Raw,
    #[error("{0}")]
    Tls(String),
}

/// One run of traffic.
#[derive(Clone, Debug)]
pub struct Plan {
    pub targets: Vec<Target>,
    /// `None`: until stopped.
    pub duration: Option<Duration>,
    /// From the time a request was due to the end of its answer; a WebSocket's lifetime comes on top.
    pub timeout: Duration,
    /// Connections to each target, busy and idle; a request that finds all busy waits, which is counted.
    pub connections_max: usize,
    /// The same bytes each time, and only status and length of the answers checked: for tens of thousands a second.
    pub raw: bool,
    /// Whose certificates https believes.
    pub trust: Trust,
}

/// Where requests go, how many a second, and what they are.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: Url,
    pub rate: f64,
    pub mix: Mix,
    /// Sent with every request; `Host` replaces the URL's own.
    pub headers: Vec<(String, String)>,
    /// The versions that an answer may come from; empty: any, or none.
    pub expect_versions: Vec<String>,
    /// Clients with a cookie jar each, who take turns; 0: nobody keeps cookies.
    pub sessions: usize,
}

impl Plan {
    /// A plan with the default bounds, until stopped.
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            duration: None,
            timeout: TIMEOUT_DEFAULT,
            connections_max: CONNECTIONS_MAX_DEFAULT,
            raw: false,
            trust: Trust::System,
        }
    }

    pub fn duration(self, duration: Duration) -> Self {
        Self { duration: Some(duration), ..self }
    }

    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Says what is out of its bounds.
    pub fn check(&self) -> Result<(), BadPlan> {
        if !(1..=TARGETS_MAX).contains(&self.targets.len()) {
            return Err(BadPlan::Targets(self.targets.len()));
        }
        if self.timeout.is_zero() {
            return Err(BadPlan::Zero("the timeout"));
        }
        if self.connections_max == 0 {
            return Err(BadPlan::Zero("the number of connections"));
        }
        self.targets.iter().try_for_each(Target::check)?;
        if self.raw && !self.may_be_raw() { Err(BadPlan::Raw) } else { Ok(()) }
    }

    fn may_be_raw(&self) -> bool {
        let [target] = &self.targets[..] else { return false };
        let [request] = target.mix.requests() else { return false };
        let plain = request.kind == Kind::Http && request.method == "GET" && request.body_bytes == 0;
        let unnamed = !request.expect_echo && target.expect_versions.is_empty() && target.sessions == 0;
        plain && unnamed && !target.url.secure && self.connections_max <= RAW_CONNECTIONS_MAX
    }
}

impl Target {
    /// A GET of the URL itself, `rate` times a second.
    pub fn new(url: Url, rate: f64) -> Self {
        Self { url, rate, mix: Mix::default(), headers: Vec::new(), expect_versions: Vec::new(), sessions: 0 }
    }

    pub fn mix(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }

    pub fn sessions(self, sessions: usize) -> Self {
        Self { sessions, ..self }
    }

    fn check(&self) -> Result<(), BadPlan> {
        if !(self.rate > 0.0 && self.rate <= RATE_MAX) {
            return Err(BadPlan::Rate(self.rate.to_string()));
        }
        if self.sessions > SESSIONS_MAX {
            return Err(BadPlan::Sessions(self.sessions));
        }
        let good = |b: u8| b == b'\t' || (b' '..=b'~').contains(&b);
        let bad = self.headers.iter().find(|(name, value)| {
            name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || !value.bytes().all(good)
        });
        bad.map_or(Ok(()), |(name, value)| Err(BadPlan::Header(format!("{name}: {value}"))))
    }
}

/// `http://HOST[:PORT][/PATH]`, or `https://…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// With TLS.
    pub secure: bool,
    pub host: String,
    pub port: u16,
    /// As given, `/` at the least; may have a query, which only the URL itself is asked with.
    pub path: String,
}

impl Url {
    /// The path of a request to this target: `/` alone means the target's own path.
    pub(super) fn join(&self, path: &str) -> String {
        let base = self.path.split('?').next().unwrap_or_default();
        match path {
            "/" => self.path.clone(),
            path => format!("{}{path}", base.strip_suffix('/').unwrap_or(base)),
        }
    }

    /// What goes into `Host`.
    pub(super) fn authority(&self) -> String {
        if self.port == default_port(self.secure) { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// What a connection is made to.
    pub(super) fn address(&self) -> (String, u16) {
        (self.host.trim_matches(['[', ']']).to_owned(), self.port)
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

impl FromStr for Url {
    type Err = BadPlan;

    fn from_str(given: &str) -> Result<Self, BadPlan> {
        let bad = |rule| BadPlan::Url { given: given.chars().take(200).collect(), rule };
        let rest = match given.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(bad("use http://HOST[:PORT][/PATH], or https://")),
        };
        let (secure, rest) = rest;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        if path.contains('#') || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("the path has no spaces, # or control characters"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)),
            _ => (authority, Some(default_port(secure))),
        };
        let port = port.ok_or_else(|| bad("the port is 1 to 65535"))?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        if host.is_empty() || !host.bytes().all(valid) {
            return Err(bad("the host is a name or an address"));
        }
        Ok(Self { secure, host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mix::Request;
    use super::*;

    fn url(given: &str) -> Url {
        given.parse().unwrap()
    }

    #[test]
    fn a_url_is_host_port_and_path() {
        assert_eq!(url("http://127.0.0.1:8080/shop/").to_string(), "http://127.0.0.1:8080/shop/");
        assert_eq!(url("http://a").to_string(), "http://a/");
        assert_eq!(url("http://[::1]:81/x").address(), ("::1".to_owned(), 81));
        assert_eq!(url("https://a").to_string(), "https://a/");
        assert_eq!((url("https://a").port, url("https://a:80/x").to_string()), (443, "https://a:80/x".to_owned()));
        for given in ["", "a:80", "ftp://a", "http://", "http://a:0", "http://a:99999", "http://a/b c", "http://a b/"] {
            assert!(given.parse::<Url>().is_err(), "{given}");
        }
    }

    #[test]
    fn a_path_is_joined_to_the_targets_own() {
        assert_eq!(url("http://a/shop").join("/orders?x=1"), "/shop/orders?x=1");
        assert_eq!(url("http://a/shop").join("/"), "/shop");
        assert_eq!(url("http://a/shop/?q=1").join("/"), "/shop/?q=1");
        assert_eq!(url("http://a/shop/?q=1").join("/x"), "/shop/x");
        assert_eq!(url("http://a").join("/"), "/");
    }

    #[test]
    fn a_plan_out_of_bounds_is_refused() {
        let plan = |rate| Plan::new(vec![Target::new(url("http://a"), rate)]);
        assert_eq!(plan(1.0).check(), Ok(()));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 100_001.0] {
            assert!(plan(rate).check().is_err(), "{rate}");
        }
        let mut split = plan(1.0);
        split.targets[0].headers.push(("X-A".to_owned(), "b\r\nX-C: d".to_owned()));
        assert!(split.check().is_err());
        assert_eq!(Plan::new(Vec::new()).check(), Err(BadPlan::Targets(0)));
        let mut raw = Plan { raw: true, ..plan(1.0) };
        assert_eq!(raw.check(), Ok(()));
        raw.targets[0].expect_versions.push("1".to_owned());
        assert_eq!(raw.check(), Err(BadPlan::Raw));
        raw.targets = vec![plan(1.0).targets.remove(0).mix(Mix::new(vec![Request::post("/", 1)]).unwrap())];
        assert_eq!(raw.check(), Err(BadPlan::Raw));
    }
}
