//! Owns the keys of a manifest: which there are, their defaults and their ranges.
//! Must not know TOML: `reader.rs` reads it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::reader::{Keys, Reader, Section};
use super::{argv, kind, routes, session};
use crate::domain::names::ComponentName;
use crate::domain::program::{
    Health, Hooks, Kind, LongLived, Manifest, Match, MinServing, OnDrainTimeout, PlacementRule, Promote, RollbackOn,
    Route, SessionPolicy, Strategy, UpgradeRule,
};

const ROOT: Keys = Keys {
    known: &[
        "name",
        "version",
        "routes",
        "strip_prefix",
        "match",
        "placement",
        "process",
        "static",
        "external",
        "health",
        "session",
        "upgrade",
        "components",
    ],
    not_built: &[],
};
const MATCH: Keys = Keys { known: &["header", "value", "path"], not_built: &[] };
const PLACEMENT: Keys = Keys { known: &["servers", "labels"], not_built: &[] };
const HEALTH: Keys =
    Keys { known: &["path", "interval", "timeout", "start_timeout", "unhealthy_after"], not_built: &[] };
const COMPONENTS: Keys = Keys { known: &["uses"], not_built: &[] };
const UPGRADE: Keys = Keys {
    known: &[
        "strategy",
        "batch",
        "canary",
        "promote",
        "rollback_on",
        "min_serving",
        "drain_timeout",
        "on_drain_timeout",
        "long_lived",
        "long_lived_grace",
        "hold",
        "soak",
        "hooks",
        "max_utilization",
        "capacity_wait",
    ],
    not_built: &[],
};
const HOOKS: Keys =
    Keys { known: &["before_ripple", "before_step", "after_step", "after_ripple", "timeout"], not_built: &[] };
const ROLLBACK_ON: Keys = Keys { known: &["error_rate", "p99_factor", "min_requests"], not_built: &[] };

pub(super) const MS: fn(u64) -> Duration = Duration::from_millis;
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// Routes, matches, server patterns and components of one program.
const LIST_MAX: usize = 256;

/// Servers at a time, or canaries, at the most; also what `--batch` and `--canary` may say.
pub const BATCH_MAX: u32 = 10_000;

/// Reads the whole manifest. `None`, or any error in the reader: not valid.
pub fn read(reader: &mut Reader<'_>) -> Option<Manifest> {
    let root = reader.root(&ROOT)?;
    let name = required(reader, &root, "name", "name = \"shop\"");
    let version = required(reader, &root, "version", "version = \"1.0.0\"");
    let routes = read_routes(reader, &root);
    let matches = read_matches(reader, &root);
    if root.items("routes") + root.items("match") == 0 {
        let hint = Some("write routes = [\"*/PREFIX\"], or match = [{ header = …, value = … }]".to_owned());
        reader.error(&root.place_of("routes"), "no route and no match: no request would ever reach this program", hint);
    }
    let strip_prefix = reader.boolean(&root, "strip_prefix", false);
    let placement = read_placement(reader, &root);
    let kind = kind::read(reader, &root);
    let health = read_health(reader, &root);
    let session = session::read(reader, &root);
    let upgrade = read_upgrade(reader, &root);
    let components = read_components(reader, &root);
    let (kind, request_timeout, body_limit) = kind?;
    if matches!(kind, Kind::External(_)) && upgrade.strategy == Strategy::Overlap {
        let place = root.place_of_key("upgrade");
        let hint = Some("write strategy = \"quiesce\"".to_owned());
        reader.error(&place, "an [external] program has no second instance to overlap with", hint);
    }
    if session.as_ref().is_some_and(|rule| rule.policy == SessionPolicy::Sticky)
        && upgrade.strategy == Strategy::Overlap
    {
        let place = root.place_of_key("upgrade");
        let hint = Some("write strategy = \"quiesce\", or policy = \"shared\"".to_owned());
        reader.error(&place, "an overlap gives a sticky program's sessions no time to end", hint);
    }
    Some(Manifest {
        name: name?,
        version: version?,
        routes,
        strip_prefix,
        matches,
        placement,
        kind,
        request_timeout,
        body_limit,
        health,
        session,
        upgrade,
        components,
    })
}

/// A name that must be there; `example` is shown where it is not.
fn required<T: FromStr<Err: Display>>(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    key: &str,
    example: &str,
) -> Option<T> {
    if !root.has(key) {
        reader.error(&root.place, format!("\"{key}\" is missing"), Some(format!("write {example}")));
        return None;
    }
    let given = reader.string(root, key)?;
    match given.parse() {
        Ok(name) => Some(name),
        Err(problem) => {
            reader.error(&root.place_of(key), T::Err::to_string(&problem), None);
            None
        }
    }
}

fn read_routes(reader: &mut Reader<'_>, root: &Section<'_>) -> Vec<Route> {
    let given = reader.strings(root, "routes");
    too_many(reader, root, "routes", given.len());
    let mut read: Vec<Route> = Vec::new();
    for (place, text) in given {
        match routes::route(&text) {
            Ok(route) if read.contains(&route) => {
                reader.error(&place, format!("route \"{text}\" is there twice"), None)
            }
            Ok(route) => read.push(route),
            Err((message, hint)) => reader.error(&place, message, hint),
        }
    }
    read
}

fn read_matches<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Vec<Match> {
    let given = reader.tables(root, "match", "a match", &MATCH);
    too_many(reader, root, "match", given.len());
    given.iter().filter_map(|section| read_match(reader, section)).collect()
}

fn read_match(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Match> {
    let (header, value, path) =
        (text(reader, section, "header"), text(reader, section, "value"), text(reader, section, "path"));
    match (section.has("header"), section.has("value"), section.has("path")) {
        (true, true, false) => {
            let name = valid(reader, section, "header", routes::header_name(&header?))?;
            let value = value?;
            valid(reader, section, "value", routes::pattern(&value))?;
            Some(Match::Header { name, value })
        }
        (false, false, true) => {
            let pattern = path?;
            valid(reader, section, "path", file_name(&pattern))?;
            Some(Match::Path { pattern })
        }
        _ => {
            let hint = Some("write { header = \"X-Code\", value = \"PAY*\" } or { path = \"*.jar\" }".to_owned());
            reader.error(&section.place, "a match has either header and value, or path", hint);
            None
        }
    }
}

fn file_name(pattern: &str) -> Result<(), String> {
    if pattern.contains('/') {
        return Err(format!("\"{pattern}\" is a file name, the last part of a path: remove the \"/\""));
    }
    routes::pattern(pattern)
}

fn read_placement<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> PlacementRule {
    let section = reader.table(root, "placement", "[placement]", &PLACEMENT);
    let given = reader.strings(&section, "servers");
    too_many(reader, &section, "servers", given.len());
    let mut servers = Vec::new();
    for (place, pattern) in given {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'*';
        if pattern.is_empty() || pattern.len() > 63 || !pattern.bytes().all(plain) {
            let message = format!("server \"{pattern}\" is no name or glob: use 1 to 63 of a-z, 0-9, - and *");
            reader.error(&place, message, None);
        } else {
            servers.push(pattern);
        }
    }
    if section.has("servers") && servers.is_empty() {
        reader.wrong_value(&section, "servers", "no server is named", Some("\"*\" is every server".to_owned()));
    }
    let labels = reader.string_map(&section, "labels").into_iter().map(|(_, key, value)| (key, value)).collect();
    PlacementRule { servers: if section.has("servers") { servers } else { vec!["*".to_owned()] }, labels }
}

fn read_health<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Health {
    let section = reader.table(root, "health", "[health]", &HEALTH);
    let path = reader.string(&section, "path");
    if let Some(path) = &path
        && (!path.starts_with('/') || path.bytes().any(|b| b.is_ascii_control() || b == b' ' || !b.is_ascii()))
    {
        let hint = Some("write path = \"/healthz\"; leave it out for a TCP connect".to_owned());
        reader.wrong_value(&section, "path", "it must start with \"/\" and be plain ASCII without spaces", hint);
    }
    Health {
        path,
        interval: reader.duration(&section, "interval", MS(1_000), MS(50)..=HOUR),
        timeout: reader.duration(&section, "timeout", MS(1_000), MS(10)..=HOUR),
        start_timeout: reader.duration(&section, "start_timeout", MS(60_000), MS(100)..=HOUR),
        unhealthy_after: reader.number(&section, "unhealthy_after", 3, 1..=1_000),
    }
}

fn read_upgrade<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> UpgradeRule {
    let section = reader.table(root, "upgrade", "[upgrade]", &UPGRADE);
    let strategies = [("quiesce", Strategy::Quiesce), ("overlap", Strategy::Overlap)];
    let waits: RangeInclusive<Duration> = MS(0)..=DAY;
    let promotes = [("auto", Promote::Auto), ("manual", Promote::Manual)];
    let (on_timeout, long_lived) = (
        [("abort", OnDrainTimeout::Abort), ("force", OnDrainTimeout::Force)],
        [("wait", LongLived::Wait), ("notify", LongLived::Notify)],
    );
    UpgradeRule {
        strategy: reader.choice(&section, "strategy", Strategy::Quiesce, &strategies),
        batch: reader.number(&section, "batch", 1, 1..=BATCH_MAX),
        canary: reader.number(&section, "canary", 0, 0..=BATCH_MAX),
        promote: reader.choice(&section, "promote", Promote::Auto, &promotes),
        min_serving: read_min_serving(reader, &section),
        drain_timeout: reader.duration(&section, "drain_timeout", MS(30_000), waits.clone()),
        on_drain_timeout: reader.choice(&section, "on_drain_timeout", OnDrainTimeout::Abort, &on_timeout),
        long_lived: reader.choice(&section, "long_lived", LongLived::Wait, &long_lived),
        long_lived_grace: reader.duration(&section, "long_lived_grace", MS(10_000), waits.clone()),
        hold: reader.duration(&section, "hold", MS(0), MS(0)..=HOUR),
        max_utilization_milli: reader.fraction(&section, "max_utilization", 800, 1_000, 0.0..=1.0),
        capacity_wait: reader.duration(&section, "capacity_wait", MS(600_000), waits.clone()),
        soak: reader.duration(&section, "soak", MS(10_000), waits),
        rollback_on: read_rollback_on(reader, &section),
        hooks: read_hooks(reader, &section),
    }
}

fn read_hooks<'t>(reader: &mut Reader<'t>, upgrade: &Section<'t>) -> Hooks {
    let section = reader.table(upgrade, "hooks", "hooks", &HOOKS);
    let [before_ripple, before_step, after_step, after_ripple] =
        ["before_ripple", "before_step", "after_step", "after_ripple"]
            .map(|key| kind::read_argv(reader, &section, key, &argv::WITHOUT_PORT));
    let timeout = reader.duration(&section, "timeout", Hooks::default().timeout, MS(100)..=DAY);
    Hooks { before_ripple, before_step, after_step, after_ripple, timeout }
}

fn read_rollback_on<'t>(reader: &mut Reader<'t>, upgrade: &Section<'t>) -> RollbackOn {
    let section = reader.table(upgrade, "rollback_on", "rollback_on", &ROLLBACK_ON);
    let default = RollbackOn::default();
    RollbackOn {
        error_rate_ppm: reader.fraction(&section, "error_rate", default.error_rate_ppm, 1_000_000, 0.0..=1.0),
        p99_factor_milli: reader.fraction(&section, "p99_factor", default.p99_factor_milli, 1_000, 0.0..=1_000.0),
        min_requests: reader.number(&section, "min_requests", default.min_requests, 1..=1_000_000),
    }
}

fn read_components<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Vec<ComponentName> {
    let section = reader.table(root, "components", "[components]", &COMPONENTS);
    let given = reader.strings(&section, "uses");
    too_many(reader, &section, "uses", given.len());
    let mut read: Vec<ComponentName> = Vec::new();
    for (place, text) in given {
        match ComponentName::new(&text) {
            Ok(name) if read.contains(&name) => {
                reader.error(&place, format!("component \"{text}\" is there twice"), None)
            }
            Ok(name) => read.push(name),
            Err(problem) => reader.error(&place, problem.to_string(), None),
        }
    }
    read
}

fn read_min_serving(reader: &mut Reader<'_>, section: &Section<'_>) -> MinServing {
    if !section.has("min_serving") {
        return MinServing::Auto;
    }
    if section.is_integer("min_serving") {
        return MinServing::AtLeast(reader.number(section, "min_serving", 0, 0..=10_000));
    }
    match reader.string(section, "min_serving").as_deref() {
        Some("auto") | None => {}
        Some(other) => {
            let why = format!("\"{other}\" is neither \"auto\" nor a whole number");
            reader.wrong_value(section, "min_serving", &why, None);
        }
    }
    MinServing::Auto
}

fn too_many(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, count: usize) {
    if count > LIST_MAX {
        reader.wrong_value(section, key, &format!("{count} of them; at most {LIST_MAX}"), None);
    }
}

pub(super) fn text(reader: &mut Reader<'_>, section: &Section<'_>, key: &str) -> Option<String> {
    reader.string(section, key)
}

pub(super) fn valid<T>(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    key: &str,
    read: Result<T, String>,
) -> Option<T> {
    read.map_err(|why| reader.wrong_value(section, key, &why, None)).ok()
}
