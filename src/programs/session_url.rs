//! Owns where an instance finds its program's session data: a URL on loopback with a token in it, which is good for that
//! program's sessions only, and outlives the node's process as instances do. Must not know what is kept there.

use std::fmt;

use ring::hmac;

use crate::domain::names::ProgramName;

/// Bytes of a token's MAC.
const MAC: usize = 32;

/// Where the node listens for its programs, and the key that their tokens are made with.
#[derive(Clone)]
pub struct SessionUrl {
    at: String,
    key: hmac::Key,
}

impl SessionUrl {
    /// `at`: as in `http://127.0.0.1:7000`.
    pub fn new(at: String, key: &[u8; 32]) -> Self {
        Self { at, key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// What an instance gets as `NEAP_SESSION_URL`; a session's id comes after it.
    pub fn of(&self, program: &ProgramName, instance: &str) -> String {
        format!("{}/v1/{}", self.at, self.token(program, instance))
    }

    /// The program whose instance was given this token.
    pub fn program(&self, token: &str) -> Option<ProgramName> {
        let (named, mac) = token.rsplit_once('.')?;
        let (program, _) = named.split_once('.')?;
        if mac.len() != 2 * MAC {
            return None;
        }
        let mac: Vec<u8> = (0..MAC).map(|at| byte(mac.get(2 * at..2 * at + 2)?)).collect::<Option<_>>()?;
        // Compares in a time that says nothing.
        hmac::verify(&self.key, named.as_bytes(), &mac).ok()?;
        program.parse().ok()
    }

    fn token(&self, program: &ProgramName, instance: &str) -> String {
        let named = format!("{program}.{instance}");
        let mac = hmac::sign(&self.key, named.as_bytes());
        let mac: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{named}.{mac}")
    }
}

impl fmt::Debug for SessionUrl {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionUrl").field("at", &self.at).finish_non_exhaustive()
    }
}

fn byte(digits: &str) -> Option<u8> {
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_program_and_for_nobody_who_changes_it() {
        let urls = SessionUrl::new("http://127.0.0.1:7000".to_owned(), &[7; 32]);
        let (shop, mail) = (ProgramName::new("shop").unwrap(), ProgramName::new("mail").unwrap());
        let url = urls.of(&shop, "shop-01");
        let token = url.strip_prefix("http://127.0.0.1:7000/v1/").unwrap();
        assert_eq!(urls.program(token), Some(shop));
        let others = token.replacen("shop", "mail", 1);
        for bad in
            [others.as_str(), "", "shop", "shop.x", "shop.shop-01.", &token[..token.len() - 1], &format!("{token}0")]
        {
            assert_eq!(urls.program(bad), None, "{bad}");
        }
        assert_ne!(urls.of(&mail, "x"), url);
        let restarted = SessionUrl::new("http://127.0.0.1:7000".to_owned(), &[7; 32]);
        assert!(restarted.program(token).is_some(), "instances outlive the node's process");
        assert_eq!(SessionUrl::new(String::new(), &[8; 32]).program(token), None);
    }
}
