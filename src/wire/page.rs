//! Owns the shape of a list in an answer. Must not know what is listed.

use serde::{Deserialize, Serialize};

/// One page of a list: `{"items": […], "next": cursor or null}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// What to pass as `cursor` for the page after this one; `None`: this is the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Everything there is, in one page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// Cuts one page of at most `limit` items out of `all`, from after the item that `cursor` names. `key` must tell
    /// items apart and be stable. A cursor whose item is gone starts from the beginning.
    pub fn cut(
        all: impl IntoIterator<Item = T>,
        cursor: Option<&str>,
        limit: usize,
        key: impl Fn(&T) -> String,
    ) -> Self {
        let mut rest: Vec<T> = all.into_iter().collect();
        if let Some(at) = cursor.and_then(|cursor| rest.iter().position(|item| key(item) == cursor)) {
            rest.drain(..=at);
        }
        let more = rest.len() > limit.max(1);
        rest.truncate(limit.max(1));
        let next = rest.last().filter(|_| more).map(key);
        Self { items: rest, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        let (mut seen, mut cursor) = (Vec::new(), None);
        for _ in 0..4 {
            let page = Page::cut(1..=7, cursor.as_deref(), 2, i32::to_string);
            seen.extend(page.items);
            cursor = page.next;
        }
        assert_eq!(seen, (1..=7).collect::<Vec<_>>());
        assert_eq!(cursor, None);
    }

    #[test]
    fn the_last_page_says_so_with_null() {
        assert_eq!(serde_json::to_string(&Page::whole(vec![1])).unwrap(), r#"{"items":[1],"next":null}"#);
    }
}
