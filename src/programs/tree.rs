//! Owns what a release's tree may hold: directories, files and links that stay inside, within bounds.
//! Must not know archives or the disk: it judges paths and links as text.

use std::collections::BTreeMap;

/// Bounds of one release.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of its canonical tar.
    pub bytes: u64,
    pub entries: u64,
}

/// What the contract allows: 2 GiB, 200,000 entries.
pub const LIMITS: Limits = Limits { bytes: 2 << 30, entries: 200_000 };
/// Bytes of one path.
const PATH_BYTES_MAX: usize = 4096;
/// Links that may follow each other.
const HOPS_MAX: usize = 40;

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Dir,
    File { size: u64, executable: bool },
    Link { target: String },
}

/// A rule of releases that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{path}\" {why}")]
pub struct BadEntry {
    pub path: String,
    pub why: String,
}

impl BadEntry {
    pub fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

/// The entries of a release by their paths; a map sorted by bytes, so that its order is canonical.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<String, Node>,
}

impl Tree {
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(path, node)| (path.as_str(), node))
    }

    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, path: &str) -> Option<&Node> {
        self.entries.get(path)
    }

    /// Adds an entry under a plain path. Directories above it that are missing are added too; anything else in
    /// their place, or a path used twice, is refused. Returns the directories added.
    pub fn add(&mut self, path: &str, node: Node, limits: &Limits) -> Result<Vec<String>, BadEntry> {
        let mut made = Vec::new();
        for (slash, _) in path.match_indices('/') {
            let above = &path[..slash];
            match self.entries.get(above) {
                Some(Node::Dir) => {}
                Some(_) => return Err(BadEntry::new(path, format!("lies under \"{above}\", which is no directory"))),
                None => {
                    self.entries.insert(above.to_owned(), Node::Dir);
                    made.push(above.to_owned());
                }
            }
        }
        match (self.entries.get(path), &node) {
            (None, _) => {
                self.entries.insert(path.to_owned(), node);
            }
            (Some(Node::Dir), Node::Dir) => {}
            (Some(_), _) => return Err(BadEntry::new(path, "is in the archive twice")),
        }
        if self.len() > limits.entries {
            return Err(BadEntry::new(path, format!("is one entry too many: at most {}", limits.entries)));
        }
        Ok(made)
    }

    /// Gives a file of the top directory another size; it becomes a plain file.
    pub fn replace(&mut self, name: &str, size: u64) {
        self.entries.insert(name.to_owned(), Node::File { size, executable: false });
    }

    /// Checks that every link, followed through other links, stays inside the tree.
    pub fn check_links(&self) -> Result<(), BadEntry> {
        for (path, node) in &self.entries {
            if let Node::Link { target } = node {
                self.check_link(path, target)?;
            }
        }
        Ok(())
    }

    fn check_link(&self, path: &str, target: &str) -> Result<(), BadEntry> {
        let out = |why: &str| BadEntry::new(path, format!("links to \"{target}\", {why}"));
        let mut at: Vec<String> = split(path).map(str::to_owned).collect();
        at.pop();
        // What is left to walk, the next part last.
        let mut left: Vec<String> = split(target).rev().map(str::to_owned).collect();
        let mut hops = 0;
        if target.is_empty() || target.starts_with('/') {
            return Err(out("which is not a relative path"));
        }
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop().ok_or_else(|| out("which leaves the release"))?;
                    continue;
                }
                _ => at.push(part),
            }
            let Some(Node::Link { target: next }) = self.entries.get(&at.join("/")) else { continue };
            hops += 1;
            if hops > HOPS_MAX {
                return Err(out("which never ends"));
            }
            if next.starts_with('/') {
                return Err(out("which leaves the release"));
            }
            at.pop();
            left.extend(split(next).rev().map(str::to_owned));
        }
        Ok(())
    }
}

fn split(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/')
}

/// The plain form of a path of an archive ("a/b"): relative, without `..`. Empty for the root itself.
pub fn plain(path: &[u8]) -> Result<String, BadEntry> {
    let shown = String::from_utf8_lossy(path).into_owned();
    let Ok(text) = std::str::from_utf8(path) else { return Err(BadEntry::new(shown, "is not UTF-8")) };
    if text.len() > PATH_BYTES_MAX {
        let start: String = text.chars().take(80).collect();
        return Err(BadEntry::new(start, format!("… is longer than {PATH_BYTES_MAX} bytes")));
    }
    if text.contains('\0') {
        return Err(BadEntry::new(text, "contains a NUL"));
    }
    if text.starts_with('/') {
        return Err(BadEntry::new(text, "is an absolute path"));
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(BadEntry::new(text, "contains \"..\"")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Option<&str>)]) -> Tree {
        let mut tree = Tree::default();
        for (path, target) in entries {
            let node = target.map_or(Node::Dir, |target| Node::Link { target: target.to_owned() });
            tree.add(path, node, &LIMITS).unwrap();
        }
        tree
    }

    #[test]
    fn links_that_stay_inside_are_kept() {
        let inside = tree(&[("a/b", None), ("a/l", Some("../c")), ("c", Some("a/b")), ("d", Some("a/l/../missing"))]);
        assert_eq!(inside.check_links(), Ok(()));
    }

    #[test]
    fn links_that_leave_are_refused_even_through_a_chain() {
        for (links, expected) in [
            (vec![("l", Some("../x"))], "leaves the release"),
            (vec![("l", Some("/etc"))], "not a relative path"),
            (vec![("l", Some(""))], "not a relative path"),
            (vec![("a/b/c", None), ("a/l", Some("b/c")), ("m", Some("a/l/../../../.."))], "leaves the release"),
            (vec![("a/b", None), ("deep", Some("a/b")), ("x", Some("deep/../../.."))], "leaves the release"),
            (vec![("l", Some("m")), ("m", Some("l"))], "never ends"),
        ] {
            let told = tree(&links).check_links().unwrap_err().to_string();
            assert!(told.contains(expected), "{links:?}: {told}");
        }
    }

    #[test]
    fn an_entry_under_a_link_or_a_second_time_is_refused() {
        let mut tree = tree(&[("l", Some("a"))]);
        assert!(tree.add("l/x", Node::Dir, &LIMITS).unwrap_err().why.contains("no directory"));
        assert!(tree.add("l", Node::Dir, &LIMITS).unwrap_err().why.contains("twice"));
        let small = Limits { entries: 2, ..LIMITS };
        assert_eq!(tree.add("a", Node::Dir, &small), Ok(vec![]));
        assert!(tree.add("b", Node::Dir, &small).unwrap_err().why.contains("at most 2"));
    }

    #[test]
    fn paths_that_leave_are_refused() {
        assert_eq!(plain(b"./a//b/"), Ok("a/b".to_owned()));
        for path in [&b"/a"[..], b"a/../b", b"a\0", b"\xff"] {
            assert!(plain(path).is_err());
        }
    }
}
