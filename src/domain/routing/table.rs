//! Owns which program a request is for. Must not know servers, or how a request is read.
//!
//! What is asked first, first found:
//!
//! 1. a header whose value a program's `match` names, such as a transaction code: it says more than any URL;
//! 2. a route: the exact host's longest prefix, then any host's (`*`) longest;
//! 3. a file name that a `match` names;
//! 4. the route `*/`, which is what is left.
//!
//! Two programs with one rule: the first given keeps it. Asking costs the same for ten programs and for ten thousand.

use std::borrow::Cow;
use std::fmt;

use foldhash::HashMap;

use super::pattern::Patterns;
use crate::domain::program::{Manifest, Match};

/// What is looked at of a request.
#[derive(Clone, Debug)]
pub struct Ask<'a, H> {
    /// As it came: any case, with or without a port.
    pub host: &'a str,
    /// Normalised, without the query.
    pub path: &'a str,
    /// Names in any case.
    pub headers: H,
}

/// The program, by its place among those given, and the rule by which it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Matched<'a> {
    pub program: usize,
    pub rule: &'a Rule,
}

impl Matched<'_> {
    /// Bytes of the path that belong to the rule's prefix: what `strip_prefix` takes away.
    pub fn prefix_len(&self) -> usize {
        match self.rule {
            Rule::Route { prefix, .. } if prefix != "/" => prefix.len(),
            _ => 0,
        }
    }
}

/// One rule of a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    Header { name: String, value: String },
    Route { host: Option<String>, prefix: String },
    FileName { pattern: String },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, value } => write!(f, "header {name}: {value}"),
            Self::Route { host, prefix } => write!(f, "route {}{prefix}", host.as_deref().unwrap_or("*")),
            Self::FileName { pattern } => write!(f, "file name {pattern}"),
        }
    }
}

/// All programs' rules. Immutable once built.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    rules: Vec<(usize, Rule)>,
    headers: HashMap<String, Patterns<usize>>,
    hosts: HashMap<String, Prefixes>,
    any_host: Prefixes,
    rest: Option<usize>,
    file_names: Patterns<usize>,
}

/// A host's prefixes, and how many segments the longest has: more of a path need not be looked at.
#[derive(Clone, Debug, Default)]
struct Prefixes {
    rules: HashMap<String, usize>,
    deepest: usize,
}

impl Prefixes {
    fn add(&mut self, prefix: &str, rule: usize) {
        self.deepest = self.deepest.max(depth(prefix));
        self.rules.entry(prefix.to_owned()).or_insert(rule);
    }

    fn find(&self, path: &str) -> Option<usize> {
        if self.rules.is_empty() {
            return None;
        }
        let mut end = nth_segment_end(path, self.deepest);
        while end > 0 {
            if let Some(rule) = self.rules.get(&path[..end]) {
                return Some(*rule);
            }
            end = path.as_bytes()[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        }
        self.rules.get("/").copied()
    }
}

fn depth(prefix: &str) -> usize {
    if prefix == "/" { 0 } else { prefix.matches('/').count() }
}

/// Where the first `count` segments of a path end; 0 for none.
fn nth_segment_end(path: &str, count: usize) -> usize {
    let slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    slashes.skip(1).chain([path.len()]).take(count).last().unwrap_or(0)
}

impl RouteTable {
    /// Builds the table of programs, which are known by their place in the order given.
    pub fn build<'m>(manifests: impl IntoIterator<Item = &'m Manifest>) -> Self {
        let mut table = Self::default();
        for (program, manifest) in manifests.into_iter().enumerate() {
            for route in &manifest.routes {
                table.add_route(program, route.host.as_deref(), &route.prefix);
            }
            for rule in &manifest.matches {
                table.add_match(program, rule);
            }
        }
        table
    }

    /// A rule that both have: requests that it matches could go to only one of them.
    pub fn shared(one: &Manifest, other: &Manifest) -> Option<Rule> {
        let (one, other) = (Self::build([one]), Self::build([other]));
        let shared = one.rules.into_iter().find(|(_, rule)| other.rules.iter().any(|(_, theirs)| theirs == rule));
        shared.map(|(_, rule)| rule)
    }

    fn add_route(&mut self, program: usize, host: Option<&str>, prefix: &str) {
        let host = host.map(|host| bare_host(host).into_owned());
        let rule = self.push(program, Rule::Route { host: host.clone(), prefix: prefix.to_owned() });
        match host {
            None if prefix == "/" => drop(self.rest.get_or_insert(rule)),
            None => self.any_host.add(prefix, rule),
            Some(host) => self.hosts.entry(host).or_default().add(prefix, rule),
        }
    }

    fn add_match(&mut self, program: usize, rule: &Match) {
        match rule {
            Match::Header { name, value } => {
                let name = name.to_ascii_lowercase();
                let rule = self.push(program, Rule::Header { name: name.clone(), value: value.clone() });
                self.headers.entry(name).or_default().add(value, rule);
            }
            Match::Path { pattern } => {
                let rule = self.push(program, Rule::FileName { pattern: pattern.clone() });
                self.file_names.add(pattern, rule);
            }
        }
    }

    fn push(&mut self, program: usize, rule: Rule) -> usize {
        self.rules.push((program, rule));
        self.rules.len() - 1
    }

    /// Finds the program that a request is for.
    pub fn find<'h, H>(&self, ask: Ask<'_, H>) -> Option<Matched<'_>>
    where
        H: IntoIterator<Item = (&'h str, &'h [u8])>,
    {
        let rule = self.by_header(ask.headers);
        let rule = rule.or_else(|| match self.hosts.is_empty() {
            true => None,
            false => self.hosts.get(bare_host(ask.host).as_ref())?.find(ask.path),
        });
        let rule = rule.or_else(|| self.any_host.find(ask.path));
        let rule = rule.or_else(|| self.by_file_name(ask.path)).or(self.rest)?;
        let (program, rule) = &self.rules[rule];
        Some(Matched { program: *program, rule })
    }

    fn by_header<'h>(&self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Option<usize> {
        if self.headers.is_empty() {
            return None;
        }
        let find = |(name, value): (&str, &[u8])| self.headers.get(lower(name).as_ref())?.find(value.trim_ascii());
        headers.into_iter().find_map(find).copied()
    }

    fn by_file_name(&self, path: &str) -> Option<usize> {
        if self.file_names.is_empty() {
            return None;
        }
        let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
        self.file_names.find(name.as_bytes()).copied()
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

/// A host in lower case, without its port and without the dot of its root.
fn bare_host(host: &str) -> Cow<'_, str> {
    // The last of the two: a colon within the brackets of an IPv6 address begins no port.
    let last = host.bytes().rposition(|byte| matches!(byte, b':' | b']'));
    let end = last.filter(|at| host.as_bytes()[*at] == b':').unwrap_or(host.len());
    lower(host[..end].strip_suffix('.').unwrap_or(&host[..end]))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
