//! Owns the worker's buffers: leased while bytes are on the way, given back as soon as they are not, so that an idle
//! connection holds none. Must not know what is in them.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// One read buffer.
pub(super) const BUFFER_BYTES: usize = 32 * 1024;
/// Free buffers of each kind that a worker keeps.
const FREE_BUFFERS: usize = 128;
/// A write buffer that grew beyond this is not kept.
const KEPT_BYTES: usize = 64 * 1024;

/// Free buffers. Never dropped: workers end with the process, and what is to be dropped is looked after at each use.
type Free<T> = ManuallyDrop<RefCell<Vec<T>>>;

thread_local! {
    static FREE_INPUTS: Free<Box<[u8]>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
    static FREE_OUTPUTS: Free<Vec<u8>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
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
            FREE_INPUTS.with(|free| keep(free, storage));
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
fn keep<T>(free: &RefCell<Vec<T>>, buffer: T) {
    let mut free = free.borrow_mut();
    if free.len() < FREE_BUFFERS {
        free.push(buffer);
    }
}

#[inline]
fn lease_input() -> Box<[u8]> {
    FREE_INPUTS.with(|free| free.borrow_mut().pop()).unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

/// Bytes to be written; a `Vec<u8>` whose memory is given back by drop.
pub(super) struct Output(Vec<u8>);

impl Output {
    #[inline]
    pub fn lease() -> Self {
        Self(FREE_OUTPUTS.with(|free| free.borrow_mut().pop()).unwrap_or_default())
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
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        if (1..=KEPT_BYTES).contains(&bytes.capacity()) {
            FREE_OUTPUTS.with(|free| keep(free, bytes));
        }
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
