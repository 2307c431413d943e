//! Owns the reasons for which a ripple waits, with their data: nobody waits for a reason that cannot be shown.
//! Must not know what ends a wait.

use std::fmt;

use crate::domain::capacity::Carries;
use crate::domain::duration;
use crate::domain::names::{OperationId, ProgramName, RippleId, ServerName};
use crate::domain::placement::{Millis, Phase};
use crate::domain::ripple::hooks::Hook;
use crate::domain::server_list::{OldestActive, SessionsLeft};

/// What a ripple waits for, and until when at the most (management's own clock).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wait {
    pub server: Option<ServerName>,
    pub reason: Reason,
    pub until: Option<Millis>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// A person paused it.
    Paused,
    /// An undo: the ripple that it undoes has to stop first.
    Stopping {
        ripple: RippleId,
    },
    /// The server has not answered to this leadership yet.
    Sealing,
    ServerDown,
    /// The server fetches, verifies, unpacks and prepares the release.
    Preparing,
    /// Too few others serve the program.
    MinServing {
        serving: usize,
        min_serving: usize,
    },
    /// Of the servers that stay, one would carry too much.
    Capacity {
        carries: Carries,
        max_utilization_milli: u32,
    },
    /// Another program is out of service on this server.
    Neighbour {
        program: ProgramName,
    },
    /// It has paused itself.
    PausedItself {
        why: String,
    },
    /// Something else is being done to this placement.
    OtherOperation {
        operation: Option<OperationId>,
    },
    /// The server has not answered the quiesce.
    Answer,
    /// It has not answered the overlap.
    AnswerToOverlap,
    /// It has not answered the order that follows the drain.
    AnswerToOrder,
    Draining {
        active: u64,
        orphans: u64,
        oldest: Option<OldestActive>,
    },
    /// Of an overlap: the new version serves, and the old one still has these.
    OldDraining {
        active: u64,
        orphans: u64,
        oldest: Option<OldestActive>,
    },
    /// Sessions to end that have to stay on the server.
    Sessions {
        left: SessionsLeft,
    },
    Upgrading {
        phase: Phase,
    },
    Soaking {
        under_traffic: Millis,
        wanted: Millis,
    },
    /// A person to promote the canaries.
    Promotion {
        canaries: usize,
    },
    Unhealthy,
    /// A command that goes with the ripple has to end.
    Hook {
        hook: Hook,
    },
    /// `after_ripple` runs when no server has an old instance any more.
    OldInstance,
    /// The gate has to open again before the ripple can end.
    Reopening,
    /// Somebody to resume the server, which a person has drained.
    Drained,
    /// Of a set: its programs' ledgers are read first.
    Parts,
    /// Of a set: the rest of its members to be drained.
    Members {
        drained: usize,
        of: usize,
    },
    /// Of a set: the server's word of how its command ended.
    Work,
    /// Another set is under way on this server.
    OtherSet,
    /// Of a set: what one of its programs waits for.
    Of {
        program: ProgramName,
        member: Box<Reason>,
    },
}

impl Reason {
    /// The reason's stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Capacity { .. } => "capacity",
            Self::Neighbour { .. } => "neighbour",
            Self::PausedItself { .. } => "paused_itself",
            Self::Paused => "paused",
            Self::Stopping { .. } => "stopping",
            Self::Sealing => "sealing",
            Self::ServerDown => "server_down",
            Self::Preparing => "preparing",
            Self::MinServing { .. } => "min_serving",
            Self::OtherOperation { .. } => "other_operation",
            Self::Answer | Self::AnswerToOverlap | Self::AnswerToOrder => "answer",
            Self::Draining { .. } => "draining",
            Self::OldDraining { .. } => "old_version",
            Self::Sessions { .. } => "sessions",
            Self::Upgrading { .. } => "upgrading",
            Self::Soaking { .. } => "soaking",
            Self::Promotion { .. } => "promotion",
            Self::Unhealthy => "unhealthy",
            Self::Hook { .. } => "hook",
            Self::OldInstance => "old_instance",
            Self::Reopening => "reopening",
            Self::Drained => "drained",
            Self::Parts => "ledgers",
            Self::Members { .. } => "members",
            Self::Work => "command",
            Self::OtherSet => "other_set",
            Self::Of { member, .. } => member.code(),
        }
    }

    /// The same reason, of one program of a set.
    pub fn of(self, program: &ProgramName) -> Self {
        Self::Of { program: program.clone(), member: Box::new(self) }
    }

    /// The reason itself, whoever's it is.
    pub fn itself(&self) -> &Self {
        match self {
            Self::Of { member, .. } => member.itself(),
            own => own,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("somebody to resume it: it was paused"),
            Self::Stopping { ripple } => write!(f, "ripple {ripple}, which it undoes, to stop"),
            Self::Sealing => f.write_str("the server's answer to this management's seal"),
            Self::ServerDown => f.write_str("the server, which is down"),
            Self::Preparing => f.write_str("the release to be fetched, verified, unpacked and prepared"),
            Self::MinServing { serving, min_serving } => {
                write!(f, "more servers to serve: {serving} do, {min_serving} have to stay")
            }
            Self::Capacity { carries, max_utilization_milli } => write!(
                f,
                "room: {} would use {} of its {} cores (now {}), and max_utilization {} allows {}",
                carries.server,
                cores(carries.would_milli),
                carries.cores,
                cores(carries.now_milli),
                cores(*max_utilization_milli),
                cores(carries.most_milli(*max_utilization_milli))
            ),
            Self::Neighbour { program } => write!(f, "{program}, which is out of service there, to be back"),
            Self::PausedItself { why } => write!(f, "somebody to resume it: it paused itself, having waited for {why}"),
            Self::OtherOperation { operation: Some(operation) } => write!(f, "operation {operation} to end"),
            Self::OtherOperation { operation: None } => f.write_str("the placement to be open or absent"),
            Self::Answer => f.write_str("the server's answer to the quiesce"),
            Self::AnswerToOverlap => f.write_str("the server's answer to the overlap"),
            Self::AnswerToOrder => f.write_str("the server's answer to the order to stop it"),
            Self::Draining { active, orphans, oldest } => draining(f, *active, *orphans, oldest.as_ref()),
            Self::OldDraining { active, orphans, oldest } => {
                draining(f, *active, *orphans, oldest.as_ref())?;
                f.write_str(" at the old version; the new one serves")
            }
            Self::Sessions { left } => sessions(f, left),
            Self::Upgrading { phase } => f.write_str(match phase {
                Phase::Quiescing | Phase::Stopping | Phase::StoppingOld => "the old version to stop",
                Phase::Beside => "the new version to start beside the old one and become healthy",
                Phase::Switched => "the old version's last requests to end",
                Phase::Working => "the command to end",
                Phase::Starting => "the new version to start and become healthy",
                Phase::StoppingNew => "the failed version to stop",
                Phase::TakingBack => "the old version to start again",
            }),
            Self::Soaking { under_traffic, wanted } => {
                let shown = |millis| duration::show(std::time::Duration::from_millis(millis));
                write!(f, "the soak to end: {} of {} under traffic", shown(*under_traffic), shown(*wanted))
            }
            Self::Promotion { canaries: 1 } => f.write_str("somebody to promote it: the canary is through its soak"),
            Self::Promotion { canaries } => {
                write!(f, "somebody to promote it: {canaries} canaries are through their soaks")
            }
            Self::Unhealthy => f.write_str("the new version to become healthy"),
            Self::Hook { hook } => write!(f, "{} to end", hook.as_str()),
            Self::OldInstance => f.write_str("its old version to be gone there, which after_ripple comes after"),
            Self::Reopening => f.write_str("the gate to open again"),
            Self::Drained => f.write_str("somebody to resume the server, which is drained"),
            Self::Parts => f.write_str("the ledgers of its programs to be read, for their receipts"),
            Self::Members { drained, of } => {
                write!(f, "all of its programs to be drained at once: {drained} of {of} are")
            }
            Self::Work => f.write_str("the server's word of how the command ended"),
            Self::OtherSet => f.write_str("another ripple of a component, which is under way on this server"),
            Self::Of { program, member } => write!(f, "{program}: {member}"),
        }
    }
}

/// Thousandths as people read them.
fn cores(milli: u32) -> String {
    let text = format!("{:.2}", f64::from(milli) / 1_000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn draining(f: &mut fmt::Formatter<'_>, active: u64, orphans: u64, oldest: Option<&OldestActive>) -> fmt::Result {
    write!(f, "{active} active request{}", if active == 1 { "" } else { "s" })?;
    if let Some(oldest) = oldest {
        let age = duration::show(std::time::Duration::from_millis(oldest.age_ms));
        write!(f, ", oldest {age}, {} {}", oldest.method, oldest.path)?;
    }
    if orphans > 0 {
        write!(f, ", and {orphans} of the server's earlier run that its program may still be serving")?;
    }
    Ok(())
}

fn sessions(f: &mut fmt::Formatter<'_>, left: &SessionsLeft) -> fmt::Result {
    let shown = |millis| duration::show(std::time::Duration::from_millis(millis));
    let seconds = |millis: u64| shown(millis / 1_000 * 1_000);
    let figures = &left.figures;
    let plural = if figures.left == 1 { "" } else { "s" };
    write!(f, "{} session{plural} to end, {} active", figures.left, figures.active)?;
    if let Some(oldest) = &figures.oldest {
        let (age, quiet) = (seconds(oldest.age_ms), seconds(oldest.quiet_ms));
        write!(f, "; the oldest is {} of {age}, last request {quiet} ago", oldest.id)?;
    }
    if let Some(forecast) = figures.forecast_ms.filter(|forecast| *forecast < left.deadline_in_ms) {
        write!(f, "; about {} to go", seconds(forecast))?;
    }
    write!(f, "; those left go on elsewhere in {}", seconds(left.deadline_in_ms))
}
