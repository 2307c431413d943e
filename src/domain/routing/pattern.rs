//! Owns patterns with `*` at their start or end, and how one text finds the closest of many. Must not know what the
//! texts are.

use std::collections::BTreeMap;

use foldhash::HashMap;

/// Bytes of a text that are looked at; a longer one matches no pattern, so that no request costs more than this.
pub const LONGEST_TEXT: usize = 1024;

/// Many patterns, each with a value. Asking costs what the text is long and how many lengths of patterns there are; the
/// number of patterns does not matter.
#[derive(Clone, Debug)]
pub struct Patterns<T> {
    exact: HashMap<Box<[u8]>, T>,
    starts: ByLength<T>,
    ends: ByLength<T>,
    within: ByLength<T>,
}

type ByLength<T> = BTreeMap<usize, HashMap<Box<[u8]>, T>>;

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), starts: BTreeMap::new(), ends: BTreeMap::new(), within: BTreeMap::new() }
    }
}

impl<T> Patterns<T> {
    /// Adds a pattern. One that is there already keeps its value.
    pub fn add(&mut self, pattern: &str, value: T) {
        let (open_start, open_end) = (pattern.starts_with('*'), pattern.ends_with('*'));
        let text = pattern.strip_prefix('*').unwrap_or(pattern);
        let text = text.strip_suffix('*').unwrap_or(text);
        let of_kind = match (open_start, open_end) {
            (false, false) => &mut self.exact,
            (false, true) => self.starts.entry(text.len()).or_default(),
            (true, false) => self.ends.entry(text.len()).or_default(),
            (true, true) => self.within.entry(text.len()).or_default(),
        };
        of_kind.entry(text.as_bytes().into()).or_insert(value);
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.starts.is_empty() && self.ends.is_empty() && self.within.is_empty()
    }

    /// The value of the closest pattern: the whole text, else the longest start, else the longest end, else the longest
    /// part of it.
    pub fn find(&self, text: &[u8]) -> Option<&T> {
        if text.len() > LONGEST_TEXT {
            return None;
        }
        let (start, end) = (|length: usize| &text[..length], |length: usize| &text[text.len() - length..]);
        self.exact
            .get(text)
            .or_else(|| longest(&self.starts, text.len(), |length, values| values.get(start(length))))
            .or_else(|| longest(&self.ends, text.len(), |length, values| values.get(end(length))))
            .or_else(|| longest(&self.within, text.len(), |length, values| part(length, values, text)))
    }
}

fn longest<'a, T>(
    of_kind: &'a ByLength<T>,
    most: usize,
    find: impl Fn(usize, &'a HashMap<Box<[u8]>, T>) -> Option<&'a T>,
) -> Option<&'a T> {
    of_kind.range(..=most).rev().find_map(|(length, values)| find(*length, values))
}

fn part<'a, T>(length: usize, values: &'a HashMap<Box<[u8]>, T>, text: &[u8]) -> Option<&'a T> {
    match length {
        0 => values.get(&[][..]),
        _ => text.windows(length).find_map(|window| values.get(window)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(given: &[&'static str]) -> Patterns<&'static str> {
        let mut patterns = Patterns::default();
        given.iter().for_each(|pattern| patterns.add(pattern, *pattern));
        patterns
    }

    #[test]
    fn the_closest_pattern_wins() {
        let all = patterns(&["*", "PAY*", "PAY1*", "*1", "*AY*", "PAY1"]);
        for (text, found) in [("PAY1", "PAY1"), ("PAY12", "PAY1*"), ("PAY2", "PAY*"), ("X1", "*1"), ("XAYX", "*AY*")] {
            assert_eq!(all.find(text.as_bytes()), Some(&found), "{text}");
        }
        assert_eq!(all.find(b"other"), Some(&"*"));
        assert_eq!(all.find(b""), Some(&"*"));
    }

    #[test]
    fn a_pattern_without_star_is_the_whole_text() {
        let one = patterns(&["PAY"]);
        assert_eq!((one.find(b"PAY"), one.find(b"PAY1"), one.find(b"pay")), (Some(&"PAY"), None, None));
        assert!(!one.is_empty() && patterns(&[]).is_empty());
    }

    #[test]
    fn a_text_too_long_to_look_at_matches_nothing() {
        assert_eq!(patterns(&["*"]).find(&[b'x'; LONGEST_TEXT + 1]), None);
    }
}
