//! Owns a session's id: 128 random bits, and their text. Must not know where randomness comes from.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Crockford's base 32, as ULIDs are written.
pub(super) const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of 128 bits.
pub(super) const LEN: usize = 26;

const NO_DIGIT: u8 = 0xff;
static VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < DIGITS.len() {
        values[DIGITS[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// neap's own id of a session; never a cookie's value, which a program may change as it likes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub u128);

/// What is no session id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session id \"{0}\" is not valid: use its 26 characters, as `neap session ls` shows them")]
pub struct BadSessionId(pub String);

impl SessionId {
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Its 26 characters.
    pub fn text(self) -> [u8; LEN] {
        encode(self.0)
    }
}

/// 128 bits as text.
pub(super) fn encode(mut bits: u128) -> [u8; LEN] {
    let mut text = [b'0'; LEN];
    for place in text.iter_mut().rev() {
        *place = DIGITS[(bits & 31) as usize];
        bits >>= 5;
    }
    text
}

/// `None`: not 26 digits, or more than 128 bits.
pub(super) fn decode(text: &[u8]) -> Option<u128> {
    let text: &[u8; LEN] = text.try_into().ok()?;
    // Two halves of 13 digits fit 64 bits each, save the top one: wide arithmetic only once.
    let mut bits: u128 = 0;
    let mut bad = 0;
    for half in text.chunks(13) {
        let mut part: u128 = 0;
        let mut low: u64 = 0;
        for (at, character) in half.iter().enumerate() {
            let value = VALUES[usize::from(*character)];
            bad |= value;
            if at == 0 {
                part = u128::from(value & 31) << 60;
            } else {
                low = (low << 5) | u64::from(value & 31);
            }
        }
        part |= u128::from(low);
        bits = (bits << 65) | part;
    }
    // The first digit has three bits of the 130 that 26 digits could say.
    (bad < 32 && VALUES[usize::from(text[0])] < 8).then_some(bits)
}

impl FromStr for SessionId {
    type Err = BadSessionId;
    fn from_str(given: &str) -> Result<Self, BadSessionId> {
        let upper = given.to_ascii_uppercase();
        decode(upper.as_bytes()).map(Self).ok_or_else(|| BadSessionId(given.chars().take(80).collect()))
    }
}

impl TryFrom<String> for SessionId {
    type Error = BadSessionId;
    fn try_from(given: String) -> Result<Self, BadSessionId> {
        given.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        id.to_string()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Hash for SessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Random bits need no more mixing, and half of them are enough.
        state.write_u64(self.0 as u64);
    }
}

/// Hashes a session id as itself: it is random, and a client cannot choose it.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsItself(u64);

impl BuildHasher for AsItself {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for AsItself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_reads_back_what_it_writes(bits: u128) {
            let id = SessionId(bits);
            prop_assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
            prop_assert_eq!(id.to_string().to_ascii_lowercase().parse::<SessionId>(), Ok(id));
            prop_assert_eq!(SessionId::from_bytes(id.to_bytes()), id);
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        assert_eq!(SessionId(u128::MAX).to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        for bad in ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0", "0000000000000000000000000U", &"0".repeat(27)] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }
}
