//! Owns how cookies are read and written (RFC 6265): neap's own in what a client sends, the program's in what it answers.
//! Must not know heads, or what tags say: fields come in as bytes, of any length and content.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::WallMillis;
use super::date;

/// What the names of neap's own cookies begin with.
const OWN: &[u8] = b"neap_";
static IN_FIELD: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(OWN));

/// The `Cookie` fields of a request, looked at one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Cookies<'a>(&'a [u8]);

impl<'a> Cookies<'a> {
    /// Of one field's value.
    pub fn of(field: &'a [u8]) -> Self {
        Self(field)
    }

    /// Those that are neap's own, of whatever program. Looks at a field once, and quickly.
    pub fn own(&self) -> impl Iterator<Item = OwnCookie<'a>> + use<'a> {
        let field = self.0;
        self.own_places().map(move |place| OwnCookie(&field[place]))
    }

    /// Writes all but neap's own, in their order and as they came; nothing is written where none is left.
    pub fn write_others(&self, out: &mut Vec<u8>) {
        let (mut is_first, mut from) = (true, 0);
        for own in self.own_places().chain(std::iter::once(self.0.len()..self.0.len())) {
            let run = trim_pairs(&self.0[from..own.start]);
            if !run.is_empty() {
                if !std::mem::take(&mut is_first) {
                    out.extend_from_slice(b"; ");
                }
                out.extend_from_slice(run);
            }
            from = own.end;
        }
    }

    /// Where neap's own stand, to the `;` behind each.
    fn own_places(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let (field, mut at) = (self.0, 0);
        std::iter::from_fn(move || {
            loop {
                let start = at + IN_FIELD.find(&field[at..])?;
                at = start + OWN.len();
                // Else it stands within another's name or value.
                if matches!(field[..start].trim_ascii_end().last(), None | Some(b';')) {
                    at = memchr::memchr(b';', &field[at..]).map_or(field.len(), |end| at + end);
                    return Some(start..at);
                }
            }
        })
    }
}

/// One of neap's own cookies.
#[derive(Clone, Copy, Debug)]
pub struct OwnCookie<'a>(&'a [u8]);

impl<'a> OwnCookie<'a> {
    /// Its value, if it is the program's: a request may bear more than one such where paths overlap.
    pub fn value_of(&self, program: &str) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(OWN)?.strip_prefix(program.as_bytes())?;
        Some(rest.strip_prefix(b"=")?.trim_ascii_end())
    }
}

/// Without what stands between pairs at either end.
fn trim_pairs(mut run: &[u8]) -> &[u8] {
    let is_between = |byte: &u8| *byte == b';' || byte.is_ascii_whitespace();
    while let [first, rest @ ..] = run
        && is_between(first)
    {
        run = rest;
    }
    while let [rest @ .., last] = run
        && is_between(last)
    {
        run = rest;
    }
    run
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

    fn own(field: &str) -> Vec<&str> {
        let own = Cookies::of(field.as_bytes()).own().filter_map(|cookie| cookie.value_of("shop"));
        own.map(|value| std::str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn a_field_that_is_nothing_but_beginnings_is_looked_at_in_good_time() {
        let field = "x neap_".repeat(300_000);
        assert_eq!((own(&field), others(&field).len()), (vec![], field.len()));
        let field = format!("a{}", " \t".repeat(500_000)) + &" neap_".repeat(1_000);
        assert_eq!(own(&field), [""; 0]);
    }

    #[test]
    fn neaps_own_cookies_are_found_and_no_program_sees_them() {
        let field = "a=1; neap_shop=T1; sid=\"x=y\";neap_mail=T2;  neap_shop=T3; neap_shop2=T4; b";
        assert_eq!(own(field), ["T1", "T3"]);
        assert_eq!(others(field), "a=1; sid=\"x=y\"; b");
        assert_eq!(own(" neap_shop=T1 ;;\tneap_shop = T2; x=neap_shop=T3;neap_shop=T4"), ["T1", "T4"]);
        assert_eq!(others(" neap_shop=T1 ;;\tneap_shop = T2; x=neap_shop=T3;neap_shop=T4"), "x=neap_shop=T3");
        assert_eq!(others("a=1;b=2; neap_shop=T;c=3;;d"), "a=1;b=2; c=3;;d", "what is not neap's is as it came");
        assert!(Cookies::of(b"aneap_shop=1; neap=2; a neap_shop=T").own().next().is_none());
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
            prop_assert!(Cookies::of(&out).own().next().is_none());
            let again = out.clone();
            let mut twice = Vec::new();
            Cookies::of(&again).write_others(&mut twice);
            prop_assert_eq!(out, twice);
        }
    }
}
