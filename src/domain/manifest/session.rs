//! Owns the keys of `[session]`: whether a program's requests belong to sessions, and how. Must not know TOML.

use super::reader::{Keys, Reader, Section};
use super::sections::{DAY, MS};
use crate::domain::program::{SessionPolicy, SessionRule};

const KEYS: Keys = Keys { known: &["policy", "cookie", "idle", "deadline"], not_built: &[] };
const COOKIE_LEN_MAX: usize = 128;

/// `None`: the policy is `none`.
pub fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Option<SessionRule> {
    let section = reader.table(root, "session", "[session]", &KEYS);
    let policies = [("none", None), ("shared", Some(SessionPolicy::Shared)), ("sticky", Some(SessionPolicy::Sticky))];
    let policy = reader.choice(&section, "policy", None, &policies);
    let cookie = reader.string(&section, "cookie");
    if let Some(cookie) = &cookie
        && let Err((why, hint)) = cookie_name(cookie)
    {
        reader.wrong_value(&section, "cookie", why, Some(hint.to_owned()));
    }
    let idle = reader.duration(&section, "idle", MS(1_800_000), MS(1_000)..=DAY * 90);
    let deadline = reader.duration(&section, "deadline", MS(900_000), MS(0)..=DAY);
    let idly = ["cookie", "idle", "deadline"].into_iter().find(|key| section.has(key) && !section.has("policy"));
    if let Some(key) = idly {
        let hint = "write policy = \"sticky\" or \"shared\"; \"none\" where sessions do not matter".to_owned();
        reader.wrong_value(&section, key, "it means nothing without a policy, and none is given", Some(hint));
    }
    Some(SessionRule { policy: policy?, cookie, idle, deadline })
}

/// A name as cookies have them (RFC 6265, 4.1.1), and not one of neap's own.
fn cookie_name(name: &str) -> Result<(), (&'static str, &'static str)> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > COOKIE_LEN_MAX || !name.bytes().all(token) {
        return Err(("it is not the name of a cookie", "write it as the program sets it, such as cookie = \"sid\""));
    }
    if name.starts_with("neap_") {
        return Err(("\"neap_…\" is neap's own cookie", "leave cookie out: then neap begins sessions itself"));
    }
    Ok(())
}
