//! Owns the way from a command's first word to the executable that the kernel runs in the end: PATH, `#!` lines, `env`,
//! links. Must not know what the executable needs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Budget, file};
use crate::domain::components::{Hop, How, Unread};

/// `#!` lines that lead to each other; the kernel follows about as many.
const INTERPRETERS_MAX: usize = 5;
/// Bytes of a `#!` line that the kernel reads.
const LINE_BYTES_MAX: usize = 256;
/// What runs a file that is neither, as execvp(3) has it.
const SHELL: &str = "/bin/sh";

/// A file on the way, and the way to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnTheWay {
    /// As it is named: perhaps a link.
    pub path: PathBuf,
    pub chain: Vec<Hop>,
}

/// Where a command leads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Way {
    /// Scripts first, the executable last.
    pub files: Vec<OnTheWay>,
    /// The last of them is an ELF file.
    pub ends: bool,
    pub unread: Option<Unread>,
}

/// Follows a command's first word, run in `dir` with `env`.
pub fn follow(word: &str, dir: &Path, env: &BTreeMap<String, String>, budget: &mut Budget) -> Way {
    let mut way = Way::default();
    let mut chain = Vec::new();
    let (mut word, mut how) = (word.to_owned(), How::Command);
    for _ in 0..INTERPRETERS_MAX {
        let found = budget.file().and_then(|()| find(&word, dir, env));
        let read = found.and_then(|path| head(&path).map(|head| (path, head)));
        let (path, head) = match read {
            Ok(read) => read,
            Err(why) => {
                way.unread = Some(Unread { what: word, why });
                return way;
            }
        };
        chain.push(Hop { name: shown(&path, dir), how });
        way.files.push(OnTheWay { path, chain: chain.clone() });
        match next(&head) {
            Next::Elf => {
                way.ends = true;
                return way;
            }
            Next::Run(interpreter, by) => (word, how) = (interpreter, by),
        }
    }
    way.unread = Some(Unread { what: word, why: format!("more than {INTERPRETERS_MAX} #! lines lead to each other") });
    way
}

/// A path as evidence names it: inside the release, from there.
pub fn shown(path: &Path, dir: &Path) -> String {
    file::text(path.strip_prefix(dir).unwrap_or(path))
}

/// A word with a slash is a path; another is looked for in PATH.
fn find(word: &str, dir: &Path, env: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    if word.contains('/') {
        return Ok(plain(&dir.join(word)));
    }
    let dirs = env.get("PATH").map(String::as_str).unwrap_or_default().split(':');
    let mut paths = dirs.map(|entry| dir.join(entry).join(word));
    let runs = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    paths.find(runs).ok_or_else(|| "no directory of PATH has it".to_owned())
}

/// Without `.`, so that the release's own files are known by their directory.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != std::path::Component::CurDir).collect()
}

fn head(path: &Path) -> Result<Vec<u8>, String> {
    let (file, _) = file::open(path).map_err(|error| error.to_string())?;
    file::read_at(&file, 0, LINE_BYTES_MAX).map_err(|error| error.to_string())
}

enum Next {
    Elf,
    Run(String, How),
}

fn next(head: &[u8]) -> Next {
    if head.starts_with(b"\x7fELF") {
        return Next::Elf;
    }
    let shell = || Next::Run(SHELL.to_owned(), How::Interpreter);
    let Some(line) = head.strip_prefix(b"#!") else { return shell() };
    let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
    let line = line.trim();
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if interpreter.is_empty() {
        return shell();
    }
    if interpreter.rsplit('/').next() == Some("env")
        && let Some(word) = looked_for(rest.trim())
    {
        return Next::Run(word, How::Env);
    }
    Next::Run(interpreter.to_owned(), How::Interpreter)
}

/// The word that env(1) looks for: with `-S` the first that is neither an option nor a variable; the kernel hands on
/// everything else as one word.
fn looked_for(rest: &str) -> Option<String> {
    let split = ["-S", "--split-string=", "-vS"].iter().find_map(|option| rest.strip_prefix(option));
    let Some(split) = split else { return Some(rest.to_owned()).filter(|word| !word.is_empty()) };
    let mut words = split.split_ascii_whitespace();
    while let Some(word) = words.next() {
        match word {
            "-u" | "-C" | "--unset" | "--chdir" => {
                words.next();
            }
            word if word.starts_with('-') || word.contains('=') => {}
            word => return Some(word.trim_matches(['"', '\'']).to_owned()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::Limits;

    fn follow_in(dir: &Path, word: &str) -> Way {
        let env = BTreeMap::from([("PATH".to_owned(), format!("{}/none:{}/bin", dir.display(), dir.display()))]);
        follow(word, dir, &env, &mut Budget::new(Limits::default()))
    }

    fn put(dir: &Path, name: &str, content: &[u8]) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn told(way: &Way) -> String {
        let last = &way.files.last().unwrap().chain;
        last.iter().map(|hop| format!("{} {}", hop.how, hop.name)).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_script_leads_through_env_and_links_to_the_executable() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "bin/tongue-1.0", b"\x7fELF");
        std::os::unix::fs::symlink("tongue-1.0", dir.path().join("bin/tongue")).unwrap();
        put(dir.path(), "run", b"#!/usr/bin/env tongue\nsay");
        put(dir.path(), "split", b"#! /usr/bin/env -S -i A=1 -u B tongue -x\n");
        put(dir.path(), "outer", format!("#!{}/run -x\n", dir.path().display()).as_bytes());
        let way = follow_in(dir.path(), "./run");
        assert!(way.ends && way.unread.is_none());
        assert_eq!(told(&way), "command run, #! env bin/tongue");
        assert_eq!(told(&follow_in(dir.path(), "./split")), "command split, #! env bin/tongue");
        let way = follow_in(dir.path(), "./outer");
        assert_eq!(told(&way), "command outer, #! run, #! env bin/tongue");
        assert_eq!((way.files.len(), told(&follow_in(dir.path(), "tongue"))), (3, "command bin/tongue".to_owned()));
    }

    #[test]
    fn a_way_that_leads_nowhere_says_so() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "loop", format!("#!{}/loop\n", dir.path().display()).as_bytes());
        put(dir.path(), "text", b"echo hello\n");
        let why = |word: &str| follow_in(dir.path(), word).unread.map(|unread| unread.to_string()).unwrap_or_default();
        assert!(why("./loop").contains("lead to each other"), "{}", why("./loop"));
        assert!(why("missing").contains("no directory of PATH"), "{}", why("missing"));
        assert!(why("./missing").contains("No such file"), "{}", why("./missing"));
        assert!(why(".").contains("not a plain file") || why("/").contains("not a plain file"));
        let shell = follow_in(dir.path(), "./text");
        assert_eq!(shell.files[1].chain[1], Hop { name: "/bin/sh".into(), how: How::Interpreter });
    }
}
