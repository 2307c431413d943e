//! Owns the worker's buffers: leased while bytes are on the way, given back as soon as they are not, so that an idle
//! connection holds none. Must not know what is in them.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// One read buffer.
pub(super) const BUFFER_BYTES: usize = 32 * 1024;
/// Free read buffers that a worker keeps at most: each is leased for as long as one piece is looked at.
const FREE_INPUTS_MOST: usize = 128;
/// Free write buffers that a worker keeps at most: a request has one from its head to its end.
const FREE_OUTPUTS_MOST: usize = 1024;
/// A write buffer that grew beyond this is not kept.
const KEPT_BYTES: usize = 16 * 1024;
/// What a new write buffer has: a browser's head, or a small answer, fits in.
const FIRST_BYTES: usize = 2 * 1024;

/// Free buffers; the last one given back is the first leased, since it is still near the processor.
struct Free<T> {
    free: Vec<T>,
    /// So many of them were not needed since the last sweep.
    spare: usize,
}

impl<T> Free<T> {
    const fn new() -> Self {
        Self { free: Vec::new(), spare: 0 }
    }

    #[inline]
    fn lease(&mut self) -> Option<T> {
        let leased = self.free.pop();
        self.spare = self.spare.min(self.free.len());
        leased
    }

    #[inline]
    fn keep(&mut self, buffer: T, most: usize) {
        if self.free.len() < most {
            self.free.push(buffer);
        }
    }

    /// Gives back the memory of those that were not needed since the last sweep.
    fn sweep(&mut self) {
        self.free.drain(..self.spare);
        self.spare = self.free.len();
        if self.spare == 0 {
            self.free = Vec::new();
        }
    }
}

/// Never dropped: workers end with the process, and what is to be dropped is looked after at each use.
type Shelf<T> = ManuallyDrop<RefCell<Free<T>>>;

thread_local! {
    static FREE_INPUTS: Shelf<Box<[u8]>> = const { ManuallyDrop::new(RefCell::new(Free::new())) };
    static FREE_OUTPUTS: Shelf<Vec<u8>> = const { ManuallyDrop::new(RefCell::new(Free::new())) };
}

/// Gives back the memory of this worker's buffers that were not needed since the last time.
pub(super) fn sweep() {
    FREE_INPUTS.with(|free| free.borrow_mut().sweep());
    FREE_OUTPUTS.with(|free| free.borrow_mut().sweep());
}

/// Bytes read and not yet used. Holds no memory until it is read into, and after [`Input::release`].
#[derive(Default)]
pub(super) struct Input {
    storage: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Input {
    #[inline]
    pub fn filled(&self) -> &[u8] {
        self.storage.as_ref().map_or(&[], |storage| &storage[self.start..self.end])
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub fn is_full(&self) -> bool {
        self.len() == BUFFER_BYTES
    }

    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The room after what is filled, moved together first when there is none.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        let storage = self.storage.get_or_insert_with(lease_input);
        if self.end == storage.len() && self.start > 0 {
            storage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut storage[self.end..]
    }

    /// Counts `bytes` of the room as filled.
    #[inline]
    pub fn fill(&mut self, bytes: usize) {
        self.end += bytes;
        debug_assert!(self.end <= BUFFER_BYTES);
    }

    /// Gives the memory back when nothing is in it.
    #[inline]
    pub fn release(&mut self) {
        if self.is_empty()
            && let Some(storage) = self.storage.take()
        {
            (self.start, self.end) = (0, 0);
            FREE_INPUTS.with(|free| free.borrow_mut().keep(storage, FREE_INPUTS_MOST));
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        (self.start, self.end) = (0, 0);
        self.release();
    }
}

#[inline]
fn lease_input() -> Box<[u8]> {
    FREE_INPUTS.with(|free| free.borrow_mut().lease()).unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

/// Bytes to be written; a `Vec<u8>` whose memory is given back by drop.
pub(super) struct Output(Vec<u8>);

impl Output {
    #[inline]
    pub fn lease() -> Self {
        let leased = FREE_OUTPUTS.with(|free| free.borrow_mut().lease());
        Self(leased.unwrap_or_else(|| Vec::with_capacity(FIRST_BYTES)))
    }

    /// One that has no memory until it is made [`ready`](Self::ready): for who will write, and waits before.
    pub const fn unleased() -> Self {
        Self(Vec::new())
    }

    #[inline]
    pub fn ready(&mut self) -> &mut Vec<u8> {
        if self.0.capacity() == 0 {
            *self = Self::lease();
        }
        &mut self.0
    }

    /// Gives the memory back, and what is in it up: it was written, and more is only to come.
    #[inline]
    pub fn release(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        if (1..=KEPT_BYTES).contains(&bytes.capacity()) {
            FREE_OUTPUTS.with(|free| free.borrow_mut().keep(bytes, FREE_OUTPUTS_MOST));
        }
    }
}

impl Deref for Output {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Output {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_moves_together_when_its_room_is_used_up() {
        let mut input = Input::default();
        let room = input.room().len();
        input.fill(room);
        input.consume(room - 3);
        assert_eq!((input.len(), input.room().len()), (3, room - 3));
    }

    #[test]
    fn a_sweep_gives_back_what_was_not_needed_since_the_last() {
        let mut free = Free::new();
        (0..5).for_each(|number| free.keep(number, 4));
        assert_eq!(free.free, [0, 1, 2, 3], "no more than the bound");
        free.sweep();
        assert_eq!(free.free.len(), 4, "all were needed a moment ago");
        let leased = [free.lease(), free.lease()];
        leased.into_iter().flatten().for_each(|number| free.keep(number, 4));
        free.sweep();
        assert_eq!(free.free.len(), 2, "two at a time were needed");
        free.sweep();
        assert_eq!(free.free.capacity(), 0, "and then none");
    }

    #[test]
    fn an_output_has_no_memory_before_it_is_ready() {
        let mut out = Output::unleased();
        assert_eq!(out.capacity(), 0);
        out.ready().extend_from_slice(b"x");
        out.ready().extend_from_slice(b"y");
        assert_eq!(**out, *b"xy");
        assert!(out.capacity() >= FIRST_BYTES);
        out.release();
        assert_eq!((out.len(), out.capacity()), (0, 0));
    }

    #[test]
    fn an_empty_input_holds_no_memory_once_released() {
        let mut input = Input::default();
        input.room()[0] = 7;
        input.fill(1);
        input.release();
        assert_eq!(input.filled(), [7], "not empty, not released");
        input.consume(1);
        input.release();
        assert!(input.storage.is_none());
    }
}
