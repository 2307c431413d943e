//! Owns the keys that tags are made and checked with: the present one, and the one before it, so that they can be rolled.
//! Must not know where keys come from, or where they are kept.

use std::fmt;

use ring::hmac;

/// Which key a tag was made with; the next one rises by one, and what is 32 above looks the same.
pub type KeyNumber = u32;

/// A key, of any number of bytes from 16.
#[derive(Clone)]
pub struct Key {
    pub number: KeyNumber,
    key: hmac::Key,
}

impl Key {
    pub fn new(number: KeyNumber, bytes: &[u8]) -> Self {
        Self { number, key: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
    }

    /// The key of that number which all who know the cluster's secret make alike.
    pub fn of_secret(number: KeyNumber, secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let mut context = hmac::Context::with_key(&secret);
        context.update(b"neap session tags ");
        context.update(&number.to_be_bytes());
        Self::new(number, context.sign().as_ref())
    }

    /// The first 128 bits of the HMAC-SHA256 of what is signed.
    pub(super) fn sign(&self, signed: &[u8]) -> [u8; 16] {
        let whole = hmac::sign(&self.key, signed);
        let mut mac = [0; 16];
        mac.copy_from_slice(&whole.as_ref()[..16]);
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, …)", self.number)
    }
}

/// What tags are made with, and what they are checked with.
#[derive(Clone, Debug)]
pub struct Keys {
    present: Key,
    before: Option<Key>,
}

impl Keys {
    pub fn new(present: Key, before: Option<Key>) -> Self {
        Self { present, before }
    }

    pub fn present(&self) -> &Key {
        &self.present
    }

    /// The key that a tag of this number was made with, where it still counts.
    pub(super) fn of(&self, number: u8) -> Option<&Key> {
        let is_it = |key: &&Key| key.number % 32 == u32::from(number);
        Some(&self.present).filter(is_it).or(self.before.as_ref().filter(is_it))
    }
}
