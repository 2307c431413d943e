//! Owns the one timer that each side of a connection has, set again for every wait. Must not know what it bounds.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer that is made when first armed; arming it later again only moves its deadline.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    /// A timer that is armed.
    pub fn set(after: Duration) -> Self {
        let mut timer = Self::default();
        timer.arm(after);
        timer
    }

    pub fn arm(&mut self, after: Duration) {
        let deadline = Instant::now() + after;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
        self.armed = true;
    }

    pub fn disarm(&mut self) {
        self.armed = false;
    }

    /// Ready once the time is up; pending for ever when disarmed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) if self.armed => sleep.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }
}
