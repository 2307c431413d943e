//! Owns the header fields that a router adds or takes away: what a request is called, and what neap's nodes tell each
//! other of it. Must not know where a request goes.

use std::fmt::Write;

use crate::link::identity::new_id;
pub use crate::link::secret::CLUSTER_KEY;
use crate::proxy::{HeadWriter, RequestHead, forwarded, is_neap_header};

/// To a server's data port: which program the request is for.
pub const PROGRAM: &str = "Neap-Program";
/// From a server: which version answered.
pub const VERSION: &str = "Neap-Version";
const REQUEST_ID: &str = "X-Request-Id";
const TRACE: &str = "traceparent";
/// Longer ones are replaced.
const LONGEST_REQUEST_ID: usize = 128;

/// What a request is called: the client's names for it where they can be used, else new ones.
#[derive(Debug)]
pub struct Names {
    pub request_id: String,
    client_id: bool,
    client_trace: bool,
}

impl Names {
    pub fn of(head: &RequestHead<'_>) -> Self {
        let request_id = only(head, REQUEST_ID).filter(|id| is_request_id(id));
        let client_id = request_id.is_some();
        let request_id = request_id.map_or_else(new_id, str::to_owned);
        Self { request_id, client_id, client_trace: only(head, TRACE).is_some_and(is_trace) }
    }

    /// Whether the client's field goes on. Nobody but neap says `Neap-*` or writes what a router writes.
    pub fn keeps(&self, name: &str) -> bool {
        let replaced = |ours: &str, kept: bool| same(name, ours) && !(kept && name.eq_ignore_ascii_case(ours));
        !(is_neap_header(name)
            || forwarded::is_forwarding_header(name)
            || replaced(REQUEST_ID, self.client_id)
            || replaced(TRACE, self.client_trace))
    }

    /// Writes the names that the client did not give.
    pub fn write(&self, out: &mut HeadWriter<'_>) {
        if !self.client_id {
            out.add(REQUEST_ID, &self.request_id);
        }
        if !self.client_trace {
            out.add(TRACE, new_trace());
        }
    }
}

/// The one field of a name.
fn only<'a>(head: &RequestHead<'a>, name: &str) -> Option<&'a str> {
    let mut fields = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let (one, None) = (fields.next()?, fields.next()) else { return None };
    std::str::from_utf8(one.value).ok()
}

/// Equal in any case, and with `_` for `-`: many programs see no difference.
fn same(name: &str, ours: &str) -> bool {
    let equal = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(equal)
}

fn is_request_id(id: &str) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether it is a W3C `traceparent`: version, trace, parent and flags in lower-case hexadecimal, neither id all zero.
fn is_trace(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').take(5).collect();
    let [version, trace, parent, flags, ..] = parts[..] else { return false };
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let id = |part: &str, length| hex(part, length) && part.bytes().any(|byte| byte != b'0');
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.len() == 4);
    known && id(trace, 32) && id(parent, 16) && hex(flags, 2)
}

fn new_trace() -> String {
    let (trace, parent): (u128, u64) = (rand::random(), rand::random());
    let mut value = String::with_capacity(55);
    // Writing to a String does not fail; an id of zero is not allowed.
    let _ = write!(value, "00-{:032x}-{:016x}-01", trace.max(1), parent.max(1));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_kept_only_when_it_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_trace(good) && is_trace(&new_trace()));
        assert!(is_trace(&format!("01{}-more", &good[2..])));
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in ["", "00", &good.to_uppercase(), &format!("{good}-more"), &format!("ff{}", &good[2..]), zero] {
            assert!(!is_trace(bad), "{bad}");
        }
    }

    #[test]
    fn the_clients_own_neap_and_forwarding_fields_do_not_go_on() {
        let names = Names { request_id: "x".into(), client_id: true, client_trace: false };
        for kept in ["Accept", "x-request-id", "Cookie", "X-Neap"] {
            assert!(names.keeps(kept), "{kept}");
        }
        for dropped in ["Neap-Program", "neap_refused", "X-Forwarded-For", "X_Request_Id", "TraceParent"] {
            assert!(!names.keeps(dropped), "{dropped}");
        }
    }

    #[test]
    fn a_request_id_is_one_short_word() {
        assert!(is_request_id("01J-a.b"));
        for bad in ["", "a b", &"x".repeat(LONGEST_REQUEST_ID + 1), "é"] {
            assert!(!is_request_id(bad), "{bad}");
        }
    }
}
