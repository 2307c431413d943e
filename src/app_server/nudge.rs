//! Owns the word to all workers that something they keep for themselves is to be looked at: a gate's pointer moved, or
//! requests are to be cut. Rare, so that no request has to ask. Must not know what they do about it.

use tokio::sync::watch;

/// Whoever changes something gives it; every worker takes one.
#[derive(Clone, Debug, Default)]
pub struct Nudge(watch::Sender<()>);

impl Nudge {
    pub fn give(&self) {
        self.0.send_replace(());
    }

    pub fn take(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}
