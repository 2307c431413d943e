//! Owns how routes and matches are written: `HOST/PREFIX`, header values and file names with one `*`.
//! Must not know how a request is matched against them.

use crate::domain::program::Route;

/// Characters of a host's name at most (RFC 1035, 2.3.4).
const HOST_CHARS_MAX: usize = 253;
/// Characters of a prefix at most.
const PREFIX_CHARS_MAX: usize = 1024;
/// Characters of a pattern at most.
const PATTERN_CHARS_MAX: usize = 256;

/// Reads `HOST/PREFIX`; the error says why not, and the cure where there is one.
pub fn route(given: &str) -> Result<Route, (String, Option<String>)> {
    let Some(slash) = given.find('/') else {
        return Err((
            format!("route \"{given}\" has no prefix: write HOST/PREFIX"),
            Some(format!("did you mean \"{given}/\"?")),
        ));
    };
    let (host, prefix) = given.split_at(slash);
    if host.ends_with(':') && prefix.starts_with("//") {
        let hint = given.split_once("://").map(|(_, rest)| format!("did you mean \"{rest}\"?"));
        return Err((format!("route \"{given}\" has a scheme: write HOST/PREFIX"), hint));
    }
    let host = read_host(host).map_err(|(why, hint)| (format!("route \"{given}\": {why}"), hint))?;
    let prefix = read_prefix(prefix).map_err(|why| (format!("route \"{given}\": {why}"), None))?;
    Ok(Route { host, prefix })
}

fn read_host(host: &str) -> Result<Option<String>, (String, Option<String>)> {
    if host == "*" {
        return Ok(None);
    }
    if host.is_empty() {
        return Err(("the host is missing".into(), Some("\"*\" is any host".into())));
    }
    if let Some((name, _)) = host.split_once(':') {
        return Err(("a host has no port here".into(), Some(format!("write \"{name}\""))));
    }
    if host.contains('*') {
        return Err(("a host is a whole name, or \"*\" for any".into(), None));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let labels = host.split('.').all(|label| (1..=63).contains(&label.len()));
    if host.len() > HOST_CHARS_MAX || !labels || !host.bytes().all(plain) {
        return Err((format!("\"{host}\" is not a host name"), None));
    }
    Ok(Some(host.to_ascii_lowercase()))
}

fn read_prefix(prefix: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@/".contains(&b);
    if let Some(bad) = prefix.chars().find(|c| !c.is_ascii() || !allowed(*c as u8)) {
        return Err(format!("a prefix is plain path text, without {bad:?}"));
    }
    if prefix.len() > PREFIX_CHARS_MAX {
        return Err(format!("a prefix has at most {PREFIX_CHARS_MAX} characters"));
    }
    let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
    if trimmed.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return Err("a prefix has no \"//\", \"/./\" or \"/../\"".into());
    }
    Ok(if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

/// A pattern with at most one `*`, at its start or its end.
pub fn pattern(given: &str) -> Result<(), String> {
    if given.is_empty() {
        return Err("the pattern is empty".into());
    }
    if given.chars().count() > PATTERN_CHARS_MAX || given.chars().any(char::is_control) {
        return Err(format!("a pattern has at most {PATTERN_CHARS_MAX} characters, none of them control characters"));
    }
    let inner = given.strip_prefix('*').or_else(|| given.strip_suffix('*')).unwrap_or(given);
    if inner.contains('*') {
        return Err(format!("\"{given}\": one \"*\", at the start or at the end"));
    }
    Ok(())
}

/// A header's name, in lower case (RFC 9110, 5.6.2).
pub fn header_name(given: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if given.is_empty() || given.len() > 128 || !given.bytes().all(token) {
        return Err(format!("\"{given}\" is not the name of a header"));
    }
    Ok(given.to_ascii_lowercase())
}
