//! Owns how cookies are read and written (RFC 6265): neap's own in what a client sends, the program's in what it answers.
//! Must not know heads, or what tags say: fields come in as bytes, of any length and content.

use super::WallMillis;
use super::date;

/// What the names of neap's own cookies begin with.
const OWN: &[u8] = b"neap_";

/// The `Cookie` fields of a request, looked at one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Cookies<'a>(&'a [u8]);

impl<'a> Cookies<'a> {
    /// Of one field's value.
    pub fn of(field: &'a [u8]) -> Self {
        Self(field)
    }

    /// Whether one may be neap's own. Looks at most fields once, and quickly.
    pub fn has_own(&self) -> bool {
        self.pairs().any(|pair| pair.starts_with(OWN))
    }

    /// The values of neap's own cookie for a program: more than one where paths overlap.
    pub fn own<'p>(&self, program: &'p str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'p> {
        self.pairs().filter_map(move |pair| {
            let rest = pair.strip_prefix(OWN)?.strip_prefix(program.as_bytes())?;
            rest.strip_prefix(b"=")
        })
    }

    /// Writes all but neap's own, in their order; nothing is written where none is left.
    pub fn write_others(&self, out: &mut Vec<u8>) {
        let mut is_first = true;
        for pair in self.pairs().filter(|pair| !pair.starts_with(OWN)) {
            if !std::mem::take(&mut is_first) {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(pair);
        }
    }

    fn pairs(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
    }
}

/// What a program's answer does to its own session cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramCookie {
    /// Set, or changed: to neap that is the same.
    Set,
    /// Cleared, or expired.
    Cleared,
}

/// What one `Set-Cookie` field does to the program's cookie of that name; `None`: it is of another one.
pub fn set_by_program(field: &[u8], name: &str, now: WallMillis) -> Option<ProgramCookie> {
    let mut parts = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = value_of(parts.next()?, name.as_bytes())?;
    let (mut max_age, mut expires) = (None, None);
    for attribute in parts {
        let at = attribute.iter().position(|byte| *byte == b'=').unwrap_or(attribute.len());
        let (key, given) = (attribute[..at].trim_ascii(), attribute.get(at + 1..).unwrap_or_default().trim_ascii());
        // The last one counts, and one that cannot be read does not (RFC 6265, 5.2).
        if key.eq_ignore_ascii_case(b"max-age") {
            max_age = is_no_time_left(given).or(max_age);
        } else if key.eq_ignore_ascii_case(b"expires") {
            expires = date::parse(given).map(|at| at <= now).or(expires);
        }
    }
    let is_empty = matches!(value, b"" | b"\"\"");
    let is_over = max_age.or(expires).unwrap_or(false);
    Some(if is_over || is_empty { ProgramCookie::Cleared } else { ProgramCookie::Set })
}

fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    (pair[..at].trim_ascii() == name).then(|| pair[at + 1..].trim_ascii())
}

/// Whether a `Max-Age` is zero or less; `None`: it is none.
fn is_no_time_left(given: &[u8]) -> Option<bool> {
    let (negative, digits) = match given.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, given),
    };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| negative || digits.iter().all(|digit| *digit == b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: WallMillis = 1_764_000_000_000;

    fn others(field: &str) -> String {
        let mut out = Vec::new();
        Cookies::of(field.as_bytes()).write_others(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn neaps_own_cookies_are_found_and_no_program_sees_them() {
        let field = "a=1; neap_shop=T1; sid=\"x=y\";neap_mail=T2;  neap_shop=T3; neap_shop2=T4; b";
        let own: Vec<_> = Cookies::of(field.as_bytes()).own("shop").collect();
        assert_eq!(own, [b"T1", b"T3"]);
        assert_eq!(others(field), "a=1; sid=\"x=y\"; b");
        assert!(Cookies::of(field.as_bytes()).has_own() && !Cookies::of(b"aneap_shop=1; neap=2").has_own());
        assert_eq!((others("neap_shop=T"), others(""), others(" ;; ")), (String::new(), String::new(), String::new()));
    }

    #[test]
    fn a_programs_cookie_is_set_changed_cleared_or_expired() {
        use ProgramCookie::{Cleared, Set};
        for (field, means) in [
            ("sid=abc", Some(Set)),
            ("sid=abc; Path=/; HttpOnly", Some(Set)),
            ("sid = abc; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", Some(Set)),
            ("sid=abc; expires=Fri, 31-Dec-2100 23:59:59 GMT", Some(Set)),
            ("sid=abc; Max-Age=nonsense", Some(Set)),
            ("sid=abc; Expires=nonsense", Some(Set)),
            ("sid=", Some(Cleared)),
            ("sid=\"\"; Path=/", Some(Cleared)),
            ("sid=abc; max-age=0", Some(Cleared)),
            ("sid=abc; Max-Age=-1", Some(Cleared)),
            ("sid=abc; Expires=Thu, 01 Jan 1970 00:00:00 GMT", Some(Cleared)),
            ("sid=abc; Expires=Thu, 01-Jan-70 00:00:00 GMT; Path=/", Some(Cleared)),
            ("sid2=abc", None),
            ("SID=abc", None),
            ("sid", None),
            ("", None),
        ] {
            assert_eq!(set_by_program(field.as_bytes(), "sid", NOW), means, "{field}");
        }
    }

    proptest! {
        #[test]
        fn whatever_cookies_come_nothing_of_neaps_own_is_left(field in "[a-z_=; ]{0,60}(neap_shop=[A-Z0-9]{0,9})?[;= a]{0,5}") {
            let mut out = Vec::new();
            Cookies::of(field.as_bytes()).write_others(&mut out);
            prop_assert!(!Cookies::of(&out).has_own());
            let again = out.clone();
            let mut twice = Vec::new();
            Cookies::of(&again).write_others(&mut twice);
            prop_assert_eq!(out, twice);
        }
    }
}
