//! Owns how header fields are written, so that no value can end its line. Must not know which fields there are.

use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;

/// Each octet's digits and a dot, and how many bytes these are.
static OCTETS: [([u8; 4], u8); 256] = {
    let (mut octets, mut octet) = ([([0; 4], 0); 256], 0);
    while octet < 256 {
        let (hundreds, tens, ones) =
            (b'0' + (octet / 100) as u8, b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8);
        octets[octet] = match octet {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        octet += 1;
    }
    octets
};

/// Appends header fields to a head.
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    #[inline]
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Adds a field. Bytes that could end the line (CR, LF, NUL) become spaces.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.out.reserve(name.len() + value.len() + 4);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        let start = self.out.len();
        self.out.extend_from_slice(value);
        self.end_line(start);
    }

    /// Adds a field whose value cannot end its line: it was parsed as a field's, or is of neap's own making.
    #[inline(always)]
    pub fn add_clean(&mut self, name: &str, value: &[u8]) {
        debug_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        self.out.reserve(name.len() + value.len() + 4);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Adds a field whose value is a number.
    #[inline(always)]
    pub fn add_number(&mut self, name: &str, value: u64) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        push_number(self.out, value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Adds a field whose value is an address.
    pub fn add_ip(&mut self, name: &str, value: IpAddr) {
        let IpAddr::V4(value) = value else { return self.add_display(name, value) };
        let (mut text, mut at) = ([0; 16], 0);
        for octet in value.octets() {
            let (digits, length) = OCTETS[usize::from(octet)];
            // At most four bytes each; what is behind the dot is written over.
            text[at..at + 4].copy_from_slice(&digits);
            at += usize::from(length);
        }
        self.add_clean(name, &text[..at - 1]);
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

    /// Adds a field that was parsed.
    #[inline]
    pub(super) fn copy(&mut self, field: &httparse::Header<'_>) {
        self.add_clean(field.name, field.value);
    }

    #[inline]
    fn end_line(&mut self, start: usize) {
        let ends_line = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        // All bytes at once rather than one by one, which compiles to vector instructions.
        if self.out[start..].iter().fold(false, |bad, byte| bad | ends_line(byte)) {
            self.out[start..].iter_mut().filter(|byte| ends_line(byte)).for_each(|byte| *byte = b' ');
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends a number in decimal; the formatter takes ten times as long.
#[inline]
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_is_shown() {
        let every: Vec<_> = (0..=255).map(|octet| format!("{octet}.9.{octet}.{octet}")).collect();
        let some = ["0.0.0.0", "127.0.0.1", "255.255.255.255", "10.99.100.9", "1.20.205.110", "::1"];
        for address in some.into_iter().chain(every.iter().map(String::as_str)) {
            let mut out = Vec::new();
            HeadWriter::new(&mut out).add_ip("A", address.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), format!("A: {address}\r\n"));
        }
    }

    #[test]
    fn no_value_can_end_its_line() {
        let mut out = Vec::new();
        HeadWriter::new(&mut out).add("X-Name", "a\r\nEvil: b");
        HeadWriter::new(&mut out).add_display("X-Number", 7);
        assert_eq!(out, b"X-Name: a  Evil: b\r\nX-Number: 7\r\n");
    }

    #[test]
    fn addresses_are_written_as_the_formatter_would() {
        for ip in ["127.0.0.1", "10.255.9.100", "::1", "fe80::7"] {
            let mut out = Vec::new();
            HeadWriter::new(&mut out).add_ip("A", ip.parse().unwrap());
            assert_eq!(out, format!("A: {ip}\r\n").into_bytes());
        }
    }

    #[test]
    fn numbers_are_written_as_the_formatter_would() {
        for number in [0, 7, 10, 99, 100, 1024, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            HeadWriter::new(&mut out).add_number("N", number);
            assert_eq!(out, format!("N: {number}\r\n").into_bytes());
        }
    }
}
