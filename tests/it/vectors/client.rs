//! Owns the near end: a client that sends exact bytes and reads answers strictly. Must not know what is expected.

use std::io::{ErrorKind, Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::strict::{self, Read};
use super::upstream::DEADLINE;

pub struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Closed,
    Reset,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream, bytes: Vec::new(), ended: None }
    }

    /// What is no longer wanted may not be taken: the answer tells.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn send_no_more(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer; not whole only where the connection ended.
    pub fn answer(&mut self, method: &str) -> Result<Read, String> {
        loop {
            match strict::response(&self.bytes, method, self.ended.is_some()) {
                Read::Whole(message, length) => {
                    self.bytes.drain(..length);
                    return Ok(Read::Whole(message, length));
                }
                Read::Bad(why) => return Err(format!("no answer: {why}, in {}", strict::shown(&self.bytes))),
                part if self.ended.is_some() => {
                    self.bytes.clear();
                    return Ok(part);
                }
                _ => self.more()?,
            }
        }
    }

    /// Reads until the connection ends, or nothing has come for a moment.
    pub fn listen(&mut self, moment: Duration) {
        self.stream.set_read_timeout(Some(moment)).unwrap();
        while self.ended.is_none() && self.more().is_ok() {}
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }

    /// What is left to come, and how the connection ends.
    pub fn rest(&mut self) -> Result<(&[u8], Ended), String> {
        loop {
            match self.ended {
                Some(ended) => return Ok((&self.bytes, ended)),
                None => self.more()?,
            }
        }
    }

    fn more(&mut self) -> Result<(), String> {
        let mut room = [0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => self.ended = Some(Ended::Closed),
            Ok(count) => self.bytes.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.ended = Some(Ended::Reset),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("{error}, after {:?}", strict::shown(&self.bytes))),
        }
        Ok(())
    }
}
