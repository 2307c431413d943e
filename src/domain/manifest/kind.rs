//! Owns the keys of `[process]`, `[static]` and `[external]`: how an instance of the program comes to be.
//! Must not know the rest of the manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::{Keys, Place, Reader, Section, did_you_mean};
use super::sections::{DAY, HOUR, MS, text, valid};
use super::{argv, paths};
use crate::domain::program::{External, Kind, Process, StaticFiles, StopSignal};

const PROCESS: Keys = Keys {
    known: &["command", "env", "env_file", "prepare", "request_timeout", "body_limit", "stop_signal", "stop_timeout"],
    not_built: &[],
};
const EXTERNAL: Keys =
    Keys { known: &["url", "upgrade", "stop", "start", "timeout", "request_timeout", "body_limit"], not_built: &[] };
const STATIC: Keys = Keys { known: &["root", "spa", "request_timeout", "body_limit"], not_built: &[] };
/// Bytes of a request's body that a manifest may allow.
const BODY_LIMIT_MAX: u64 = 1 << 40;
const BODY_LIMIT: u64 = 10 << 20;
/// Variables that neap sets itself, beside all of `NEAP_*`.
const OWN_VARIABLES: [&str; 1] = ["PORT"];

/// The kind of program, with the request timeout and the body limit that stand beside it.
pub fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Option<(Kind, Duration, u64)> {
    let there: Vec<&str> = ["process", "static", "external"].into_iter().filter(|key| root.has(key)).collect();
    match there.as_slice() {
        ["process"] => {
            let section = reader.table(root, "process", "[process]", &PROCESS);
            let (timeout, limit) = read_request_bounds(reader, &section);
            Some((Kind::Process(read_process(reader, &section)?), timeout, limit))
        }
        ["static"] => {
            let section = reader.table(root, "static", "[static]", &STATIC);
            let (timeout, limit) = read_request_bounds(reader, &section);
            Some((Kind::Static(read_static(reader, &section)?), timeout, limit))
        }
        ["external"] => {
            let section = reader.table(root, "external", "[external]", &EXTERNAL);
            let (timeout, limit) = read_request_bounds(reader, &section);
            Some((Kind::External(read_external(reader, &section)?), timeout, limit))
        }
        [] => {
            let hint = Some("write a section [process] with command = [\"./server\"]".to_owned());
            reader.error(&root.place, "neither [process], [static] nor [external]: nothing to run", hint);
            None
        }
        [.., last] => {
            let place = root.place_of_key(last);
            reader.error(&place, format!("both [{}] and [{last}]: a program is one of them", there[0]), None);
            None
        }
    }
}

fn read_external(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<External> {
    let [upgrade, stop, start] =
        ["upgrade", "stop", "start"].map(|key| read_argv(reader, section, key, &argv::WITHOUT_PORT));
    if upgrade.is_empty() {
        let hint = Some("write upgrade = [\"systemctl\", \"restart\", \"shop\"]".to_owned());
        reader.wrong_value(section, "upgrade", "there is no command that brings a version", hint);
    }
    let timeout = reader.duration(section, "timeout", MS(60_000), MS(100)..=HOUR);
    if !section.has("url") {
        let hint = Some("write url = \"http://127.0.0.1:3000\"".to_owned());
        reader.wrong_value(section, "url", "it is missing", hint);
        return None;
    }
    let url = text(reader, section, "url")?;
    let addr = valid(reader, section, "url", address(&url))?;
    Some(External { addr, upgrade, stop, start, timeout })
}

/// `http://ADDRESS:PORT`: an address, for a name may be another machine's tomorrow.
fn address(url: &str) -> Result<std::net::SocketAddr, String> {
    let wrong = || format!("\"{url}\" is not http://ADDRESS:PORT, such as \"http://127.0.0.1:3000\"");
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let numeric = match rest.strip_prefix("localhost") {
        Some(port) => format!("127.0.0.1{port}"),
        None => rest.to_owned(),
    };
    let bare = || numeric.parse::<std::net::IpAddr>().map(|ip| std::net::SocketAddr::new(ip, 80));
    let addr = numeric.parse().or_else(|_| bare()).map_err(|_| wrong())?;
    Some(addr).filter(|addr: &std::net::SocketAddr| addr.port() > 0).ok_or_else(wrong)
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
