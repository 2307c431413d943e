//! Owns how durations are written: "30s", "1m30s", "250ms" for people, milliseconds in JSON.
//! Must not know where they are used.

use std::time::Duration;

/// Reads "250ms", "30s", "5m", "2h", "1d", or a sum of them such as "1m30s".
pub fn parse(given: &str) -> Result<Duration, String> {
    let bad = || {
        format!(
            "\"{given}\" is not a duration: write a number and a unit, such as \"250ms\", \"30s\", \"5m\" or \"1h30m\""
        )
    };
    let mut rest = given.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let tail = &rest[digits..];
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let millis = match &tail[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let part = number.checked_mul(millis).ok_or_else(bad)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(bad)?;
        rest = &tail[unit..];
    }
    Ok(total)
}

/// Writes a duration as a person reads it: "0s", "250ms", "1.5s", "41s", "2m05s", "1h30m".
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        1..1_000 => format!("{millis}ms"),
        1_000..10_000 if !millis.is_multiple_of(1_000) => format!("{:.1}s", duration.as_secs_f64()),
        1_000..60_000 => format!("{}s", millis / 1_000),
        60_000..3_600_000 => match (millis / 60_000, millis / 1_000 % 60) {
            (minutes, 0) => format!("{minutes}m"),
            (minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        },
        _ => match (millis / 3_600_000, millis / 60_000 % 60) {
            (hours, 0) => format!("{hours}h"),
            (hours, minutes) => format!("{hours}h{minutes:02}m"),
        },
    }
}

/// Serde: a duration as whole milliseconds.
pub mod millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_millis().min(u64::MAX as u128) as u64)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        for given in ["", "5", "s", "5 s", "-1s", "1w", "99999999999999999999s", "9999999999999999999d"] {
            assert!(parse(given).is_err(), "{given}");
        }
    }

    #[test]
    fn durations_are_shown_as_a_person_reads_them() {
        let shown = |millis| show(Duration::from_millis(millis));
        assert_eq!(
            [0, 250, 1_500, 41_000, 125_000, 5_400_000].map(shown),
            ["0s", "250ms", "1.5s", "41s", "2m05s", "1h30m"]
        );
    }
}
