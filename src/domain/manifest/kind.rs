//! Owns the keys of `[process]` and `[static]`: how an instance of the program comes to be.
//! Must not know the rest of the manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::{Keys, Place, Reader, Section, did_you_mean};
use super::sections::{DAY, HOUR, MS, text, valid};
use super::{argv, paths};
use crate::domain::program::{Kind, Process, StaticFiles, StopSignal};

const PROCESS: Keys = Keys {
    known: &["command", "env", "env_file", "prepare", "request_timeout", "body_limit", "stop_signal", "stop_timeout"],
    not_built: &[],
};
const STATIC: Keys = Keys { known: &["root", "spa", "request_timeout", "body_limit"], not_built: &[] };
/// Bytes of a request's body that a manifest may allow.
const BODY_LIMIT_MAX: u64 = 1 << 40;
const BODY_LIMIT: u64 = 10 << 20;
/// Variables that neap sets itself, beside all of `NEAP_*`.
const OWN_VARIABLES: [&str; 1] = ["PORT"];

/// The kind of program, with the request timeout and the body limit that stand beside it.
pub fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Option<(Kind, Duration, u64)> {
    match (root.has("process"), root.has("static")) {
        (true, false) => {
            let section = reader.table(root, "process", "[process]", &PROCESS);
            let (timeout, limit) = read_request_bounds(reader, &section);
            Some((Kind::Process(read_process(reader, &section)?), timeout, limit))
        }
        (false, true) => {
            let section = reader.table(root, "static", "[static]", &STATIC);
            let (timeout, limit) = read_request_bounds(reader, &section);
            Some((Kind::Static(read_static(reader, &section)?), timeout, limit))
        }
        (true, true) => {
            let place = root.place_of_key("static");
            reader.error(&place, "both [process] and [static]: a program is one of them", None);
            None
        }
        (false, false) => {
            let hint = Some("write a section [process] with command = [\"./server\"]".to_owned());
            reader.error(&root.place, "neither [process] nor [static]: nothing to run", hint);
            None
        }
    }
}

fn read_request_bounds(reader: &mut Reader<'_>, section: &Section<'_>) -> (Duration, u64) {
    let timeout = reader.duration(section, "request_timeout", MS(60_000), MS(1)..=DAY);
    (timeout, reader.size(section, "body_limit", BODY_LIMIT, BODY_LIMIT_MAX))
}

fn read_process(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Process> {
    let command = read_argv(reader, section, "command", &argv::NAMES);
    if command.is_empty() {
        let hint = Some("write command = [\"./server\", \"--port\", \"{port}\"]".to_owned());
        reader.wrong_value(section, "command", "there is no program to run", hint);
    }
    let signals = [
        ("TERM", StopSignal::Term),
        ("INT", StopSignal::Int),
        ("QUIT", StopSignal::Quit),
        ("HUP", StopSignal::Hup),
        ("USR1", StopSignal::Usr1),
        ("USR2", StopSignal::Usr2),
    ];
    Some(Process {
        command,
        env: read_env(reader, section),
        env_file: read_env_file(reader, section),
        prepare: read_argv(reader, section, "prepare", &argv::NAMES),
        stop_signal: reader.choice(section, "stop_signal", StopSignal::Term, &signals),
        stop_timeout: reader.duration(section, "stop_timeout", MS(10_000), MS(0)..=HOUR),
    })
}

/// An argv: its first word not empty, no NUL, only known substitutions.
pub(super) fn read_argv(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, names: &[&str]) -> Vec<String> {
    let words = reader.strings(section, key);
    if words.first().is_some_and(|(_, word)| word.is_empty()) {
        reader.wrong_value(section, key, "its first word, the program, is empty", None);
    }
    for (place, word) in &words {
        check_word(reader, place, word, names);
    }
    words.into_iter().map(|(_, word)| word).collect()
}

fn check_word(reader: &mut Reader<'_>, place: &Place, word: &str, names: &[&str]) {
    if word.contains('\0') {
        reader.error(place, "a word of a command cannot hold a NUL", None);
    }
    if let Some(unknown) = argv::unknown_substitution(word, names) {
        let near = did_you_mean(unknown, names.iter().copied());
        let names = names.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(" ");
        reader.error(place, format!("unknown substitution {{{unknown}}}; there are {names}"), near);
    }
}

fn read_env(reader: &mut Reader<'_>, section: &Section<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (place, name, value) in reader.string_map(section, "env") {
        if let Some(problem) = variable_problem(&name) {
            reader.error(&place, problem, None);
        }
        check_word(reader, &place, &value, &argv::NAMES);
        env.insert(name, value);
    }
    env
}

/// Why a variable of this name cannot be set by a program's owner.
pub fn variable_problem(name: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(plain) {
        return Some(format!("\"{name}\" is not a variable's name: use A-Z, a-z, 0-9 and _, no digit first"));
    }
    let own = OWN_VARIABLES.contains(&name) || name.starts_with("NEAP_");
    own.then(|| format!("{name} is set by neap itself: remove it"))
}

fn read_env_file(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<String> {
    let given = text(reader, section, "env_file").filter(|path| !path.is_empty())?;
    if !given.starts_with('/') || given.contains('\0') {
        let hint = Some("secrets stay on the server: write \"/etc/…\"".to_owned());
        reader.wrong_value(section, "env_file", "it must be an absolute path on the server", hint);
    }
    Some(given)
}

fn read_static(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<StaticFiles> {
    let spa = reader.boolean(section, "spa", false);
    if !section.has("root") {
        let hint = Some("write root = \"public\", or root = \".\" for all of the release".to_owned());
        reader.wrong_value(section, "root", "it is missing", hint);
        return None;
    }
    let root = text(reader, section, "root")?;
    let root = valid(reader, section, "root", paths::inside(&root).map_err(str::to_owned))?;
    Some(StaticFiles { root, spa })
}
