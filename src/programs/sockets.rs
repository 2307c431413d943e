//! Owns what the kernel tells of TCP sockets (`/proc/net/tcp` and `tcp6`).
//! Must not know whose instances they are.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Sockets of one machine that are looked at.
const SOCKETS_MAX: usize = 1 << 20;

/// A socket's state, as far as anybody here asks (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Established,
    CloseWait,
    Listen,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: State,
    /// 0 while nobody has accepted it.
    pub inode: u64,
}

/// All TCP sockets that `wanted` takes, of both families.
pub fn all(wanted: impl Fn(&Socket) -> bool) -> io::Result<Vec<Socket>> {
    let mut found = scan(TABLES[0], |_| true)?;
    found.extend(scan(TABLES[1], |_| true)?);
    Ok(found.into_iter().filter(|socket| wanted(socket)).collect())
}

/// One family each.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The sockets of a table, up to the first that is not as those `first` are.
fn scan(table: &str, first: impl Fn(&Socket) -> bool) -> io::Result<Vec<Socket>> {
    let file = match File::open(table) {
        Ok(file) => file,
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for line in BufReader::new(file).lines().skip(1).take(SOCKETS_MAX) {
        match parse(&line?) {
            Some(socket) if !first(&socket) => break,
            socket => found.extend(socket),
        }
    }
    Ok(found)
}

/// Whether a socket listens on a port that is as `wanted`. The kernel tells of those that listen first: of thousands of
/// others none is read. Of the second family only where the first has none: where few sockets are of it, the kernel goes
/// through all of the others to find them, for ten milliseconds.
pub fn listens(port: u16, wanted: impl Fn(&Socket) -> bool) -> io::Result<bool> {
    for table in TABLES {
        let listeners = scan(table, |socket| socket.state == State::Listen)?;
        if listeners.iter().any(|socket| socket.local.port() == port && wanted(socket)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn parse(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = match *fields.get(3)? {
        "01" => State::Established,
        "08" => State::CloseWait,
        "0A" => State::Listen,
        _ => State::Other,
    };
    let inode = fields.get(9)?.parse().ok()?;
    Some(Socket { local: address(fields.get(1)?)?, remote: address(fields.get(2)?)?, state, inode })
}

/// An address as the kernel prints it: words of four bytes in the machine's order; the port in plain hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn addresses_of_both_families_are_read() {
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(address(&format!("{loopback:08X}:1F90")), Some("127.0.0.1:8080".parse().unwrap()));
        let mapped = format!("0000000000000000{:08X}{loopback:08X}:0050", u32::from_ne_bytes([0, 0, 255, 255]));
        assert_eq!(address(&mapped), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(address("xyz"), None);
    }

    #[test]
    fn real_sockets_are_found_with_their_state() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let found = all(|socket| socket.local == local).unwrap();
        assert!(found.iter().any(|socket| socket.state == State::Listen && socket.inode != 0));
        let remote = client.local_addr().unwrap();
        assert!(found.iter().any(|socket| socket.state == State::Established && socket.remote == remote));
        assert!(listens(local.port(), |_| true).unwrap() && !listens(local.port(), |_| false).unwrap());
        let six = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
        assert!(!listens(six.port(), |_| true).unwrap(), "it is closed by now");
    }
}
