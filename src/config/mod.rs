//! Owns a node's configuration: read in layers, checked whole, every error with its place and its cure.
//! Must not know what the roles do with it.

mod check;
mod layers;
pub mod limits;
mod settings;
pub mod values;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use toml::Value;

use crate::link::secret::Secret;
use crate::wire::role::Role;
use layers::Leaves;
pub use layers::{DEFAULTS, Fault, Origin};
pub use values::Config;

/// A configuration that holds, and where each value of it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Read from `cluster.secret_file`.
    pub secret: Option<Secret>,
    leaves: Leaves,
}

/// All that is wrong, each with its place. A start with it is exit code 2.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigError {
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if number > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// One value as `config show` lists it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Shown {
    pub key: String,
    /// As TOML.
    pub value: String,
    pub origin: String,
}

/// Loads a configuration: defaults < `file` < `env` (`NEAP__SECTION__KEY`) < `sets` (`section.key=value`).
pub fn load(
    file: Option<&Path>,
    sets: &[String],
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut leaves = layers::merge(file, sets, env).map_err(|faults| ConfigError { faults })?;
    let mut config = decode(&leaves).map_err(|fault| ConfigError { faults: vec![fault] })?;
    follow_own_management(&mut config, &mut leaves);
    let secret = check::check(&config, &leaves).map_err(|faults| ConfigError { faults })?;
    Ok(Loaded { config, secret, leaves })
}

/// A node that is management itself, and is not told of another, looks for it where its own listens; not at the default
/// address, where another cluster may be.
fn follow_own_management(config: &mut Config, leaves: &mut Leaves) {
    let listen = config.management.listen;
    let Some(origin) = leaves.get("management.listen").map(|leaf| leaf.origin.clone()) else { return };
    let told = leaves.get("cluster.management").is_some_and(|leaf| leaf.origin != Origin::Default);
    if told || origin == Origin::Default || !config.has(Role::Management) || listen.port() == 0 {
        return;
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let urls = vec![format!("http://{}", SocketAddr::new(ip, listen.port()))];
    leaves.insert("cluster.management".to_owned(), layers::Leaf { value: urls.clone().into(), origin });
    config.cluster.management = urls;
}

/// The process's environment, for `load`.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Loaded {
    /// Every value there is, by key.
    pub fn show(&self) -> Vec<Shown> {
        let shown = |(key, leaf): (&String, &layers::Leaf)| Shown {
            key: key.clone(),
            value: leaf.value.to_string(),
            origin: leaf.origin.to_string(),
        };
        self.leaves.iter().map(shown).collect()
    }

    /// The configuration as one TOML file, with `origin` as comments.
    pub fn to_toml(&self, origin: bool) -> String {
        let mut sections: Vec<(&str, String)> = Vec::new();
        for (key, leaf) in &self.leaves {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            let comment = if origin { format!("   # {}", leaf.origin) } else { String::new() };
            let line = format!("{name} = {}{comment}\n", leaf.value);
            match sections.iter_mut().find(|(other, _)| *other == section) {
                Some((_, lines)) => lines.push_str(&line),
                None => sections.push((section, line)),
            }
        }
        let sections: Vec<_> = sections.iter().map(|(section, lines)| format!("[{section}]\n{lines}")).collect();
        sections.join("\n")
    }
}

fn decode(leaves: &Leaves) -> Result<Config, Fault> {
    let fault = |key: &str, message: String| {
        // A list's item has its list's place.
        let leaf = leaves.get(key).or_else(|| leaves.get(key.split('[').next().unwrap_or(key)));
        Fault { origin: leaf.map_or(Origin::Default, |leaf| leaf.origin.clone()), key: key.to_owned(), message }
    };
    let mut builder = config::Config::builder().add_source(config::File::from_str(DEFAULTS, config::FileFormat::Toml));
    for (key, leaf) in leaves.iter().filter(|(_, leaf)| leaf.origin != Origin::Default) {
        builder = builder.set_override(key, plain(&leaf.value)).map_err(|error| fault(key, said(&error)))?;
    }
    let merged = builder.build().map_err(|error| fault("", said(&error)))?;
    serde_path_to_error::deserialize(merged).map_err(|error| fault(&error.path().to_string(), said(error.inner())))
}

fn plain(value: &Value) -> config::Value {
    let kind = match value {
        Value::String(text) => config::ValueKind::from(text.as_str()),
        Value::Integer(number) => config::ValueKind::from(*number),
        Value::Boolean(yes) => config::ValueKind::from(*yes),
        Value::Array(items) => config::ValueKind::Array(items.iter().map(plain).collect()),
        Value::Table(table) => {
            config::ValueKind::Table(table.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        other => config::ValueKind::from(other.to_string()),
    };
    config::Value::new(None, kind)
}

/// The reason, without the place: that is told better here.
fn said(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => said(error),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
