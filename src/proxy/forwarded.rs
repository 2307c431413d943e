//! Owns the fields that tell a program who really asked. Must not know which proxies are trusted: the role says so.

use std::net::SocketAddr;

use super::head::RequestHead;
use super::writer::HeadWriter;

/// Whether a name is one of the fields that `write` writes, so that the client's own is not kept; also with `_`.
pub fn is_forwarding_header(name: &str) -> bool {
    const NAMES: [&str; 5] =
        ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix"];
    let same = |a: u8, b: u8| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    // `f` and `x` begin few other names: most are told by one byte.
    matches!(name.as_bytes().first(), Some(b'f' | b'F' | b'x' | b'X'))
        && NAMES
            .iter()
            .any(|known| known.len() == name.len() && name.bytes().zip(known.bytes()).all(|(a, b)| same(a, b)))
}

/// Writes `X-Forwarded-For`, `-Proto` and `-Host`: appended to what a trusted peer sent, else anew.
pub fn write(head: &RequestHead<'_>, peer: SocketAddr, trusted: bool, proto: &str, out: &mut HeadWriter<'_>) {
    let sent = |name: &str| trusted.then(|| head.header(name)).flatten().filter(|value| !value.is_empty());
    let ip = peer.ip().to_canonical();
    match trusted.then(|| all(head, "x-forwarded-for")).flatten() {
        Some(before) => out.add_display("X-Forwarded-For", format_args!("{before}, {ip}")),
        None => out.add_ip("X-Forwarded-For", ip),
    }
    out.add_clean("X-Forwarded-Proto", sent("x-forwarded-proto").unwrap_or(proto).as_bytes());
    out.add_clean("X-Forwarded-Host", sent("x-forwarded-host").unwrap_or(head.host).as_bytes());
}

/// All fields of a name as one list; one field, the usual case, is not copied.
fn all<'a>(head: &RequestHead<'a>, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let named = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let mut values =
        named.filter_map(|header| std::str::from_utf8(header.value).ok()).filter(|value| !value.is_empty());
    let first = values.next()?;
    Some(values.fold(first.into(), |list, value| format!("{list}, {value}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Limits, head};

    fn written(trusted: bool) -> String {
        let bytes = b"GET / HTTP/1.1\r\nHost: a.b\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\r\n";
        let mut out = Vec::new();
        let peer = "127.0.0.9:1".parse().unwrap();
        head::parse(bytes, &Limits::default(), |head, _| {
            write(head, peer, trusted, "http", &mut HeadWriter::new(&mut out));
        })
        .unwrap()
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_trusted_peer_is_appended_to_what_it_sent() {
        assert!(written(true).starts_with("X-Forwarded-For: 1.1.1.1, 2.2.2.2, 127.0.0.9\r\n"), "{}", written(true));
    }

    #[test]
    fn what_an_untrusted_peer_sent_is_not_believed() {
        let rest = "X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.b\r\n";
        assert_eq!(written(false), format!("X-Forwarded-For: 127.0.0.9\r\n{rest}"));
    }

    #[test]
    fn forwarding_fields_are_known_in_any_spelling() {
        assert!(is_forwarding_header("X_Forwarded-FOR") && !is_forwarding_header("X-Forwarded-Port"));
    }
}
