//! Owns the walk over a manifest's TOML: typed reads of keys that note every mistake with its place.
//! Must not know which keys a manifest has.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{ERRORS_MAX, ManifestError, TEXT_BYTES_MAX, size};
use crate::domain::duration;

/// Where a thing stands in the text, in bytes.
pub type Place = Range<usize>;

/// How alike two names are for one to be offered in place of the other.
const ALIKE: f64 = 0.75;

/// Collects mistakes while a manifest is read.
pub struct Reader<'t> {
    text: &'t str,
    errors: Vec<(usize, ManifestError)>,
}

/// One table of the manifest, its keys checked; an absent table reads as an empty one.
#[derive(Clone)]
pub struct Section<'t> {
    name: &'static str,
    /// The place of the table; of the manifest's start when it is absent.
    pub place: Place,
    entries: BTreeMap<String, (Place, Place, DeValue<'t>)>,
}

/// The keys of a section: those that are read, and those that the manifest will have one day.
pub struct Keys {
    pub known: &'static [&'static str],
    pub not_built: &'static [&'static str],
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, errors: Vec::new() }
    }

    /// Notes a mistake.
    pub fn error(&mut self, place: &Place, message: impl Into<String>, hint: Option<String>) {
        let (line, column) = position(self.text, place.start);
        self.errors.push((place.start, ManifestError { line, column, message: message.into(), hint }));
    }

    pub fn into_errors(mut self) -> Vec<ManifestError> {
        self.errors.sort_by_key(|(at, _)| *at);
        self.errors.into_iter().map(|(_, error)| error).take(ERRORS_MAX).collect()
    }

    /// Parses the text; `None` when it is not TOML.
    pub fn root(&mut self, keys: &Keys) -> Option<Section<'t>> {
        if self.text.len() > TEXT_BYTES_MAX {
            self.error(&(0..0), format!("the manifest is larger than {TEXT_BYTES_MAX} bytes"), None);
            return None;
        }
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let place = error.span().unwrap_or(0..0);
            self.error(&place, format!("not valid TOML: {}", error.message()), None);
        }
        errors.is_empty().then(|| self.section("the manifest", 0..0, root.into_inner(), keys))
    }

    /// Takes a table apart and refuses the keys that it may not have.
    pub fn section(&mut self, name: &'static str, place: Place, table: DeTable<'t>, keys: &Keys) -> Section<'t> {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let (key_place, key) = (key.span(), key.into_inner().into_owned());
            if keys.known.contains(&key.as_str()) {
                entries.insert(key, (key_place, value.span(), value.into_inner()));
            } else {
                self.refuse_key(name, &key, &key_place, keys);
            }
        }
        Section { name, place, entries }
    }

    fn refuse_key(&mut self, section: &str, key: &str, place: &Place, keys: &Keys) {
        if keys.not_built.contains(&key) {
            let hint = Some("this version of neap refuses it rather than ignore it: remove it".to_owned());
            return self.error(place, format!("\"{key}\" in {section} is not built yet"), hint);
        }
        let known = keys.known.iter().chain(keys.not_built);
        self.error(place, format!("unknown key \"{key}\" in {section}"), did_you_mean(key, known.copied()));
    }

    /// Refuses a value of the wrong type.
    pub fn wrong_type(&mut self, section: &Section<'_>, key: &str, wanted: &str) {
        let Some((_, place, value)) = section.entries.get(key) else { return };
        let (place, found) = (place.clone(), value.type_str());
        self.error(&place, format!("\"{key}\" in {} must be {wanted}, not {found}", section.name), None);
    }

    /// Refuses a value that is out of its range or its set.
    pub fn wrong_value(&mut self, section: &Section<'_>, key: &str, why: &str, hint: Option<String>) {
        let place = section.place_of(key);
        self.error(&place, format!("\"{key}\" in {}: {why}", section.name), hint);
    }

    /// A nested table, or an empty one where the key is absent.
    pub fn table(&mut self, parent: &Section<'t>, key: &str, name: &'static str, keys: &Keys) -> Section<'t> {
        match parent.entries.get(key) {
            Some((place, _, DeValue::Table(table))) => self.section(name, place.clone(), table.clone(), keys),
            other => {
                if other.is_some() {
                    self.wrong_type(parent, key, "a table");
                }
                Section { name, place: parent.place.clone(), entries: BTreeMap::new() }
            }
        }
    }

    pub fn string(&mut self, section: &Section<'_>, key: &str) -> Option<String> {
        match &section.entries.get(key)?.2 {
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => {
                self.wrong_type(section, key, "a string");
                None
            }
        }
    }

    pub fn boolean(&mut self, section: &Section<'_>, key: &str, default: bool) -> bool {
        match section.entries.get(key).map(|entry| &entry.2) {
            None => default,
            Some(DeValue::Boolean(value)) => *value,
            Some(_) => {
                self.wrong_type(section, key, "true or false");
                default
            }
        }
    }

    /// A whole number within `range`.
    pub fn number(&mut self, section: &Section<'_>, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some((_, _, value)) = section.entries.get(key) else { return default };
        let DeValue::Integer(digits) = value else {
            self.wrong_type(section, key, "a whole number");
            return default;
        };
        let read = i64::from_str_radix(&digits.as_str().replace('_', ""), digits.radix());
        match read.ok().and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let why = format!("{digits} is out of range: {} to {}", range.start(), range.end());
                self.wrong_value(section, key, &why, None);
                default
            }
        }
    }

    /// A number with a point, or whole, within `range`; in parts of `parts`.
    pub fn fraction(
        &mut self,
        section: &Section<'_>,
        key: &str,
        default: u32,
        parts: u32,
        range: RangeInclusive<f64>,
    ) -> u32 {
        let Some((_, _, value)) = section.entries.get(key) else { return default };
        let read = match value {
            DeValue::Float(digits) => digits.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(digits) => digits.as_str().replace('_', "").parse::<f64>().ok(),
            _ => {
                self.wrong_type(section, key, "a number");
                return default;
            }
        };
        match read.filter(|read| range.contains(read)) {
            Some(read) => (read * f64::from(parts)).round() as u32,
            None => {
                let why = format!("it is out of range: {} to {}", range.start(), range.end());
                self.wrong_value(section, key, &why, None);
                default
            }
        }
    }

    /// A duration such as "30s" within `range`.
    pub fn duration(
        &mut self,
        section: &Section<'_>,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        if section.entries.get(key).is_some_and(|entry| !entry.2.is_str()) {
            self.wrong_type(section, key, "a duration in quotes, such as \"30s\"");
            return default;
        }
        let Some(given) = self.string(section, key) else { return default };
        let problem = match duration::parse(&given) {
            Ok(read) if range.contains(&read) => return read,
            Ok(_) => {
                let (low, high) = (duration::show(*range.start()), duration::show(*range.end()));
                format!("{given} is out of range: {low} to {high}")
            }
            Err(problem) => problem,
        };
        self.wrong_value(section, key, &problem, None);
        default
    }

    /// A size such as "10MiB", up to `max` bytes.
    pub fn size(&mut self, section: &Section<'_>, key: &str, default: u64, max: u64) -> u64 {
        if section.entries.get(key).is_some_and(|entry| !entry.2.is_str()) {
            self.wrong_type(section, key, "a size in quotes, such as \"10MiB\"");
            return default;
        }
        let Some(given) = self.string(section, key) else { return default };
        let problem = match size::parse(&given) {
            Ok(read) if read <= max => return read,
            Ok(_) => format!("{given} is out of range: at most {}", size::show(max)),
            Err(problem) => problem,
        };
        self.wrong_value(section, key, &problem, None);
        default
    }

    /// One of a few words; the others are refused with the nearest.
    pub fn choice<T: Copy>(&mut self, section: &Section<'_>, key: &str, default: T, words: &[(&str, T)]) -> T {
        let Some(given) = self.string(section, key) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
            return *value;
        }
        let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let hint = did_you_mean(&given, words.iter().map(|(word, _)| *word));
        self.wrong_value(section, key, &format!("\"{given}\" is none of {}", all.join(", ")), hint);
        default
    }

    /// A list of strings, each with its place.
    pub fn strings(&mut self, section: &Section<'_>, key: &str) -> Vec<(Place, String)> {
        let Some((_, _, value)) = section.entries.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value else {
            self.wrong_type(section, key, "a list of strings");
            return Vec::new();
        };
        let mut read = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => read.push((item.span(), text.clone().into_owned())),
                other => {
                    let message = format!("\"{key}\" in {} takes strings, not {}", section.name, other.type_str());
                    self.error(&item.span(), message, None);
                }
            }
        }
        read
    }

    /// A table whose keys are the user's own and whose values are strings.
    pub fn string_map(&mut self, section: &Section<'_>, key: &str) -> Vec<(Place, String, String)> {
        let Some((_, _, value)) = section.entries.get(key) else { return Vec::new() };
        let DeValue::Table(table) = value else {
            self.wrong_type(section, key, "a table of strings");
            return Vec::new();
        };
        let mut read = Vec::with_capacity(table.len());
        for (name, value) in table {
            match value.get_ref() {
                DeValue::String(text) => {
                    read.push((name.span(), name.get_ref().clone().into_owned(), text.clone().into_owned()))
                }
                other => {
                    let message = format!("\"{key}.{}\" must be a string, not {}", name.get_ref(), other.type_str());
                    self.error(&value.span(), message, Some("put it in quotes".to_owned()));
                }
            }
        }
        read
    }

    /// A list of tables, each taken apart with the same keys.
    pub fn tables(&mut self, section: &Section<'t>, key: &str, name: &'static str, keys: &Keys) -> Vec<Section<'t>> {
        let Some((_, _, value)) = section.entries.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value else {
            self.wrong_type(section, key, "a list of tables");
            return Vec::new();
        };
        let mut read = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => read.push(self.section(name, item.span(), table.clone(), keys)),
                other => {
                    let message = format!("\"{key}\" takes tables, not {}", other.type_str());
                    self.error(&item.span(), message, None);
                }
            }
        }
        read
    }
}

impl Section<'_> {
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub fn is_integer(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.2.is_integer())
    }

    /// How many items a list has that is written in the text; something else than a list counts as one.
    pub fn items(&self, key: &str) -> usize {
        self.entries.get(key).map_or(0, |entry| entry.2.as_array().map_or(1, |items| items.len()))
    }

    /// The place of a key's value, or of the section where the key is absent.
    pub fn place_of(&self, key: &str) -> Place {
        self.entries.get(key).map_or_else(|| self.place.clone(), |(_, value, _)| value.clone())
    }

    /// The place of a key itself.
    pub fn place_of_key(&self, key: &str) -> Place {
        self.entries.get(key).map_or_else(|| self.place.clone(), |(key, _, _)| key.clone())
    }
}

/// The place of a top-level key's value.
pub fn top_level_span(text: &str, key: &str) -> Option<Place> {
    let table = DeTable::parse(text).ok()?.into_inner();
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value.span())
}

/// "did you mean …?", where a known name is nearly the given one.
pub fn did_you_mean<'n>(given: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    let scored = known.map(|name| (strsim::jaro_winkler(given, name), name));
    let (score, name) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= ALIKE).then(|| format!("did you mean \"{name}\"?"))
}

/// Line and column of a byte, both from 1.
fn position(text: &str, at: usize) -> (u32, u32) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line as u32, column as u32)
}
