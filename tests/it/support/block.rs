//! Owns the addresses of one cluster, so that tests which run at once, in one process or in many, never meet.
//! Must not know what listens there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Clusters at once on one machine.
const BLOCKS: u32 = 48;
/// Instances' ports of the first block's first server: below those that the kernel hands out.
const PORTS_FIRST: u16 = 10_000;
const PORTS_OF_BLOCK: u16 = 200;
const PORTS_OF_SERVER: u16 = 50;
/// Held open for as long as the block is somebody's.
const LOCK: u16 = 7_399;

/// 127.77.N.0/24, and a range of ports on 127.0.0.1, for as long as this lives.
pub struct Block {
    number: u8,
    _lock: TcpListener,
}

impl Block {
    pub fn claim() -> Self {
        let first = std::process::id();
        let mut numbers = (0..BLOCKS).map(|step| (first.wrapping_add(step) % BLOCKS) as u8);
        let claimed = numbers.find_map(|number| {
            let lock = TcpListener::bind((Ipv4Addr::new(127, 77, number, 1), LOCK)).ok()?;
            Some(Self { number, _lock: lock })
        });
        claimed.expect("a block of addresses that no other test holds")
    }

    pub fn at(&self, host: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, 77, self.number, host), port).into()
    }

    /// "first-last", for the instances of a server; `count` of them.
    pub fn ports(&self, server: u8, count: u16) -> String {
        assert!(count <= PORTS_OF_SERVER);
        let first = PORTS_FIRST + PORTS_OF_BLOCK * u16::from(self.number) + PORTS_OF_SERVER * u16::from(server);
        format!("{first}-{}", first + count - 1)
    }
}
