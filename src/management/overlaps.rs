//! Owns which programs cannot be asked to overlap. Must not know how an overlap is done.

use super::control::Control;
use crate::domain::names::{ProgramName, Release};
use crate::domain::program::{Kind, SessionPolicy, Strategy};
use crate::wire::problem::{Code, Problem};

/// What something else runs has no second instance beside the first; and the sessions of a sticky program live in the
/// one that would be left.
pub(super) fn may_overlap(
    control: &Control,
    program: &ProgramName,
    to: Option<&Release>,
    strategy: Strategy,
) -> Result<(), Problem> {
    let record = to.and_then(|to| control.release(program, to));
    let Some(record) = record.filter(|_| strategy == Strategy::Overlap) else { return Ok(()) };
    if matches!(record.manifest.kind, Kind::External(_)) {
        let message = format!("{program} is run by something else: nothing starts beside it");
        return Err(Problem::new(Code::BadRequest, message).hint(
            "leave out `--strategy overlap`; with one server, `--hold 10s` lets routers keep requests meanwhile",
        ));
    }
    if record.manifest.session.as_ref().is_some_and(|session| session.policy == SessionPolicy::Sticky) {
        let message = format!("{program} is sticky: an overlap gives its sessions no time to end");
        return Err(Problem::new(Code::BadRequest, message).hint("leave out `--strategy overlap`"));
    }
    Ok(())
}
