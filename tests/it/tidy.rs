//! The rules of the tree that no compiler checks: floors, the pure domain, who may spawn and who may store, sizes, and
//! what each module says of itself. Lists every offence, each with its place.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Parts of the tree by floor; `use crate::…` points to a lower one only.
const FLOORS: [(&str, u8); 16] = [
    ("domain", 0),
    ("wire", 1),
    ("store", 2),
    ("link", 2),
    ("programs", 2),
    ("components", 2),
    ("proxy", 2),
    ("tls", 2),
    ("traffic", 2),
    ("router", 3),
    ("app_server", 3),
    ("management", 3),
    ("dashboard", 3),
    ("config", 4),
    ("telemetry", 4),
    ("cli", 5),
];
/// The one place that knows all roles: above config and telemetry, below the command line.
const NODE: (&str, u8) = ("node", 4);
/// Who may know how a node is configured.
const MAY_KNOW_CONFIG: [&str; 2] = ["node", "cli"];
/// Lines of a file before its tests.
const LINES_MAX: usize = 400;

/// What the pure domain does not touch.
const IMPURE: [&str; 20] = [
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "rand::",
    "tokio",
    "actix",
    "tracing",
    "sled::",
    "println!",
    ".await",
];

/// How a process comes to be.
const SPAWNS: [&str; 4] = ["process::Command", "Command::new(", "tokio::process", ".exec()"];

struct File {
    /// Below src/, such as "domain/gate.rs".
    path: String,
    lines: Vec<String>,
    /// Lines before the tests in it.
    own: usize,
}

impl File {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let own = lines.iter().position(|line| line.trim() == "#[cfg(test)]" && !line.starts_with(' '));
        let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // A `#[cfg(test)]` on a `mod tests;` is not the end of what is the file's own.
        let tests = own.filter(|at| lines.get(at + 1).is_some_and(|next| next.contains('{') && next.contains("mod ")));
        Self { own: tests.unwrap_or(lines.len()), lines, path }
    }

    /// The folder or file right below src/.
    fn part(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// Its lines of code with their numbers, without comments; those of its tests where asked.
    fn code(&self, with_tests: bool) -> impl Iterator<Item = (usize, &str)> {
        let end = if with_tests { self.lines.len() } else { self.own };
        let lines = self.lines[..end].iter().enumerate();
        lines.map(|(index, line)| (index + 1, without_comment(line)))
    }

    fn uses<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = (usize, &'a str)> {
        let own = !self.is_test();
        let lines = self.code(false).filter(move |_| own);
        lines.flat_map(|(number, line)| {
            words.iter().copied().filter(move |word| line.contains(word)).map(move |word| (number, word))
        })
    }
}

fn without_comment(line: &str) -> &str {
    let start = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
    &line[..start.unwrap_or(line.len())]
}

fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut left) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(File::read(&root, &path));
            }
        }
    }
    assert!(found.len() > 100, "the tree is not where it was");
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Fails with every offence.
#[track_caller]
fn none(offences: &[String]) {
    let list = offences.iter().fold(String::new(), |mut list, offence| {
        let _ = write!(list, "\n  src/{offence}");
        list
    });
    assert!(offences.is_empty(), "{} offences:{list}", offences.len());
}

fn floor(part: &str) -> Option<u8> {
    FLOORS.iter().chain([&NODE]).find(|(name, _)| *name == part).map(|(_, floor)| *floor)
}

/// The parts that a line names after `crate::`.
fn named(line: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (at, found) in line.match_indices("crate::") {
        // `$crate::` and such names of our own as `some_crate::` are others.
        if line[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || "_$:".contains(before)) {
            continue;
        }
        let rest = &line[at + found.len()..];
        let group = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap_or_default());
        for item in group.unwrap_or(rest).split(',') {
            let word = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
            parts.push(word);
            if group.is_none() {
                break;
            }
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn may_use(from: &str, to: &str) -> bool {
    let (Some(above), Some(below)) = (floor(from), floor(to)) else { return false };
    if to == "config" {
        return MAY_KNOW_CONFIG.contains(&from);
    }
    from == to || below < above || (from == NODE.0 && above == below)
}

#[test]
fn what_is_used_is_on_a_lower_floor() {
    let mut offences = Vec::new();
    for file in files() {
        if matches!(file.part(), "main" | "lib") {
            continue;
        }
        if floor(file.part()).is_none() {
            offences.push(format!("{}: {} is on no floor", file.path, file.part()));
            continue;
        }
        for (number, line) in file.code(true) {
            for part in named(line).into_iter().filter(|part| floor(part).is_some()) {
                if part != file.part() && !may_use(file.part(), &part) {
                    offences.push(format!("{}:{number}: {} must not know {part}", file.path, file.part()));
                }
            }
        }
    }
    none(&offences);
}

#[test]
fn the_domain_is_pure() {
    let mut offences = Vec::new();
    for file in files().iter().filter(|file| file.part() == "domain") {
        for (number, word) in file.uses(&IMPURE).chain(file.uses(&["async fn", "async move"])) {
            offences.push(format!("{}:{number}: {word}", file.path));
        }
    }
    none(&offences);
}

#[test]
fn only_the_store_knows_sled() {
    let mut offences = Vec::new();
    for file in files().iter().filter(|file| file.part() != "store") {
        offences
            .extend(file.uses(&["sled::", "use sled"]).map(|(number, word)| format!("{}:{number}: {word}", file.path)));
    }
    none(&offences);
}

#[test]
fn only_programs_spawns_processes() {
    let mut offences = Vec::new();
    for file in files().iter().filter(|file| file.part() != "programs") {
        offences.extend(file.uses(&SPAWNS).map(|(number, word)| format!("{}:{number}: {word}", file.path)));
    }
    none(&offences);
}

#[test]
fn nothing_is_sent_without_a_bound() {
    let mut offences = Vec::new();
    for file in files() {
        for (number, word) in file.uses(&["do_send(", "unbounded_channel", "unbounded()"]) {
            offences.push(format!("{}:{number}: {word}", file.path));
        }
    }
    none(&offences);
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let mut offences = Vec::new();
    for file in files().iter().filter(|file| !file.is_test() && file.own > LINES_MAX) {
        offences.push(format!("{}: {} lines before its tests, {LINES_MAX} at the most", file.path, file.own));
    }
    none(&offences);
}

#[test]
fn every_module_says_what_it_owns_and_what_it_must_not_know() {
    let mut offences = Vec::new();
    for file in files().iter().filter(|file| !file.is_test() && !matches!(file.part(), "main" | "lib")) {
        let said: Vec<&str> = file.lines.iter().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
        let said = said.join(" ");
        if said.is_empty() {
            offences.push(format!("{}: has no //!", file.path));
            continue;
        }
        if !said.starts_with("Owns") && !said.starts_with("Floor") {
            offences.push(format!("{}: does not begin with what it owns: {said:.60}", file.path));
        }
        if !["Must not", "must not"].iter().any(|words| said.contains(words)) {
            offences.push(format!("{}: does not say what it must not know", file.path));
        }
    }
    none(&offences);
}
