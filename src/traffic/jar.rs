//! Owns one client's cookies, kept as a browser keeps them (RFC 6265, section 5). Pure: the time comes in. Must not
//! know what the cookies mean.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// Cookies of one client, and bytes of one, as browsers bound them.
const COOKIES_MAX: usize = 50;
const COOKIE_BYTES_MAX: usize = 4_096;

/// The cookies of one client, of one host.
#[derive(Clone, Debug, Default)]
pub struct Jar(Vec<Cookie>);

#[derive(Clone, Debug, PartialEq)]
struct Cookie {
    name: String,
    value: String,
    path: String,
    secure: bool,
    /// `None`: as long as the client.
    expires: Option<Timestamp>,
}

impl Jar {
    /// Takes one `Set-Cookie` of the answer to a request for `path`. What is no cookie, or too large, is ignored.
    pub fn set(&mut self, field: &str, path: &str, now: Timestamp) {
        let Some(cookie) = Cookie::parse(field, path, now) else { return };
        let same = |other: &Cookie| other.name == cookie.name && other.path == cookie.path;
        // One that is replaced keeps its place.
        match self.0.iter().position(same) {
            Some(index) if cookie.is_over(now) => drop(self.0.remove(index)),
            Some(index) => self.0[index] = cookie,
            None if cookie.is_over(now) => {}
            None => {
                if self.0.len() == COOKIES_MAX {
                    self.0.remove(0);
                }
                self.0.push(cookie);
            }
        }
    }

    /// The value of `Cookie` for a request, if there is anything to send. Longer paths come first.
    pub fn field(&self, path: &str, secure: bool, now: Timestamp) -> Option<String> {
        let due = |cookie: &&Cookie| !cookie.is_over(now) && (secure || !cookie.secure) && covers(&cookie.path, path);
        let mut cookies: Vec<_> = self.0.iter().filter(due).collect();
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<_> = cookies.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

impl Cookie {
    fn parse(field: &str, request_path: &str, now: Timestamp) -> Option<Self> {
        let mut parts = field.split(';').map(str::trim);
        let (name, value) = parts.next()?.split_once('=')?;
        if name.trim().is_empty() || field.len() > COOKIE_BYTES_MAX {
            return None;
        }
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        let mut cookie =
            Self { name, value, path: default_path(request_path).to_owned(), secure: false, expires: None };
        let mut max_age = None;
        for part in parts {
            let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
            match attribute.trim().to_ascii_lowercase().as_str() {
                "path" if value.starts_with('/') => cookie.path = value.to_owned(),
                "secure" => cookie.secure = true,
                "max-age" => max_age = value.parse::<i64>().ok(),
                "expires" => cookie.expires = date(value).or(cookie.expires),
                _ => {}
            }
        }
        if let Some(seconds) = max_age {
            let age = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            cookie.expires = now.checked_add(age).ok();
        }
        Some(cookie)
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// A date as HTTP writes it, or as Netscape did.
fn date(given: &str) -> Option<Timestamp> {
    DateTimeParser::new().relaxed_weekday(true).parse_timestamp(given.trim().replace('-', " ")).ok()
}

/// The directory of a request's path.
fn default_path(request_path: &str) -> &str {
    let path = request_path.split('?').next().unwrap_or_default();
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(slash) => &path[..slash],
    }
}

fn covers(path: &str, request_path: &str) -> bool {
    let asked = request_path.split('?').next().unwrap_or_default();
    asked.strip_prefix(path).is_some_and(|rest| rest.is_empty() || path.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn jar(fields: &[&str]) -> Jar {
        let mut jar = Jar::default();
        fields.iter().for_each(|field| jar.set(field, "/shop/x", at(0)));
        jar
    }

    #[test]
    fn a_cookie_is_sent_where_its_path_reaches() {
        let jar = jar(&["a=1; Path=/", "b=2; Path=/shop; HttpOnly", "c=3", "d=4; Path=/other"]);
        let sent = |path| jar.field(path, false, at(0)).unwrap_or_default();
        assert_eq!(sent("/shop/y?q=1"), "b=2; c=3; a=1");
        assert_eq!(sent("/shop"), "b=2; c=3; a=1");
        assert_eq!(sent("/shopping"), "a=1");
        assert_eq!(sent("/other/"), "d=4; a=1");
    }

    #[test]
    fn a_secure_cookie_stays_on_tls() {
        let jar = jar(&["a=1; Secure; Path=/"]);
        assert_eq!(jar.field("/", false, at(0)), None);
        assert_eq!(jar.field("/", true, at(0)).as_deref(), Some("a=1"));
    }

    #[test]
    fn a_cookie_is_replaced_expires_and_is_cleared() {
        let mut jar = jar(&["a=1; Path=/", "b=2; Max-Age=10; Path=/"]);
        jar.set("a=3; Path=/", "/", at(1));
        assert_eq!(jar.field("/", false, at(9)).as_deref(), Some("a=3; b=2"));
        assert_eq!(jar.field("/", false, at(10)).as_deref(), Some("a=3"));
        for cleared in [
            "a=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "a=x; Path=/; Max-Age=0",
            "a=; Path=/; Expires=Thu, 01-Jan-1970 00:00:00 GMT",
        ] {
            let mut jar = jar.clone();
            jar.set(cleared, "/", at(10));
            assert_eq!(jar.field("/", false, at(10)), None, "{cleared}");
        }
        jar.set("a=5; Path=/; Expires=Thu, 01 Jan 1970 00:01:00 GMT", "/", at(10));
        assert_eq!(jar.field("/", false, at(59)).as_deref(), Some("a=5"));
        assert_eq!(jar.field("/", false, at(60)), None);
    }

    #[test]
    fn what_is_no_cookie_is_ignored_and_what_is_kept_is_bounded() {
        let big = format!("big={}", "x".repeat(COOKIE_BYTES_MAX));
        assert_eq!(jar(&["", "novalue", "=x", &big]).0, []);
        let mut jar = Jar::default();
        (0..100).for_each(|n| jar.set(&format!("n{n}=1"), "/", at(0)));
        assert_eq!((jar.0.len(), jar.0[0].name.as_str()), (COOKIES_MAX, "n50"));
    }
}
