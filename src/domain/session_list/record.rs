//! Owns a session as bytes, as stores keep it: a million of them. Must not know stores.

use super::Session;
use crate::domain::session::{Place, SessionId, WallMillis};

impl Session {
    /// All but the id, which is in the record's key, and the requests under way, which end with the process.
    pub fn pack(&self) -> Vec<u8> {
        let (server, version) = (self.place.server.as_str().as_bytes(), self.place.version.as_str().as_bytes());
        let mut packed = Vec::with_capacity(17 + server.len() + version.len());
        packed.extend_from_slice(&self.begun.to_be_bytes());
        packed.extend_from_slice(&self.seen.to_be_bytes());
        // Names have 63 bytes at the most.
        packed.push(server.len() as u8);
        packed.extend_from_slice(server);
        packed.extend_from_slice(version);
        packed
    }

    /// Takes `pack` apart; `None`: it is not that.
    pub fn unpack(id: SessionId, packed: &[u8]) -> Option<Self> {
        let (begun, rest) = packed.split_first_chunk::<8>()?;
        let (seen, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first()?;
        let (server, version) = rest.split_at_checked(usize::from(*len))?;
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let place = Place { server: text(server)?.parse().ok()?, version: text(version)?.parse().ok()? };
        let [begun, seen] = [begun, seen].map(|bytes| WallMillis::from_be_bytes(*bytes));
        Some(Self { id, place, begun, seen, active: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_reads_back_what_it_writes_and_nothing_else_does() {
        let place = Place { server: "app-2".parse().unwrap(), version: "1.4.2".parse().unwrap() };
        let session = Session { id: SessionId(7), place, begun: 1, seen: 1_764_000_000_000, active: 0 };
        let packed = session.pack();
        assert_eq!(packed.len(), 27);
        assert_eq!(Session::unpack(SessionId(7), &packed), Some(session));
        for length in 0..23 {
            assert_eq!(Session::unpack(SessionId(7), &packed[..length]), None);
        }
    }
}
