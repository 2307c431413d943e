//! Owns how management's address is written. Must not know how it is reached.

use std::fmt;
use std::str::FromStr;

/// Where management listens, where the user named no port.
const DEFAULT_PORT: u16 = 7400;

/// `http://HOST[:PORT]`, or `HOST[:PORT]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// To resolve; an IPv6 address has no brackets here.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What goes into `Host`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("\"{given}\" is not an address of management: {why}");
        if given.starts_with("https://") {
            return Err(bad("TLS is not built yet, use http:// on a network that you trust, or a tunnel"));
        }
        let rest = given.strip_prefix("http://").unwrap_or(given);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: hyper::http::uri::Authority =
            rest.parse().map_err(|_| bad("write it as http://127.0.0.1:7400"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it takes no user name; a token goes into --token-file"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => DEFAULT_PORT,
            Some(_) => authority.port_u16().ok_or_else(|| bad("its port is not one of 1 to 65535"))?,
            None => return Err(bad("write it as http://127.0.0.1:7400")),
        };
        if authority.host().is_empty() || port == 0 {
            return Err(bad("write it as http://127.0.0.1:7400"));
        }
        Ok(Self { host: authority.host().to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_scheme_and_port() {
        let read = |given: &str| given.parse::<Address>().unwrap().to_string();
        assert_eq!(read("http://127.0.0.1:7400/"), "http://127.0.0.1:7400");
        assert_eq!(read("cluster.example"), "http://cluster.example:7400");
        assert_eq!(read("[::1]:80"), "http://[::1]:80");
        assert_eq!("[::1]:80".parse::<Address>().unwrap().host(), "::1");
    }

    #[test]
    fn an_address_that_cannot_be_meant_is_refused_with_the_cure() {
        for given in ["", "https://x", "ftp://x", "http://a/b", "x:99999", "x:0", "u:p@x", "a b"] {
            let error = given.parse::<Address>().unwrap_err();
            assert!(error.contains("not an address"), "{error}");
        }
    }
}
