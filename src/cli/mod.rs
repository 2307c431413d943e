//! Floor 5, the command line: parses what was asked, asks management, shows the answer, and ends with the exit code
//! that the interface promises. One file a command. Must not decide anything about the cluster.

mod address;
mod client;
mod component;
mod component_upgrade;
mod config;
mod deploy;
mod events;
mod failure;
mod logs;
mod node;
mod node_upgrade;
mod out;
mod plan;
mod program;
mod receipt;
mod release;
mod ripple;
mod route;
mod run;
mod seams;
mod serve;
mod session;
mod status;
pub mod traffic;
mod unbuilt;
mod upgrade;
mod watch;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use self::address::Address;
use self::client::Client;
use self::failure::Failure;
use self::out::{Format, Out};
use self::unbuilt::Unbuilt;

/// Upgrades one program on a cluster while everything else, and everyone, goes on.
#[derive(Parser, Debug)]
#[command(name = "neap", version, max_term_width = 120, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Management's address
    #[arg(long, global = true, env = "NEAP_ADDRESS", value_name = "URL", default_value = "http://127.0.0.1:7400")]
    address: String,
    /// A file that holds the token to show to management; or set NEAP_TOKEN to the token itself
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How data is printed
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// Says nothing but data and failures
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Says more of what happens; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How long to wait, such as "30s"; what the cluster does goes on
    #[arg(long, global = true, value_name = "DURATION", value_parser = crate::domain::duration::parse)]
    timeout: Option<Duration>,
    /// Uses no colours; so does setting NO_COLOR
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Runs a node: a router, an app-server, a management, or all three
    Run(run::RunArgs),
    /// Pushes a release from a directory, then upgrades to it
    Deploy(deploy::DeployArgs),
    /// Upgrades a program to another version, server by server, and loses no request
    Upgrade(upgrade::UpgradeArgs),
    /// Ripples: list, show, watch, pause, resume, abort, and their receipts
    #[command(subcommand)]
    Ripple(ripple::RippleCommand),
    /// Shows servers × programs, and every ripple under way
    Status(status::StatusArgs),
    /// Programs: list, show, their requests and logs, restart, remove
    #[command(subcommand)]
    Program(program::ProgramCommand),
    /// Releases: push, list, remove
    #[command(subcommand)]
    Release(release::ReleaseCommand),
    /// Nodes: list, show, take a server out of service and back
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Components: what programs use of their servers' software, and how that is known
    #[command(subcommand)]
    Component(component::ComponentCommand),
    /// Sessions: list, show, end
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Routes: list, and test which rule and server a URL gets, and why
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Sends open-loop load and checks every answer
    Traffic(traffic::TrafficArgs),
    /// Lists what happened in the cluster
    Events(events::EventsArgs),
    /// A node's configuration: check it, show it
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Serves a directory of files; what a static program's instance runs
    ServeStatic(serve::ServeStaticArgs),
    /// Says which neap this is, for a neap that is to hand over to it
    #[command(hide = true)]
    About,
    #[command(hide = true)]
    LaunchInstance(serve::LaunchInstanceArgs),
    #[command(flatten)]
    Unbuilt(Unbuilt),
}

/// What every command that asks management is given.
struct Ctx {
    client: Client,
    out: Out,
}

/// Parses, carries out, and answers with the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::EXIT_USAGE));
        }
    };
    let out = cli.global.out();
    if let Command::Traffic(args) = &cli.command {
        let show = traffic::Show { json: out.format != Format::Table, quiet: out.quiet, timeout: cli.global.timeout };
        return traffic::run(args, show);
    }
    match dispatch(cli, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(words) = failure.message() {
                out::complain(&words);
            }
            ExitCode::from(failure.exit())
        }
    }
}

fn dispatch(cli: Cli, out: Out) -> Result<(), Failure> {
    match cli.command {
        Command::Run(args) => args.run(cli.global.verbose),
        Command::Config(command) => command.run(&out),
        Command::ServeStatic(args) => args.run(),
        Command::LaunchInstance(args) => args.run(),
        Command::About => seams::about(&out),
        Command::Unbuilt(command) => command.run(),
        asks_management => {
            let ctx = Ctx { client: cli.global.client()?, out };
            runtime()?.block_on(ask(asks_management, &ctx))
        }
    }
}

async fn ask(command: Command, ctx: &Ctx) -> Result<(), Failure> {
    match command {
        Command::Deploy(args) => args.run(ctx).await,
        Command::Upgrade(args) => args.run(ctx).await,
        Command::Ripple(command) => command.run(ctx).await,
        Command::Status(args) => args.run(ctx).await,
        Command::Program(command) => command.run(ctx).await,
        Command::Release(command) => command.run(ctx).await,
        Command::Node(command) => command.run(ctx).await,
        Command::Component(command) => command.run(ctx).await,
        Command::Session(command) => command.run(ctx).await,
        Command::Route(command) => command.run(ctx).await,
        Command::Events(args) => args.run(ctx).await,
        // Carried out in `dispatch` and before.
        Command::Run(_)
        | Command::Traffic(_)
        | Command::Config(_)
        | Command::ServeStatic(_)
        | Command::LaunchInstance(_)
        | Command::About
        | Command::Unbuilt(_) => Ok(()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("this process cannot start its timer and network: {error}")))
}

impl Global {
    fn out(&self) -> Out {
        let color = !self.no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Out { format: self.output, quiet: self.quiet, color }
    }

    fn client(&self) -> Result<Client, Failure> {
        // Read here, so that an address that is wrong is in nobody's way who does not need it.
        let address: Address = self.address.parse().map_err(Failure::Usage)?;
        Ok(Client::new(address, self.token()?, self.timeout))
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let (token, place) = match &self.token_file {
            Some(file) => {
                let token = std::fs::read_to_string(file).map_err(|error| {
                    Failure::Usage(format!("--token-file {} cannot be read: {error}", file.display()))
                })?;
                (token, file.display().to_string())
            }
            None => match std::env::var("NEAP_TOKEN") {
                Ok(token) if !token.is_empty() => (token, "NEAP_TOKEN".to_owned()),
                _ => return Ok(None),
            },
        };
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Usage(format!("{place} holds no token: it must be one word of printable ASCII")));
        }
        Ok(Some(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
