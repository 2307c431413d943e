//! Owns what must hold between values: who may listen where, and which times fit each other. Must not know roles' work.

use std::net::{IpAddr, SocketAddr};

use super::layers::{Fault, Leaves, Origin};
use super::values::Config;
use crate::domain::duration::show;
use crate::link::secret::{HOW_TO_MAKE, Secret};
use crate::wire::role::Role;

/// Checks all of it; answers with the secret, if there is one.
pub fn check(config: &Config, leaves: &Leaves) -> Result<Option<Secret>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, message: String| {
        let origin = leaves.get(key).map_or(Origin::Default, |leaf| leaf.origin.clone());
        faults.push(Fault { origin, key: key.to_owned(), message });
    };
    let secret = match config.cluster.secret_file.as_ref().map(Secret::load).transpose() {
        Ok(secret) => secret,
        Err(error) => {
            fault("cluster.secret_file", error.to_string());
            None
        }
    };
    check_listeners(config, &mut fault);
    check_peers(config, &mut fault);
    check_times(config, &mut fault);
    check_tls(config, &mut fault);
    if config.node.data_dir.as_os_str().is_empty() {
        fault("node.data_dir", "must name a directory".to_owned());
    }
    if faults.is_empty() { Ok(secret) } else { Err(faults) }
}

/// A place where the node listens.
struct Listener {
    key: &'static str,
    role: Role,
    address: SocketAddr,
    /// Open to everyone by its purpose.
    public: bool,
    /// Others are told this very address, so it must be one that can be called.
    told: bool,
}

fn listeners(config: &Config) -> Vec<Listener> {
    let listener = |key, role, address, public, told| Listener { key, role, address, public, told };
    let (router, server) = (&config.router, &config.app_server);
    let all = [
        listener("router.http", Role::Router, router.http, true, false),
        listener("router.control", Role::Router, router.control, false, true),
        listener("app_server.data", Role::AppServer, server.data, false, true),
        listener("app_server.control", Role::AppServer, server.control, false, true),
        listener("management.listen", Role::Management, config.management.listen, false, false),
    ];
    let https = router.https.map(|address| listener("router.https", Role::Router, address, true, false));
    all.into_iter().chain(https).filter(|listener| config.has(listener.role)).collect()
}

fn check_listeners(config: &Config, fault: &mut impl FnMut(&str, String)) {
    let listeners = listeners(config);
    let secret = config.cluster.secret_file.is_some();
    for Listener { key, address, public, told, .. } in &listeners {
        if !public && !secret && !address.ip().is_loopback() {
            let message = format!(
                "{address} can be reached from other machines, and the cluster has no secret: make one with \
                 {HOW_TO_MAKE}, copy it to every node, and set cluster.secret_file = \"neap.secret\" on each"
            );
            fault(key, message);
        }
        if *told && address.ip().is_unspecified() {
            fault(
                key,
                format!(
                    "other nodes are told this address, and {address} is none that they can call: name one of this machine's"
                ),
            );
        }
    }
    for (number, one) in listeners.iter().enumerate() {
        let clash = |other: &&Listener| other.address == one.address && one.address.port() != 0;
        if let Some(other) = listeners[number + 1..].iter().find(clash) {
            fault(other.key, format!("{} is also the address of {}: give each its own", one.address, one.key));
        }
    }
    let ports = config.app_server.ports;
    let taken =
        |one: &&Listener| one.address.ip().is_loopback() && (ports.first..=ports.last).contains(&one.address.port());
    if let Some(one) = listeners.iter().find(taken).filter(|_| config.has(Role::AppServer)) {
        let message = format!("instances use {ports}, and {} is {}: keep them apart", one.key, one.address);
        fault("app_server.ports", message);
    }
}

/// A management on another machine answers only those who know the secret.
fn check_peers(config: &Config, fault: &mut impl FnMut(&str, String)) {
    let here = |url: &&String| {
        let uri: Option<hyper::Uri> = url.parse().ok();
        let host = uri.as_ref().and_then(hyper::Uri::host).unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let away = config.cluster.management.iter().find(|url| !here(url));
    if let (Some(away), None) = (away, &config.cluster.secret_file) {
        let message = format!(
            "{away} is on another machine, which answers only with the cluster's secret: set cluster.secret_file to a copy of management's"
        );
        fault("cluster.management", message);
    }
}

/// Every certificate must be one that can be served with now, so that a router never starts with less than it was told.
fn check_tls(config: &Config, fault: &mut impl FnMut(&str, String)) {
    if !config.has(Role::Router) {
        return;
    }
    match (config.router.https, config.router.tls.as_slice()) {
        (None, [_, ..]) => {
            fault("router.tls", "nothing is served with it: set router.https, as in \"0.0.0.0:443\"".to_owned());
        }
        (Some(_), []) => {
            let cure = "set router.tls = [{ cert = \"site.pem\", key = \"site.key\" }], or, to try it out, [{ self_signed = [] }]";
            fault("router.https", format!("there is no certificate for it: {cure}"));
        }
        _ => {}
    }
    match config.certificates() {
        Err(why) => fault("router.tls", why),
        Ok(sources) => {
            for (number, source) in sources.iter().enumerate() {
                if let Err(why) = source.check() {
                    fault("router.tls", format!("[{number}] {why}"));
                }
            }
        }
    }
}

fn check_times(config: &Config, fault: &mut impl FnMut(&str, String)) {
    let cluster = &config.cluster;
    for (key, time) in [("cluster.down_after", cluster.down_after), ("cluster.lease", cluster.lease)] {
        if time < 2 * cluster.heartbeat {
            let least = show(2 * cluster.heartbeat);
            fault(key, format!("must be at least two heartbeats, {least}, not {}", show(time)));
        }
    }
    if cluster.limits.backoff_most < cluster.limits.backoff_first {
        fault("cluster.limits.backoff_most", "must not be less than cluster.limits.backoff_first".to_owned());
    }
}
