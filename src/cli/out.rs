//! Owns what a command prints: data to standard output as table, JSON or lines of JSON, and words to standard error.
//! Must not know where data comes from, nor what any of it means.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;
use crate::wire::page::Page;

/// How data is printed: for people, as one JSON document, or as a JSON document a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    // No doc comments here: they would make every command's help thrice as long.
    Table,
    Json,
    Ndjson,
}

/// Where a command prints to.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub format: Format,
    pub quiet: bool,
    pub color: bool,
}

impl Out {
    /// Whether a person watches standard error, so that it may be redrawn.
    pub fn animated(&self) -> bool {
        !self.quiet && io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Prints a list.
    pub fn list<T: Serialize>(&self, page: &Page<T>, table: impl FnOnce(&[T]) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&table(&page.items)),
            Format::Json => self.json(page),
            Format::Ndjson => page.items.iter().try_for_each(|item| self.json(item)),
        }
    }

    /// Prints one thing.
    pub fn one<T: Serialize>(&self, item: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&text(item)),
            Format::Json | Format::Ndjson => self.json(item),
        }
    }

    /// Prints a JSON document: indented, or in one line.
    pub fn json<T: Serialize>(&self, item: &T) -> Result<(), Failure> {
        let written =
            if self.format == Format::Json { serde_json::to_string_pretty(item) } else { serde_json::to_string(item) };
        let written = written.map_err(|error| Failure::Failed(format!("the answer cannot be written: {error}")))?;
        self.text(&written)
    }

    /// Prints text to standard output, with a line's end.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::PipeClosed),
            Err(error) => Err(Failure::Failed(format!("standard output cannot be written: {error}"))),
        }
    }

    /// Tells a person how it goes, on standard error, unless asked to be quiet.
    pub fn say(&self, words: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{words}");
        }
    }
}

/// Tells a person of a failure, on standard error.
pub fn complain(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// Asks a person yes or no; anything but yes is no.
pub fn confirm(question: &str) -> bool {
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Whether a person can be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Terminals that say they are narrower do not know their width.
const NARROWEST: u16 = 20;

/// A plain table with a header; wraps to the terminal, and never where there is none.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.to_vec());
    // A terminal that does not tell its size has none to wrap to.
    let wraps = io::stdout().is_terminal() && table.width().is_some_and(|width| width >= NARROWEST);
    let arrangement = if wraps { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 1));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// One line without control characters, for what others wrote must not drive the reader's terminal.
pub fn clean(given: &str) -> String {
    given.chars().map(|c| if c == '\t' { ' ' } else { c }).flat_map(escape).collect()
}

/// As `clean`, but lines may end.
pub fn clean_block(given: &str) -> String {
    given.lines().map(clean).collect::<Vec<_>>().join("\n")
}

fn escape(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// `-` for nothing.
pub fn or_dash<T: ToString>(given: Option<T>) -> String {
    given.map_or_else(|| "-".to_owned(), |given| given.to_string())
}

/// Milliseconds as a person reads them.
pub fn millis(given: u64) -> String {
    crate::domain::duration::show(std::time::Duration::from_millis(given))
}

/// How long ago, by this machine's clock: for people only.
pub fn ago(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    millis(u64::try_from(now.duration_since(then).as_millis()).unwrap_or(0))
}

/// Bytes as a person reads them.
pub fn bytes(given: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if given < 1024 {
        return format!("{given} B");
    }
    let mut value = given as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// "1 server", "3 servers".
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n\tc"), "a\\u{1b}[2Jb\\r\\n c");
        assert_eq!(clean_block("a\nb\u{7}"), "a\nb\\u{7}");
    }

    #[test]
    fn a_table_is_plain_where_there_is_no_terminal() {
        let shown = table(&["NAME", "STATE"], [vec!["server-1".into(), "up".into()], vec!["s".into(), "down".into()]]);
        assert_eq!(shown, "NAME      STATE\nserver-1  up\ns         down");
    }

    #[test]
    fn sizes_are_shown_as_a_person_reads_them() {
        assert_eq!([5, 1536, 3 << 20, 5 << 50].map(bytes), ["5 B", "1.5 KiB", "3.0 MiB", "5120.0 TiB"]);
    }
}
