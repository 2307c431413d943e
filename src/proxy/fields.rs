//! Owns what a field's name means to a proxy, told in one look, and how fields that only pass are copied. Must not know
//! what heads they stand in.

use httparse::Header;

use super::head::HEADERS;
use super::writer::HeadWriter;

/// Fields with a rule that are set apart; a head with more of them is looked at whole.
const RULED: usize = 8;

/// What a proxy does with a field, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only passes.
    Passes,
    /// It concerns one connection only; also `Proxy`, which CGI takes for an environment variable, and what some programs
    /// take for framing, since they see no difference between `_` and `-`.
    HopByHop,
    /// It passes by a rule: written anew, or judged.
    Ruled,
    /// `Neap-*`; also with `_`, since many programs see no difference.
    Neap,
}

/// First letters of names, in any case.
#[derive(Clone, Copy, Debug)]
pub struct Letters(u32);

impl Letters {
    pub const ALL: Self = Self(u32::MAX);

    /// Of these letters, and of what is no letter some besides.
    pub const fn of(letters: &[u8]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < letters.len() {
            bits |= 1 << (letters[at] & 31);
            at += 1;
        }
        Self(bits)
    }

    #[inline]
    pub fn begin(self, name: &str) -> bool {
        name.as_bytes().first().is_some_and(|first| self.0 >> (first & 31) & 1 == 1)
    }
}

/// Of the names that do more than pass.
pub(super) const HAVE_RULES: Letters = Letters::of(b"cehknptu");

/// Length and first letter tell nearly all names apart before any is compared.
#[inline]
pub(super) fn kind(name: &str) -> Kind {
    let name = name.as_bytes();
    let Some(first) = name.first() else { return Kind::Passes };
    let (is, kind) = match (first | 0x20, name.len()) {
        (b'c', 10) => (same(name, b"connection"), Kind::HopByHop),
        (b'c', 14) if name[7] == b'_' => (name.eq_ignore_ascii_case(b"content_length"), Kind::HopByHop),
        (b'c', 14) => (same(name, b"content-length"), Kind::Ruled),
        (b'e', 6) => (same(name, b"expect"), Kind::Ruled),
        (b'h', 4) => (same(name, b"host"), Kind::Ruled),
        (b'h', 14) => (same(name, b"http2-settings"), Kind::HopByHop),
        (b'k', 10) => (same(name, b"keep-alive"), Kind::HopByHop),
        (b'n', 5..) => (same(&name[..4], b"neap") && matches!(name[4], b'-' | b'_'), Kind::Neap),
        (b'p', 5..) => (same(&name[..5], b"proxy"), Kind::HopByHop),
        (b't', 2) => (same(name, b"te"), Kind::HopByHop),
        (b't', 17) if name[8] == b'_' => (name.eq_ignore_ascii_case(b"transfer_encoding"), Kind::HopByHop),
        (b't', 17) => (same(name, b"transfer-encoding"), Kind::HopByHop),
        (b'u', 7) => (same(name, b"upgrade"), Kind::HopByHop),
        _ => return Kind::Passes,
    };
    if is { kind } else { Kind::Passes }
}

/// Whether a field's name is this one, of lower-case letters, digits and `-`, in any case.
#[inline]
pub(super) fn is<const N: usize>(name: &str, known: &[u8; N]) -> bool {
    same(name.as_bytes(), known)
}

/// Whether a field's name is this one, of lower-case letters, digits and `-`, in any case. All bytes at once: in a name or
/// a value, no other character becomes one of these by that bit.
#[inline]
pub(super) fn same<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    name.iter().zip(known).fold(0, |other, (a, b)| other | ((a | 0x20) ^ b)) == 0
}

/// The few fields of a head that there are rules for, set apart so that each rule looks at these alone; and which fields
/// do more than pass.
pub(super) struct Ruled<'f, 'a> {
    pub headers: &'f [Header<'a>],
    pub marks: Marks,
}

/// Room for the fields that are set apart.
pub(super) type Few<'a> = [Header<'a>; RULED];
pub(super) const FEW: Few<'static> = [httparse::EMPTY_HEADER; RULED];

/// Which fields of a head do more than pass, by number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks(u128);

impl Marks {
    /// Whether each field is marked, one after the other.
    #[inline]
    fn each(mut self) -> impl Iterator<Item = bool> {
        std::iter::repeat_with(move || {
            let marked = self.0 & 1 == 1;
            self.0 >>= 1;
            marked
        })
    }
}

impl<'f, 'a> Ruled<'f, 'a> {
    /// Of a head of at most [`HEADERS`] fields. `with_rules`: by number, all that a rule may be for, and others.
    #[inline]
    pub fn of(all: &'f [Header<'a>], mut with_rules: u128, few: &'f mut Few<'a>) -> Self {
        debug_assert!(all.len() <= HEADERS);
        let (mut count, mut marks) = (0, Marks::default());
        while let Some(header) = all.get(with_rules.trailing_zeros() as usize) {
            let place = with_rules & with_rules.wrapping_neg();
            with_rules ^= place;
            let kind = kind(header.name);
            if kind == Kind::Passes {
                continue;
            }
            marks.0 |= place;
            if kind != Kind::Neap {
                if let Some(place) = few.get_mut(count) {
                    *place = *header;
                }
                count += 1;
            }
        }
        Self { headers: few.get(..count).unwrap_or(all), marks }
    }
}

/// Copies the fields of `head` that `keeps` names, of which it is told whether they are marked. Neighbours that stand
/// there just as they would be written are copied together; `plain`: all of them do. `before`: bytes of
/// the line before the fields that are copied too.
#[inline]
pub(super) fn copy(
    head: &[u8],
    headers: &[Header<'_>],
    marks: Marks,
    plain: bool,
    before: usize,
    keeps: impl Fn(&Header<'_>, bool) -> bool,
    out: &mut Vec<u8>,
) {
    let begin = head.as_ptr().addr();
    let mut run = 0..before;
    for (field, marked) in headers.iter().zip(marks.each()) {
        if !keeps(field, marked) {
            continue;
        }
        let start = field.name.as_ptr().addr().wrapping_sub(begin);
        let value = field.value.as_ptr().addr().wrapping_sub(begin);
        let end = value.wrapping_add(field.value.len());
        let plain = plain
            || (value == start.wrapping_add(field.name.len() + 2)
                && head.get(value.wrapping_sub(2)..value) == Some(b": ")
                && head.get(end..end.wrapping_add(2)) == Some(b"\r\n"));
        if plain && start == run.end {
            run.end = end + 2;
            continue;
        }
        out.extend_from_slice(&head[run]);
        run = start..end + 2;
        if !plain {
            HeadWriter::new(out).copy(field);
            run = 0..0;
        }
    }
    out.extend_from_slice(&head[run]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed<T>(head: &[u8], f: impl FnOnce(&[Header<'_>]) -> T) -> T {
        let mut storage = [httparse::EMPTY_HEADER; 100];
        let Ok(httparse::Status::Complete((_, headers))) = httparse::parse_headers(head, &mut storage) else {
            panic!("not a head")
        };
        f(headers)
    }

    #[test]
    fn a_name_is_known_in_any_case_and_no_other_is() {
        let hop_by_hop = ["connection", "http2-settings", "keep-alive", "proxy", "proxy-x", "te", "upgrade"];
        let ruled = ["content-length", "expect", "host"];
        for (names, expected) in [
            (&hop_by_hop[..], Kind::HopByHop),
            (&["transfer-encoding", "transfer_encoding", "content_length"], Kind::HopByHop),
            (&ruled, Kind::Ruled),
            (&["neap-x", "neap_x"], Kind::Neap),
        ] {
            for name in names {
                assert_eq!((kind(name), kind(&name.to_ascii_uppercase())), (expected, expected), "{name}");
                // The same length and first letter, another name.
                let other = format!("{}-", &name[..name.len().min(4) - 1]);
                let other = format!("{other}{}", "z".repeat(name.len().saturating_sub(other.len())));
                assert_eq!(kind(&other), Kind::Passes, "{other}");
            }
        }
        for name in ["", "a", "neap", "neapx", "content-type", "x-host", "Accept"] {
            assert_eq!(kind(name), Kind::Passes, "{name}");
        }
    }

    #[test]
    fn fields_are_copied_as_they_would_be_written_one_by_one() {
        let head = b"A: 1\r\nB:2\r\nC:  3\r\nD: 4 \r\nDrop: 5\r\nE: 6\r\nF: \r\nG:\r\nH: 7\r\nI: 8\r\nDrop: 9\r\n\r\n";
        parsed(head, |headers| {
            let (mut out, mut expected) = (b"X".to_vec(), b"X".to_vec());
            copy(head, headers, Marks::default(), false, 0, |field, _| field.name != "Drop", &mut out);
            headers.iter().filter(|field| field.name != "Drop").for_each(|field| {
                HeadWriter::new(&mut expected).copy(field);
            });
            assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(expected).unwrap());
        });
    }

    #[test]
    fn plain_fields_are_copied_as_others_are() {
        let head = b"A: 1\r\nDrop: 2\r\nB: 3\r\nC: 4\r\nDrop: 5\r\n\r\n";
        parsed(head, |headers| {
            let written = |plain| {
                let mut out = Vec::new();
                copy(head, headers, Marks::default(), plain, 0, |field, _| field.name != "Drop", &mut out);
                String::from_utf8(out).unwrap()
            };
            assert_eq!((written(true), written(false)), ("A: 1\r\nB: 3\r\nC: 4\r\n".into(), written(true)));
        });
    }

    #[test]
    fn names_with_a_rule_begin_with_the_letters_that_are_looked_for() {
        for first in 0..128_u8 {
            let first = char::from(first);
            for known in [
                "connection",
                "content-length",
                "content_length",
                "expect",
                "host",
                "http2-settings",
                "keep-alive",
                "neap-x",
                "proxy",
                "te",
                "transfer-encoding",
                "transfer_encoding",
                "upgrade",
            ] {
                let name = format!("{first}{}", &known[1..]);
                assert!(kind(&name) == Kind::Passes || HAVE_RULES.begin(&name), "{name}");
            }
        }
    }

    #[test]
    fn no_field_is_copied_from_another_head() {
        let (one, other) = (b"A: 1\r\nB: 2\r\n\r\n".to_vec(), b"C: 3\r\nD: 4\r\n\r\n".to_vec());
        parsed(&one, |headers| {
            let mut out = Vec::new();
            copy(&other, headers, Marks::default(), false, 0, |_, _| true, &mut out);
            assert_eq!(out, b"A: 1\r\nB: 2\r\n");
        });
    }

    #[test]
    fn rules_see_every_field_however_many_there_are() {
        for count in [1, RULED, RULED + 1, 60] {
            let head = format!("A: 1\r\n{}\r\n", "Host: a\r\n".repeat(count));
            parsed(head.as_bytes(), |headers| {
                let mut few = FEW;
                let ruled = Ruled::of(headers, u128::MAX, &mut few);
                let hosts = ruled.headers.iter().filter(|header| header.name == "Host").count();
                assert_eq!((hosts, ruled.headers.len() > count), (count, count > RULED));
                let marked: Vec<_> = ruled
                    .marks
                    .each()
                    .take(HEADERS)
                    .enumerate()
                    .filter(|(_, marked)| *marked)
                    .map(|(number, _)| number)
                    .collect();
                assert_eq!(marked, (1..=count).collect::<Vec<_>>());
            });
        }
    }
}
