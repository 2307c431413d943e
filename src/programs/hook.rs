//! Owns how a release's hook is run on this machine: in its unpacked directory, with what it is told of its ripple.
//! Must not know when hooks run, nor who remembers that they have.

use std::path::Path;

use super::errand;
use super::surroundings::{Surroundings, SurroundingsError};
use crate::domain::program::Manifest;
use crate::domain::ripple::hooks::{HookEnd, HookOrder};

/// Runs a hook to its end. `name` is a new instance name.
pub async fn run(around: &Surroundings, manifest: &Manifest, dir: &Path, name: &str, order: &HookOrder) -> HookEnd {
    let command = match command(around, manifest, dir, order) {
        Ok(command) => command,
        Err(error) => return HookEnd::lost(error.to_string()),
    };
    let log = around.log(&manifest.name, name);
    match errand::run(&command, &log, name, manifest.upgrade.hooks.timeout).await {
        Ok(ended) => HookEnd {
            well: ended.well,
            how: ended.how,
            lines: ended.lines,
            took_ms: u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
        },
        Err(error) => HookEnd::lost(error.to_string()),
    }
}

fn command(
    around: &Surroundings,
    manifest: &Manifest,
    dir: &Path,
    order: &HookOrder,
) -> Result<super::surroundings::Command, SurroundingsError> {
    around.make_dirs(&manifest.name)?;
    let mut command = around.errand(manifest, dir, order.hook.argv(&manifest.upgrade.hooks))?;
    let kind = serde_json::to_value(order.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    let told = [
        ("NEAP_HOOK", order.hook.as_str().to_owned()),
        ("NEAP_RIPPLE", order.ripple.to_string()),
        ("NEAP_RIPPLE_KIND", kind.unwrap_or_default()),
        ("NEAP_FROM", order.from.as_ref().map(ToString::to_string).unwrap_or_default()),
    ];
    command.env.extend(told.map(|(name, value)| (name.to_owned(), value)));
    Ok(command)
}
