//! Owns globs of names, as placement rules have them. Must not know what is named.

/// Whether a name fits a glob, in which `*` stands for anything.
pub fn matches_glob(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches_glob;

    #[test]
    fn a_star_stands_for_anything() {
        for (glob, name) in
            [("*", "app-1"), ("app-*", "app-1"), ("*-1", "app-1"), ("a*p-*", "app-1"), ("app-1", "app-1")]
        {
            assert!(matches_glob(glob, name), "{glob}");
        }
        for (glob, name) in [("app", "app-1"), ("b*", "app-1"), ("app-*2", "app-1"), ("", "app-1"), ("a*a", "a")] {
            assert!(!matches_glob(glob, name), "{glob}");
        }
    }
}
