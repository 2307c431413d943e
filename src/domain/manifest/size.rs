//! Owns how sizes are written: "64KiB", "10MiB", "2GiB", or bytes as "512B".
//! Must not know where they are used.

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size.
pub fn parse(given: &str) -> Result<u64, String> {
    let bad =
        || format!("\"{given}\" is not a size: write a number and a unit, such as \"512B\", \"64KiB\" or \"10MiB\"");
    let end = given.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = given[..end].parse().map_err(|_| bad())?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == &given[end..]).ok_or_else(bad)?;
    number.checked_mul(*unit).ok_or_else(bad)
}

/// Writes a size in the largest unit that divides it.
pub fn show(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse("10MiB"), Ok(10 << 20));
        assert_eq!(parse("0B"), Ok(0));
        for given in ["", "10", "MiB", "10MB", "10 MiB", "-1B", "99999999999999999999B", "99999999999GiB"] {
            assert!(parse(given).is_err(), "{given}");
        }
        assert_eq!([0, 512, 64 << 10, 10 << 20].map(show), ["0B", "512B", "64KiB", "10MiB"]);
    }
}
