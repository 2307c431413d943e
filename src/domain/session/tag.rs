//! Owns the tag of a session: what a client's cookie `neap_<program>` says, which nobody without the key can make.
//! Must not know cookies, or what a tag leads to.
//!
//! Its text: id (26 characters), key number (1), time of issue in seconds (7), MAC (26), server, `~`, version. What is
//! signed is the program and all of the text but the MAC.

use super::id::{self, DIGITS, SessionId};
use super::key::Keys;
use super::{Place, WallMillis};
use crate::domain::names::{ProgramName, ServerName, Version};

const KEY_AT: usize = id::LEN;
const ISSUED_AT: usize = KEY_AT + 1;
const MAC_AT: usize = ISSUED_AT + ISSUED_LEN;
const PLACE_AT: usize = MAC_AT + id::LEN;
const ISSUED_LEN: usize = 7;
/// Bytes of the longest tag: the longest server's and version's names.
pub const TAG_LEN_MAX: usize = PLACE_AT + 63 + 1 + 64;
/// What is signed at the most: the program's name and a `~` come first.
const SIGNED_MAX: usize = 64 + TAG_LEN_MAX;

/// An authentic tag, borrowed from the text of a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag<'a> {
    pub id: SessionId,
    /// To a second.
    pub issued: WallMillis,
    pub server: &'a str,
    pub version: &'a str,
    /// It was made with the key before the present one: time to give the client a new one.
    pub old_key: bool,
}

/// Why a text is no tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTag {
    #[error("it is not written as a tag")]
    Malformed,
    #[error("it was made with a key that does not count (any more)")]
    UnknownKey,
    #[error("its MAC is not right")]
    Forged,
}

impl<'a> Tag<'a> {
    /// Checks a tag that a client sent. Anything a client may send is answered with an error at most.
    pub fn verify(text: &'a [u8], program: &ProgramName, keys: &Keys) -> Result<Self, BadTag> {
        if text.len() > TAG_LEN_MAX || text.len() < PLACE_AT + 3 {
            return Err(BadTag::Malformed);
        }
        let id = id::decode(&text[..KEY_AT]).ok_or(BadTag::Malformed)?;
        let number = digits(&text[KEY_AT..ISSUED_AT]).ok_or(BadTag::Malformed)?;
        let issued = digits(&text[ISSUED_AT..MAC_AT]).ok_or(BadTag::Malformed)?;
        let mac = id::decode(&text[MAC_AT..PLACE_AT]).ok_or(BadTag::Malformed)?;
        let place = std::str::from_utf8(&text[PLACE_AT..]).map_err(|_| BadTag::Malformed)?;
        let (server, version) = place.split_once('~').ok_or(BadTag::Malformed)?;
        let key = keys.of(number as u8).ok_or(BadTag::UnknownKey)?;
        let signed = Signed::of(program, &text[..MAC_AT], &text[PLACE_AT..]).ok_or(BadTag::Malformed)?;
        let ours = u128::from_be_bytes(key.sign(signed.bytes()));
        // Compared as one number: how long it takes says nothing of where they differ.
        if subtle::ConstantTimeEq::ct_ne(&ours, &mac).into() {
            return Err(BadTag::Forged);
        }
        let old_key = key.number != keys.present().number;
        Ok(Self { id: SessionId(id), issued: issued * 1_000, server, version, old_key })
    }

    /// Writes the tag of a session at a place, made with the present key.
    pub fn write(
        id: SessionId,
        place: (&ServerName, &Version),
        now: WallMillis,
        program: &ProgramName,
        keys: &Keys,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.extend_from_slice(&id.text());
        out.push(DIGITS[(keys.present().number % 32) as usize]);
        let seconds = now / 1_000;
        out.extend((0..ISSUED_LEN).rev().map(|digit| DIGITS[(seconds >> (5 * digit) & 31) as usize]));
        let (server, version) = place;
        let at = [server.as_str().as_bytes(), b"~", version.as_str().as_bytes()].concat();
        if let Some(signed) = Signed::of(program, &out[start..], &at) {
            out.extend_from_slice(&id::encode(u128::from_be_bytes(keys.present().sign(signed.bytes()))));
            out.extend_from_slice(&at);
        }
    }

    pub fn is_at(&self, place: &Place) -> bool {
        self.server == place.server.as_str() && self.version == place.version.as_str()
    }
}

/// An authentic tag that outlives the text it was read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldTag {
    pub id: SessionId,
    pub issued: WallMillis,
    pub old_key: bool,
    text: Box<str>,
    /// Where the server's name ends in it.
    server_end: usize,
}

impl HeldTag {
    /// Checks a tag that a client sent, and keeps it.
    pub fn verify(text: &[u8], program: &ProgramName, keys: &Keys) -> Result<Self, BadTag> {
        let Tag { id, issued, old_key, server, .. } = Tag::verify(text, program, keys)?;
        let text = std::str::from_utf8(text).map_err(|_| BadTag::Malformed)?;
        Ok(Self { id, issued, old_key, text: text.into(), server_end: PLACE_AT + server.len() })
    }

    /// Whether a client sent this one, every byte of it. How long that takes says nothing of where the MACs differ.
    pub(super) fn is_text(&self, text: &[u8]) -> bool {
        let ours = self.text.as_bytes();
        if text.len() != ours.len() || text[..MAC_AT] != ours[..MAC_AT] || text[PLACE_AT..] != ours[PLACE_AT..] {
            return false;
        }
        let part = |text: &[u8], at: usize| {
            let bytes = text[at..].first_chunk().copied().unwrap_or_default();
            u128::from_ne_bytes(bytes)
        };
        // Two parts, which overlap.
        let last = PLACE_AT - 16;
        let first_is = subtle::ConstantTimeEq::ct_eq(&part(text, MAC_AT), &part(ours, MAC_AT));
        (first_is & subtle::ConstantTimeEq::ct_eq(&part(text, last), &part(ours, last))).into()
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn server(&self) -> &str {
        &self.text[PLACE_AT..self.server_end]
    }

    pub fn version(&self) -> &str {
        &self.text[self.server_end + 1..]
    }

    pub fn is_at(&self, place: &Place) -> bool {
        self.server() == place.server.as_str() && self.version() == place.version.as_str()
    }
}

/// Of a text as long as a tag, bits of what is taken for its MAC: evenly spread, where it is one.
pub(super) fn some_of_mac(text: &[u8]) -> Option<u64> {
    text.get(PLACE_AT..)?;
    text[PLACE_AT - 8..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// What a MAC is made of, in one piece on the stack.
struct Signed {
    bytes: [u8; SIGNED_MAX],
    len: usize,
}

impl Signed {
    fn of(program: &ProgramName, front: &[u8], place: &[u8]) -> Option<Self> {
        let mut signed = Self { bytes: [0; SIGNED_MAX], len: 0 };
        for part in [front, place, b"~", program.as_str().as_bytes()] {
            signed.bytes.get_mut(signed.len..signed.len + part.len())?.copy_from_slice(part);
            signed.len += part.len();
        }
        Some(signed)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A short number in the digits of ids.
fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, character| {
        let digit = DIGITS.iter().position(|digit| digit == character)?;
        Some(number << 5 | digit as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::Key;
    use proptest::prelude::*;

    const NOW: WallMillis = 1_764_000_000_000;

    fn shop() -> ProgramName {
        ProgramName::new("shop").unwrap()
    }

    fn keys(present: u32, before: Option<u32>) -> Keys {
        let key = |number| Key::of_secret(number, b"a secret of the whole cluster");
        Keys::new(key(present), before.map(key))
    }

    fn place() -> Place {
        Place { server: ServerName::new("app-2").unwrap(), version: Version::new("1.4.2+b").unwrap() }
    }

    fn written(keys: &Keys) -> Vec<u8> {
        let (mut out, place) = (Vec::new(), place());
        Tag::write(SessionId(7 << 64), (&place.server, &place.version), NOW, &shop(), keys, &mut out);
        out
    }

    #[test]
    fn a_tag_reads_back_what_it_says_and_is_made_of_what_a_cookie_may_hold() {
        let text = written(&keys(3, None));
        let tag = Tag::verify(&text, &shop(), &keys(3, None)).unwrap();
        assert_eq!((tag.id, tag.issued, tag.old_key), (SessionId(7 << 64), NOW, false));
        assert!(tag.is_at(&place()));
        let held = HeldTag::verify(&text, &shop(), &keys(3, None)).unwrap();
        assert_eq!((held.id, held.server(), held.version()), (tag.id, tag.server, tag.version));
        assert!(held.is_at(&place()) && held.text().as_bytes() == text);
        assert!(HeldTag::verify(&text[1..], &shop(), &keys(3, None)).is_err());
        assert!(text.iter().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(byte)));
        assert!(text.len() <= TAG_LEN_MAX);
    }

    #[test]
    fn a_tag_changed_in_any_byte_or_of_another_program_or_key_is_none() {
        let text = written(&keys(3, None));
        for at in 0..text.len() {
            for byte in [text[at] ^ 1, b'0', b'Z', b'~', 0xff] {
                let mut other = text.clone();
                other[at] = byte;
                assert!(other == text || Tag::verify(&other, &shop(), &keys(3, None)).is_err(), "{at} {byte}");
            }
            assert!(Tag::verify(&text[..at], &shop(), &keys(3, None)).is_err());
        }
        let mail = ProgramName::new("mail").unwrap();
        assert_eq!(Tag::verify(&text, &mail, &keys(3, None)), Err(BadTag::Forged));
        let other = Keys::new(Key::of_secret(3, b"the secret of another cluster"), None);
        assert_eq!(Tag::verify(&text, &shop(), &other), Err(BadTag::Forged));
    }

    #[test]
    fn keys_roll_and_the_one_before_counts_until_the_next_roll() {
        let text = written(&keys(3, None));
        assert!(Tag::verify(&text, &shop(), &keys(4, Some(3))).unwrap().old_key);
        assert_eq!(Tag::verify(&text, &shop(), &keys(5, Some(4))), Err(BadTag::UnknownKey));
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_judged_and_never_taken(text in proptest::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert!(Tag::verify(&text, &shop(), &keys(3, Some(2))).is_err());
        }
    }
}
