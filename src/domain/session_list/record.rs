//! Owns a session as bytes, as stores keep it: a million of them. Must not know stores.

use super::Session;
use crate::domain::names::ProgramName;
use crate::domain::session::{Place, SessionId, WallMillis};

/// The key of a session: its program's name, a slash, and the id's 16 bytes.
pub fn session_key(program: &ProgramName, id: SessionId) -> Vec<u8> {
    [program.as_str().as_bytes(), b"/", &id.to_bytes()].concat()
}

/// The same, of a program's name, a slash, and the id's text, as earlier releases wrote it: in the same order.
pub fn session_key_of_text(text: &str) -> Option<Vec<u8>> {
    let (program, id) = text.split_once('/')?;
    Some(session_key(&program.parse().ok()?, id.parse().ok()?))
}

/// Reads sessions, one after the other.
#[derive(Debug, Default)]
pub struct Unpacker(Option<ProgramName>);

impl Unpacker {
    /// What was packed under that key; `None`: it is not that.
    pub fn read(&mut self, key: &[u8], packed: &[u8]) -> Option<(&ProgramName, Session)> {
        let (rest, id) = key.split_last_chunk::<16>()?;
        let program = rest.strip_suffix(b"/")?;
        // Those of a program follow each other.
        if self.0.as_ref().is_none_or(|last| last.as_str().as_bytes() != program) {
            self.0 = Some(std::str::from_utf8(program).ok()?.parse().ok()?);
        }
        let session = Session::unpack(SessionId::from_bytes(*id), packed)?;
        Some((self.0.as_ref()?, session))
    }
}

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
    fn a_session_is_read_by_its_key_and_the_text_of_one_is_in_the_same_order() {
        let place = Place { server: "app-2".parse().unwrap(), version: "1.4.2".parse().unwrap() };
        let (mut unpacker, mut last) = (Unpacker::default(), Vec::new());
        for (program, number) in [("mail", 5), ("mail", u128::MAX), ("shop-2", 3), ("shop-2", 1 << 100), ("shop", 0)] {
            let session = Session { id: SessionId(number), place: place.clone(), begun: 1, seen: 2, active: 0 };
            let program: ProgramName = program.parse().unwrap();
            let key = session_key(&program, session.id);
            assert_eq!(session_key_of_text(&format!("{program}/{}", session.id)), Some(key.clone()));
            assert!(key > last, "{program}");
            assert_eq!(unpacker.read(&key, &session.pack()), Some((&program, session.clone())));
            assert_eq!(unpacker.read(&key[1 + program.as_str().len()..], &session.pack()), None);
            last = key;
        }
        for bad in ["", "shop", "shop/", "shop/1", "Sh op/00000000000000000000000001"] {
            assert_eq!(session_key_of_text(bad), None, "{bad}");
        }
    }

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
