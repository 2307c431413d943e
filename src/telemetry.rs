//! Owns where log lines go and how they look. Must not know what is logged, nor where the settings come from.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error, for data goes to standard output; lines of text or, with `json`, of JSON. `log` is a
/// level, or levels by module. No colors where nobody sees them. Once a process.
pub fn start(log: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(log).map_err(|error| format!("\"{log}\" is not a log filter: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(has_colors());
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    started.map_err(|error| format!("logging cannot start: {error}"))
}

fn has_colors() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logging_starts_once_and_a_bad_filter_is_refused() {
        assert!(start("neap=loud", false).unwrap_err().contains("\"neap=loud\""));
        assert!(start("info,neap::router=debug", true).is_ok());
        assert!(start("info", false).is_err());
    }
}
