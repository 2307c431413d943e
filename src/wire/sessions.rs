//! Owns what servers and management say to each other of sessions: batches of what changed, who takes a session that
//! moves, and its data. Must not know where lists are kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::names::{ProgramName, ServerName};
use crate::domain::session::{Place, SessionId, WallMillis};
use crate::domain::session_list::Change;

/// Where management, and each server's control port, have a session's data: GET, PUT, DELETE, with `ETag`, `If-Match` and
/// `If-None-Match`.
pub const DATA_PATH: &str = "/node/v1/session-data/{program}/{id}";
/// Bytes of one session's data.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Sessions of one batch.
pub const BATCH_MAX: usize = 2_000;
/// Says of an answer that management does not hold the data yet: it is at this server alone.
pub const DATA_AT: &str = "neap-session-data-at";
/// Of a PUT between nodes: the data as it was written while management was away, with its tag.
pub const DATA_WRITTEN: &str = "neap-session-data-written";

/// Where one session's data is, below a node's address.
pub fn data_path(program: &ProgramName, id: SessionId) -> String {
    format!("/node/v1/session-data/{program}/{id}")
}

/// What happened at a server since it last told. A telling of all that there is comes in parts, of which the first
/// `begins` it and the last `ends` it: what it did not name is not there any more.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ToldSessions {
    pub begins: bool,
    pub ends: bool,
    pub programs: Vec<ProgramSessions>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgramSessions {
    pub program: ProgramName,
    /// Without a request for so long a session ends.
    pub idle_ms: u64,
    pub changes: Vec<Change>,
}

/// The answer to [`ToldSessions`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SessionsTaken {
    /// Nothing was taken: this management has not heard all from this run of the server. Tell all.
    pub tell_all: bool,
}

/// A session's next request has come to another server than its home (protocol P16): whoever takes it first has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TakeSession {
    pub program: ProgramName,
    pub id: SessionId,
    /// As its tag says.
    pub from: Place,
    pub to: Place,
    pub at: WallMillis,
    /// When its tag was made: it lived then.
    #[serde(default)]
    pub issued: WallMillis,
}

/// The answer to [`TakeSession`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TakenSession {
    /// `None`: it is taken. Else where it is at home.
    pub home: Option<Place>,
}

/// What a server that lost its list is told of those at home there, a page at a time. The question is
/// [`super::messages::ToManagement::SessionsHere`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SessionsHere {
    pub programs: Vec<ProgramSessions>,
    /// Ask again from here; `None`: these were the last.
    pub next: Option<(ProgramName, SessionId)>,
}

/// A session that a person ended, at one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EndedSession {
    /// It was in this server's list.
    pub was_here: bool,
}

/// Where a server is asked for the data of a session that was at home there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerAt {
    pub server: ServerName,
    pub control: std::net::SocketAddr,
    /// Management does not hear it.
    #[serde(default)]
    pub is_down: bool,
    /// Of how many sessions it had data that management had not got, when it was last heard; `None`: it has not said.
    #[serde(default)]
    pub only_there: Option<u64>,
}

/// One state of a session's data: it rises with every write, and no two writes have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DataTag {
    pub number: u64,
    /// Tells writes of the same number apart.
    pub chance: u32,
}

impl DataTag {
    /// The tag of a write over this one, or of the first.
    pub fn after(before: Option<Self>, chance: u32) -> Self {
        Self { number: before.map_or(0, |tag| tag.number) + 1, chance }
    }

    /// Data as a store keeps it: the tag, then the data. `None`: it was removed.
    pub fn pack(self, data: Option<&[u8]>) -> Vec<u8> {
        let (number, data) = data.map_or((self.number | REMOVED, &[][..]), |data| (self.number, data));
        let mut packed = Vec::with_capacity(12 + data.len());
        packed.extend_from_slice(&number.to_be_bytes());
        packed.extend_from_slice(&self.chance.to_be_bytes());
        packed.extend_from_slice(data);
        packed
    }

    /// Takes `pack` apart; `None`: it is not that.
    pub fn unpack(packed: &[u8]) -> Option<(Self, Option<&[u8]>)> {
        let (number, rest) = packed.split_first_chunk::<8>()?;
        let (chance, data) = rest.split_first_chunk::<4>()?;
        let number = u64::from_be_bytes(*number);
        let tag = Self { number: number & !REMOVED, chance: u32::from_be_bytes(*chance) };
        Some((tag, (number & REMOVED == 0).then_some(data)))
    }
}

/// Marks the tag of a removal, in a store.
const REMOVED: u64 = 1 << 63;

/// Data as it is, or was removed: a removal has its tag as any write, so that none that was before it counts as later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datum {
    pub tag: DataTag,
    pub data: Option<Vec<u8>>,
}

impl fmt::Display for DataTag {
    /// As `ETag` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}-{:08x}\"", self.number, self.chance)
    }
}

impl FromStr for DataTag {
    type Err = ();

    fn from_str(given: &str) -> Result<Self, ()> {
        let inner = given.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(())?;
        let (number, chance) = inner.split_once('-').ok_or(())?;
        let (number, chance) = (number.parse().map_err(|_| ())?, u32::from_str_radix(chance, 16).map_err(|_| ())?);
        if number & REMOVED != 0 {
            return Err(());
        }
        Ok(Self { number, chance })
    }
}

/// On which condition data is written or removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    #[default]
    Always,
    /// `If-None-Match: *`: there is none yet.
    IsNew,
    /// `If-Match`: it is in one of these states; a tag that nobody gave out matches none.
    Is(Vec<DataTag>),
    /// `If-Match: *`: there is some.
    IsThere,
}

impl Condition {
    /// Reads a request's fields.
    pub fn read(if_match: Option<&str>, if_none_match: Option<&str>) -> Self {
        match (if_match.map(str::trim), if_none_match.map(str::trim)) {
            (Some("*"), _) => Self::IsThere,
            (Some(tags), _) => Self::Is(tags.split(',').filter_map(|tag| tag.parse().ok()).collect()),
            (None, Some("*")) => Self::IsNew,
            (None, _) => Self::Always,
        }
    }

    pub fn holds(&self, now: Option<DataTag>) -> bool {
        match self {
            Self::Always => true,
            Self::IsNew => now.is_none(),
            Self::IsThere => now.is_some(),
            Self::Is(tags) => now.is_some_and(|now| tags.contains(&now)),
        }
    }

    /// As the fields of a request to another node: name and value.
    pub fn field(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Always => None,
            Self::IsNew => Some(("if-none-match", "*".to_owned())),
            Self::IsThere => Some(("if-match", "*".to_owned())),
            Self::Is(tags) => {
                let tags: Vec<String> = tags.iter().map(DataTag::to_string).collect();
                // A list of none matches nothing, which the empty string says.
                Some(("if-match", if tags.is_empty() { "\"\"".to_owned() } else { tags.join(", ") }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_reads_back_and_rises_with_every_write() {
        let first = DataTag::after(None, 0xab);
        assert_eq!((first.to_string().as_str(), first.to_string().parse()), ("\"1-000000ab\"", Ok(first)));
        assert!(DataTag::after(Some(first), 0) > first);
        assert_eq!(DataTag::unpack(&first.pack(Some(b"cart"))), Some((first, Some(b"cart".as_slice()))));
        assert_eq!(DataTag::unpack(&first.pack(None)), Some((first, None)));
        for bad in ["\"18446744073709551615-ab\"", "", "1-ab", "\"1\"", "W/\"1-ab\"", "\"x-ab\"", "\"-1-ab\""] {
            assert_eq!(bad.parse::<DataTag>(), Err(()), "{bad}");
        }
        assert_eq!(DataTag::unpack(b"short"), None);
    }

    #[test]
    fn a_condition_holds_as_http_says() {
        let (one, two) = (DataTag::after(None, 1), DataTag::after(None, 2));
        let both = format!("{one}, {two}");
        for (if_match, if_none_match, now, holds) in [
            (None, None, None, true),
            (None, Some("*"), None, true),
            (None, Some("*"), Some(one), false),
            (Some("*"), None, None, false),
            (Some("*"), None, Some(one), true),
            (Some(both.as_str()), None, Some(two), true),
            (Some("\"gone\""), None, Some(two), false),
            (Some(both.as_str()), None, None, false),
        ] {
            let condition = Condition::read(if_match, if_none_match);
            assert_eq!(condition.holds(now), holds, "{if_match:?} {if_none_match:?} {now:?}");
            let field = condition.field();
            let told = |name| field.as_ref().filter(|(known, _)| *known == name).map(|(_, value)| value.as_str());
            assert_eq!(Condition::read(told("if-match"), told("if-none-match")), condition, "told on");
        }
    }
}
