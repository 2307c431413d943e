//! Owns the last word on each key of many changes, in the order of keys, in little memory. Must not know where they are from.

/// Changes, in order of keys once they are [`Self::sort`]ed.
#[derive(Debug, Default)]
pub struct Latest {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Where a key begins, and how long it and the value after it are.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    key: u32,
    value: Option<u32>,
}

impl Latest {
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.entries.push(Entry { at, key: key.len() as u32, value: value.map(|value| value.len() as u32) });
    }

    /// What was added last of a key stays.
    pub fn sort(&mut self) {
        let Self { bytes, entries } = self;
        let key = |entry: &Entry| &bytes[entry.at..][..entry.key as usize];
        entries.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(b.at.cmp(&a.at)).then(b.value.cmp(&a.value)));
        entries.dedup_by(|next, kept| key(next) == key(kept));
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Shows what comes before `key`, in order, and answers what is said of it itself, if anything is.
    pub fn until<'a>(
        &'a self,
        at: &mut usize,
        key: &[u8],
        mut take: impl FnMut(&'a [u8], &'a [u8]),
    ) -> Option<Option<&'a [u8]>> {
        while let Some((next, value)) = self.get(*at) {
            match next.cmp(key) {
                std::cmp::Ordering::Less => {
                    value.into_iter().for_each(|value| take(next, value));
                    *at += 1;
                }
                std::cmp::Ordering::Equal => {
                    *at += 1;
                    return Some(value);
                }
                std::cmp::Ordering::Greater => break,
            }
        }
        None
    }

    /// The entry of that number.
    pub fn get(&self, at: usize) -> Option<(&[u8], Option<&[u8]>)> {
        let Entry { at, key, value } = *self.entries.get(at)?;
        let (key, rest) = self.bytes[at..].split_at(key as usize);
        Some((key, value.map(|value| &rest[..value as usize])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_each_key_is_found_in_order() {
        let mut latest = Latest::default();
        for (key, value) in
            [("b", Some("1")), ("a", None), ("b", None), ("c", Some("2")), ("a", Some("3")), ("d", None)]
        {
            latest.add(key.as_bytes(), value.map(str::as_bytes));
        }
        latest.sort();
        let all: Vec<_> = (0..latest.len()).map(|at| latest.get(at).unwrap()).collect();
        let expected: [(&[u8], Option<&[u8]>); 4] =
            [(b"a", Some(b"3")), (b"b", None), (b"c", Some(b"2")), (b"d", None)];
        assert_eq!(all, expected);
        let (mut at, mut before) = (0, Vec::new());
        assert_eq!(latest.until(&mut at, b"c", |key, _| before.push(key)), Some(Some(&b"2"[..])));
        assert_eq!((before, at), (vec![&b"a"[..]], 3));
        assert_eq!((latest.until(&mut at, b"cc", |_, _| panic!()), at), (None, 3));
    }
}
