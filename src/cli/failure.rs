//! Owns how a command fails: what it tells a person, and its exit code.
//! Must not know what any command does.

use std::fmt::Write as _;

use crate::wire::problem::Problem;

/// What was asked for is so.
pub const EXIT_OK: u8 = 0;
/// It failed, or was rolled back.
pub const EXIT_FAILED: u8 = 1;
/// Usage or configuration error.
pub const EXIT_USAGE: u8 = 2;
/// `--plan --exit-code`: there are changes to make.
pub const EXIT_CHANGES: u8 = 3;
/// The client's wait ran out; the ripple goes on.
pub const EXIT_TIMED_OUT: u8 = 4;
/// Management cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 6;
/// Detached by Ctrl-C.
pub const EXIT_DETACHED: u8 = 130;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// What was given cannot be meant; says the cure.
    Usage(String),
    /// Named by the interface, but not built yet.
    NotBuilt(String),
    /// Management, or something below, said no.
    Refused(Box<Problem>),
    /// Management cannot be reached; says what to check.
    Unreachable(String),
    /// The client's wait ran out.
    TimedOut(String),
    /// It failed, or was rolled back.
    Failed(String),
    /// Ctrl-C; says how to come back.
    Detached(String),
    /// All is said already; only the exit code is left.
    Told(u8),
    /// Whoever read our output has left.
    PipeClosed,
}

impl Failure {
    /// The process's exit code (interface, "exit code").
    pub fn exit(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::NotBuilt(_) => EXIT_USAGE,
            Self::Refused(problem) => problem.code.exit(),
            Self::Unreachable(_) => EXIT_UNREACHABLE,
            Self::TimedOut(_) => EXIT_TIMED_OUT,
            Self::Failed(_) => EXIT_FAILED,
            Self::Detached(_) => EXIT_DETACHED,
            Self::Told(code) => *code,
            Self::PipeClosed => EXIT_OK,
        }
    }

    /// What to tell a person, if anything.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Usage(said) | Self::Unreachable(said) | Self::TimedOut(said) | Self::Failed(said) => {
                Some(format!("error: {said}"))
            }
            Self::NotBuilt(what) => Some(format!("error: {what} is not built yet")),
            // "Nothing to do" comes as a problem, and is none.
            Self::Refused(problem) if problem.code.exit() == EXIT_OK => Some(render(problem)),
            Self::Refused(problem) => Some(format!("error: {}", render(problem))),
            Self::Detached(said) => Some(said.clone()).filter(|said| !said.is_empty()),
            Self::Told(_) | Self::PipeClosed => None,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

/// A problem as a person reads it: what, where as line:column, and the cure.
pub fn render(problem: &Problem) -> String {
    let detail = if problem.detail.is_empty() { &*problem.title } else { &*problem.detail };
    let mut text = super::out::clean_block(detail);
    for fault in &problem.errors {
        let pointer = if fault.pointer.is_empty() { "/" } else { &fault.pointer };
        let place = match (fault.line, fault.column) {
            (Some(line), Some(column)) => format!("{line}:{column} {pointer}"),
            (Some(line), None) => format!("line {line} {pointer}"),
            (None, _) => pointer.to_owned(),
        };
        let _ = write!(text, "\n  at {place}: {}", super::out::clean_block(&fault.message));
    }
    if let Some(hint) = &problem.hint {
        let _ = write!(text, "\n  {}", super::out::clean_block(hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::problem::Code;

    #[test]
    fn a_problem_is_told_with_its_place_and_its_cure() {
        let problem = Problem::new(Code::InvalidManifest, "program.toml is not valid")
            .at("/upgrade/soak", 12, 8, "\"5\" is not a duration")
            .at("/routes", 0, 0, "missing")
            .hint("write \"5s\"");
        let failure = Failure::from(problem);
        assert_eq!(failure.exit(), EXIT_USAGE);
        assert_eq!(
            failure.message().unwrap(),
            "error: program.toml is not valid\n  at 12:8 /upgrade/soak: \"5\" is not a duration\n  at /routes: missing\n  \
             write \"5s\""
        );
    }

    #[test]
    fn exit_codes_are_those_of_the_interface() {
        let refused = |code| Failure::from(Problem::new(code, "")).exit();
        assert_eq!([Code::Busy, Code::MinServing, Code::PreconditionFailed].map(refused), [5, 5, 5]);
        assert_eq!([Code::Unauthorized, Code::NotLeader].map(refused), [6, 6]);
        assert_eq!([Code::UnknownProgram, Code::NotBuiltYet].map(refused), [2, 2]);
        assert_eq!(Failure::Detached(String::new()).exit(), 130);
        assert_eq!(Failure::PipeClosed.message(), None);
    }
}
