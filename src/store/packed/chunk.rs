//! Owns how many small entries are one record: each with what its key has in common with the one before left out.
//! Must not know what entries mean, or which records there are.

/// Writes entries, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    last: Vec<u8>,
}

impl Writer {
    /// `None`: there is none of that key any more.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let shared = self.last.iter().zip(key).take_while(|(a, b)| a == b).count();
        number(&mut self.bytes, shared);
        number(&mut self.bytes, key.len() - shared);
        self.bytes.extend_from_slice(&key[shared..]);
        number(&mut self.bytes, value.map_or(0, |value| value.len() + 1));
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Shows the entries in their order; `None`: the bytes are not what was written.
pub fn read(mut bytes: &[u8], mut take: impl FnMut(&[u8], Option<&[u8]>)) -> Option<()> {
    let mut key = Vec::new();
    while !bytes.is_empty() {
        let shared = take_number(&mut bytes)?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        let rest = take_number(&mut bytes)?;
        key.extend_from_slice(bytes.split_off(..rest)?);
        let value = match take_number(&mut bytes)? {
            0 => None,
            length => Some(bytes.split_off(..length - 1)?),
        };
        take(&key, value);
    }
    Some(())
}

/// Seven bits a byte, the lowest first; the last one's top bit is unset.
fn number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<usize> {
    let (mut number, mut shift) = (0_usize, 0);
    loop {
        let byte = *bytes.split_off_first()?;
        number |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_read_back_as_they_were_written(
            entries in vec((vec(0..3_u8, 0..20), proptest::option::of(vec(any::<u8>(), 0..300))), 0..20),
        ) {
            let mut writer = Writer::default();
            entries.iter().for_each(|(key, value)| writer.push(key, value.as_deref()));
            let mut found = Vec::new();
            read(writer.bytes(), |key, value| found.push((key.to_vec(), value.map(<[u8]>::to_vec)))).unwrap();
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn whatever_bytes_there_are_is_read_or_refused(bytes in vec(any::<u8>(), 0..60)) {
            let _ = read(&bytes, |_, _| {});
        }
    }
}
