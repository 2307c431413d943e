//! Owns when what is kept for a session that no list names may go. Must not know what that is, or where it is kept.

use super::is_stale;
use crate::domain::session::WallMillis;

/// Whether nobody can name a session any more that is in no list.
///
/// `since`: from then on whatever is said of sessions is listed. `untold`: servers that may know of sessions and have not told of all
/// theirs since. Those who have would name it, if it was at home there; and a client's tag that was made before `since`, by a server
/// that died before it told anybody, is too old by now, so that its next request begins another session.
pub fn is_forgotten(since: WallMillis, idle: WallMillis, untold: usize, now: WallMillis) -> bool {
    untold == 0 && is_stale(since, now, idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{ServerName, Version};
    use crate::domain::session::{Place, SessionId};
    use crate::domain::session_list::{Arrival, Bounds, SessionList};

    const T: WallMillis = 1_764_000_000_000;
    const IDLE: WallMillis = 30 * 60_000;

    #[test]
    fn a_session_is_forgotten_when_all_have_told_and_no_request_can_bring_it_back() {
        let place = Place { server: ServerName::new("s1").unwrap(), version: Version::new("1").unwrap() };
        for after in [0, 60_000, IDLE, IDLE + IDLE / 8, IDLE + IDLE / 8 + 10_000, 10 * IDLE] {
            let now = T + after;
            assert!(!is_forgotten(T, IDLE, 1, now), "a server that has not told may name it");
            // The last tag that may be of a session which nobody told of.
            let mut list = SessionList::new(Bounds { idle: IDLE, sessions: 9 });
            let comes_back = list.arrive(SessionId(1), T, &place, now) == Arrival::Listed;
            assert_eq!(is_forgotten(T, IDLE, 0, now), !comes_back, "{after}");
        }
    }
}
