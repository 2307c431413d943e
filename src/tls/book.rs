//! Owns which certificate is for which name. Must not know files, nor what a handshake is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::pair::Pair;

/// Certificates by name; immutable, replaced as a whole. Never empty.
#[derive(Debug)]
pub struct Book {
    pairs: Vec<Arc<Pair>>,
    /// By whole name, in the order of the configuration.
    exact: HashMap<String, Vec<usize>>,
    /// By what follows the first label of `*.example.com`.
    wild: HashMap<String, Vec<usize>>,
}

impl Book {
    /// The first of `pairs` is for all that none is made out for.
    pub fn new(pairs: Vec<Arc<Pair>>) -> Self {
        assert!(!pairs.is_empty(), "a router that speaks TLS has a certificate");
        let (mut exact, mut wild) = (HashMap::<String, Vec<usize>>::new(), HashMap::<String, Vec<usize>>::new());
        for (number, pair) in pairs.iter().enumerate() {
            for name in &pair.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wild.entry(parent.to_owned()).or_default().push(number),
                    None => exact.entry(name.clone()).or_default().push(number),
                }
            }
        }
        Self { pairs, exact, wild }
    }

    /// The certificate for a name: made out for it, else for its siblings, else the first. Of several for one name, the
    /// first that `can` be used with the client.
    pub fn choose(&self, name: Option<&str>, can: impl Fn(&Pair) -> bool) -> &Arc<Pair> {
        let named = name.map(|name| name.to_ascii_lowercase()).map(|name| self.named(&name)).unwrap_or_default();
        let usable = named.iter().find(|number| can(&self.pairs[**number])).or(named.first());
        let default = || self.pairs.iter().position(|pair| can(pair)).unwrap_or(0);
        &self.pairs[usable.copied().unwrap_or_else(default)]
    }

    /// Whether a certificate is made out for a host, as a URL names it, without port and in lower case.
    pub fn is_for(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => self.pairs.iter().any(|pair| pair.addresses.contains(&address)),
            Err(_) => !self.named(host).is_empty(),
        }
    }

    pub fn pairs(&self) -> &[Arc<Pair>] {
        &self.pairs
    }

    fn named(&self, name: &str) -> &[usize] {
        let siblings = || {
            let (first, parent) = name.split_once('.')?;
            if first.is_empty() { None } else { self.wild.get(parent) }
        };
        self.exact.get(name).or_else(siblings).map_or(&[], Vec::as_slice)
    }
}
