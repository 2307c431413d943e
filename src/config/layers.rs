//! Owns where values come from: defaults, file, environment, flags; what is said where, and whether there is such a key
//! of such a type. Must not know what a value means.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

/// The defaults, and by that every key there is.
pub const DEFAULTS: &str = include_str!("../../conf/default.toml");
/// Keys that `interface.md` names and that are refused until they do something.
const NOT_BUILT_YET: [&str; 1] = ["observe.otlp"];
/// The one list of tables.
const TABLES: &str = "router.tls";
const TABLES_SHAPE: &str = "[{ cert = \"site.pem\", key = \"site.key\" }]";
/// The one table whose keys are the user's.
const FREE_TABLE: &str = "node.labels";
const ENV_PREFIX: &str = "NEAP__";
/// A file larger than this is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Who said a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Env(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => f.write_str(name),
            Origin::Flag(given) => write!(f, "--set {given}"),
        }
    }
}

/// One thing that is wrong, where, and the cure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub origin: Origin,
    /// Dotted; empty: the whole.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.message),
            key => write!(f, "{}: {key}: {}", self.origin, self.message),
        }
    }
}

/// A value and who said it.
#[derive(Clone, PartialEq, Debug)]
pub struct Leaf {
    pub value: Value,
    pub origin: Origin,
}

/// Values by dotted key; a layer, or what layers make together.
pub type Leaves = BTreeMap<String, Leaf>;

/// The layers together, the later over the earlier; or all that is wrong in them.
pub fn merge(
    file: Option<&Path>,
    sets: &[String],
    env: impl Iterator<Item = (String, String)>,
) -> Result<Leaves, Vec<Fault>> {
    let known = defaults();
    let mut faults = Vec::new();
    let mut given: Vec<(String, Leaf)> = Vec::new();
    if let Some(path) = file {
        match read_file(path) {
            Ok(leaves) => given.extend(leaves),
            Err(fault) => faults.push(fault),
        }
    }
    let mut env: Vec<_> = env.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    env.sort();
    let texts = env.into_iter().map(from_env).chain(sets.iter().map(|set| from_flag(set)));
    for text in texts {
        match text.and_then(|(key, text, origin)| typed(&known, key, &text, origin)) {
            Ok(leaf) => given.push(leaf),
            Err(fault) => faults.push(fault),
        }
    }
    let mut merged = known.clone();
    for (key, leaf) in given {
        match check(&known, &key, &leaf.value) {
            Ok(()) if leaf.value.is_table() => {}
            Ok(()) => drop(merged.insert(key, leaf)),
            Err(message) => faults.push(Fault { origin: leaf.origin, key, message }),
        }
    }
    if faults.is_empty() { Ok(merged) } else { Err(faults) }
}

/// Every key there is, with its default.
pub fn defaults() -> Leaves {
    let table: toml::Table = DEFAULTS.parse().expect("conf/default.toml is TOML; a test reads it");
    let mut leaves = Vec::new();
    flatten(&mut leaves, String::new(), Value::Table(table), &|_| Origin::Default);
    leaves.into_iter().collect()
}

fn flatten(into: &mut Vec<(String, Leaf)>, key: String, value: Value, origin: &dyn Fn(&str) -> Origin) {
    match value {
        // One without keys stays, so that an unknown section is not passed over because it is empty.
        Value::Table(table) if !table.is_empty() || key == FREE_TABLE => {
            for (name, value) in table {
                let inner = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(into, inner, value, origin);
            }
        }
        value => {
            let origin = origin(&key);
            into.push((key, Leaf { value, origin }));
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<(String, Leaf)>, Fault> {
    let at = |line: usize, message: String| Fault {
        origin: Origin::File { path: path.to_owned(), line },
        key: String::new(),
        message,
    };
    let size = std::fs::metadata(path).map_err(|error| at(0, error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(at(0, format!("it has {size} bytes; a configuration has at most {MAX_FILE_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| at(0, error.to_string()))?;
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let bad =
        |error: toml::de::Error| at(error.span().map_or(0, |span| line_of(span.start)), error.message().to_owned());
    let table: toml::Table = text.parse().map_err(bad)?;
    let spans = DeTable::parse(&text).map(|table| spans(table.into_inner())).map_err(bad)?;
    let origin = |key: &str| {
        let line = spans.get(key).map_or(0, |span| line_of(span.start));
        Origin::File { path: path.to_owned(), line }
    };
    let mut leaves = Vec::new();
    flatten(&mut leaves, String::new(), Value::Table(table), &origin);
    Ok(leaves)
}

/// Where each dotted key stands in the file.
fn spans(table: DeTable<'_>) -> BTreeMap<String, Range<usize>> {
    let mut found = BTreeMap::new();
    let mut left = vec![(String::new(), table)];
    while let Some((prefix, table)) = left.pop() {
        for (name, value) in table {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            found.insert(key.clone(), name.span());
            if let DeValue::Table(inner) = value.into_inner() {
                left.push((key, inner));
            }
        }
    }
    found
}

type Text = (String, String, Origin);

fn from_env((name, text): (String, String)) -> Result<Text, Fault> {
    let key = name.trim_start_matches(ENV_PREFIX).to_ascii_lowercase().replace("__", ".");
    Ok((key, text, Origin::Env(name)))
}

fn from_flag(set: &str) -> Result<Text, Fault> {
    let origin = Origin::Flag(set.chars().take(120).collect());
    match set.split_once('=') {
        Some((key, text)) => Ok((key.trim().to_owned(), text.trim().to_owned(), origin)),
        None => {
            let message = "write it as in --set cluster.heartbeat=2s".to_owned();
            Err(Fault { origin, key: String::new(), message })
        }
    }
}

/// Reads text as the type that the key's default has: lists may be written a,b or ["a", "b"].
fn typed(known: &Leaves, key: String, text: &str, origin: Origin) -> Result<(String, Leaf), Fault> {
    let list = |text: &str| match text.strip_prefix('[') {
        Some(_) => format!("v = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("v")),
        None => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
    };
    let value = match known.get(&key).map(|leaf| &leaf.value) {
        Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
        Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
        Some(Value::Array(_)) => list(text),
        _ => None,
    };
    Ok((key, Leaf { value: value.unwrap_or_else(|| Value::String(text.to_owned())), origin }))
}

/// Is there such a key, and is the value of its type?
fn check(known: &Leaves, key: &str, value: &Value) -> Result<(), String> {
    if let Some(label) = key.strip_prefix(FREE_TABLE).and_then(|rest| rest.strip_prefix('.')) {
        return check_label(label, value);
    }
    if let Some(later) = NOT_BUILT_YET.iter().find(|later| key == **later || key.starts_with(&format!("{later}."))) {
        return Err(format!("{later} is not built yet: leave it out"));
    }
    let is_section = known.keys().any(|other| other.starts_with(&format!("{key}.")));
    match known.get(key) {
        None if is_section && value.is_table() => Ok(()),
        Some(Leaf { value: default, .. }) => check_type(key, default, value),
        None => Err(unknown(known, key)),
    }
}

fn check_label(label: &str, value: &Value) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if label.is_empty() || label.len() > 63 || !label.chars().all(valid) {
        return Err(format!("the label \"{label}\" is not valid: use 1 to 63 of A-Z, a-z, 0-9, - and _"));
    }
    if value.is_str() { Ok(()) } else { Err(format!("a label is a string, not {value}: write it in quotes")) }
}

fn check_type(key: &str, default: &Value, value: &Value) -> Result<(), String> {
    let such = |default: &Value| match default {
        Value::String(text) if text.is_empty() => String::new(),
        Value::Array(items) if items.is_empty() => String::new(),
        other => format!(" such as {other}"),
    };
    if key == TABLES {
        let of_tables = value.as_array().is_some_and(|items| items.iter().all(Value::is_table));
        return if of_tables {
            Ok(())
        } else {
            Err(format!("must be a list of tables such as {TABLES_SHAPE}, not {value}"))
        };
    }
    let of_strings = |value: &Value| value.as_array().is_none_or(|items| items.iter().all(Value::is_str));
    if !default.same_type(value) || !of_strings(value) {
        let kind = match default {
            Value::Integer(_) => "a whole number",
            Value::Boolean(_) => "true or false",
            Value::Array(_) => "a list of strings",
            _ => "a string",
        };
        return Err(format!("must be {kind}{}, not {value}", such(default)));
    }
    let least = i64::from(key.contains(".limits."));
    match value {
        Value::Integer(number) if *number < least => Err(format!("must be at least {least}, not {number}")),
        Value::String(text) if least > 0 && super::values::parse_size(text) == Ok(0) => {
            Err(format!("must be more than nothing, not \"{text}\""))
        }
        _ => Ok(()),
    }
}

/// What is said about a key that there is not, with the one that may be meant.
fn unknown(known: &Leaves, key: &str) -> String {
    let under = format!("{key}.");
    if known.keys().any(|other| other.starts_with(&under)) || key == FREE_TABLE {
        return "is a section, not a value".to_owned();
    }
    if let Some((leaf, _)) = known.iter().find(|(other, _)| key.starts_with(&format!("{other}."))) {
        return match leaf.as_str() {
            TABLES => format!("{leaf} is a list of tables: write [[{leaf}]], or {TABLES_SHAPE}"),
            leaf => format!("{leaf} is a value, not a section"),
        };
    }
    let likeness = |other: &String| {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let whole = strsim::normalized_damerau_levenshtein(other, key);
        whole.max(strsim::normalized_damerau_levenshtein(&last(other), &last(key)) - 0.05)
    };
    let near = known.keys().map(|other| (likeness(other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near.filter(|(likeness, _)| *likeness > 0.6) {
        Some((_, other)) => format!("there is no such key; did you mean {other}?"),
        None => "there is no such key; `neap config show` lists them all".to_owned(),
    }
}
