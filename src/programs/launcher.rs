//! Owns the child's half of a launch (protocol P9a): it waits for its parent's word before it becomes the program, and
//! ends with its parent if that never comes. Runs as `neap launch-instance [--open-files=N] -- ARGV…`.
//! Must not know anything but its argv and its standard input.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::open_files;

/// The word of the command line after the binary's name.
pub const COMMAND: &str = "launch-instance";
/// The option that says how many files the program may have open.
pub const OPEN_FILES: &str = "--open-files";
/// What the parent writes when the instance's record is on disk.
pub const GO: u8 = b'g';
/// Exit status of a launcher whose parent went away, or gave no word (EX_TEMPFAIL).
pub const EXIT_NO_WORD: i32 = 75;
/// Exit status of a launcher that could not become the program, as shells have it.
pub const EXIT_NOT_STARTED: i32 = 127;

/// Waits for the word, then becomes the program. Never returns.
pub fn main(argv: Vec<OsString>, files: Option<u64>) -> ! {
    let mut word = [0];
    match io::stdin().lock().read_exact(&mut word) {
        Ok(()) if word[0] == GO => {}
        _ => std::process::exit(EXIT_NO_WORD),
    }
    let Some((program, args)) = argv.split_first() else {
        eprintln!("neap: nothing to launch");
        std::process::exit(EXIT_NOT_STARTED);
    };
    if let Some(files) = files {
        open_files::lower_to(files);
    }
    let error = Command::new(program).args(args).stdin(Stdio::null()).exec();
    eprintln!("neap: cannot start {}: {error}", program.to_string_lossy());
    std::process::exit(EXIT_NOT_STARTED)
}
