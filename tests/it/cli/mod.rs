//! The command line against a management that recites: what it asks, what it prints, and how it exits.

mod canned;
mod lists;
mod management;
mod releases;
mod sessions;
mod upgrades;

use std::process::{Command, Output, Stdio};

use management::Management;

/// How a command ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// The command, at no terminal, with nothing of this process's surroundings.
fn neap(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn at(management: &Management, args: &[&str]) -> Command {
    let mut command = neap(args);
    command.env("NEAP_ADDRESS", format!("http://{}", management.address));
    command
}

fn ran(mut command: Command) -> Ran {
    finished(command.output().unwrap())
}

fn finished(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
