//! Owns how components, and who uses them, appear in the API. Must not know how that was found.

use serde::{Deserialize, Serialize};

use crate::domain::components::{ComponentVersion, Hop, Kind, Replaced, Source};
use crate::domain::names::{ComponentName, ProgramName, ServerName, Version};

/// A component in a line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ComponentSummary {
    pub name: ComponentName,
    pub kind: Kind,
    /// On disk, over all servers: more than one where servers differ.
    pub versions: Vec<ComponentVersion>,
    /// That an upgrade of it would quiesce.
    pub programs: Vec<ProgramName>,
    /// That could load it, and were not seen to.
    pub can_load: Vec<ProgramName>,
    pub servers: Vec<ServerName>,
    /// Instances that run with another than the one on disk.
    pub stale: Vec<StaleUse>,
}

/// An instance that runs with a component that has since been replaced on disk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StaleUse {
    pub program: ProgramName,
    pub server: ServerName,
    /// What it has in memory.
    pub file: String,
    pub why: Replaced,
    /// The version in memory; null: it was replaced before anybody looked.
    pub running: Option<ComponentVersion>,
    pub on_disk: Option<ComponentVersion>,
}

/// A component with all its uses, by server and program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ComponentView {
    pub name: ComponentName,
    pub kind: Kind,
    pub uses: Vec<ComponentUse>,
    /// Programs that may use it unseen, because not all of theirs could be looked at.
    pub unread: Vec<UnreadPart>,
}

/// One program's use of a component on one server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ComponentUse {
    pub program: ProgramName,
    pub server: ServerName,
    /// The program's.
    pub program_version: Version,
    /// The component's, on disk.
    pub version: Option<ComponentVersion>,
    /// Whether an upgrade of the component would quiesce the program.
    pub quiesced: bool,
    pub files: Vec<String>,
    pub evidence: Vec<EvidenceView>,
    pub stale: Option<StaleUse>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EvidenceView {
    pub source: Source,
    pub can_load: bool,
    /// The chain, as people read it: "shop → bin/server → libssl.so.3 (runpath)".
    pub text: String,
    pub chain: Vec<Hop>,
}

/// What could not be looked at of a program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreadPart {
    pub program: ProgramName,
    pub server: ServerName,
    pub what: String,
    pub why: String,
}

/// A component that a program uses, in a line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgramComponent {
    pub name: ComponentName,
    pub kind: Kind,
    pub versions: Vec<ComponentVersion>,
    pub quiesced: bool,
}

/// What a scan found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ScanView {
    pub servers: Vec<ScannedServer>,
    /// Servers that are up and did not answer; what is known of them is older.
    pub unanswered: Vec<ServerName>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ScannedServer {
    pub server: ServerName,
    pub programs: usize,
    pub components: usize,
    pub stale: usize,
    pub unread: Vec<UnreadPart>,
}
