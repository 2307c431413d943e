//! Owns reading what instances wrote: the last lines, and what came since.
//! Must not know rotation beyond this: a file's head may be a hole, and offsets never move.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::output::data_start;

/// Lines that are asked for at most.
pub const LINES_MAX: usize = 10_000;
/// Bytes that are read at most for one answer.
pub const BYTES_MAX: u64 = 1 << 20;
/// Characters of a line that are shown.
const LINE_CHARS_MAX: usize = 4_096;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where the next one begins.
    pub next: u64,
    pub text: String,
}

/// The last lines of a file, oldest first; none where there is no file.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    tail_chunk(path, lines).map(|chunk| chunk.text.lines().map(shown).collect()).unwrap_or_default()
}

/// The last lines of a file as they are, and where what comes next will begin.
pub fn tail_chunk(path: &Path, lines: usize) -> io::Result<Chunk> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let start = data_start(&file, end)?.max(end.saturating_sub(BYTES_MAX));
    let bytes = read(&file, start, end)?;
    let whole = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let mut ends = whole.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let lines = lines.min(LINES_MAX);
    let from = if lines == 0 { bytes.len() } else { ends.nth(lines - 1).unwrap_or(0) };
    Ok(Chunk { next: start + bytes.len() as u64, text: String::from_utf8_lossy(&bytes[from..]).into_owned() })
}

/// What was written from `offset` on, up to `BYTES_MAX`, cut after its last whole line where there is one.
/// A file that is shorter than `offset` was started anew, and is read from its start.
pub fn since(path: &Path, offset: u64) -> io::Result<Chunk> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let offset = if offset > end { 0 } else { offset };
    let start = data_start(&file, end)?.max(offset);
    let mut bytes = read(&file, start, end.min(start + BYTES_MAX))?;
    if let Some(line_end) = bytes.iter().rposition(|byte| *byte == b'\n') {
        bytes.truncate(line_end + 1);
    }
    Ok(Chunk { next: start + bytes.len() as u64, text: String::from_utf8_lossy(&bytes).into_owned() })
}

fn read(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A line without what would move a terminal's cursor or colours, and bounded.
fn shown(line: &str) -> String {
    line.chars().filter(|c| *c == '\t' || !c.is_control()).take(LINE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        assert!(tail(&path, 2).is_empty());
        std::fs::write(&path, "a\nb\n\x1b[1mc").unwrap();
        assert_eq!(tail(&path, 2), ["b", "[1mc"]);
        assert_eq!(tail(&path, 9), ["a", "b", "[1mc"]);
        assert!(tail(&path, 0).is_empty());
        assert_eq!(tail_chunk(&path, 1).unwrap().next, 9);
    }

    #[test]
    fn a_follower_gets_whole_lines_and_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "a\nb").unwrap();
        let chunk = since(&path, 0).unwrap();
        assert_eq!(chunk, Chunk { next: 2, text: "a\n".into() });
        std::fs::write(&path, "a\nbc\n").unwrap();
        assert_eq!(since(&path, chunk.next).unwrap(), Chunk { next: 5, text: "bc\n".into() });
        assert_eq!(since(&path, 5).unwrap(), Chunk { next: 5, text: String::new() });
        assert_eq!(since(&path, 99).unwrap().next, 5);
    }
}
