//! Owns how header fields are written, so that no value can end its line. Must not know which fields there are.

use std::fmt::Display;
use std::io::Write;

/// Appends header fields to a head.
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Adds a field. Bytes that could end the line (CR, LF, NUL) become spaces.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        let start = self.out.len();
        self.out.extend_from_slice(value.as_ref());
        self.end_line(start);
    }

    /// Adds a field whose value is shown.
    pub fn add_display(&mut self, name: &str, value: impl Display) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        let start = self.out.len();
        // Writing to a Vec does not fail.
        let _ = write!(self.out, "{value}");
        self.end_line(start);
    }

    /// Adds a field that was parsed, and so cannot end its line.
    pub(super) fn copy(&mut self, field: &httparse::Header<'_>) {
        self.out.reserve(field.name.len() + field.value.len() + 4);
        self.out.extend_from_slice(field.name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(field.value);
        self.out.extend_from_slice(b"\r\n");
    }

    fn end_line(&mut self, start: usize) {
        for byte in &mut self.out[start..] {
            if matches!(byte, b'\r' | b'\n' | 0) {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_end_its_line() {
        let mut out = Vec::new();
        HeadWriter::new(&mut out).add("X-Name", "a\r\nEvil: b");
        HeadWriter::new(&mut out).add_display("X-Number", 7);
        assert_eq!(out, b"X-Name: a  Evil: b\r\nX-Number: 7\r\n");
    }
}
