//! Owns how a record that is bytes, and not JSON, is told from one that is damaged: it begins with a NUL, which no JSON does,
//! and with four bytes of a digest of the rest. Must not know what the bytes mean.

use sha2::{Digest, Sha256};

const MARK: u8 = 0;
const DIGEST: usize = 4;

/// The bytes as they are kept.
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(1 + DIGEST + bytes.len());
    sealed.push(MARK);
    sealed.extend_from_slice(&Sha256::digest(bytes)[..DIGEST]);
    sealed.extend_from_slice(bytes);
    sealed
}

/// The bytes that were sealed; `None`: it is not as it was written, or no such record.
pub fn unseal(sealed: &[u8]) -> Option<&[u8]> {
    let (digest, bytes) = sealed.strip_prefix(&[MARK])?.split_at_checked(DIGEST)?;
    (Sha256::digest(bytes)[..DIGEST] == *digest).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_there_and_what_has_changed_is_not() {
        let sealed = seal(b"cart");
        assert_eq!(unseal(&sealed), Some(b"cart".as_slice()));
        assert_eq!(unseal(&seal(b"")), Some(b"".as_slice()));
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert_eq!(unseal(&other), None, "{at}");
            assert_eq!(unseal(&sealed[..at]), None);
        }
        assert_eq!(unseal(b"{}"), None);
    }
}
