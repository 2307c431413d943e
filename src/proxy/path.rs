//! Owns the one normal form of a request's path, the same for routing and for forwarding (RFC 3986, 6.2.2).
//! Must not know routes.

use std::borrow::Cow;

/// Normalises a path that starts with `/`: unreserved characters decoded, the other escapes in upper case, dot segments
/// removed. Anything else stays: doubled slashes and `%2F` mean something to some programs. `None` when an escape is
/// broken, or hides a NUL.
pub(super) fn normalise(path: &str) -> Option<Cow<'_, str>> {
    let decoded = if path.contains('%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
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
            out.push(char::from(bytes[at]));
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
        ] {
            assert_eq!(normalise(given).as_deref(), Some(normal), "{given}");
        }
    }

    #[test]
    fn a_broken_escape_has_none() {
        for given in ["/%", "/%1", "/%zz", "/%+1", "/%00"] {
            assert_eq!(normalise(given), None, "{given}");
        }
    }
}
