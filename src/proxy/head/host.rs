//! Owns which host a request is for: one, and well-formed (RFC 9110, 7.2). Must not know what it is for.

use std::net::Ipv6Addr;

use super::super::answer::Answer;
use super::super::fields::is;
use super::malformed;

/// Bytes of `Host`: a name's 253 (RFC 1035), brackets or a root's dot, and a port, generously.
pub(super) const HOST_BYTES: usize = 255;

/// The one host that a request is for, as it was written; `authority`: the target's.
pub(super) fn host<'a>(
    headers: &[httparse::Header<'a>],
    authority: Option<&'a str>,
    http10: bool,
) -> Result<&'a str, Answer> {
    let mut fields = headers.iter().filter(|header| is(header.name, b"host"));
    let host = match (fields.next(), fields.next()) {
        (_, Some(_)) => return Err(malformed("there are several Host fields")),
        (None, None) if !http10 => return Err(malformed("there is no Host field")),
        (None, None) => "",
        (Some(field), None) => std::str::from_utf8(field.value).map_err(|_| malformed("Host is not text"))?,
    };
    // Also where the target's is the one that counts.
    if is_host(host) && authority.is_none_or(is_host) {
        Ok(authority.unwrap_or(host))
    } else {
        Err(malformed("Host is not a name and a port"))
    }
}

/// What a host's name is made of.
static IN_NAMES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        bytes[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b'+' | b';' | b'=');
        byte += 1;
    }
    bytes
};

/// A name or an address, and a port that may be left out; or nothing (RFC 9110, 7.2). A comma, which a name may have by
/// the letter, is how two `Host` are made one; an escape is another spelling of the same name.
pub(super) fn is_host(host: &str) -> bool {
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => port,
            _ => return false,
        },
        // Mostly there is no port. All bytes are looked at, which takes less than to look whether to go on.
        None if host.bytes().fold(true, |all, byte| all & IN_NAMES[usize::from(byte)]) => "",
        None => &host[host.bytes().position(|byte| !IN_NAMES[usize::from(byte)]).unwrap_or(host.len())..],
    };
    let named = port.len() < host.len() || host.is_empty();
    named && host.len() <= HOST_BYTES && is_port(port)
}

/// Nothing, or a colon and a number of 16 bits, which may be left out.
fn is_port(port: &str) -> bool {
    match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            let number = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.is_empty() || (number && digits.parse::<u16>().is_ok())
        }
    }
}
