//! Owns reading heads of the plain form, which nearly all have, in one pass of sixteen bytes at a time. What is not plain is
//! no error: the caller has httparse read and judge it. Must not know what a field means.
//!
//! Plain: every line ends with CR LF; a name is of letters, digits and hyphens, and `: ` stands behind it; a value is not
//! empty, holds no control character, and neither begins nor ends with a space. A field's bytes are then those that it
//! would be written with.

use std::mem::MaybeUninit;

use httparse::Header;

use super::fields::HAVE_RULES;
use super::head::HEADERS;

/// Fields of a head that is read here: more are seldom, and as many bits are quick.
const FIELDS: usize = 64;

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
    /// By number, those that there may be rules for.
    pub with_rules: u128,
    /// Bytes of the whole head.
    pub length: usize,
    /// All of them are of the plain form.
    pub plain: bool,
}

/// Reads a whole request's head; `None`: it is not plain, or not whole.
#[inline]
pub(super) fn request<'f, 'a>(bytes: &'a [u8], storage: &'f mut Storage<'a>) -> Option<Request<'f, 'a>> {
    let space = find::<InNames>(bytes);
    let (method, [b' ', rest @ ..]) = bytes.split_at_checked(space)? else { return None };
    let end = find::<InTargets>(rest);
    let (target, [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'1', b'\r', b'\n', rest @ ..]) =
        rest.split_at_checked(end)?
    else {
        return None;
    };
    if method.is_empty() || target.is_empty() {
        return None;
    }
    let fields = fields(rest, bytes.len(), storage)?;
    // Safety: both are of such bytes only as `find` stops at none of, which are ASCII.
    let (method, target) = unsafe { (std::str::from_utf8_unchecked(method), std::str::from_utf8_unchecked(target)) };
    Some(Request { method, target, http10: *minor == b'0', fields })
}

/// Reads a whole response's head; `None`: it is not plain, or not whole.
#[inline]
pub(super) fn response<'f, 'a>(bytes: &'a [u8], storage: &'f mut Storage<'a>) -> Option<Response<'f, 'a>> {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'1', b' ', a, b, c, b' ', rest @ ..] = bytes else {
        return None;
    };
    let status = [a, b, c].into_iter().try_fold(0, |status, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit <= 9).then(|| status * 10 + u16::from(digit))
    })?;
    let end = find::<InValues>(rest);
    let (reason, [b'\r', b'\n', rest @ ..]) = rest.split_at_checked(end)? else { return None };
    let reason = if reason.is_ascii() { std::str::from_utf8(reason).ok()? } else { return None };
    Some(Response { http10: *minor == b'0', status, reason, fields: fields(rest, bytes.len(), storage)? })
}

/// Reads the fields that stand in `rest` of a head that has so many bytes with what follows it.
#[inline]
fn fields<'f, 'a>(mut rest: &'a [u8], bytes: usize, storage: &'f mut Storage<'a>) -> Option<Fields<'f, 'a>> {
    let (mut count, mut with_rules) = (0, 0_u64);
    loop {
        let (name, behind) = rest.split_at_checked(find::<InNames>(rest))?;
        let (sign, value) = behind.split_first_chunk()?;
        if sign != b": " || name.is_empty() {
            if sign == b"\r\n" && name.is_empty() {
                break rest = value;
            }
            return None;
        }
        let (value, behind) = value.split_at_checked(find::<InValues>(value))?;
        let (end, behind) = behind.split_first_chunk()?;
        let ([first, ..], [.., last]) = (value, value) else { return None };
        if end != b"\r\n" || *first == b' ' || *last == b' ' {
            return None;
        }
        // Safety: every byte of it is a letter, a digit or a hyphen.
        let name = unsafe { std::str::from_utf8_unchecked(name) };
        storage[..FIELDS].get_mut(count)?.write(Header { name, value });
        with_rules |= u64::from(HAVE_RULES.begin(name)) << count;
        count += 1;
        rest = behind;
    }
    // Safety: the first `count` were written, one after the other.
    let headers = unsafe { storage[..count].assume_init_ref() };
    Some(Fields { headers, with_rules: with_rules.into(), length: bytes - rest.len(), plain: true })
}

/// Bytes that are looked at together.
const BLOCK: usize = 16;

/// A set of bytes. Names and targets are of ASCII only.
trait Set {
    /// The places, lowest bit first, of those bytes that are not in the set; a NUL is in none.
    fn others(block: &[u8; BLOCK]) -> u32;
}

/// Letters, digits and hyphens.
struct InNames;
/// All but control characters; the tabulator, which may stand in a value, is one here.
struct InValues;
/// All of ASCII but control characters and spaces.
struct InTargets;

/// Where the first byte stands that is not in the set, or the end.
#[inline(always)]
fn find<S: Set>(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((block, behind)) = rest.split_first_chunk() {
        let others = S::others(block);
        if others != 0 {
            return bytes.len() - rest.len() + others.trailing_zeros() as usize;
        }
        rest = behind;
    }
    bytes.len() - rest.len() + find_in_last::<S>(rest)
}

/// The same in less than a block.
#[cold]
#[inline(never)]
fn find_in_last<S: Set>(bytes: &[u8]) -> usize {
    let mut last = [0; BLOCK];
    last[..bytes.len()].copy_from_slice(bytes);
    S::others(&last).trailing_zeros() as usize
}

#[cfg(target_arch = "x86_64")]
mod sets {
    use std::arch::x86_64::*;

    use super::{BLOCK, InNames, InTargets, InValues, Set};

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(block: &[u8; BLOCK]) -> __m128i {
        // Safety: as many bytes are read as there are, from any address.
        unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn all(byte: u8) -> __m128i {
        _mm_set1_epi8(byte.cast_signed())
    }

    /// Those from `first` on, so many. Comparing is signed: the first becomes the lowest.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn range(bytes: __m128i, first: u8, count: u8) -> __m128i {
        _mm_cmplt_epi8(_mm_add_epi8(bytes, all(0x80_u8.wrapping_sub(first))), all(0x80 + count))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn names(bytes: __m128i) -> __m128i {
        let letters = range(_mm_or_si128(bytes, all(0x20)), b'a', 26);
        let others = _mm_or_si128(range(bytes, b'0', 10), _mm_cmpeq_epi8(bytes, all(b'-')));
        _mm_or_si128(letters, others)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn controls(bytes: __m128i) -> __m128i {
        _mm_or_si128(range(bytes, 0, b' '), _mm_cmpeq_epi8(bytes, all(0x7f)))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn targets(bytes: __m128i) -> __m128i {
        range(bytes, b'!', 0x7f - b'!')
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn places(bytes: __m128i) -> u32 {
        _mm_movemask_epi8(bytes).cast_unsigned()
    }

    // Safety, of all three: SSE2 is part of x86-64.
    impl Set for InNames {
        #[inline(always)]
        fn others(block: &[u8; BLOCK]) -> u32 {
            unsafe { places(names(load(block))) ^ 0xffff }
        }
    }

    impl Set for InValues {
        #[inline(always)]
        fn others(block: &[u8; BLOCK]) -> u32 {
            unsafe { places(controls(load(block))) }
        }
    }

    impl Set for InTargets {
        #[inline(always)]
        fn others(block: &[u8; BLOCK]) -> u32 {
            unsafe { places(targets(load(block))) ^ 0xffff }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod sets {
    use super::{BLOCK, InNames, InTargets, InValues, Set};

    fn others(block: &[u8; BLOCK], is_in: impl Fn(u8) -> bool) -> u32 {
        block.iter().enumerate().fold(0, |others, (place, byte)| others | u32::from(!is_in(*byte)) << place)
    }

    impl Set for InNames {
        fn others(block: &[u8; BLOCK]) -> u32 {
            others(block, |byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }
    }

    impl Set for InValues {
        fn others(block: &[u8; BLOCK]) -> u32 {
            others(block, |byte| !byte.is_ascii_control())
        }
    }

    impl Set for InTargets {
        fn others(block: &[u8; BLOCK]) -> u32 {
            others(block, |byte| byte.is_ascii_graphic())
        }
    }
}

#[cfg(test)]
mod tests;
