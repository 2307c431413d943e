//! `neap traffic` against the example programs, as processes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use neap::traffic::{Mix, Plan, Request, Target, run, start};

/// An example program that runs until it is dropped.
struct Example {
    child: Child,
    port: u16,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Example {
    fn shop(mode: &str) -> Self {
        let shop = Path::new(env!("CARGO_BIN_EXE_neap")).with_file_name("examples").join("shop");
        assert!(shop.exists(), "{} is missing: cargo build --examples", shop.display());
        let mut command = Command::new(shop);
        command.env("SHOP_MODE", mode);
        Self::start(command)
    }

    fn mail() -> Self {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mail/mail.py"));
        Self::start(command)
    }

    /// Waits for the line in which it tells where it listens.
    fn start(mut command: Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("posts.log");
        command.args(["--port", "0", "--log"]).arg(&log).env("NEAP_VERSION", "1.0.0").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port, log, _dir: dir }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    fn target(&self, rate: f64, mix: Mix) -> Target {
        Target { expect_versions: vec!["1.0.0".to_owned()], ..Target::new(self.url().parse().unwrap(), rate).mix(mix) }
    }

    /// The ids in its log, sorted.
    fn logged(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        let mut ids: Vec<_> = log.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    fn term(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn example_mix(program: &str) -> Mix {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(program).join("mix.toml");
    Mix::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test]
async fn the_example_programs_answer_what_their_mixes_ask_and_execute_each_post_once() {
    let (shop, mail) = (Example::shop("well"), Example::mail());
    let targets = vec![shop.target(200.0, example_mix("shop")), mail.target(100.0, example_mix("mail"))];
    let report = run(Plan::new(targets).duration(Duration::from_secs(2))).await.unwrap();
    assert!(report.passed, "{:#?}", report.all.errors);
    assert_eq!((report.targets[0].counts.sent, report.targets[1].counts.sent), (400, 200));
    for (index, program) in [&shop, &mail].into_iter().enumerate() {
        let mut acknowledged: Vec<_> = report.acknowledged(index).collect();
        acknowledged.sort_unstable();
        assert!(!acknowledged.is_empty());
        assert_eq!(acknowledged, program.logged());
    }
    assert!(report.all.frames_echoed > 0);
}

#[tokio::test]
async fn the_example_programs_finish_what_is_under_way_when_they_are_told_to_end() {
    for mut program in [Example::shop("well"), Example::mail()] {
        let mix = Mix::new(vec![Request::get("/slow?ms=1000")]).unwrap();
        let mut running = start(Plan::new(vec![program.target(100.0, mix)])).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while running.snapshot().all.ok == 0 {
            assert!(Instant::now() < deadline, "{:?}", running.snapshot().all);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.stop();
        // What was due just before the stop may still be connecting: by the time that some of those who waited longest
        // are answered, the last has long been taken, and most still wait for their answers.
        let answered = running.snapshot().all.ok;
        while running.snapshot().all.ok < answered + 20 {
            assert!(Instant::now() < deadline, "{:?}", running.snapshot().all);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        program.term();
        let report = running.wait().await;
        assert!(report.all.ok > 50 && report.passed, "{:#?}", report.all.errors);
        assert!(program.child.wait().unwrap().success());
    }
}

#[tokio::test]
async fn events_of_the_shop_stream_and_head_has_no_body() {
    let shop = Example::shop("well");
    let head = Request { method: "HEAD".to_owned(), ..Request::get("/") };
    let mix = vec![Request::get("/events?ms=500"), head, Request::get("/nowhere").expect_status(404)];
    let plan = Plan::new(vec![shop.target(30.0, Mix::new(mix).unwrap())]).duration(Duration::from_secs(1));
    let report = run(plan).await.unwrap();
    assert!(report.passed, "{:#?}", report.all.errors);
    assert!(report.all.body_bytes_received > 100, "{:?}", report.all);
}

fn neap_traffic(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_neap")).arg("traffic").args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_command_reports_and_exits_by_what_it_saw() {
    let (well, bad) = (Example::shop("well"), Example::shop("errors"));
    let dir = tempfile::tempdir().unwrap();
    let (ids, mix) = (dir.path().join("ids"), dir.path().join("mix.toml"));
    fs::write(&mix, "[[request]]\nmethod = \"POST\"\npath = \"/orders\"\nbody_bytes = 10\n").unwrap();
    let mix = mix.to_str().unwrap();
    let common = ["--duration", "500ms", "--rate", "20", "--mix", mix];

    let mut args = vec![well.url()];
    args.extend(common.map(str::to_owned));
    args.extend(["--ids", ids.to_str().unwrap(), "-o", "json"].map(str::to_owned));
    let good = neap_traffic(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    let report: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((report["sent"].as_u64(), report["posts_ok"].as_u64()), (Some(10), Some(10)));
    let mut listed: Vec<_> = fs::read_to_string(&ids).unwrap().lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, well.logged().iter().map(|id| format!("{id} 200")).collect::<Vec<_>>());
    assert!(good.stderr.is_empty(), "no terminal, no progress");

    let url = bad.url();
    let failed = neap_traffic(&[[url.as_str()].as_slice(), &common].concat());
    let shown = String::from_utf8_lossy(&failed.stdout);
    assert_eq!(failed.status.code(), Some(1));
    assert!(shown.contains("status 500, expected 200: told to fail"), "{shown}");

    let refused = neap_traffic(&[&url, "--sessions", "5", "--raw"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("without a body or sessions"));
}

#[test]
fn the_command_without_a_duration_ends_by_signal_or_with_its_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let mix = dir.path().join("mix.toml");
    fs::write(&mix, "[[request]]\nmethod = \"POST\"\npath = \"/orders\"\n").unwrap();
    for by_signal in [true, false] {
        let shop = Example::shop("well");
        let mut child = Command::new(env!("CARGO_BIN_EXE_neap"))
            .args(["traffic", &shop.url(), "--rate", "100", "--until-stdin-closes", "--mix"])
            .arg(&mix)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while shop.logged().is_empty() {
            assert!(Instant::now() < deadline, "it sends nothing");
            std::thread::sleep(Duration::from_millis(10));
        }
        // Kept to its end: waiting would close it, which is a second order to stop, and leaves nothing time to end.
        let mut stdin = child.stdin.take();
        if by_signal {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        } else {
            stdin = None;
        }
        let status = child.wait().unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert_eq!(status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("TARGET"), "{output:?}");
    }
}

/// The cart written in Python, or in Node.
fn cart(language: &str) -> Command {
    let (program, file) = match language {
        "python" => ("python3", "examples/cart-python/cart.py"),
        _ => ("node", "examples/cart-node/cart.js"),
    };
    let mut command = Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).env_remove("NEAP_SESSION_URL").env("PORT", "0");
    command
}

#[test]
fn a_cart_says_plainly_that_it_has_nowhere_to_keep_sessions() {
    for language in ["python", "node"] {
        let output = cart(language).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("NEAP_SESSION_URL is not set"), "{output:?}");
    }
}
