//! Owns the shape of a node's configuration, and how its values are written. Must not know where they come from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::limits::{AppServerLimits, ClusterLimits, ManagementLimits, RouterLimits, StoreLimits};
use crate::domain;
use crate::domain::names::NodeName;
use crate::wire::role::Role;

/// A node's configuration, every value valid.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub router: Router,
    pub app_server: AppServer,
    pub management: Management,
    pub cluster: Cluster,
    pub store: StorePlace,
    pub observe: Observe,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    #[serde(deserialize_with = "node_name")]
    pub name: NodeName,
    pub data_dir: PathBuf,
    /// Never empty: none given is all three.
    #[serde(deserialize_with = "roles")]
    pub roles: Vec<Role>,
    pub labels: BTreeMap<String, String>,
    /// Threads that serve requests; never 0.
    #[serde(deserialize_with = "cores")]
    pub workers: usize,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    #[serde(deserialize_with = "listener")]
    pub http: SocketAddr,
    #[serde(deserialize_with = "maybe_listener")]
    pub https: Option<SocketAddr>,
    pub tls: Vec<Certificate>,
    pub redirect_http: bool,
    /// 0: the port of `https`.
    pub redirect_port: u16,
    #[serde(deserialize_with = "listener")]
    pub control: SocketAddr,
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<Network>,
    pub expose_version: bool,
    /// Requests for a server in the same process take no second hop.
    pub direct: bool,
    pub limits: RouterLimits,
}

/// A certificate's files, or the names that one is made for.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub self_signed: Option<Vec<String>>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppServer {
    #[serde(deserialize_with = "listener")]
    pub data: SocketAddr,
    #[serde(deserialize_with = "listener")]
    pub control: SocketAddr,
    #[serde(deserialize_with = "ports")]
    pub ports: PortRange,
    /// What load is measured against; never 0.
    #[serde(deserialize_with = "cores")]
    pub cores: usize,
    pub limits: AppServerLimits,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Management {
    #[serde(deserialize_with = "listener")]
    pub listen: SocketAddr,
    pub hosts: Vec<String>,
    pub limits: ManagementLimits,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Base URLs without a slash at the end.
    #[serde(deserialize_with = "urls")]
    pub management: Vec<String>,
    #[serde(deserialize_with = "maybe_path")]
    pub secret_file: Option<PathBuf>,
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Duration,
    #[serde(deserialize_with = "duration")]
    pub down_after: Duration,
    #[serde(deserialize_with = "duration")]
    pub lease: Duration,
    #[serde(deserialize_with = "duration")]
    pub boot_wait: Duration,
    pub limits: ClusterLimits,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorePlace {
    #[serde(deserialize_with = "maybe_path")]
    pub path: Option<PathBuf>,
    pub limits: StoreLimits,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observe {
    #[serde(deserialize_with = "log")]
    pub log: String,
    #[serde(deserialize_with = "parsed")]
    pub log_format: LogFormat,
}

impl Config {
    /// Where the store is.
    pub fn store_path(&self) -> PathBuf {
        self.store.path.clone().unwrap_or_else(|| self.node.data_dir.join("store"))
    }

    pub fn has(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }
}

/// How a log line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("\"{given}\" is not a log format: use \"text\" or \"json\"")),
        }
    }
}

/// Ports, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        let bad = || format!("\"{given}\" is not a range of ports: write it as in \"20000-29999\"");
        let (first, last) = given.split_once('-').ok_or_else(bad)?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Addresses that share their first `prefix` bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let ((own, own_width), (other, width)) = (bits(self.address), bits(address));
        let shift = 128u32.saturating_sub(u32::from(self.prefix));
        own_width == width && (own ^ other).checked_shr(shift).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        let bad = || format!("\"{given}\" is no network: write it as in \"10.0.0.0/8\", \"127.0.0.1\" or \"::1\"");
        let (address, prefix) = given.split_once('/').map_or((given, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |bits| bits.parse().map_err(|_| bad()))?;
        if prefix <= most { Ok(Self { address, prefix }) } else { Err(bad()) }
    }
}

/// Reads "512B", "64KiB", "10MiB", "2GiB".
pub fn parse_size(given: &str) -> Result<u64, String> {
    let bad = || format!("\"{given}\" is not a size: write it as in \"64KiB\", \"10MiB\" or \"2GiB\"");
    let digits = given.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = given[..digits].parse().map_err(|_| bad())?;
    let unit: u64 = match given[digits..].trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).filter(|bytes| *bytes <= MAX_SIZE).ok_or_else(bad)
}

/// No bound may be so large that arithmetic on it could run over.
const MAX_SIZE: u64 = 1 << 50;

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(from)?).map_err(D::Error::custom)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let given = String::deserialize(from)?;
    match domain::duration::parse(&given) {
        Ok(Duration::ZERO) => Err(D::Error::custom(format!("\"{given}\" is too short: it must be more than nothing"))),
        other => other.map_err(D::Error::custom),
    }
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn ports<'de, D: Deserializer<'de>>(from: D) -> Result<PortRange, D::Error> {
    parsed(from)
}

fn listener<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    parse_listener(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn maybe_listener<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let given = String::deserialize(from)?;
    Some(given)
        .filter(|given| !given.is_empty())
        .map(|given| parse_listener(&given))
        .transpose()
        .map_err(D::Error::custom)
}

fn parse_listener(given: &str) -> Result<SocketAddr, String> {
    let bad =
        |_| format!("\"{given}\" is not an address to listen on: write it as in \"127.0.0.1:7400\" or \"[::1]:7400\"");
    given.parse().map_err(bad)
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Network>, D::Error> {
    let given = Vec::<String>::deserialize(from)?;
    given.iter().map(|network| network.parse().map_err(D::Error::custom)).collect()
}

fn maybe_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let given = String::deserialize(from)?;
    Ok(Some(PathBuf::from(given)).filter(|path| !path.as_os_str().is_empty()))
}

fn log<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let given = String::deserialize(from)?;
    check_log(&given).map_err(D::Error::custom)?;
    Ok(given)
}

/// Is it a level, or levels by module? A lone word that is no level would be taken for a module, and log nothing.
fn check_log(given: &str) -> Result<(), String> {
    let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let part = |part: &str| part.rsplit_once('=').map_or(level(part), |(_, last)| level(last));
    if given.split(',').map(str::trim).all(part) && given.parse::<EnvFilter>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "\"{given}\" is not a log filter: use error, warn, info, debug or trace, also by module: \"info,neap::router=debug\""
    ))
}

fn roles<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Role>, D::Error> {
    let given = Vec::<String>::deserialize(from)?;
    let mut roles: Vec<Role> =
        given.iter().map(|role| role.parse()).collect::<Result<_, _>>().map_err(D::Error::custom)?;
    if roles.is_empty() {
        roles = Role::ALL.to_vec();
    }
    roles.sort();
    roles.dedup();
    Ok(roles)
}

fn cores<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match usize::deserialize(from)? {
        0 => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        count if count <= MAX_WORKERS => Ok(count),
        _ => Err(D::Error::custom(format!("more than {MAX_WORKERS} are too many; 0 takes as many as there are cores"))),
    }
}

const MAX_WORKERS: usize = 1_024;

fn urls<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let given = Vec::<String>::deserialize(from)?;
    if given.is_empty() {
        return Err(D::Error::custom("no address is given: write at least one, as in [\"http://127.0.0.1:7400\"]"));
    }
    given.iter().map(|url| base_url(url).map_err(D::Error::custom)).collect()
}

fn base_url(given: &str) -> Result<String, String> {
    let bad = |why| format!("\"{given}\" {why}: write it as in \"http://127.0.0.1:7400\"");
    let base = given.trim_end_matches('/');
    if base.starts_with("https://") {
        return Err(bad("is https, which is not built yet between nodes"));
    }
    let uri: hyper::Uri = base.parse().map_err(|_| bad("is not an address"))?;
    let bare = uri.path() == "/" && uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty());
    if uri.scheme_str() == Some("http") && bare { Ok(base.to_owned()) } else { Err(bad("is not an address")) }
}

fn node_name<'de, D: Deserializer<'de>>(from: D) -> Result<NodeName, D::Error> {
    let given = String::deserialize(from)?;
    if given.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        return Ok(name_of_host(&host));
    }
    NodeName::new(given).map_err(D::Error::custom)
}

/// Makes a node's name of a host's: its first label, with what a name may not have as "-".
pub(super) fn name_of_host(host: &str) -> NodeName {
    let first = host.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let kept = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect::<String>();
    NodeName::new(kept.trim_matches('-')).unwrap_or_else(|_| NodeName::new("neap").expect("a valid name"))
}
