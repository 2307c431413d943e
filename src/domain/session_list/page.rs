//! Owns how people leaf through sessions. Must not know how a page is asked for or shown.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};

use serde::{Deserialize, Serialize};

use super::{Session, SessionList};
use crate::domain::names::{ServerName, Version};
use crate::domain::session::{SessionId, WallMillis};

/// By what sessions are ordered; the newest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// When they began.
    #[default]
    Age,
    /// When they were last heard of.
    Seen,
}

/// Where a page ended: the next one begins after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Cursor {
    pub at: WallMillis,
    pub id: SessionId,
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Query {
    /// At home on one of these.
    pub servers: Option<BTreeSet<ServerName>>,
    pub version: Option<Version>,
    pub sort: Sort,
    pub after: Option<Cursor>,
    pub limit: usize,
}

impl Sort {
    pub fn cursor(self, session: &Session) -> Cursor {
        let at = match self {
            Self::Age => session.begun,
            Self::Seen => session.seen,
        };
        Cursor { at, id: session.id }
    }
}

impl SessionList {
    /// The sessions of a page, the newest first. Looks at all, and keeps no more than the page.
    pub fn page(&self, query: &Query) -> Vec<Session> {
        let fits: Vec<bool> = self
            .places
            .iter()
            .map(|homes| {
                query.servers.as_ref().is_none_or(|servers| servers.contains(&homes.place.server))
                    && query.version.as_ref().is_none_or(|version| homes.place.version == *version)
            })
            .collect();
        // The oldest of the page is on top, and makes room for a newer one.
        let mut page: BinaryHeap<std::cmp::Reverse<Cursor>> = BinaryHeap::new();
        for (id, entry) in self.sessions.iter().filter(|(_, entry)| fits[usize::from(entry.place)]) {
            let at = match query.sort {
                Sort::Age => entry.begun,
                Sort::Seen => entry.seen,
            };
            let cursor = Cursor { at, id: *id };
            let is_after = query.after.is_none_or(|after| cursor.cmp(&after) == Ordering::Less);
            if !is_after || (page.len() >= query.limit && page.peek().is_none_or(|oldest| cursor <= oldest.0)) {
                continue;
            }
            page.push(std::cmp::Reverse(cursor));
            if page.len() > query.limit {
                page.pop();
            }
        }
        page.into_sorted_vec().into_iter().filter_map(|cursor| self.get(cursor.0.id)).collect()
    }
}
