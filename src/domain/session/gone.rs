//! Owns when a server that does not answer counts as gone with no session's data that nobody else has. Must not know how
//! anybody hears of it.

/// Whether a server that gave no answer for a session's data is gone, and with nothing of its own: then those who have the
/// rest are asked alone. Else it may come back with what it alone was given, and nothing may be made up for that.
///
/// `is_refused`: nothing listens there. `is_down`: management does not hear it, or knows of no such server. `only_there`: of how
/// many sessions it had data that management had not got, as it said with its last heartbeat; `None`: it has not said.
pub fn is_gone_with_nothing(is_refused: bool, is_down: bool, only_there: Option<u64>) -> bool {
    is_down || (is_refused && only_there == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_gone_when_it_is_down_or_has_stopped_with_all_it_had_told() {
        for (is_refused, is_down, only_there, is_gone) in [
            // It is slow, or the way there is cut: it may answer yet.
            (false, false, Some(0), false),
            (false, false, Some(3), false),
            (false, false, None, false),
            // Nothing listens: stopped in order, with all told, with something left, and without a word on it.
            (true, false, Some(0), true),
            (true, false, Some(3), false),
            (true, false, None, false),
            // Management does not hear it: who waits for it waits for a person.
            (false, true, Some(0), true),
            (false, true, Some(3), true),
            (false, true, None, true),
            (true, true, Some(0), true),
            (true, true, Some(3), true),
            (true, true, None, true),
        ] {
            assert_eq!(
                is_gone_with_nothing(is_refused, is_down, only_there),
                is_gone,
                "refused {is_refused}, down {is_down}, only there {only_there:?}"
            );
        }
    }
}
