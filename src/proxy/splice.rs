//! Owns large bodies of known length on their way between two plain sockets: the kernel moves their pages through a pipe, and
//! they are never copied here. Must not know HTTP.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::inbound::Outbound;

/// What is left of a body must be this much to be worth a pipe.
pub(super) const LEAST_BYTES: u64 = 512 * 1024;
/// What a pipe takes at once, which is all that a slow client can make it hold.
const PIPE_BYTES: usize = 256 * 1024;
/// Pipes of one worker: each is two descriptors. Bodies beyond are copied.
const PIPES_MAX: usize = 64;

thread_local! {
    static PIPES: Cell<usize> = const { Cell::new(0) };
}

/// A pipe, counted.
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.set(PIPES.get() - 1);
    }
}

/// How the passing of so many bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    All,
    /// The sender broke off.
    Short,
    /// The receiver takes no more.
    Refused,
}

impl Pipe {
    /// `None` where there are enough, or the machine has none: the body is to be copied.
    pub fn new() -> Option<Self> {
        if PIPES.get() >= PIPES_MAX {
            return None;
        }
        let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        // A smaller one does the same in more calls.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        PIPES.set(PIPES.get() + 1);
        Some(Self { out, into })
    }

    /// Passes so many bytes from one to the other, `on` hears of each piece as it comes in. Every piece is written before the
    /// next is read.
    pub async fn pass(
        &self,
        sender: &TcpStream,
        outbound: &mut Outbound<'_>,
        mut left: u64,
        mut on: impl FnMut(u64),
    ) -> Passed {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIPE_BYTES);
            let taken = match self.take(sender, most).await {
                Ok(taken @ 1..) => taken,
                _ => return Passed::Short,
            };
            left -= taken as u64;
            on(taken as u64);
            if outbound.write_from(&self.out, taken).await.is_err() {
                return Passed::Refused;
            }
        }
        Passed::All
    }

    /// Takes at most so many bytes of what has come, once something has; 0 is the end.
    async fn take(&self, sender: &TcpStream, most: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            loop {
                match sender.try_io(Interest::READABLE, || moved(sender, &self.into, most)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    taken => return Poll::Ready(taken),
                }
                match sender.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}

/// Moves at most so many bytes, without waiting.
pub(super) fn moved(from: &impl std::os::fd::AsFd, to: &impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    loop {
        match splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Err(rustix::io::Errno::INTR) => {}
            moved => return Ok(moved?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_bounded_and_come_back() {
        let pipes: Vec<_> = std::iter::from_fn(Pipe::new).collect();
        assert_eq!(pipes.len(), PIPES_MAX);
        drop(pipes);
        assert!(Pipe::new().is_some());
    }
}
