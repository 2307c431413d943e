//! Owns the way to end a request that is in flight, from any thread. Must not know who cuts, or why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// One request's end before its time. The role keeps one clone where it lists its active requests, and polls
/// another in [`super::Attempts::poll_cut`].
#[derive(Debug, Default)]
pub struct Cut {
    done: AtomicBool,
    waker: AtomicWaker,
}

impl Cut {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the request: its connections are closed, and its outcome is [`super::Outcome::Cut`].
    pub fn cut(&self) {
        self.done.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub fn is_cut(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_cut() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.is_cut() { Poll::Ready(()) } else { Poll::Pending }
    }
}
