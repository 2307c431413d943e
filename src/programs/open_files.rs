//! Owns this process's bound on open files: as many as the system allows for the node, and what there was before for
//! what it starts, since programs may look at every number below the bound. Must not know what the files are.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the bound was when this process started.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Takes as many as the system allows; and how many that is, `None` being without a bound.
pub fn take_all() -> Option<u64> {
    let given = GIVEN.get_or_init(|| getrlimit(Resource::Nofile));
    let all = Rlimit { current: given.maximum, maximum: given.maximum };
    if setrlimit(Resource::Nofile, all).is_ok() { given.maximum } else { given.current }
}

/// The bound for what this process starts, where it took more itself.
pub(super) fn given() -> Option<u64> {
    GIVEN.get().and_then(|given| given.current)
}

/// Lowers the bound of this process to what is given to programs.
pub(super) fn lower_to(current: u64) {
    let now = getrlimit(Resource::Nofile);
    // Lowering it is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: now.maximum });
}
