//! Owns the commands that the interface names and that are not built yet: each says so, and does nothing.
//! Must not do anything else.

use clap::{Args, Subcommand};

use super::failure::Failure;

#[derive(Subcommand, Debug)]
pub enum Unbuilt {
    #[command(hide = true)]
    Audit(Anything),
    #[command(hide = true)]
    Doctor(Anything),
    #[command(hide = true)]
    Store(Anything),
    #[command(hide = true)]
    Token(Anything),
    #[command(hide = true)]
    Completions(Anything),
    #[command(hide = true)]
    Man(Anything),
    #[command(hide = true)]
    Openapi(Anything),
}

/// Whatever follows.
#[derive(Args, Debug)]
pub struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

impl Unbuilt {
    pub fn run(self) -> Result<(), Failure> {
        let name = match self {
            Self::Audit(_) => "audit",
            Self::Doctor(_) => "doctor",
            Self::Store(_) => "store",
            Self::Token(_) => "token",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Openapi(_) => "openapi",
        };
        not_built(&format!("neap {name}"))
    }
}

/// Refuses a command or an option by name.
pub fn not_built(what: &str) -> Result<(), Failure> {
    Err(Failure::NotBuilt(format!("`{what}`")))
}
