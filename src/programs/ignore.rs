//! Owns `.neapignore`: which files of a directory stay out of a release.
//! Must not know how a release is packed.
//!
//! One pattern a line, as users know them from gitignore: `#` starts a comment; `*` and `?` match within a name, `**`
//! across directories; a `/` at the start or in the middle ties the pattern to the top; a `/` at the end means
//! directories only; `!` takes files back in; the last pattern that matches decides. What is in an ignored
//! directory cannot be taken back. `.git` and `.neapignore` itself stay out always, `program.toml` never.

/// The file's name, at the top of the directory that is packed.
pub const FILE_NAME: &str = ".neapignore";
const MANIFEST: &str = crate::domain::manifest::FILE_NAME;
/// Patterns of one file.
const PATTERNS_MAX: usize = 1_000;

/// The patterns of one `.neapignore`.
#[derive(Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    take_in: bool,
    dirs_only: bool,
    anchored: bool,
    parts: Vec<String>,
}

impl Ignore {
    /// Reads the patterns; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            patterns.push(pattern(line).map_err(|why| format!("{FILE_NAME}:{}: {why}", index + 1))?);
        }
        if patterns.len() > PATTERNS_MAX {
            return Err(format!("{FILE_NAME}: {} patterns; at most {PATTERNS_MAX}", patterns.len()));
        }
        Ok(Self { patterns })
    }

    /// Whether the entry at this plain path stays out.
    pub fn ignores(&self, path: &str, is_dir: bool) -> bool {
        if path == MANIFEST {
            return false;
        }
        if path == FILE_NAME || path == ".git" {
            return true;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let last = self.patterns.iter().rev().find(|pattern| pattern.matches(&parts, is_dir));
        last.is_some_and(|pattern| !pattern.take_in)
    }
}

fn pattern(line: &str) -> Result<Pattern, String> {
    let (take_in, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
    let line = line.strip_prefix('\\').unwrap_or(line);
    let (dirs_only, line) = line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
    if line.contains(['[', ']', '\\']) {
        return Err(format!("\"{line}\": only *, ** and ? are understood, not [ ] or \\"));
    }
    let parts: Vec<String> = line.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if parts.is_empty() || parts.iter().any(|part| part == "." || part == "..") {
        return Err(format!("\"{line}\" names no file of this directory"));
    }
    Ok(Pattern { take_in, dirs_only, anchored: line.contains('/'), parts })
}

impl Pattern {
    fn matches(&self, path: &[&str], is_dir: bool) -> bool {
        if self.dirs_only && !is_dir {
            return false;
        }
        let path = if self.anchored { path } else { &path[path.len() - 1..] };
        let parts: Vec<&str> = self.parts.iter().map(String::as_str).collect();
        across(&parts, path)
    }
}

/// Whether patterns of names, `**` among them, match the names of a path. Dynamic programming: never exponential.
fn across(patterns: &[&str], names: &[&str]) -> bool {
    let mut row = vec![false; names.len() + 1];
    row[0] = true;
    for pattern in patterns {
        let mut next = vec![false; names.len() + 1];
        if *pattern == "**" {
            let mut seen = false;
            for (at, reached) in row.iter().enumerate() {
                seen |= *reached;
                next[at] = seen;
            }
        } else {
            for at in 1..=names.len() {
                next[at] = row[at - 1] && within(pattern.as_bytes(), names[at - 1].as_bytes());
            }
        }
        row = next;
    }
    row[names.len()]
}

/// Whether one name matches a pattern of `*` and `?`.
fn within(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_work_as_users_know_them() {
        let ignore = Ignore::parse("# c\n\n*.log\n!keep.log\n/top\nbuild/\na/**/z\ndocs/*.md\n").unwrap();
        for (path, dir, out) in [
            ("x.log", false, true),
            ("deep/x.log", false, true),
            ("deep/keep.log", false, false),
            ("top", false, true),
            ("a/top", false, false),
            ("a/build", true, true),
            ("a/build", false, false),
            ("a/z", false, true),
            ("a/b/c/z", false, true),
            ("docs/x.md", false, true),
            ("docs/a/x.md", false, false),
            (".git", true, true),
            (".neapignore", false, true),
            (".gitignore", false, false),
        ] {
            assert_eq!(ignore.ignores(path, dir), out, "{path}");
        }
    }

    #[test]
    fn the_manifest_is_never_left_out() {
        assert!(!Ignore::parse("*").unwrap().ignores("program.toml", false));
    }

    #[test]
    fn a_pattern_that_is_not_understood_is_refused_with_its_line() {
        assert!(Ignore::parse("a\n[ab]").unwrap_err().starts_with(".neapignore:2: "));
        assert!(Ignore::parse("..").is_err());
        assert!(Ignore::parse("/").is_err());
    }
}
