//! Owns management's public API: its paths, and the JSON that its requests and answers are made of.
//! Must not know how management finds an answer, nor how a client shows it.
//!
//! A list is a `Page`: `{"items": […], "next": cursor or null}`, newest first where time orders it; it takes `cursor`
//! and `limit`. Times are RFC 3339, durations whole milliseconds in `…_ms`. Errors are `Problem`s. A view may gain
//! fields, so unknown ones are ignored; a request with an unknown field is refused.
//!
//! | method and path (below `/api/v1`) | request | answer |
//! |---|---|---|
//! | `GET programs` | | 200 `Page<ProgramView>` |
//! | `POST programs` | | 501 until `program apply` is built |
//! | `GET programs/{p}` | | 200 `ProgramView` |
//! | `DELETE programs/{p}` | | 202 `RippleView` of kind `remove`, `Location` |
//! | `GET programs/{p}/requests` | | 200 `ActiveRequests`, oldest first |
//! | `GET programs/{p}/logs` | `?server=&lines=&cursor=` | 200 `Logs`, oldest line first |
//! | `POST programs/{p}/restart` | `RestartRequest` | 202 `RippleView`, `Location` |
//! | `GET releases` | `?program=` | 200 `Page<ReleaseView>` |
//! | `POST releases` | tar.zst; `?sha256=&program=&version=` | 201 `ReleaseView`; 200 if it is here already |
//! | `DELETE releases/{p}/{v}` | | 204; 409 while a server holds it |
//! | `GET nodes` | | 200 `Page<NodeView>` |
//! | `GET nodes/{n}` | | 200 `NodeView` |
//! | `POST nodes/{n}/drain` | `DrainRequest` | 202 `NodeView`; 409 where too few others would serve |
//! | `POST nodes/{n}/resume` | | 202 `NodeView` |
//! | `GET ripples` | `?program=` | 200 `Page<RippleView>` |
//! | `POST ripples` | `UpgradeRequest` | 202 `RippleView`, `Location`; 200 when there is nothing to do |
//! | `POST ripples?dry_run=true` | `UpgradeRequest` | 200 `PlanView` |
//! | `GET ripples/{id}` | | 200 `RippleView` |
//! | `POST ripples/{id}/{abort,pause,resume,promote,migrate,undo}` | | 202 `RippleView` (of the undo, for `undo`) |
//! | `GET ripples/{id}/receipt` | | 200 `Receipt`, provisional until the ripple has ended |
//! | `GET status` | | 200 `StatusView` |
//! | `GET routes/test` | `?url=` | 200 `RouteTest` |
//! | `GET components` | `?stale=true` | 200 `Page<ComponentSummary>` |
//! | `GET components/{c}` | | 200 `ComponentView` |
//! | `POST components/scan` | | 200 `ScanView` |
//! | `GET sessions` | `?program=&server=&version=&sort=age\|seen` | 200 `Page<SessionView>`, newest first |
//! | `GET sessions/{p}/{id}` | | 200 `SessionView`, with its data's size |
//! | `POST session-keys/roll` | | 200 `SessionKeysView`; tags made with the key before count until the next roll |
//! | `DELETE sessions/{p}/{id}` | | 204; its cookie begins nothing any more |
//! | `POST components/{c}/upgrade` | `ComponentUpgradeRequest` | 202 `RippleView`, `Location` |
//! | `POST components/{c}/upgrade?dry_run=true` | `ComponentUpgradeRequest` | 200 `ComponentPlanView` |
//! | `POST binaries` | a neap binary; `?sha256=` | 201 `BinaryView`; 200 if it is here already; 422 if it is no neap |
//! | `GET binaries/{sha256}` | | 200, the binary, for nodes |
//! | `POST binaries/{sha256}/upgrade` | `BinaryUpgradeRequest` | 202 `RippleView` of the nodes, `Location` |
//! | `POST binaries/{sha256}/upgrade?dry_run=true` | `BinaryUpgradeRequest` | 200 `BinaryPlanView` |
//! | `GET events` | | 200 `Page<EventView>` |

mod binary;
mod component;
mod hook;
mod node;
mod plan;
mod program;
mod receipt;
mod ripple;
mod route;
mod session;

pub use binary::{BinaryPlanView, BinaryUpgradeRequest, BinaryView, PlannedNode};
pub use component::{
    ComponentSummary, ComponentUse, ComponentView, EvidenceView, ProgramComponent, ScanView, ScannedServer, StaleUse,
    UnreadPart,
};
pub use hook::{Carries, Hook, HookState, HookView};
pub use node::{DrainRequest, DrainView, DrainingProgram, EventView, LoadView, NodeState, NodeView, StatusView};
pub use plan::{PlanView, PlannedStep, SkippedStep};
pub use program::{
    ActiveRequest, ActiveRequests, LogLine, Logs, OldestRequest, PlacementState, PlacementView, ProgramSummary,
    ProgramView, ReleaseView,
};
pub use receipt::{Account, Exposure, Failure, KeptServing, Neighbour, OutOfService, Receipt, Sessions};
pub use ripple::{
    CommandView, ComponentPlanView, ComponentUpgradeRequest, FailedStart, PlannedProgram, PlannedSetStep,
    RestartRequest, RippleEvent, RippleKind, RippleOptions, RippleState, RippleView, StepState, StepTimes, StepView,
    UpgradeRequest, WaitingFor,
};
pub use route::{Candidate, RouteTest};
pub use session::{SessionDataView, SessionKeysView, SessionView};

pub use super::role::Role;

/// Every path of the API starts with this.
pub const ROOT: &str = "/api/v1";

/// Paths of the API, as patterns that a server registers.
pub mod path {
    pub const PROGRAMS: &str = "/api/v1/programs";
    pub const PROGRAM: &str = "/api/v1/programs/{program}";
    pub const PROGRAM_REQUESTS: &str = "/api/v1/programs/{program}/requests";
    pub const PROGRAM_LOGS: &str = "/api/v1/programs/{program}/logs";
    pub const PROGRAM_RESTART: &str = "/api/v1/programs/{program}/restart";
    pub const RELEASES: &str = "/api/v1/releases";
    pub const RELEASE: &str = "/api/v1/releases/{program}/{version}";
    pub const NODES: &str = "/api/v1/nodes";
    pub const NODE: &str = "/api/v1/nodes/{node}";
    pub const NODE_DRAIN: &str = "/api/v1/nodes/{node}/drain";
    pub const NODE_RESUME: &str = "/api/v1/nodes/{node}/resume";
    pub const RIPPLES: &str = "/api/v1/ripples";
    pub const RIPPLE: &str = "/api/v1/ripples/{id}";
    /// `action` is one of abort, pause, resume, undo.
    pub const RIPPLE_ACTION: &str = "/api/v1/ripples/{id}/{action}";
    /// Register it before `RIPPLE_ACTION`.
    pub const RIPPLE_RECEIPT: &str = "/api/v1/ripples/{id}/receipt";
    pub const STATUS: &str = "/api/v1/status";
    pub const COMPONENTS: &str = "/api/v1/components";
    pub const COMPONENT_SCAN: &str = "/api/v1/components/scan";
    /// A name that is a path has its slashes escaped.
    pub const COMPONENT: &str = "/api/v1/components/{component}";
    pub const COMPONENT_UPGRADE: &str = "/api/v1/components/{component}/upgrade";
    pub const BINARIES: &str = "/api/v1/binaries";
    pub const BINARY: &str = "/api/v1/binaries/{sha256}";
    pub const BINARY_UPGRADE: &str = "/api/v1/binaries/{sha256}/upgrade";
    pub const ROUTE_TEST: &str = "/api/v1/routes/test";
    pub const SESSIONS: &str = "/api/v1/sessions";
    pub const SESSION_KEYS_ROLL: &str = "/api/v1/session-keys/roll";
    pub const SESSION: &str = "/api/v1/sessions/{program}/{id}";
    pub const EVENTS: &str = "/api/v1/events";
}

/// A closed set of words: an enum that is written and read as them, in JSON and by people.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $type {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $type {
            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests;
