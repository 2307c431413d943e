//! Owns the processes that are made before they may become their program, on record and waiting for the word (protocol
//! P9a). Must not know how one is made, nor what it is for.

use std::cell::RefCell;
use std::collections::HashMap;

use tokio::task::JoinHandle;

use super::hands::Keeper;
use crate::domain::names::{ProgramName, Release};
use crate::programs::launch::Waiting;

/// At most one of each program.
#[derive(Default)]
pub struct MadeAhead(RefCell<HashMap<ProgramName, Ahead>>);

/// A process that is made, or being made.
struct Ahead {
    release: Release,
    making: JoinHandle<Result<Waiting, String>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // What waits ends with its task.
        self.making.abort();
    }
}

impl MadeAhead {
    /// Has one made, in the place of an earlier one.
    pub fn begin(
        &self,
        program: &ProgramName,
        release: Release,
        making: impl Future<Output = Result<Waiting, String>> + 'static,
    ) {
        let ahead = Ahead { release, making: tokio::task::spawn_local(making) };
        self.0.borrow_mut().insert(program.clone(), ahead);
    }

    /// The one that was made for this release; one of another release goes.
    pub async fn take(&self, program: &ProgramName, release: &Release) -> Option<Waiting> {
        let mut ahead = self.0.borrow_mut().remove(program).filter(|ahead| ahead.release == *release)?;
        match (&mut ahead.making).await {
            Ok(Ok(waiting)) => Some(waiting),
            Ok(Err(why)) => {
                tracing::debug!(%program, why, "no process could be made before the old one had ended");
                None
            }
            Err(_) => None,
        }
    }

    /// It goes, and its record with it.
    pub fn let_go(&self, program: &ProgramName, keeper: &Keeper) {
        let Some(mut ahead) = self.0.borrow_mut().remove(program) else { return };
        let keeper = keeper.clone();
        tokio::task::spawn_local(async move {
            // Made it is first, so that it is known which record is its own.
            let Ok(Ok(waiting)) = (&mut ahead.making).await else { return };
            let name = waiting.record().name.clone();
            drop(waiting);
            if let Err(error) = keeper.forget(&name) {
                tracing::warn!(instance = name, %error, "the record of a process that was not needed is still there");
            }
        });
    }
}
