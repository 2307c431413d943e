//! Owns what is done for instances again and again: measuring what they use, and keeping what they write within its
//! bounds. Must not know placements.

use std::time::{Duration, Instant};

use super::machine::Machine;
use crate::programs::instance::InstanceRecord;
use crate::programs::surroundings::Surroundings;
use crate::programs::{output, usage};

/// Between two looks at what instances use.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at what instances have written.
const HOUSE_EVERY: Duration = Duration::from_secs(10);

impl Machine {
    /// Measures it, again and again.
    pub async fn measure(self) {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            let records: Vec<_> =
                self.inner.held.borrow().values().map(|held| held.instance.record().clone()).collect();
            let looked = tokio::task::spawn_blocking(move || (Instant::now(), usage::look(&records))).await;
            match looked {
                Ok((at, used)) => self.inner.usage.borrow_mut().take(at, used),
                Err(error) => tracing::error!(%error, "measuring what instances use ended"),
            }
        }
    }

    /// Keeps what instances write within its bounds, again and again.
    pub async fn keep_house(self) {
        loop {
            tokio::time::sleep(HOUSE_EVERY).await;
            let around = self.inner.around.clone();
            let records: Vec<_> =
                self.inner.held.borrow().values().map(|held| held.instance.record().clone()).collect();
            let tidying = tokio::task::spawn_blocking(move || tidy_logs(&around, &records)).await;
            if let Err(error) = tidying {
                tracing::error!(%error, "rotating logs ended");
            }
        }
    }
}

fn tidy_logs(around: &Surroundings, living: &[InstanceRecord]) {
    for record in living {
        if let Err(error) = output::rotate(&around.log(&record.program, &record.name), &output::LIMITS) {
            tracing::warn!(instance = record.name, %error, "cannot rotate a log");
        }
        let same = living.iter().filter(|other| other.program == record.program);
        let names: Vec<String> = same.map(|other| other.name.clone()).collect();
        output::sweep(&around.logs(&record.program), &names, &output::LIMITS);
    }
}
