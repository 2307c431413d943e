//! Owns the names of the roles that a node can have. Must not know what a role does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a node does in the cluster; one node may have several roles.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Role {
    Router,
    AppServer,
    Management,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Router, Role::AppServer, Role::Management];

    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Router => "router",
            Role::AppServer => "app-server",
            Role::Management => "management",
        }
    }
}

/// A role that does not exist; says which do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct UnknownRole {
    given: String,
}

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no role \"{}\": the roles are {}", self.given, Role::ALL.map(Role::as_str).join(", "))?;
        let near = |role: &&Role| strsim::normalized_damerau_levenshtein(role.as_str(), &self.given) > 0.5;
        match Role::ALL.iter().find(near) {
            Some(role) => write!(f, "; did you mean \"{role}\"?"),
            None => Ok(()),
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(given: &str) -> Result<Self, UnknownRole> {
        let unknown = || UnknownRole { given: given.chars().take(80).collect() };
        Role::ALL.into_iter().find(|role| role.as_str() == given).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Role {
    type Error = UnknownRole;
    fn try_from(given: String) -> Result<Self, UnknownRole> {
        given.parse()
    }
}

impl From<Role> for &'static str {
    fn from(role: Role) -> Self {
        role.as_str()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_role_is_answered_with_the_right_ones() {
        let error = "app_server".parse::<Role>().unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no role \"app_server\": the roles are router, app-server, management; did you mean \"app-server\"?"
        );
        assert!(!"x".parse::<Role>().unwrap_err().to_string().contains("did you mean"));
    }
}
