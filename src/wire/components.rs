//! Owns how a server tells management what its programs use: by digests first, and only what is not held yet.
//! Must not know how it was found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::domain::components::Usage;
use crate::domain::names::{ProgramName, Sha256};

/// What a server's programs use, the answer to [`ToServer::Components`](super::messages::ToServer::Components).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ToldComponents {
    /// All programs that were looked at, with the digest of what was found.
    pub has: BTreeMap<ProgramName, Sha256>,
    /// Of those that management does not hold as they are, as many as fit into one answer: it asks again for more.
    pub usages: Vec<Usage>,
}

/// The digest of one program's usage, and its size in bytes.
pub fn digest(usage: &Usage) -> (Sha256, usize) {
    let text = serde_json::to_vec(usage).unwrap_or_default();
    (Sha256(sha2::Sha256::digest(&text).into()), text.len())
}

/// The digest of all that a server has.
pub fn digest_of(has: &BTreeMap<ProgramName, Sha256>) -> Sha256 {
    let mut hasher = sha2::Sha256::new();
    for (program, digest) in has {
        hasher.update(program.as_str());
        hasher.update([0]);
        hasher.update(digest.0);
    }
    Sha256(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_or_other_usages_are_another_digest() {
        let has = |programs: &[(&str, u8)]| {
            let pairs = programs.iter().map(|(name, byte)| (ProgramName::new(name).unwrap(), Sha256([*byte; 32])));
            digest_of(&pairs.collect())
        };
        let one = has(&[("shop", 1)]);
        assert_eq!(one, has(&[("shop", 1)]));
        let others = [has(&[]), has(&[("shop", 2)]), has(&[("shoq", 1)]), has(&[("shop", 1), ("mail", 1)])];
        assert!(others.iter().all(|other| *other != one));
    }
}
