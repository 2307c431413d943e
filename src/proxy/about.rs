//! Owns what a request is told by where it must be named: its id, method and path, in one buffer that the worker uses
//! again. Must not know who names it, or why.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use super::head::RequestHead;

/// Free buffers that a worker keeps.
const FREE_BUFFERS: usize = 256;
/// Bytes of a path and of a method that are kept to be shown.
const PATH_BYTES: usize = 200;
const METHOD_BYTES: usize = 32;

thread_local! {
    /// Never dropped, as the worker's other buffers.
    static FREE: ManuallyDrop<RefCell<Vec<Vec<u8>>>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// One request's names, kept beyond its head. Long ones are cut.
#[derive(Debug)]
pub struct About {
    bytes: Vec<u8>,
    id: usize,
    method: usize,
}

impl About {
    pub fn new(id: &[u8], head: &RequestHead<'_>) -> Self {
        let mut bytes = FREE.with(|free| free.borrow_mut().pop()).unwrap_or_default();
        let (method, path) = (cut(head.method.as_bytes(), METHOD_BYTES), cut(head.path.as_bytes(), PATH_BYTES));
        bytes.reserve(id.len() + method.len() + path.len());
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(method);
        bytes.extend_from_slice(path);
        Self { bytes, id: id.len(), method: method.len() }
    }

    pub fn id(&self) -> &[u8] {
        &self.bytes[..self.id]
    }

    pub fn method(&self) -> &[u8] {
        &self.bytes[self.id..self.id + self.method]
    }

    pub fn path(&self) -> &[u8] {
        &self.bytes[self.id + self.method..]
    }
}

impl Drop for About {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        FREE.with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < FREE_BUFFERS {
                free.push(bytes);
            }
        });
    }
}

/// At most so many bytes of a text, and no part of a character.
pub fn cut(text: &[u8], most: usize) -> &[u8] {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while end > 0 && text[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Limits, head};

    #[test]
    fn a_request_is_told_by_id_method_and_path_and_long_ones_are_cut() {
        let long = "x".repeat(300);
        let bytes = format!("GET /cart/{long}?q=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        let about = head::parse(bytes.as_bytes(), &Limits::default(), |head, _| About::new(b"r1", head));
        let about = about.unwrap().unwrap();
        assert_eq!((about.id(), about.method()), (&b"r1"[..], &b"GET"[..]));
        assert_eq!(about.path(), &format!("/cart/{long}").as_bytes()[..PATH_BYTES]);
    }

    #[test]
    fn no_character_is_cut_in_two() {
        assert_eq!(cut("aé".as_bytes(), 2), b"a");
        assert_eq!(cut("aé".as_bytes(), 3), "aé".as_bytes());
        assert_eq!(cut(b"", 0), b"");
    }
}
