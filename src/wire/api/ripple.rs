//! Owns how upgrades are asked for, and how plans and ripples appear in the API.
//! Must not know how a ripple is decided or carried out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::component::UnreadPart;
use super::hook::HookView;
use super::words;
use crate::domain::names::{ComponentName, ProgramName, RippleId, ServerName, Version};
use crate::domain::program::{Promote, Scope, Strategy};

/// Asks for a version of a program to run on all its servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    pub program: ProgramName,
    pub to: Version,
    #[serde(flatten)]
    pub options: RippleOptions,
    /// The plan that was shown: refused with `precondition_failed` if the cluster has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// Asks for all instances of a program to be restarted, server by server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRequest {
    #[serde(flatten)]
    pub options: RippleOptions,
}

/// What a ripple does otherwise than its manifest says; absent means as the manifest says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RippleOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Servers at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// So many servers first, then it waits to be promoted; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote: Option<Promote>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_serving: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_ms: Option<u64>,
    /// Cuts what has not ended after `drain_timeout`, counted, rather than to stop the ripple.
    #[serde(default)]
    pub force: bool,
    /// What a step takes out of service.
    #[serde(default, skip_serializing_if = "Scope::is_program")]
    pub scope: Scope,
}

words! {
    /// What a ripple is for.
    RippleKind {
        /// Runs nowhere yet: on all its servers at once.
        Install = "install",
        Upgrade = "upgrade",
        Restart = "restart",
        /// A server that came back behind what is desired of it.
        CatchUp = "catch_up",
        Undo = "undo",
        /// A component is replaced, and the programs that use it are restarted.
        Component = "component",
        /// Leaves service for as long as another program of its server is upgraded.
        Aside = "aside",
        Remove = "remove",
    }
}

words! {
    /// A ripple's state. The last four are its ends.
    RippleState {
        Planned = "planned",
        Running = "running",
        Paused = "paused",
        Undoing = "undoing",
        /// Every server that is up has the target.
        Upgraded = "upgraded",
        Undone = "undone",
        Failed = "failed",
        Aborted = "aborted",
    }
}

impl RippleState {
    /// Whether the ripple does nothing more.
    pub fn ended(self) -> bool {
        matches!(self, Self::Upgraded | Self::Undone | Self::Failed | Self::Aborted)
    }
}

words! {
    /// How far one server's part of a ripple is.
    StepState {
        Planned = "planned",
        /// Its release is fetched, verified, unpacked and prepared; the gate is open.
        Preparing = "preparing",
        /// Waits for its turn to be safe; `waiting_for` says why.
        Waiting = "waiting",
        Quiescing = "quiescing",
        Drained = "drained",
        Upgrading = "upgrading",
        /// The new version starts beside the old one, or serves and the old one drains.
        Overlapping = "overlapping",
        Soaking = "soaking",
        Upgraded = "upgraded",
        /// The gate was opened again on what it had.
        Reopened = "reopened",
        /// The new version failed, and the old one serves again.
        Undone = "undone",
        Skipped = "skipped",
        Failed = "failed",
    }
}

/// One run of an upgrade across the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RippleView {
    pub id: RippleId,
    /// None: it is a component's, and its programs' are its `parts`.
    #[serde(default)]
    pub program: Option<ProgramName>,
    /// The component that is upgraded, also of a part of its ripple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// The ripple that this one is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<RippleId>,
    pub kind: RippleKind,
    pub from: Option<Version>,
    pub to: Option<Version>,
    pub state: RippleState,
    /// Of an undo: the ripple that it undoes.
    #[serde(default)]
    pub undoes: Option<RippleId>,
    /// The latest ripple that undoes this one.
    #[serde(default)]
    pub undone_by: Option<RippleId>,
    pub waiting_for: Option<WaitingFor>,
    /// What it does next, and when, as a person reads it.
    pub next: Option<String>,
    pub steps: Vec<StepView>,
    /// The commands that went with it so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookView>,
    /// What has happened, oldest first; left out of lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<RippleEvent>,
    /// Why it ended other than upgraded, or why it had nothing to do.
    pub reason: Option<String>,
    /// What the new version's instance said as it failed.
    #[serde(default)]
    pub failure: Option<FailedStart>,
    pub asked_by: Option<String>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Of a component's: a ripple of each program that uses it; left out of lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<RippleView>,
}

impl RippleView {
    /// Whether it is of the nodes' own binary.
    pub fn is_of_nodes(&self) -> bool {
        self.program.is_none() && self.to.is_some()
    }

    /// The name of what is upgraded.
    pub fn what(&self) -> &str {
        let component = self.component.as_ref().map(ComponentName::as_str);
        self.program.as_ref().map(ProgramName::as_str).or(component).unwrap_or("servers")
    }
}

/// Something that happened in a ripple.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RippleEvent {
    pub at: Timestamp,
    pub server: Option<ServerName>,
    /// As a person reads it.
    pub what: String,
}

/// Why a ripple waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitingFor {
    /// A stable word, such as `active_requests`, `min_serving`, `soak` or `server_silent`.
    pub reason: String,
    /// As a person reads it: "2 active requests, oldest 41s, GET /export".
    pub detail: String,
    /// When the wait ends by itself.
    pub until: Option<Timestamp>,
    /// The command that ends it sooner.
    #[serde(default)]
    pub command: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepView {
    pub server: ServerName,
    pub state: StepState,
    pub from: Option<Version>,
    pub to: Option<Version>,
    #[serde(default)]
    pub times: StepTimes,
    /// Why it was skipped, undone, or failed.
    pub reason: Option<String>,
    /// What the new version's answers were found to be like while it soaked, or that there were too few.
    #[serde(default)]
    pub judged: Option<String>,
    /// Of a component's: the programs that are quiesced together there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramName>,
    /// The command that was run there while none of them ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandView>,
}

/// A command that was run on a server, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommandView {
    pub run: Vec<String>,
    /// None: it ended well.
    pub failure: Option<String>,
    /// Its last lines.
    pub output: Vec<String>,
    pub took_ms: u64,
}

/// Asks for a component to be upgraded by a command on every server whose programs use it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentUpgradeRequest {
    /// The command's words; no shell reads them.
    pub run: Vec<String>,
    /// The command that takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_run: Option<Vec<String>>,
    /// How long a command may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    #[serde(flatten)]
    pub options: RippleOptions,
    /// The plan that was shown: refused with `precondition_failed` if the cluster has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// What a component's ripple will do, computed before it starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ComponentPlanView {
    pub id: String,
    pub component: ComponentName,
    pub run: Vec<String>,
    pub undo_run: Option<Vec<String>>,
    /// In the order of the ripple.
    pub steps: Vec<PlannedSetStep>,
    pub programs: Vec<PlannedProgram>,
    /// Programs that may use it unseen, since something of theirs could not be looked at.
    pub unread: Vec<UnreadPart>,
    /// Servers that did not look again when they were asked to.
    #[serde(default)]
    pub unanswered: Vec<ServerName>,
    pub batch: u32,
    pub canary: u32,
    pub promote: Promote,
}

/// The programs that are quiesced together on a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedSetStep {
    pub server: ServerName,
    pub programs: Vec<ProgramName>,
    /// What their drain would wait for, were it to begin now.
    pub active_requests: u64,
}

/// How careful the ripple is with one of the programs, and why it is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedProgram {
    pub program: ProgramName,
    pub version: Option<Version>,
    /// "shop → bin/server → libssl.so.3 (runpath)"
    pub evidence: String,
    pub min_serving: u32,
    pub hold_ms: u64,
    pub drain_timeout_ms: u64,
    pub soak_ms: u64,
    pub force: bool,
}

/// How long each phase of a step took; absent: not ended yet. The server is out of service from drain to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StepTimes {
    pub prepare_ms: Option<u64>,
    pub drain_ms: Option<u64>,
    pub stop_ms: Option<u64>,
    /// Of a component's ripple: the command, while nothing that uses it runs.
    #[serde(default)]
    pub command_ms: Option<u64>,
    /// Until the process was there.
    pub start_ms: Option<u64>,
    /// From then until its probes were answered.
    #[serde(default)]
    pub probe_ms: Option<u64>,
    /// Of an overlap: until the new instance took over, which starts beside the old one. Nothing is out of service.
    #[serde(default)]
    pub overlap_ms: Option<u64>,
    /// Of an overlap: until the old instance had drained and stopped.
    #[serde(default)]
    pub old_ms: Option<u64>,
    pub soak_ms: Option<u64>,
}

/// How the new version's instance failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailedStart {
    pub server: ServerName,
    pub version: Version,
    pub reason: String,
    /// "exit status 1", "signal 9", or none if it did not end by itself.
    pub exit_status: Option<String>,
    /// The last lines that it wrote, at most 20.
    #[serde(default)]
    pub log: Vec<String>,
}
