//! Owns `neap traffic`: its arguments, its progress and how its report is shown. Must not know how traffic is sent.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::domain::duration;
use crate::traffic::plan::{CONNECTIONS_MAX_DEFAULT, TIMEOUT_DEFAULT};
use crate::traffic::{Counts, Mix, Plan, Report, Running, SessionCounts, Target, Trust, Url, start};

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

const MIX_HELP: &str = "\
A mix file holds [[request]] tables, of which only path is needed:
  weight        its share of the requests, 1
  method        \"GET\"; a POST carries a unique id in X-Post-Id
  path          joined to the URL's; \"/\" is the URL itself
  body_bytes    up to 1048576; the body begins with the id
  expect_status 200, and 101 of a WebSocket
  expect_bytes  the exact length of the answer's body
  expect_echo   true: the answer must repeat the id in X-Traffic-Id or X-Post-Id; a wrong one always fails
  kind          \"http\", or \"websocket\": frames are sent that must come back as they were
  lifetime      of a WebSocket, \"10s\"
A [session] table says how clients with sessions leave:
  requests      after so many a client forgets its cookies, and comes back as another
  end           the path of a POST that is the last of them, such as /logout
An answer shows its session in X-Session-Id, X-Session-Items (things in it; each POST puts one in), X-Session-Last (the id
of the last) and X-Server. What an answer does not show is not checked; a session shown once must be shown in every answer.
An answer's X-Body-Sha256, where there is one, must be that of the body sent. Its version is read from Neap-Version,
else X-Version.";

/// Open-loop load that checks every answer.
///
/// Requests are sent when they are due, however slow the answers. Each answer is checked: status, length, whole body,
/// version, and that it is the answer to this request and no other. Runs for --duration, or until Ctrl-C. Exits 0 only
/// if nothing failed.
#[derive(Args, Debug)]
#[command(after_long_help = MIX_HELP)]
pub struct TrafficArgs {
    #[arg(
        required = true,
        value_name = "URL",
        help = "Where to send it: http://HOST[:PORT][/PATH], or https://; several are driven at once"
    )]
    pub urls: Vec<Url>,
    /// Requests a second: one for all URLs, or one for each in turn
    #[arg(long, value_name = "N", default_value = "10")]
    pub rate: Vec<f64>,
    /// How long to send, such as "30s"; without it, until Ctrl-C
    #[arg(long, value_name = "D", value_parser = duration::parse)]
    pub duration: Option<Duration>,
    /// Clients of each URL that hold sessions: each keeps its cookies, asks one thing at a time, and checks that no
    /// answer shows another session, one with things missing, or a version that it had already left
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub sessions: usize,
    /// A file that says what to send: one for all URLs, or one for each in turn
    #[arg(long, value_name = "FILE")]
    pub mix: Vec<PathBuf>,
    /// A header for every request, "Name: value"; Host replaces the URL's own
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// A version that answers may come from; an answer from any other is a failure
    #[arg(long = "expect-version", value_name = "VERSION")]
    pub expect_versions: Vec<String>,
    /// Connections to each URL at the most
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_MAX_DEFAULT)]
    pub connections: usize,
    /// The same GET each time and only status and length checked, over --connections made beforehand: for tens of
    /// thousands of requests a second to one URL, such as a benchmark sends
    #[arg(long)]
    pub raw: bool,
    /// A PEM file with the certificates that https believes, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Believes any certificate
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Writes the id and status of every POST to this file, a line each; "-" for one that got no answer
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
    /// Ends when standard input does
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// What the global options say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    pub json: bool,
    pub quiet: bool,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
}

/// Runs the command.
pub fn run(args: &TrafficArgs, show: Show) -> ExitCode {
    let plan = match plan(args, show.timeout) {
        Ok(plan) => plan,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    // Before the run, for its end is too late to learn that they cannot be written.
    let ids = match args.ids.as_deref().map(|path| fs::File::create(path).map_err(|error| (path, error))).transpose() {
        Ok(ids) => ids,
        Err((path, error)) => return fail(EXIT_USAGE, &format!("{} cannot be written: {error}", path.display())),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = match runtime {
        Ok(runtime) => runtime.block_on(drive(plan, args.until_stdin_closes, show.quiet)),
        Err(error) => return fail(EXIT_FAILED, &error.to_string()),
    };
    let written = report.and_then(|report| {
        ids.map_or(Ok(()), |file| write_ids(file, &report)).map_err(|error| format!("--ids: {error}"))?;
        print(&report, show.json)?;
        Ok(report)
    });
    match written {
        Ok(report) if report.passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_FAILED),
        Err(error) => fail(EXIT_FAILED, &error),
    }
}

fn fail(code: u8, error: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(code)
}

fn plan(args: &TrafficArgs, timeout: Option<Duration>) -> Result<Plan, String> {
    let mixes = args.mix.iter().map(|path| read_mix(path)).collect::<Result<Vec<_>, _>>()?;
    let headers = args.headers.iter().map(|header| split_header(header)).collect::<Result<Vec<_>, _>>()?;
    let mut targets = Vec::new();
    for (index, url) in args.urls.iter().enumerate() {
        let rate = each(&args.rate, index, args.urls.len(), "--rate")?.copied().unwrap_or_default();
        let mix = each(&mixes, index, args.urls.len(), "--mix")?.cloned().unwrap_or_default();
        let expect_versions = args.expect_versions.clone();
        let (url, headers, sessions) = (url.clone(), headers.clone(), args.sessions);
        targets.push(Target { url, rate, mix, headers, expect_versions, sessions });
    }
    let plan = Plan {
        targets,
        duration: args.duration,
        timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
        connections_max: args.connections,
        raw: args.raw,
        trust: trust(args),
    };
    plan.check().map_err(|error| error.to_string())?;
    if plan.targets.iter().any(|target| target.url.secure) {
        plan.trust.config()?;
    }
    Ok(plan)
}

fn trust(args: &TrafficArgs) -> Trust {
    match &args.ca {
        Some(path) => Trust::Only(path.clone()),
        None if args.insecure => Trust::Everyone,
        None => Trust::System,
    }
}

/// The value of an option for the URL at `index`: given once, it is for all.
fn each<'a, T>(values: &'a [T], index: usize, urls: usize, option: &str) -> Result<Option<&'a T>, String> {
    match values.len() {
        0 => Ok(None),
        1 => Ok(values.first()),
        given if given == urls => Ok(values.get(index)),
        given => Err(format!("{option} is given {given} times for {urls} URLs; give it once, or once for each URL")),
    }
}

fn read_mix(path: &Path) -> Result<Mix, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Mix::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn split_header(given: &str) -> Result<(String, String), String> {
    let (name, value) = given.split_once(':').ok_or_else(|| format!("header \"{given}\" is not \"Name: value\""))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Runs the plan to its end. The first signal stops the sending, the second the waiting.
async fn drive(plan: Plan, until_stdin_closes: bool, quiet: bool) -> Result<Report, String> {
    let mut stops = stops(until_stdin_closes).map_err(|error| error.to_string())?;
    let mut running = start(plan).map_err(|error| error.to_string())?;
    let mut progress = Progress { shown: !quiet && io::stderr().is_terminal(), width: 0 };
    let mut tick = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stopped = false;
    let report = loop {
        tokio::select! {
            report = running.wait() => break report,
            Some(()) = stops.recv() => {
                if stopped { running.abort() } else { running.stop() }
                stopped = true;
            }
            _ = tick.tick(), if progress.shown => progress.show(&running),
        }
    };
    progress.clear();
    Ok(report)
}

/// One message for each reason to stop.
fn stops(until_stdin_closes: bool) -> io::Result<mpsc::Receiver<()>> {
    let (send, stops) = mpsc::channel(1);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, send) = (signal(kind)?, send.clone());
        tokio::spawn(async move { while signals.recv().await.is_some() && send.send(()).await.is_ok() {} });
    }
    if until_stdin_closes {
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
            let _ = send.blocking_send(());
        })?;
    }
    Ok(stops)
}

/// One line on a terminal's standard error, redrawn.
struct Progress {
    shown: bool,
    width: usize,
}

impl Progress {
    fn show(&mut self, running: &Running) {
        let report = running.snapshot();
        let Counts { sent, ok, failed, latency_ms, per_second, .. } = &report.all;
        let recent = per_second.iter().rev().nth(1);
        let versions = recent.map_or_else(String::new, |second| pairs(&second.by_version));
        let seconds = report.elapsed_ms / 1_000;
        let line = format!(
            "{seconds}s  sent {sent}  ok {ok}  failed {failed}  p99 {} ms  last second: {versions}",
            latency_ms.p99
        );
        let _ = write!(io::stderr(), "\r{line:<width$}", width = self.width);
        self.width = line.len();
    }

    fn clear(&mut self) {
        if self.width > 0 {
            let _ = write!(io::stderr(), "\r{:width$}\r", "", width = self.width);
        }
    }
}

fn write_ids(file: fs::File, report: &Report) -> io::Result<()> {
    let mut file = io::BufWriter::new(file);
    for post in &report.posts {
        match post.status {
            Some(status) => writeln!(file, "{} {status}", post.id)?,
            None => writeln!(file, "{} -", post.id)?,
        }
    }
    file.flush()
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    let text =
        if json { serde_json::to_string_pretty(report).map_err(|error| error.to_string())? } else { table(report) };
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// The report as a person reads it.
pub fn table(report: &Report) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["TARGET", "SENT", "OK", "FAILED", "P50 MS", "P99 MS", "MAX MS", "VERSIONS"]);
    let targets = report.targets.iter().map(|target| (target.url.as_str(), &target.counts));
    let all = (report.targets.len() > 1).then_some(("all", &report.all));
    for (name, counts) in targets.chain(all) {
        let latency = &counts.latency_ms;
        let numbers = [counts.sent, counts.ok, counts.failed].map(|number| number.to_string());
        let times = [latency.p50, latency.p99, latency.max].map(|millis| format!("{millis:.1}"));
        let cells = [name.to_owned()].into_iter().chain(numbers).chain(times).chain([pairs(&counts.by_version)]);
        table.add_row(cells.map(|cell| clean(&cell)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 1));
    }
    let mut text: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    notes(&mut text, &report.all);
    text
}

fn notes(text: &mut String, all: &Counts) {
    let SessionCounts { clients, begun, ended, lost, mixed, regressed, upgraded, moved } = all.sessions;
    if clients > 0 {
        let _ = writeln!(
            text,
            "{clients} clients; sessions: {begun} begun, {ended} ended, {upgraded} upgraded, {moved} moved, {lost} lost, \
             {mixed} mixed, {regressed} regressed"
        );
    }
    if all.waited_for_connection > 0 {
        let _ =
            writeln!(text, "{} requests found every connection busy: raise --connections", all.waited_for_connection);
    }
    if all.repeated > 0 {
        let _ = writeln!(text, "{} requests repeated: the server closed their idle connection", all.repeated);
    }
    if all.failed == 0 {
        return;
    }
    let kinds = all.by_failure.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>();
    let _ = writeln!(text, "\n{} failed: {}", all.failed, kinds.join(", "));
    for failure in &all.errors {
        let at = Duration::from_millis(failure.after_ms);
        let line = format!("{} {} {}: {}", failure.method, failure.url, failure.id, failure.detail);
        let _ = writeln!(text, "  {:>7}  {}", duration::show(at), clean(&line));
    }
}

fn pairs(counts: &std::collections::BTreeMap<String, u64>) -> String {
    counts.iter().map(|(key, count)| format!("{key}: {count}")).collect::<Vec<_>>().join(", ")
}

/// Without control characters, for what programs answer must not drive the reader's terminal.
fn clean(given: &str) -> String {
    given.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TrafficArgs,
    }

    fn planned(args: &[&str]) -> Result<Plan, String> {
        let cli = Cli::try_parse_from(["traffic"].iter().chain(args)).map_err(|error| error.to_string())?;
        plan(&cli.args, None)
    }

    #[test]
    fn an_option_is_for_all_urls_or_for_each() {
        let rates = |args: &[&str]| planned(args).map(|plan| plan.targets.iter().map(|t| t.rate).collect::<Vec<_>>());
        assert_eq!(rates(&["http://a"]), Ok(vec![10.0]));
        assert_eq!(rates(&["http://a", "http://b", "--rate", "5"]), Ok(vec![5.0, 5.0]));
        assert_eq!(rates(&["http://a", "http://b", "--rate", "5", "--rate", "7"]), Ok(vec![5.0, 7.0]));
        assert!(rates(&["http://a", "--rate", "5", "--rate", "7"]).unwrap_err().contains("2 times for 1 URLs"));
    }

    #[test]
    fn bad_arguments_are_told_with_their_cure() {
        for (args, told) in [
            (&["http://a", "--sessions", "100001"][..], "at most 100000 clients"),
            (&["http://a", "--sessions", "5", "--raw"], "without a body or sessions"),
            (&["https://a", "--ca", "x", "--insecure"], "cannot be used with"),
            (&["http://a", "--rate", "0"], "more than 0"),
            (&["http://a", "--duration", "5"], "not a duration"),
            (&["http://a", "--mix", "/nowhere/mix.toml"], "/nowhere/mix.toml cannot be read"),
            (&["http://a", "--header", "Host"], "is not \"Name: value\""),
            (&["http://a", "--connections", "0"], "more than 0"),
            (&["http://a", "http://b", "--raw"], "to one http URL"),
            (&[], "URL"),
        ] {
            let error = planned(args).unwrap_err();
            assert!(error.contains(told), "{args:?}: {error}");
        }
    }
}
