//! Owns what a manifest may say: the program, its routes, its process, and how it wants to be upgraded.
//! A value of these types is valid. Must not know how a manifest is written (`manifest.rs`) or carried out.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

use super::names::{ComponentName, ProgramName, Version};

/// A program at a version, as its valid manifest tells it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub name: ProgramName,
    pub version: Version,
    pub routes: Vec<Route>,
    pub strip_prefix: bool,
    pub matches: Vec<Match>,
    pub placement: PlacementRule,
    pub kind: Kind,
    /// To the first response byte; then 504.
    #[serde(with = "super::duration::millis")]
    pub request_timeout: Duration,
    /// Bytes of a request's body; more is 413.
    pub body_limit: u64,
    pub health: Health,
    /// `None`: requests are not told apart by session, and nothing is done for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionRule>,
    pub upgrade: UpgradeRule,
    /// Components that it uses, beside what analysis finds: a package's name, or the path of a file.
    #[serde(default)]
    pub components: Vec<ComponentName>,
}

impl Manifest {
    /// The path that neap's cookie is for: the routes' prefix, where they have one.
    pub fn cookie_path(&self) -> &str {
        match self.routes.first() {
            Some(first) if self.matches.is_empty() && self.routes.iter().all(|route| route.prefix == first.prefix) => {
                &first.prefix
            }
            _ => "/",
        }
    }

    /// Requests of a session have to go to its server, for as long as that takes them.
    pub fn sticky(&self) -> Option<&SessionRule> {
        self.session.as_ref().filter(|rule| rule.policy == SessionPolicy::Sticky)
    }
}

/// `HOST/PREFIX`; no host means any host. The prefix starts with `/` and has no `/` at its end, save `/` itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Route {
    pub host: Option<String>,
    pub prefix: String,
}

/// Another way to know a program's requests than by route. `*` at the end or the start of a pattern matches anything.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// A header's value, such as a transaction code. `name` is lower case.
    Header { name: String, value: String },
    /// A file name: the last segment of the path.
    Path { pattern: String },
}

/// Which servers host a program: names or globs, and labels that a server must carry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlacementRule {
    pub servers: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// How an instance of the program comes to be.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Process(Process),
    Static(StaticFiles),
    External(External),
}

/// A service that something else runs: systemd, a container engine. It is drained and probed as any program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct External {
    /// Where it takes requests.
    pub addr: std::net::SocketAddr,
    /// Argv that brings a version, `{version}` and `{dir}` put in; it may leave the service stopped if there is `start`.
    pub upgrade: Vec<String>,
    /// Argv, run when the last request has ended; empty: `upgrade` does all.
    pub stop: Vec<String>,
    /// Argv, run after `upgrade`.
    pub start: Vec<String>,
    /// How long each may take.
    #[serde(with = "super::duration::millis")]
    pub timeout: Duration,
}

/// A child process, started by argv and never by a shell.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Process {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub env_file: Option<String>,
    /// Argv, run in the release's directory before the gate closes; empty: nothing to prepare.
    pub prepare: Vec<String>,
    pub stop_signal: StopSignal,
    #[serde(with = "super::duration::millis")]
    pub stop_timeout: Duration,
}

/// The signal that asks an instance to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
}

/// A directory of files, served by `neap serve-static`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StaticFiles {
    /// Relative to the release's directory.
    pub root: String,
    /// Unknown paths get `index.html`.
    pub spa: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// `None`: a TCP connect.
    pub path: Option<String>,
    #[serde(with = "super::duration::millis")]
    pub interval: Duration,
    #[serde(with = "super::duration::millis")]
    pub timeout: Duration,
    #[serde(with = "super::duration::millis")]
    pub start_timeout: Duration,
    /// Failed probes in a row until the placement is unhealthy.
    pub unhealthy_after: u32,
}

impl Default for Health {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self { path: None, interval: second, timeout: second, start_timeout: second * 60, unhealthy_after: 3 }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct UpgradeRule {
    #[serde(default)]
    pub strategy: Strategy,
    /// Servers at a time.
    #[serde(default = "one")]
    pub batch: u32,
    /// So many servers first, then it waits to be promoted; 0: none.
    #[serde(default)]
    pub canary: u32,
    #[serde(default)]
    pub promote: Promote,
    pub min_serving: MinServing,
    #[serde(with = "super::duration::millis")]
    pub drain_timeout: Duration,
    pub on_drain_timeout: OnDrainTimeout,
    pub long_lived: LongLived,
    #[serde(with = "super::duration::millis")]
    pub long_lived_grace: Duration,
    /// Routers keep requests this long while no server can take them.
    #[serde(with = "super::duration::millis")]
    pub hold: Duration,
    #[serde(with = "super::duration::millis")]
    pub soak: Duration,
    #[serde(default)]
    pub rollback_on: RollbackOn,
    #[serde(default)]
    pub hooks: Hooks,
    /// Of a server's cores, in thousandths, what those that stay may use for a gate to close elsewhere; 0: any.
    #[serde(default = "eight_tenths")]
    pub max_utilization_milli: u32,
    /// How long a ripple waits for that until it pauses.
    #[serde(default = "ten_minutes", with = "super::duration::millis")]
    pub capacity_wait: Duration,
}

fn eight_tenths() -> u32 {
    800
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

/// Commands that go with a ripple to this version; an empty argv is none. Their exit status decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hooks {
    pub before_ripple: Vec<String>,
    pub before_step: Vec<String>,
    pub after_step: Vec<String>,
    pub after_ripple: Vec<String>,
    /// How long each may take; then it is killed, and has failed.
    #[serde(with = "super::duration::millis")]
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        let [before_ripple, before_step, after_step, after_ripple] = Default::default();
        Self { before_ripple, before_step, after_step, after_ripple, timeout: Duration::from_secs(300) }
    }
}

/// How a server goes from one version to the next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The gate closes, the old instance drains and stops, the new one starts.
    #[default]
    Quiesce,
    /// The new instance starts beside the old one and takes over in one step; then the old one drains and stops.
    Overlap,
}

impl std::str::FromStr for Strategy {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "quiesce" => Ok(Self::Quiesce),
            "overlap" => Ok(Self::Overlap),
            _ => Err(format!("\"{given}\" is neither \"quiesce\" nor \"overlap\"")),
        }
    }
}

/// What is too much to be put up with from a new version: then the ripple undoes itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RollbackOn {
    /// Errors beyond the old version's, in millionths of all answers.
    pub error_rate_ppm: u32,
    /// So many thousandths of the old version's time; 0: any time is put up with.
    pub p99_factor_milli: u32,
    /// Fewer answers, of either version, say nothing.
    pub min_requests: u32,
}

impl Default for RollbackOn {
    fn default() -> Self {
        Self { error_rate_ppm: 50_000, p99_factor_milli: 3_000, min_requests: 20 }
    }
}

fn one() -> u32 {
    1
}

/// How a program's requests belong to sessions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionRule {
    pub policy: SessionPolicy,
    /// The program's own session cookie: a session lives while it does. `None`: neap begins sessions itself.
    pub cookie: Option<String>,
    /// A session of which nothing is heard for so long has ended.
    #[serde(with = "super::duration::millis")]
    pub idle: Duration,
    /// Sticky: how long a drain waits for sessions to end; then they migrate.
    #[serde(with = "super::duration::millis")]
    pub deadline: Duration,
}

/// Who may take a session's next request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPolicy {
    /// Any server: what the session needs is not in one server's memory.
    Shared,
    /// The server where it is at home, for as long as that takes it.
    Sticky,
}

/// How many placements stay open and healthy through a ripple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MinServing {
    /// All but one batch, and at least one; none when requests are held (protocol P7).
    Auto,
    AtLeast(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrainTimeout {
    /// Reopen the gate and stop the ripple.
    Abort,
    /// Cut what is left, counted.
    Force,
}

/// Who lets a ripple go on after its canaries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// Nobody has to: their soaks have gone well.
    #[default]
    Auto,
    /// A person.
    Manual,
}

impl std::str::FromStr for Promote {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "auto" => Ok(Self::Auto),
            "manual" => Ok(Self::Manual),
            _ => Err(format!("\"{given}\" is neither \"auto\" nor \"manual\"")),
        }
    }
}

/// What a ripple's step takes out of service on its server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The program that is upgraded, and nothing else.
    #[default]
    Program,
    /// Every program of the server, as load balancers that know servers only do.
    Server,
}

impl Scope {
    pub fn is_program(&self) -> bool {
        *self == Self::Program
    }
}

impl std::str::FromStr for Scope {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "program" => Ok(Self::Program),
            "server" => Ok(Self::Server),
            _ => Err(format!("\"{given}\" is neither \"program\" nor \"server\"")),
        }
    }
}

/// What a drain does about WebSockets and event streams.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongLived {
    Wait,
    Notify,
}
