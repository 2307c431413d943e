//! Owns how long the parts of an operation take that has the program out of service, by this server's own clock.
//! Must not know what an operation is for.

use crate::domain::placement::Millis;
use crate::domain::server_list::Took;

/// The moments of one operation, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    closed: Option<Millis>,
    stopping: Option<Millis>,
    stopped: Option<Millis>,
    /// How long the process took to be there.
    launch_ms: Millis,
    opened: Option<Millis>,
}

impl Timing {
    /// A gate that was open has closed.
    pub fn closed(&mut self, now: Millis) {
        *self = Self { closed: Some(now), ..Self::default() };
    }

    pub fn stopping(&mut self, now: Millis) {
        self.stopping = Some(now);
    }

    /// A version that is taken back is stopped, and started, within the same time.
    pub fn stopped(&mut self, now: Millis) {
        self.stopped.get_or_insert(now);
    }

    pub fn launched(&mut self, took: Millis) {
        self.launch_ms = took;
    }

    pub fn opened(&mut self, now: Millis) {
        if self.stopped.is_some() {
            self.opened.get_or_insert(now);
        }
    }

    /// The parts, once it is open again.
    pub fn took(&self) -> Option<Took> {
        let (closed, stopping, stopped, opened) = (self.closed?, self.stopping?, self.stopped?, self.opened?);
        let starting = opened.saturating_sub(stopped);
        let start_ms = self.launch_ms.min(starting);
        Some(Took {
            drain_ms: stopping.saturating_sub(closed),
            stop_ms: stopped.saturating_sub(stopping),
            start_ms,
            probe_ms: starting - start_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_time_from_the_gates_closing_to_its_opening() {
        let mut timing = Timing::default();
        timing.closed(100);
        timing.stopping(130);
        timing.stopped(180);
        timing.launched(20);
        assert_eq!(timing.took(), None);
        timing.opened(300);
        let expected = Took { drain_ms: 30, stop_ms: 50, start_ms: 20, probe_ms: 100 };
        assert_eq!(timing.took(), Some(expected));
        // Opened again without having been stopped: no operation.
        timing.closed(400);
        timing.opened(500);
        assert_eq!(timing.took(), None);
    }
}
