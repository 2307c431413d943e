//! Owns the making of request ids and trace ids: unique, not secret, and cheap, one maker a worker.
//! Must not know what they name.

use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Characters of a request's id.
pub const REQUEST_ID_BYTES: usize = 26;
/// Characters of a `traceparent`.
pub const TRACE_BYTES: usize = 55;
static BASE32: [[u8; 2]; 1024] = base32_pairs();

const fn base32_pairs() -> [[u8; 2]; 1024] {
    let (digits, mut pairs, mut value) = (b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", [[0; 2]; 1024], 0);
    while value < 1024 {
        pairs[value] = [digits[value >> 5], digits[value & 31]];
        value += 1;
    }
    pairs
}

/// A generator seeded by the system (xoshiro256++): no two makers go the same way.
#[derive(Debug)]
pub struct Ids {
    state: Cell<[u64; 4]>,
    /// One instant by both clocks: asking the wall clock once is enough.
    began: Instant,
    began_ms: u64,
}

impl Ids {
    pub fn begin() -> Self {
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut state: [u64; 4] = rand::random();
        // The one state that the generator never leaves.
        state[0] |= 1;
        Self { state: Cell::new(state), began: Instant::now(), began_ms }
    }

    fn next(&self) -> u64 {
        let mut s = self.state.get();
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        self.state.set(s);
        result
    }

    /// A new id in the form of a ULID: 48 bits of time and 80 random ones, so that later ones sort later.
    pub fn request_id(&self, now: Instant) -> [u8; REQUEST_ID_BYTES] {
        let since = now.saturating_duration_since(self.began);
        let ms = self.began_ms + since.as_secs() * 1_000 + u64::from(since.subsec_millis());
        let (one, other) = (self.next(), self.next());
        let mut id = [0; REQUEST_ID_BYTES];
        write_base32(ms & ((1 << 48) - 1), &mut id[..10]);
        write_base32(one >> 24, &mut id[10..18]);
        write_base32(other >> 24, &mut id[18..]);
        id
    }

    /// A new `traceparent` (W3C), sampled. An id of zero is not allowed.
    pub fn trace(&self) -> [u8; TRACE_BYTES] {
        let mut trace = *b"00-................................-................-01";
        write_hex(self.next() | 1, &mut trace[3..19]);
        write_hex(self.next(), &mut trace[19..35]);
        write_hex(self.next() | 1, &mut trace[36..52]);
        trace
    }
}

/// Five bits a character, the highest first; an even number of characters.
#[inline]
fn write_base32(mut value: u64, out: &mut [u8]) {
    for pair in out.as_chunks_mut::<2>().0.iter_mut().rev() {
        *pair = BASE32[(value & 1023) as usize];
        value >>= 10;
    }
}

fn write_hex(value: u64, out: &mut [u8]) {
    for (half, out) in [value >> 32, value & u64::from(u32::MAX)].into_iter().zip(out.as_chunks_mut::<8>().0) {
        // Four bits to a byte, the lowest first, and all eight made digits at once.
        let spread = (half | half << 16) & 0x0000_ffff_0000_ffff;
        let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        let spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
        let digits = spread + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1);
        *out = digits.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn an_id_is_a_ulid_of_its_time_and_no_two_are_alike() {
        let (ids, now) = (Ids::begin(), Instant::now());
        let id = |at| String::from_utf8(ids.request_id(at).to_vec()).unwrap();
        let parsed = ulid::Ulid::from_string(&id(now)).unwrap();
        assert!(ulid::Ulid::new().timestamp_ms().abs_diff(parsed.timestamp_ms()) < 60_000);
        assert!(id(now) < id(now + Duration::from_millis(1)));
        let others = Ids::begin();
        let many: HashSet<_> = (0..2000)
            .map(|_| id(now))
            .chain((0..2000).map(|_| String::from_utf8(others.request_id(now).to_vec()).unwrap()))
            .collect();
        assert_eq!(many.len(), 4000);
        let traces: HashSet<_> = (0..1000).map(|_| ids.trace()).collect();
        assert_eq!(traces.len(), 1000);
    }

    #[test]
    fn numbers_are_written_whole() {
        let mut out = [0; 16];
        write_hex(0x0123_4567_89ab_cdef, &mut out);
        assert_eq!(&out, b"0123456789abcdef");
        let mut out = [0; 8];
        write_base32((1 << 40) - 1, &mut out);
        assert_eq!(&out, b"ZZZZZZZZ");
    }
}
