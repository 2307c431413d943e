//! Owns what a session is: its id, the tag by which a client's cookie tells of it, and where its requests are at home.
//! Must not know who keeps sessions (`session_list.rs`), or how a request came.

mod cookies;
mod date;
mod gone;
mod id;
mod key;
mod remembered;
mod tag;

pub use cookies::{Cookies, OwnCookie, ProgramCookie, set_by_program};
pub use gone::is_gone_with_nothing;
pub use id::{AsItself, BadSessionId, SessionId};
pub use key::{Key, KeyNumber, Keys};
pub use remembered::RememberedTags;
pub use tag::{BadTag, HeldTag, TAG_LEN_MAX, Tag};

use serde::{Deserialize, Serialize};

use super::names::{ServerName, Version};

/// A time by the wall clock, in milliseconds since 1970: sessions outlive runs, and go from node to node.
pub type WallMillis = u64;

/// Where a session's requests are at home.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Place {
    pub server: ServerName,
    pub version: Version,
}

/// Whether a session is among those that take the new version when so many of a program's servers have it (a share
/// in millionths): in proportion, and once in, always in, as long as the share does not fall.
pub fn is_in_share(id: SessionId, share_ppm: u32) -> bool {
    // The id is random: its upper half is as good as a hash.
    let place = ((id.0 >> 64) as u64 as u128 * 1_000_000) >> 64;
    (place as u64) < u64::from(share_ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_sessions_in_proportion_and_none_that_is_in_ever_leaves_as_it_grows() {
        let id = |n: u128| SessionId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let within = |share| (1..=30_000).filter(|n| is_in_share(id(*n), share)).count();
        assert_eq!((within(0), within(1_000_000)), (0, 30_000));
        let third = within(333_333);
        assert!((9_500..10_500).contains(&third), "{third}");
        for n in 1..=3_000 {
            let mut was_in = false;
            for share in [0, 1, 250_000, 333_333, 666_666, 999_999, 1_000_000] {
                let is_in = is_in_share(id(n), share);
                assert!(is_in || !was_in);
                was_in = is_in;
            }
        }
        assert!(is_in_share(SessionId(0), 1) && !is_in_share(SessionId(u128::MAX), 999_999));
    }
}
