//! Owns reading heads of the plain form, which nearly all have, in one pass of eight bytes at a time. What is not plain is
//! no error: the caller has httparse read and judge it. Must not know what a field means.
//!
//! Plain: every line ends with CR LF; a name is of letters, digits and hyphens, and `: ` stands behind it; a value is not
//! empty, holds no control character, and neither begins nor ends with a space. A field's bytes are then those that it
//! would be written with.

use std::mem::MaybeUninit;

use httparse::Header;

use super::head::HEADERS;

/// Room for the fields of a head.
pub(super) type Storage<'a> = [MaybeUninit<Header<'a>>; HEADERS];

/// A request's head, not judged yet.
pub(super) struct Request<'f, 'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub http10: bool,
    pub fields: Fields<'f, 'a>,
}

/// A response's head, not judged yet.
pub(super) struct Response<'f, 'a> {
    pub http10: bool,
    pub status: u16,
    pub reason: &'a str,
    pub fields: Fields<'f, 'a>,
}

pub(super) struct Fields<'f, 'a> {
    pub headers: &'f [Header<'a>],
    /// Bytes of the whole head.
    pub length: usize,
    /// All of them are of the plain form.
    pub plain: bool,
}

/// Reads a whole request's head; `None`: it is not plain, or not whole.
#[inline]
pub(super) fn request<'f, 'a>(bytes: &'a [u8], storage: &'f mut Storage<'a>) -> Option<Request<'f, 'a>> {
    let space = find(bytes, 0, not_in_names);
    if space == 0 || bytes.get(space) != Some(&b' ') {
        return None;
    }
    let (method, begin) = (text(&bytes[..space])?, space + 1);
    let end = find(bytes, begin, not_in_targets);
    if end == begin {
        return None;
    }
    let http10 = match bytes.get(end..end + VERSION)? {
        b" HTTP/1.1\r\n" => false,
        b" HTTP/1.0\r\n" => true,
        _ => return None,
    };
    let (target, fields) = (text(&bytes[begin..end])?, fields(bytes, end + VERSION, storage)?);
    Some(Request { method, target, http10, fields })
}

/// Of ` HTTP/1.1` and the line's end.
const VERSION: usize = 11;

/// Reads a whole response's head; `None`: it is not plain, or not whole.
#[inline]
pub(super) fn response<'f, 'a>(bytes: &'a [u8], storage: &'f mut Storage<'a>) -> Option<Response<'f, 'a>> {
    let (http10, digits) = match bytes.first_chunk::<13>()? {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'1', b' ', a, b, c, b' '] => {
            (*minor == b'0', [*a, *b, *c])
        }
        _ => return None,
    };
    let status = digits.iter().try_fold(0, |status, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit <= 9).then(|| status * 10 + u16::from(digit))
    })?;
    let end = find(bytes, 13, not_in_values);
    if bytes.get(end..end + 2)? != b"\r\n" {
        return None;
    }
    let reason = Some(&bytes[13..end]).filter(|reason| reason.is_ascii()).and_then(text)?;
    Some(Response { http10, status, reason, fields: fields(bytes, end + 2, storage)? })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[inline]
fn fields<'f, 'a>(bytes: &'a [u8], mut at: usize, storage: &'f mut Storage<'a>) -> Option<Fields<'f, 'a>> {
    let mut count = 0;
    loop {
        let colon = find(bytes, at, not_in_names);
        match bytes.get(colon..colon + 2)? {
            b": " if colon > at => {}
            b"\r\n" if colon == at => break at = colon + 2,
            _ => return None,
        }
        let begin = colon + 2;
        let end = find(bytes, begin, not_in_values);
        if bytes.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        let value = &bytes[begin..end];
        if matches!(value, [] | [b' ', ..] | [.., b' ']) {
            return None;
        }
        // Safety: every byte of it is a letter, a digit or a hyphen.
        let name = unsafe { std::str::from_utf8_unchecked(&bytes[at..colon]) };
        storage.get_mut(count)?.write(Header { name, value });
        count += 1;
        at = end + 2;
    }
    // Safety: the first `count` were written, one after the other.
    let headers = unsafe { storage[..count].assume_init_ref() };
    Some(Fields { headers, length: at, plain: true })
}

/// A byte in each place of a word.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Where the first byte from `at` on stands whose highest bit `refused` sets, or the end. Of those behind the first,
/// `refused` may say anything; a NUL it refuses.
#[inline(always)]
fn find(bytes: &[u8], mut at: usize, refused: impl Fn(u64) -> u64) -> usize {
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let found = refused(u64::from_le_bytes(*word));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let mut last = [0; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    last[..rest.len()].copy_from_slice(rest);
    at + refused(u64::from_le_bytes(last)).trailing_zeros() as usize / 8
}

/// All but letters, digits and hyphens.
#[inline(always)]
fn not_in_names(word: u64) -> u64 {
    let low = word & all(0x7f);
    // In the highest bit of each byte: no sum of two such bytes reaches the next.
    let (from, beyond) = (|byte: u8, of: u64| of + all(0x80 - byte), |byte: u8, of: u64| of + all(0x7f - byte));
    let letter = low | all(0x20);
    let letters = from(b'a', letter) & !beyond(b'z', letter);
    let digits = from(b'0', low) & !beyond(b'9', low);
    let hyphens = !((low ^ all(b'-')) + all(0x7f));
    (!(letters | digits | hyphens) | word) & all(0x80)
}

/// Control characters; also the tabulator, which may stand in a value.
#[inline(always)]
fn not_in_values(word: u64) -> u64 {
    below(b' ', word) | deletes(word)
}

/// Control characters and spaces.
#[inline(always)]
fn not_in_targets(word: u64) -> u64 {
    below(b' ' + 1, word) | deletes(word)
}

/// Exact for the first: what a byte below borrows only reaches those behind it.
#[inline(always)]
fn below(byte: u8, word: u64) -> u64 {
    word.wrapping_sub(all(byte)) & !word & all(0x80)
}

/// DEL, exact for the first.
#[inline(always)]
fn deletes(word: u64) -> u64 {
    below(1, word ^ all(0x7f))
}

#[cfg(test)]
mod tests;
