//! Owns where log lines go and how they look. Must not know what is logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("\"{given}\" is not a log format: use \"text\" or \"json\"")),
        }
    }
}

/// Reads a log filter: a level, or levels by module, such as "info" or "warn,neap::router=debug".
pub fn filter(given: &str) -> Result<EnvFilter, String> {
    let bad = |why: String| {
        format!(
            "\"{given}\" is not a log filter ({why}): use error, warn, info, debug or trace, also by module: \"info,neap::router=debug\""
        )
    };
    // A lone word that is no level would be taken for a target, and log nothing.
    let level = |part: &str| {
        part.contains('=') || (!part.is_empty() && part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok())
    };
    match given.split(',').map(str::trim).find(|part| !level(part)) {
        Some(part) => Err(bad(format!("\"{part}\" is no level"))),
        None => EnvFilter::builder().parse(given).map_err(|error| bad(error.to_string())),
    }
}

/// Starts logging to standard error; data goes to standard output. No colors where nobody sees them. Once a process.
pub fn start(log: &str, format: Format) -> Result<(), String> {
    let colors = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_writer(io::stderr).with_ansi(colors);
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("logging cannot start: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_log_nothing_is_refused() {
        for good in ["info", "warn,neap::router=debug", "off", "neap=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "info,chatty", "neap=loud"] {
            assert!(filter(bad).unwrap_err().contains("info,neap::router=debug"), "{bad}");
        }
    }

    #[test]
    fn there_are_two_formats() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!("yaml".parse::<Format>().unwrap_err().contains("\"text\" or \"json\""));
    }
}
