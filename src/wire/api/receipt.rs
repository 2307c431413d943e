//! Owns how a ripple's receipt appears in the API: every admitted request, and how it ended.
//! Must not know how the ledgers are gathered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::domain::ledger::Sessions;
use crate::domain::names::{NodeName, ProgramName, RippleId, ServerName, Version};

/// The account of a ripple, the difference of two cuts of the ledger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    pub ripple: RippleId,
    pub program: ProgramName,
    pub from: Option<Version>,
    pub to: Option<Version>,
    pub started_at: Timestamp,
    /// None: the ripple goes on, and this is how it stands.
    pub ended_at: Option<Timestamp>,
    /// Whether every account balances and nothing is unaccounted.
    pub balanced: bool,
    /// By server, then by version.
    pub accounts: Vec<Account>,
    /// Answered by a closed gate, before a byte reached the program.
    pub refused: u64,
    /// Sent to another server after a refusal or a failed connection.
    pub redispatched: u64,
    /// Kept by a router while no server could take them.
    pub held: u64,
    /// The longest of these holds, to an eighth or so; none where nothing was held.
    #[serde(default)]
    pub held_longest_ms: Option<u64>,
    /// What became of the program's sessions.
    #[serde(default)]
    pub sessions: Sessions,
    /// On a server that died, with no router left to say how they ended.
    pub unaccounted: u64,
    /// How many met the new version; of an undo: the one that goes, since it came. None where no version changes.
    #[serde(default)]
    pub exposure: Option<Exposure>,
    /// At most 100 of those cut or failed, by name.
    pub failures: Vec<Failure>,
    /// The other programs of the servers touched.
    pub neighbours: Vec<Neighbour>,
    /// How long each server was out of service for the program.
    pub out_of_service: Vec<OutOfService>,
    pub kept_serving: Option<KeptServing>,
    /// Routers that had not heard of a change when a gate closed; they lose nothing, it costs them a refusal.
    pub stale_routers: Vec<NodeName>,
}

/// What became of a version's requests on a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Account {
    pub server: ServerName,
    pub version: Version,
    pub admitted: u64,
    pub active_at_start: u64,
    /// Got a whole answer, of any status.
    pub completed: u64,
    /// Of those, with a status of 500 or above.
    pub completed_5xx: u64,
    pub client_left: u64,
    pub cut: u64,
    pub failed: u64,
    pub active_at_end: u64,
}

impl Account {
    /// Admitted + active at the start = completed + client left + cut + failed + active at the end.
    pub fn balances(&self) -> bool {
        let begun = [self.admitted, self.active_at_start];
        let ended = [self.completed, self.client_left, self.cut, self.failed, self.active_at_end];
        begun.iter().map(|&n| u128::from(n)).sum::<u128>() == ended.iter().map(|&n| u128::from(n)).sum::<u128>()
    }
}

/// The part of a program's requests that met a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exposure {
    pub version: Version,
    /// Admitted to it.
    pub met: u64,
    /// Admitted to any version, on all servers.
    pub of: u64,
    /// Of a million.
    pub share_ppm: u32,
}

impl Exposure {
    pub fn new(version: Version, met: u64, of: u64) -> Self {
        let share = u128::from(met) * 1_000_000 / u128::from(of.max(1));
        Self { version, met, of, share_ppm: u32::try_from(share).unwrap_or(u32::MAX) }
    }
}

/// A request that was cut or failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub request_id: String,
    pub server: ServerName,
    pub at: Timestamp,
    pub reason: String,
}

/// What became of another program's requests on a server meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Neighbour {
    pub program: ProgramName,
    pub server: ServerName,
    pub completed: u64,
    pub completed_5xx: u64,
    pub refused: u64,
    pub cut: u64,
    pub failed: u64,
    /// Of a million answers, those that were errors: before the ripple, as long as its server has counted, and during it.
    #[serde(default)]
    pub errors_before_ppm: Option<u32>,
    #[serde(default)]
    pub errors_ppm: Option<u32>,
    /// What 99 of 100 answers took at most to begin, in microseconds, to an eighth or so.
    #[serde(default)]
    pub p99_before_us: Option<u64>,
    #[serde(default)]
    pub p99_us: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutOfService {
    pub server: ServerName,
    pub drain_ms: u64,
    pub stop_ms: u64,
    /// The command by which a component was replaced meanwhile.
    #[serde(default)]
    pub command_ms: u64,
    /// Until the process was there.
    pub start_ms: u64,
    /// From then until its probes were answered.
    #[serde(default)]
    pub probe_ms: u64,
}

impl OutOfService {
    pub fn total_ms(&self) -> u64 {
        let parts = [self.drain_ms, self.stop_ms, self.command_ms, self.start_ms, self.probe_ms];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// The capacity that was kept all through.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptServing {
    pub min_serving: u32,
    /// The fewest placements that were open and healthy at once.
    pub lowest: u32,
    pub servers: u32,
}
