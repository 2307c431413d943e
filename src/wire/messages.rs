//! Owns what nodes say to each other: the bodies of `POST /node/v1/messages` and their answers.
//! Must not know how a message travels or what it leads to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::domain::figures::Figures;
pub use crate::domain::ledger::{Counts, LedgerCut, LedgerEntry, LedgerFailure};
use crate::domain::names::{
    Generation, NodeName, OperationId, ProgramName, Release, Revision, RunId, ServerName, Sha256, Term, Version,
};
use crate::domain::placement::{Command, Refusal, Work, Worked};
use crate::domain::program::Manifest;
use crate::domain::ripple::hooks::{HookEnd, HookOrder};
pub use crate::domain::ripple::machine::Member;
use crate::domain::server_list::Report;
use crate::domain::session::SessionId;
use crate::wire::binary::{Binary, TakeBinary};
pub use crate::wire::components::ToldComponents;
pub use crate::wire::role::Role as NodeRole;
pub use crate::wire::sessions::{
    EndedSession, ServerAt, SessionsHere, SessionsTaken, TakeSession, TakenSession, ToldSessions,
};

/// What management tells a server; the answer to each is beside it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToServer {
    /// "What do you hold, and promise me to obey no lower term." → [`Sealed`]
    Seal { term: Term, asked: u64 },
    /// Fetch the release from management, verify, unpack and prepare it. → [`Prepared`]
    Prepare { program: ProgramName, release: Release, manifest: Box<Manifest> },
    /// Quiesce, reopen, open, upgrade or remove one placement. → [`Obeyed`]
    Command { program: ProgramName, command: Command },
    /// Run a hook, once, or tell how it ended. → [`HookTold`]
    Hook { program: ProgramName, order: HookOrder },
    /// The ledger as it is now. → [`LedgerCut`]
    Ledger {},
    /// What the answers of each of a program's versions have been like. → `Vec<`[`VersionFigures`]`>`
    Measure { program: ProgramName },
    /// The active requests of a program. → `Vec<`[`ActiveRequest`]`>`
    Requests { program: ProgramName },
    /// The last lines of a program's output here. → [`Lines`]
    Logs { program: ProgramName, lines: usize },
    /// One order to all members of a set, which is obeyed by all or by none (protocol P15). → [`TogetherObeyed`]
    Together { operation: OperationId, members: Vec<Member>, work: Work },
    /// How the work of a set ended. → `Option<Worked>`; `None`: it has not
    Worked { operation: OperationId },
    /// What the programs here use, but for what is held of it already; looked at anew before, where asked.
    /// → [`ToldComponents`]
    Components {
        have: BTreeMap<ProgramName, Sha256>,
        #[serde(default)]
        scan: bool,
    },
    /// Run another neap binary, or tell how far that is. → [`BinaryTold`](super::binary::BinaryTold)
    TakeBinary(TakeBinary),
    /// A person ends this session. → [`EndedSession`]
    EndSession { program: ProgramName, id: SessionId },
}

/// One version's counters on a server; they only rise, save that latencies begin anew with the server's process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionFigures {
    pub version: Version,
    pub figures: Figures,
}

/// A server's whole state, the answer to a seal; or why it does not answer to this term.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sealed {
    pub run: RunId,
    pub asked: u64,
    pub refusal: Option<Refusal>,
    pub reports: Vec<Report>,
    /// The manifest of every release that a placement holds, so that management can rebuild what it lost.
    pub manifests: Vec<HeldManifest>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HeldManifest {
    pub release: Release,
    pub manifest: Manifest,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Prepared {
    /// Under way: ask again.
    Preparing,
    Ready,
    Failed {
        reason: String,
    },
}

/// How a hook stands; no end: it runs, ask again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookTold {
    pub end: Option<HookEnd>,
}

/// The present state of a placement, whether the command was obeyed or not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Obeyed {
    pub run: RunId,
    pub refusal: Option<Refusal>,
    pub report: Report,
}

/// How the members of a set stand, whether its order was obeyed or not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TogetherObeyed {
    pub run: RunId,
    pub refused: Option<Refused>,
    pub reports: Vec<Report>,
    /// How the work between the stop and the start ended, once it has.
    pub worked: Option<Worked>,
}

/// Why no member of a set obeyed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Whose refusal it is; `None`: the server's.
    pub program: Option<ProgramName>,
    pub refusal: Refusal,
}

/// What servers and routers tell management; the answer to each is beside it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToManagement {
    /// → [`Welcome`]
    Register(Box<Registration>),
    /// → [`Renewals`]
    Heartbeat(Box<Heartbeat>),
    /// A placement became drained: a hint (protocol P5). → `{}`
    Drained { report: Report },
    /// An operation ended well. → `{}`
    Upgraded { report: Report },
    /// An operation ended otherwise, or an instance failed. → `{}`
    Failed { report: Report },
    /// What happened to sessions, at most a second ago. → [`SessionsTaken`]
    Sessions(Box<ToldSessions>),
    /// A session moves here (protocol P16). → [`TakenSession`]
    TakeSession(Box<TakeSession>),
    /// "Which sessions were at home here?", by a server whose list is gone. → [`SessionsHere`]
    SessionsHere { after: Option<(ProgramName, SessionId)> },
    /// Where other servers are asked for data of sessions that were there. → `Vec<`[`ServerAt`]`>`
    Servers {},
}

/// A node of a role makes itself known.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Registration {
    pub role: NodeRole,
    /// Where it takes control messages.
    pub control: SocketAddr,
    /// Where a server takes requests, or a router's public address.
    pub data: SocketAddr,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub cores: usize,
    /// Which file it runs; `None`: its release does not say.
    #[serde(default)]
    pub binary: Option<Binary>,
}

impl Registration {
    /// The release of the messages that it speaks; the first did not say.
    pub fn protocol(&self) -> u32 {
        self.binary.as_ref().map_or(0, |binary| binary.protocol)
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    pub management: ServerName,
    pub run: RunId,
    pub term: Term,
    /// What sessions' tags are made and checked with.
    #[serde(default)]
    pub tag_keys: Option<TagKeys>,
}

/// The keys of sessions' tags. Without bytes they are made of the cluster's secret, which does not travel.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagKeys {
    /// The present key's; the one before it has the number below.
    pub number: u32,
    /// Hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl std::fmt::Debug for TagKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TagKeys({}, …)", self.number)
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub role: NodeRole,
    /// Of a router: the Server List that it holds.
    pub held: Option<ListStamp>,
    /// Of a server: every placement, with its active requests.
    pub reports: Vec<Report>,
    pub load: Load,
    /// Of a server: the digest of what its programs use. `None`: it does not tell.
    #[serde(default)]
    pub components: Option<Sha256>,
    /// Of a server: thousandths of a core that each program's instances use, with all that they have started.
    #[serde(default)]
    pub cpu_milli: BTreeMap<ProgramName, u32>,
    /// Of a server: of how many sessions it has data that management has not got. `None`: it does not tell.
    #[serde(default)]
    pub sessions_only_here: Option<u64>,
    /// Of a router.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub active: ActiveThere,
}

/// A router's active requests at each placement that have been there for some seconds: others go by them.
pub type ActiveThere = BTreeMap<ProgramName, BTreeMap<ServerName, u64>>;

#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Of the machine, one minute.
    pub load_average: f64,
    pub active_requests: u64,
    pub connections: u64,
}

/// Management's answer to a server's heartbeat: it renews the leases that it still wants (protocol P8), and names the
/// booted placements that stay closed for now (P13).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Renewals {
    /// What sessions' tags are made and checked with.
    #[serde(default)]
    pub tag_keys: Option<TagKeys>,
    pub term: Term,
    pub renewed: Vec<Renewal>,
    pub kept_closed: Vec<ProgramName>,
    /// Management does not know this node (any more): register again.
    pub unknown: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Renewal {
    pub program: ProgramName,
    pub operation: OperationId,
    pub generation: Generation,
}

/// Orders the Server Lists that routers hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ListStamp {
    pub term: Term,
    pub revision: Revision,
}

/// What management tells a router; the answer to each is beside it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRouter {
    /// The Server List, whole or as a change. → [`Held`]
    ServerList(Box<RouterList>),
    /// → [`LedgerCut`]
    Ledger {},
    /// Run another neap binary, or tell how far that is. → [`BinaryTold`](super::binary::BinaryTold)
    TakeBinary(TakeBinary),
    /// Which rule, which server and why. → [`RouteExplained`]
    Explain { url: String },
}

/// The Server List as routers need it. `since`: only what changed since that stamp; a router that holds another
/// answers with what it holds and gets the whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouterList {
    pub stamp: ListStamp,
    pub since: Option<ListStamp>,
    pub servers: Vec<RouterServer>,
    pub programs: Vec<RouterProgram>,
    /// Programs that are no more (of a change).
    pub removed: Vec<ProgramName>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouterServer {
    pub name: ServerName,
    /// Where it takes requests.
    pub data: SocketAddr,
    pub up: bool,
}

/// A program with its rules and its placements. `manifest.routes`, `matches`, `strip_prefix`, `request_timeout`,
/// `body_limit` and `upgrade.hold` are what a router uses.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouterProgram {
    pub manifest: Manifest,
    pub placements: Vec<RouterPlacement>,
    /// Where sessions go during a ripple; told of programs that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
}

/// The version that a ripple brings, and how many of the program's servers have it: so many sessions take it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forward {
    pub to: Version,
    pub share_ppm: u32,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouterPlacement {
    pub server: ServerName,
    /// The server's run, as far as management knows.
    pub run: Option<RunId>,
    pub generation: Generation,
    pub version: Option<Version>,
    /// Open, healthy, and no quiesce is meant: requests go here first. Others are asked last.
    pub takes_requests: bool,
    /// Takes requests of sessions that are at home there, also while it takes no others.
    #[serde(default)]
    pub keeps_sessions: bool,
    /// Active requests there that last, all routers'. A router of the release before goes by it.
    pub active: u64,
    /// Those of each router, as it told last; empty where there are not several. A router goes by the others': of its own it
    /// knows better, and what is told of them is of another moment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_router: BTreeMap<NodeName, u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Held {
    pub held: Option<ListStamp>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RouteExplained {
    pub rule: Option<String>,
    pub program: Option<ProgramName>,
    pub chosen: Option<ServerName>,
    pub candidates: Vec<Candidate>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    pub server: ServerName,
    pub takes_requests: bool,
    pub active: u64,
    pub why: String,
}

/// One active request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActiveRequest {
    pub request_id: String,
    pub program: ProgramName,
    pub version: Option<Version>,
    pub server: ServerName,
    pub method: String,
    pub path: String,
    pub age_ms: u64,
    /// WebSocket or event stream.
    pub long_lived: bool,
}

/// Lines of output, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lines {
    pub lines: Vec<String>,
}
