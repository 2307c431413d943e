//! Owns the substitutions of a manifest's commands: which there are, and putting values in their place.
//! Must not know how a command is run.

/// The names that stand in braces in `command`, `prepare` and `env`.
pub const NAMES: [&str; 5] = ["port", "dir", "data", "version", "node"];

/// Those that mean something to a command that is no instance.
pub const WITHOUT_PORT: [&str; 4] = ["dir", "data", "version", "node"];

/// What the names stand for, for one instance.
#[derive(Clone, Debug)]
pub struct Facts {
    pub port: String,
    pub dir: String,
    pub data: String,
    pub version: String,
    pub node: String,
}

impl Facts {
    fn get(&self, name: &str) -> Option<&str> {
        Some(match name {
            "port" => &self.port,
            "dir" => &self.dir,
            "data" => &self.data,
            "version" => &self.version,
            "node" => &self.node,
            _ => return None,
        })
    }
}

/// The first `{word}` that is none of the substitutions; braces around anything but a lower-case word are plain text.
pub fn unknown_substitution<'t>(text: &'t str, names: &[&str]) -> Option<&'t str> {
    words(text).map(|(_, word)| word).find(|word| !names.contains(word))
}

/// Puts the values in place of their names, in one pass: what a value contains is not looked at again.
pub fn substitute(text: &str, facts: &Facts) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (at, word) in words(text) {
        if let Some(value) = facts.get(word) {
            out.push_str(&text[copied..at]);
            out.push_str(value);
            copied = at + word.len() + 2;
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// Every `{word}` with the place of its brace.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices('{').filter_map(|(at, _)| {
        let rest = &text[at + 1..];
        let word = &rest[..rest.find('}')?];
        let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        plain.then_some((at, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_replaced_once_and_other_braces_stay() {
        let facts = Facts {
            port: "20000".into(),
            dir: "/r/{data}".into(),
            data: "/d".into(),
            version: "2".into(),
            node: "s1".into(),
        };
        assert_eq!(substitute("{dir}:{port}:{\"a\":1}:{} {{node}} {", &facts), "/r/{data}:20000:{\"a\":1}:{} {s1} {");
        assert_eq!(unknown_substitution("{port} {\"a\"} {prot}", &NAMES), Some("prot"));
        assert_eq!(unknown_substitution("{port}{Dir}", &NAMES), None);
    }
}
