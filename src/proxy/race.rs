//! Owns which of a request's sides ends first: its way there, its answer's way back, its cut, or the wait for it. Must not
//! know what any of them does.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::exchange::Live;
use super::handler::Attempts;
use super::seats::Timer;
use super::upload::{End, Progress};

/// Which of a request's sides came to an end.
pub(super) enum Raced<T> {
    Done(T),
    Upload(End),
    Cut,
    Late,
}

/// The wait for an answer's head. It runs while the next move is the upstream's.
pub(super) struct Patience<'p, 's> {
    pub timer: &'p mut Timer<'s>,
    pub timeout: Duration,
    /// The move that it was last set at.
    pub seen: Option<u32>,
}

impl Patience<'_, '_> {
    fn poll(&mut self, progress: &Progress) -> Poll<()> {
        let moves = Some(progress.moves.get());
        if progress.waits_for_client.get() {
            self.timer.disarm();
            self.seen = None;
        } else if self.seen != moves {
            self.timer.arm(self.timeout);
            self.seen = moves;
        }
        self.timer.poll()
    }
}

/// Runs the response's side, the request's side, the cut and the wait together.
pub(super) async fn race<T, R: Attempts>(
    mut main: Pin<&mut impl Future<Output = T>>,
    mut upload: Pin<&mut impl Future<Output = End>>,
    progress: &Progress,
    live: &mut Live<R>,
    mut patience: Option<&mut Patience<'_, '_>>,
) -> Raced<T> {
    poll_fn(|cx| {
        // The request's side first, since the response's goes by what it did; but once it only watches for the client's
        // leaving it comes last, and not at all when the response is there.
        let watches = progress.only_watches();
        if !watches && let Poll::Ready(end) = upload.as_mut().poll(cx) {
            return Poll::Ready(Raced::Upload(end));
        }
        if let Poll::Ready(done) = main.as_mut().poll(cx) {
            return Poll::Ready(Raced::Done(done));
        }
        if watches && let Poll::Ready(end) = upload.as_mut().poll(cx) {
            return Poll::Ready(Raced::Upload(end));
        }
        if let Some(patience) = &mut patience
            && patience.poll(progress).is_ready()
        {
            return Poll::Ready(Raced::Late);
        }
        live.role().poll_cut(cx).map(|()| Raced::Cut)
    })
    .await
}
