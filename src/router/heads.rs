//! Owns the header fields that a router adds or takes away: what a request is called, and what neap's nodes tell each
//! other of it. Must not know where a request goes.

use super::ids::Ids;
pub use crate::link::secret::CLUSTER_KEY;
use crate::proxy::{About, HeadWriter, Letters, RequestHead, forwarded};

/// To a server's data port: which program the request is for.
pub const PROGRAM: &str = "Neap-Program";
/// From a server: which version answered.
pub const VERSION: &str = "Neap-Version";
const REQUEST_ID: &str = "X-Request-Id";
const TRACE: &str = "traceparent";
/// Longer ones are replaced.
const LONGEST_REQUEST_ID: usize = 128;

/// First letters of the names that a router may not let pass as they are: `Cookie`, `Forwarded`, `traceparent`, and what
/// begins with `X-`.
pub const REPLACED: Letters = Letters::of(b"cftx");
/// Of the two that name a request.
const NAMES: Letters = Letters::of(b"tx");

/// What a request is called: the client's names for it where they can be used, else new ones.
#[derive(Debug)]
pub struct Names {
    pub about: About,
    client_id: bool,
    client_trace: bool,
}

impl Names {
    pub fn of(head: &RequestHead<'_>, ids: &Ids, now: std::time::Instant) -> Self {
        let (mut id, mut trace) = (Once::None, Once::None);
        for header in head.headers.iter().filter(|header| NAMES.begin(header.name)) {
            match header.name.len() {
                12 if header.name.eq_ignore_ascii_case(REQUEST_ID) => id.add(header.value),
                11 if header.name.eq_ignore_ascii_case(TRACE) => trace.add(header.value),
                _ => {}
            }
        }
        let given = id.only().filter(|id| is_request_id(id));
        let about = match given {
            Some(id) => About::new(id, head),
            None => About::new(&ids.request_id(now), head),
        };
        Self { about, client_id: given.is_some(), client_trace: trace.only().is_some_and(is_trace) }
    }

    /// Whether the client's field goes on. Nobody but neap writes what a router writes.
    pub fn keeps(&self, name: &str) -> bool {
        let replaced = |ours: &str, kept: bool| same(name, ours) && !(kept && name.eq_ignore_ascii_case(ours));
        !match name.len() {
            11 => replaced(TRACE, self.client_trace),
            12 => replaced(REQUEST_ID, self.client_id),
            _ => forwarded::is_forwarding_header(name),
        }
    }

    /// Writes the names that the client did not give.
    pub fn write(&self, ids: &Ids, out: &mut HeadWriter<'_>) {
        if !self.client_id {
            out.add_clean(REQUEST_ID, self.about.id());
        }
        if !self.client_trace {
            out.add_clean(TRACE, &ids.trace());
        }
    }
}

/// The values of a name, of which only a single one counts.
enum Once<'a> {
    None,
    One(&'a [u8]),
    More,
}

impl<'a> Once<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::None => Self::One(value),
            Self::One(_) | Self::More => Self::More,
        };
    }

    fn only(self) -> Option<&'a [u8]> {
        match self {
            Self::One(value) => Some(value),
            Self::None | Self::More => None,
        }
    }
}

/// Equal in any case, and with `_` for `-`: many programs see no difference.
fn same(name: &str, ours: &str) -> bool {
    let equal = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(equal)
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Whether it is a W3C `traceparent`: version, trace, parent and flags in lower-case hexadecimal, neither id all zero.
fn is_trace(value: &[u8]) -> bool {
    let mut parts = value.split(|byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let hex = |part: &[u8], length| {
        part.len() == length && part.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    };
    let id = |part: &[u8], length| hex(part, length) && part.iter().any(|byte| *byte != b'0');
    let known = hex(version, 2) && version != b"ff" && (version != b"00" || parts.next().is_none());
    known && id(trace, 32) && id(parent, 16) && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn is_trace(value: &str) -> bool {
        super::is_trace(value.as_bytes())
    }

    #[test]
    fn a_trace_is_kept_only_when_it_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let new = Ids::begin().trace();
        assert!(is_trace(good) && super::is_trace(&new));
        assert!(is_trace(&format!("01{}-more", &good[2..])));
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in ["", "00", &good.to_uppercase(), &format!("{good}-more"), &format!("ff{}", &good[2..]), zero] {
            assert!(!is_trace(bad), "{bad}");
        }
    }

    fn names(fields: &[(&str, &str)]) -> Names {
        let headers: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        Names::of(&RequestHead::of_test("GET", "/", &headers), &Ids::begin(), Instant::now())
    }

    #[test]
    fn the_clients_own_forwarding_fields_do_not_go_on() {
        let names = names(&[("X-REQUEST-ID", "mine"), ("Traceparent", "no trace")]);
        for kept in ["Accept", "x-request-id", "Cookie", "X-Neap", "X-Forwarded-Port"] {
            assert!(names.keeps(kept), "{kept}");
        }
        for dropped in ["X-Forwarded-For", "X_Request_Id", "TraceParent"] {
            assert!(!names.keeps(dropped) && REPLACED.begin(dropped), "{dropped}");
        }
        for name in ["Forwarded", "cookie", "x-forwarded-prefix"] {
            assert!(REPLACED.begin(name), "{name}");
        }
    }

    #[test]
    fn a_clients_names_are_taken_when_there_is_one_of_each_and_it_is_good() {
        assert_eq!(names(&[("x-request-id", "mine")]).about.id(), b"mine");
        for bad in [&[("X-Request-Id", "a b")][..], &[("X-Request-Id", "a"), ("x-request-id", "b")], &[]] {
            let names = names(bad);
            assert_eq!(names.about.id().len(), 26);
            assert!(!names.keeps("X-Request-Id"));
        }
    }

    #[test]
    fn a_request_id_is_one_short_word() {
        assert!(is_request_id(b"01J-a.b"));
        for bad in ["", "a b", &"x".repeat(LONGEST_REQUEST_ID + 1), "é"] {
            assert!(!is_request_id(bad.as_bytes()), "{bad}");
        }
    }
}
