//! Owns the names and numbers by which the parts of a cluster know each other. Parsed once at the edge, so that
//! the rest of the code never holds a raw string. Must not know what any name is used for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that breaks its rule; says which, and what was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{given}\" is not valid: {rule}")]
pub struct BadName {
    pub what: &'static str,
    pub given: String,
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name; the error says what the rule is.
            pub fn new(given: impl AsRef<str>) -> Result<Self, BadName> {
                let given = given.as_ref();
                let valid: fn(&str) -> bool = $valid;
                if valid(given) {
                    Ok(Self(Arc::from(given)))
                } else {
                    Err(BadName { what: $what, given: given.chars().take(80).collect(), rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;
            fn from_str(given: &str) -> Result<Self, BadName> {
                Self::new(given)
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(given: String) -> Result<Self, BadName> {
                Self::new(given)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

fn label(given: &str) -> bool {
    (1..=63).contains(&given.len()) && given.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn token(given: &str) -> bool {
    given.len() <= 64 && id(given)
}

fn id(given: &str) -> bool {
    (1..=160).contains(&given.len())
        && given.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-'))
        && given.bytes().any(|b| b != b'.')
}

fn component(given: &str) -> bool {
    (1..=1024).contains(&given.len()) && !given.chars().any(char::is_control) && given.trim() == given
}

name!(
    /// A component's name: a package's, or the path of a file that no package has.
    ComponentName, "component name", "use 1 to 1024 characters, none of them a control character, no blank at an end", component
);
name!(
    /// A program's name: `[a-z0-9-]`, 1 to 63 characters.
    ProgramName, "program name", "use 1 to 63 of a-z, 0-9 and -", label
);
name!(
    /// A node's name, and so a server's, a router's or a management's: `[a-z0-9-]`, 1 to 63 characters.
    NodeName, "node name", "use 1 to 63 of a-z, 0-9 and -", label
);
name!(
    /// The name of one build of a program: `[A-Za-z0-9._+-]`, 1 to 64 characters. Compared for equality, never ordered.
    Version, "version", "use 1 to 64 of A-Z, a-z, 0-9, '.', '_', '+' and '-'", token
);
name!(
    /// One run of a node, from start to exit; no two are alike.
    RunId, "run id", "use 1 to 160 of A-Z, a-z, 0-9, '.', '_', '+' and '-'", id
);
name!(
    /// One operation that management orders of a placement; no two are alike.
    OperationId, "operation id", "use 1 to 160 of A-Z, a-z, 0-9, '.', '_', '+' and '-'", id
);
name!(
    /// One ripple; no two are alike.
    RippleId, "ripple id", "use 1 to 160 of A-Z, a-z, 0-9, '.', '_', '+' and '-'", id
);

/// An application server is known by its node's name.
pub type ServerName = NodeName;

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl FromStr for Sha256 {
    type Err = BadName;
    fn from_str(given: &str) -> Result<Self, BadName> {
        let bad =
            || BadName { what: "SHA-256", given: given.chars().take(80).collect(), rule: "use 64 hexadecimal digits" };
        if given.len() != 64 || !given.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(given.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = BadName;
    fn try_from(given: String) -> Result<Self, BadName> {
        given.parse()
    }
}

impl From<Sha256> for String {
    fn from(sha: Sha256) -> String {
        sha.to_string()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A version's artifact: its name and the SHA-256 of its canonical tar.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Release {
    pub version: Version,
    pub sha256: Sha256,
}

macro_rules! counter {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl $type {
            /// The next one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Counter of one placement; rises at every transition (protocol P3).
    Generation
);
counter!(
    /// Counter of the Server List as a whole; rises at every change.
    Revision
);

/// A leadership: a number and the management that holds it. Ordered; no two are alike (protocol P6).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Term {
    pub number: u64,
    pub management: NodeName,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.management)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_with_its_rule() {
        assert!(ProgramName::new("shop").is_ok());
        for given in ["", "Shop", "shop_1", "a/b", "..", &"a".repeat(64)] {
            assert!(ProgramName::new(given).is_err(), "{given}");
        }
        let error = ProgramName::new("Shop").unwrap_err().to_string();
        assert!(error.contains("\"Shop\"") && error.contains("a-z"), "{error}");
    }

    #[test]
    fn a_version_is_never_a_path() {
        for given in ["..", ".", "1/2", "a b", ""] {
            assert!(Version::new(given).is_err(), "{given}");
        }
        assert!(Version::new("1.0.0-rc.1+build").is_ok());
    }

    #[test]
    fn a_sha_256_reads_back_what_it_writes() {
        let sha = Sha256([0xab; 32]);
        assert_eq!(sha.to_string().parse::<Sha256>().unwrap(), sha);
        assert!("xyz".parse::<Sha256>().is_err());
        assert!("+1".repeat(32).parse::<Sha256>().is_err());
    }

    #[test]
    fn terms_of_two_managements_differ_even_with_one_number() {
        let (a, b) = (NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        let (low, high) = (Term { number: 3, management: a }, Term { number: 3, management: b });
        assert!(low < high && low < Term { number: 4, ..low.clone() });
    }
}
