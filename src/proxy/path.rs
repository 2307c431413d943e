//! Owns the one normal form of a request's path, the same for routing and for forwarding (RFC 3986, 6.2.2).
//! Must not know routes.

use std::borrow::Cow;

/// What a target's bytes ask for; the most that any of them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    /// Nothing.
    Plain,
    /// In a path: an escape to look at, or to write.
    Odd,
    /// They stand in no target: neither ASCII nor a fragment's is sent.
    Refused,
}

const ODD: u8 = 1;
const REFUSED: u8 = 2;

/// What each byte asks for. RFC 3986 has no room for the odd ones in a path, and a backslash is a slash to some programs:
/// escaped, it is one to none.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let odd = b"%\"<>\\^`{|}";
    let mut at = 0;
    while at < odd.len() {
        classes[odd[at] as usize] = ODD;
        at += 1;
    }
    classes[b'#' as usize] = REFUSED;
    let mut byte = 0x80;
    while byte < 256 {
        classes[byte] = REFUSED;
        byte += 1;
    }
    classes
};

impl Bytes {
    /// Looks at a whole target once.
    pub fn of(target: &str) -> Self {
        match target.bytes().fold(0, |all, byte| all | CLASSES[usize::from(byte)]) {
            0 => Self::Plain,
            ODD => Self::Odd,
            _ => Self::Refused,
        }
    }
}

/// Normalises a path that starts with `/`: unreserved characters decoded, the other escapes in upper case, characters
/// that must be escaped escaped, dot segments removed. Anything else stays: doubled slashes and `%2F` mean something to
/// some programs. `None` when an escape is broken, or hides a NUL.
pub(super) fn normalise(path: &str, bytes: Bytes) -> Option<Cow<'_, str>> {
    let decoded = if bytes == Bytes::Plain { Cow::Borrowed(path) } else { Cow::Owned(decode(path)?) };
    // Byte by byte: for so short a text, setting up a search costs more than the search.
    if !decoded.as_bytes().windows(2).any(|pair| pair == b"/.") {
        return Some(decoded);
    }
    Some(Cow::Owned(without_dots(&decoded)))
}

fn decode(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            match CLASSES[usize::from(bytes[at])] {
                ODD => out.push_str(&format!("%{:02X}", bytes[at])),
                _ => out.push(char::from(bytes[at])),
            }
            at += 1;
            continue;
        }
        let digit = |offset: usize| char::from(*bytes.get(at + offset)?).to_digit(16);
        let code = (digit(1)? * 16 + digit(2)?) as u8;
        match code {
            0 => return None,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(code)),
            _ => out.push_str(&format!("%{code:02X}")),
        }
        at += 3;
    }
    Some(out)
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let end = if directory && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normalise(path: &str) -> Option<String> {
        super::normalise(path, Bytes::of(path)).map(Cow::into_owned)
    }

    #[test]
    fn a_path_has_one_form() {
        for (given, normal) in [
            ("/", "/"),
            ("/shop/", "/shop/"),
            ("/a//b", "/a//b"),
            ("/%61%2fb%7e", "/a%2Fb~"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/../../etc", "/etc"),
            ("/..", "/"),
            ("/a/.", "/a/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a\\..\\b", "/a%5C..%5Cb"),
            ("/\"<>^`{|}", "/%22%3C%3E%5E%60%7B%7C%7D"),
            ("/%5c%22", "/%5C%22"),
        ] {
            assert_eq!(normalise(given).as_deref(), Some(normal), "{given}");
            assert_eq!(normalise(normal).as_deref(), Some(normal), "a normal form is its own");
        }
    }

    #[test]
    fn what_a_targets_bytes_ask_for() {
        assert_eq!(Bytes::of("/a?b=[1]&c"), Bytes::Plain);
        assert_eq!(Bytes::of("/a%20|b"), Bytes::Odd);
        for refused in ["/a#%", "/caf\u{e9}", "#"] {
            assert_eq!(Bytes::of(refused), Bytes::Refused, "{refused}");
        }
    }

    #[test]
    fn a_broken_escape_has_none() {
        for given in ["/%", "/%1", "/%zz", "/%+1", "/%00"] {
            assert_eq!(normalise(given), None, "{given}");
        }
    }

    /// Paths made of what matters to them.
    fn path() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            6 => prop::sample::select(vec![
                "/", ".", "..", "%2e", "%2E", "%2f", "%5c", "%25", "%41", "%7e", "%c3", "%", "%0", "a", "B", ";", "\\", "|", "\"", "//",
            ]).prop_map(str::to_owned),
            1 => "[!-~&&[^?#]]",
        ];
        prop::collection::vec(part, 0..14).prop_map(|parts| format!("/{}", parts.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn every_path_has_one_form_that_no_program_reads_as_another(path in path()) {
            let Some(normal) = normalise(&path) else {
                prop_assert!(path.contains('%'), "only an escape can be broken");
                return Ok(());
            };
            prop_assert_eq!(normalise(&normal), Some(normal.clone()), "once is enough");
            prop_assert!(normal.starts_with('/') && normal.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{}", normal);
            for at in normal.match_indices('%').map(|(at, _)| at) {
                let escape = &normal[at + 1..at + 3];
                let code = u8::from_str_radix(escape, 16).unwrap();
                prop_assert!(!escape.bytes().any(|digit| digit.is_ascii_lowercase()));
                prop_assert!(!(code.is_ascii_alphanumeric() || b"-._~\0".contains(&code)), "{}", normal);
            }
            let odd = |byte: u8| byte != b'%' && CLASSES[usize::from(byte)] != 0;
            prop_assert!(!normal.bytes().any(odd));
        }
    }
}
