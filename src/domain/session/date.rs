//! Owns how the dates of cookies are read, of which there are many spellings (RFC 6265, 5.1.1). Must not know what they
//! are for.

use super::WallMillis;

const MONTHS: [&[u8]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// Milliseconds since 1970, and 0 for what was before. `None`: it is no date.
pub(super) fn parse(text: &[u8]) -> Option<WallMillis> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    let delimits = |byte: &u8| !(byte.is_ascii_alphanumeric() || *byte == b':' || *byte >= 0x80);
    for token in text.split(delimits).filter(|token| !token.is_empty()) {
        if time.is_none()
            && let Some(found) = clock(token)
        {
            time = Some(found);
        } else if day.is_none()
            && let Some(found) = number(token, 1..=2)
        {
            day = Some(found);
        } else if month.is_none()
            && let Some(found) = named_month(token)
        {
            month = Some(found);
        } else if year.is_none()
            && let Some(found) = number(token, 2..=4)
        {
            year = Some(found);
        }
    }
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    let (day, month, (hour, minute, second)) = (day?, month?, time?);
    let valid = (1..=31).contains(&day) && year >= 1601 && hour <= 23 && minute <= 59 && second <= 59;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    valid.then(|| u64::try_from(seconds).unwrap_or(0) * 1_000)
}

fn clock(token: &[u8]) -> Option<(i64, i64, i64)> {
    let mut parts = token.split(|byte| *byte == b':');
    let mut next = || number(parts.next()?, 1..=2);
    Some((next()?, next()?, next()?))
}

fn number(token: &[u8], digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let length = token.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = std::str::from_utf8(&token[..length]).ok()?;
    text.parse().ok().filter(|_| digits.contains(&length))
}

fn named_month(token: &[u8]) -> Option<i64> {
    let start = token.get(..3)?;
    MONTHS.iter().position(|month| start.eq_ignore_ascii_case(month)).map(|at| at as i64 + 1)
}

/// Days from 1970 to a day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, month) = (year.div_euclid(400), (month + 9) % 12);
    let year = year.rem_euclid(400);
    let day = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_spellings_that_programs_use() {
        let at = Some(784_111_777_000);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sun, 6-nov-1994 8:49:37",
        ] {
            assert_eq!(parse(text.as_bytes()), at, "{text}");
        }
        assert_eq!(parse(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse(b"Tue, 29 Feb 2000 12:00:00 GMT"), Some(951_825_600_000));
        assert_eq!(parse(b"Mon, 01 Jan 1601 00:00:00 GMT"), Some(0));
        for bad in ["", "Thu", "01 Jan 1970", "32 Jan 1970 00:00:00", "01 Jan 1970 24:00:00", "01 Jan 1600 00:00:00"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
