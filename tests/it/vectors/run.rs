//! Owns one vector's run: its bytes sent, its answers and what the upstream saw compared with what was to be, and then a
//! probe, which shows that nothing was left on any connection. Must not know what is between client and upstream.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::client::{Client, Ended};
use super::format::{Answer, Ending, Expected, PLAIN, Run, Step, Vector};
use super::strict::{self, Message, Read};
use super::upstream::{PROBE, PROBED, Seen, Upstream, What};

pub struct Ground {
    pub run: Run,
    /// Where clients come in.
    pub address: SocketAddr,
    pub upstream: Upstream,
}

/// Runs all that are meant for this ground; fails with every one that went wrong.
pub fn all(ground: &Ground, vectors: &[Vector]) {
    let meant = vectors.iter().filter(|vector| vector.runs.contains(&ground.run));
    let mut failed = String::new();
    let (mut count, mut bad) = (0, 0);
    for vector in meant {
        count += 1;
        if let Err(why) = ground.try_one(vector) {
            bad += 1;
            ground.upstream.close();
            let Vector { place, name, .. } = vector;
            write!(failed, "\n{place} [{name}], {:?}\n    {}\n", ground.run, why.replace('\n', "\n    ")).unwrap();
        }
    }
    assert!(bad == 0, "{bad} of {count} vectors failed:\n{failed}");
    println!("{count} vectors, {:?}", ground.run);
}

impl Ground {
    fn try_one(&self, vector: &Vector) -> Result<(), String> {
        self.upstream.seen()?;
        self.upstream.tell(&vector.answers);
        let mut client = Client::connect(self.address);
        let talked = self.talk(vector, &mut client);
        let probed = match (&talked, vector.end) {
            (Ok(()), Ending::Open) => self.probe(&mut client),
            _ => self.probe(&mut Client::connect(self.address)),
        };
        drop(client);
        let seen = self.upstream.seen()?;
        let saw = self.compare(vector, &seen);
        let problems: Vec<String> = [talked, probed.map_err(|why| format!("the probe: {why}")), saw]
            .into_iter()
            .filter_map(Result::err)
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    /// The client's side.
    fn talk(&self, vector: &Vector, client: &mut Client) -> Result<(), String> {
        let mut answered = 0;
        for (at, step) in vector.steps.iter().enumerate() {
            match step {
                Step::Send { router, server } => {
                    client.send(if self.run == Run::Server { server } else { router });
                }
                Step::End => client.send_no_more(),
                Step::Moment => std::thread::sleep(std::time::Duration::from_millis(1)),
                Step::Get(expected) => {
                    let method = vector.seen.get(answered).map_or("GET", |request| request.message.method());
                    let last = !vector.steps[at + 1..].iter().any(|step| matches!(step, Step::Get(_)));
                    let got = client.answer(method)?;
                    if self.compare_answer(expected, got, last && vector.end != Ending::Open)? >= 200 {
                        answered += 1;
                    }
                }
            }
        }
        self.compare_end(vector.end, client)
    }

    fn compare_end(&self, end: Ending, client: &mut Client) -> Result<(), String> {
        if end == Ending::Open {
            return Ok(());
        }
        let (rest, ended) = client.rest().map_err(|why| format!("the connection does not end: {why}"))?;
        if !rest.is_empty() {
            return Err(format!("more came than was to be: {}", strict::shown(rest)));
        }
        match (end, ended) {
            (Ending::Cut, _) | (Ending::Closed, Ended::Closed) | (Ending::Reset, Ended::Reset) => Ok(()),
            _ => Err(format!("the connection was to be {end:?}, and was {ended:?}")),
        }
    }

    /// The status that came.
    fn compare_answer(&self, expected: &Answer, got: Read, closes: bool) -> Result<u16, String> {
        let (mut got, whole) = match got {
            Read::Whole(message, _) => (message, true),
            Read::Body(message) => (message, false),
            Read::Partial | Read::Bad(_) => return Err("the connection ended without the answer".into()),
        };
        let status = got.status();
        if self.run == Run::Server && status >= 200 && got.remove("Neap-Version").is_some_and(|said| said != b"1.0") {
            return Err("Neap-Version is wrong".into());
        }
        match expected {
            Answer::Full(Expected { message, whole: expected_whole }) => {
                compare(message, *expected_whole, &got, whole)?;
            }
            Answer::Plain => {
                let told = told_to_close(&mut got);
                let Read::Whole(plain, _) = strict::response(PLAIN, "GET", true) else { unreachable!() };
                compare(&plain, true, &got, whole)?;
                told_rightly(told, closes)?;
            }
            Answer::Own { status, code } => {
                let told = told_to_close(&mut got);
                let body = String::from_utf8_lossy(&got.body).into_owned();
                let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                let is_problem = got.field("content-type") == Some(b"application/problem+json") && whole;
                if !is_problem || got.status() != *status || problem["code"] != code.as_str() {
                    return Err(format!(
                        "was to be: {status} {code}\nwas:       {}",
                        got.lines().join("\n           ")
                    ));
                }
                told_rightly(told, closes)?;
            }
        }
        Ok(status)
    }

    /// A request that must come through, and behind which nothing else can be on its way.
    pub fn probe(&self, client: &mut Client) -> Result<(), String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let program = if self.run == Run::Server { "Neap-Program: shop\r\n" } else { "" };
        let number = NUMBER.fetch_add(1, Relaxed);
        client.send(format!("GET {PROBE}/{number} HTTP/1.1\r\nHost: probe\r\n{program}\r\n").as_bytes());
        let Read::Whole(mut got, _) = client.answer("GET")? else { return Err("the connection ended".into()) };
        got.remove("Neap-Version");
        let Read::Whole(mut expected, _) = strict::response(PROBED, "GET", true) else { unreachable!() };
        expected.remove("Connection");
        compare(&expected, true, &got, true)
    }

    /// The upstream's side.
    fn compare(&self, vector: &Vector, seen: &[Seen]) -> Result<(), String> {
        let mut requests = seen.iter().filter(|one| !matches!(one.what, What::Probe));
        for (number, Expected { message, whole }) in vector.seen.iter().enumerate() {
            let (got, got_whole) = match requests.next().map(|one| &one.what) {
                Some(What::Request(message)) => (message, true),
                Some(What::Part(message)) => (message, false),
                Some(What::Bad(why)) => return Err(format!("the upstream saw what is no request: {why}")),
                Some(What::Probe) | None => return Err(format!("the upstream saw only {number} requests")),
            };
            let got = self.without_added(got.clone(), message)?;
            compare(message, *whole, &got, got_whole).map_err(|why| format!("what the upstream saw: {why}"))?;
        }
        if let Some(more) = requests.next() {
            return Err(format!("the upstream saw more than it was to: {:?}", more.what));
        }
        let connection = |is: fn(&What) -> bool| seen.iter().rev().find(|one| is(&one.what)).map(|one| one.connection);
        let pooled = connection(|what| matches!(what, What::Probe)) == connection(|what| !matches!(what, What::Probe));
        match vector.pooled {
            Some(expected) if expected != pooled => Err(format!("the upstream's connection was kept: {pooled}")),
            _ => Ok(()),
        }
    }

    /// Takes away what neap adds, each of which must be there exactly once, with its right value.
    fn without_added(&self, mut got: Message, expected: &Message) -> Result<Message, String> {
        type Check = fn(&str, &Message) -> bool;
        let router: [(&str, Check); 5] = [
            ("X-Forwarded-For", |value, _| value == "127.0.0.1"),
            ("X-Forwarded-Proto", |value, _| value == "http"),
            ("X-Forwarded-Host", |value, request| request.field("host") == Some(value.as_bytes())),
            ("X-Request-Id", |value, _| value.len() == 26 && value.bytes().all(|byte| byte.is_ascii_alphanumeric())),
            ("traceparent", |value, _| value.len() == 55 && value.starts_with("00-")),
        ];
        let to_server: [(&str, Check); 1] = [("Neap-Program", |value, _| value == "shop")];
        let awaits = match got.framing {
            strict::Framing::Chunked => true,
            strict::Framing::Length(length) => length > 64 * 1024,
            _ => false,
        };
        let expect: [(&str, Check); 1] = [("Expect", |value, _| value == "100-continue")];
        let added: Vec<(&str, Check)> = match self.run {
            Run::Server => Vec::new(),
            Run::Both => router.to_vec(),
            Run::Router if awaits => [&router[..], &to_server, &expect].concat(),
            Run::Router => [&router[..], &to_server].concat(),
        };
        for (name, is_right) in added.into_iter().filter(|(name, _)| expected.count(name) == 0) {
            let count = got.count(name);
            let value = got.remove(name).unwrap_or_default();
            let value = String::from_utf8_lossy(&value);
            if count != 1 || !is_right(&value, &got) {
                return Err(format!("neap added {name} {count} times, with {value:?}, to {}", got.lines().join("\n")));
            }
        }
        Ok(got)
    }
}

/// Takes `Connection` away; whether it says that the connection ends.
fn told_to_close(got: &mut Message) -> bool {
    got.remove("Connection").is_some_and(|value| value == b"close")
}

fn told_rightly(told: bool, closes: bool) -> Result<(), String> {
    if told == closes {
        Ok(())
    } else {
        Err(format!("Connection: close was {}", if told { "said" } else { "not said" }))
    }
}

/// Of a message that is not to be whole, more of the body may have come than was to at least.
fn compare(expected: &Message, whole: bool, got: &Message, got_whole: bool) -> Result<(), String> {
    let enough = match whole {
        true => expected == got,
        false => {
            got.body.starts_with(&expected.body) && Message { body: expected.body.clone(), ..got.clone() } == *expected
        }
    };
    if enough && whole == got_whole {
        return Ok(());
    }
    let text = |message: &Message, whole: bool| {
        let mut lines = message.lines();
        if !whole {
            lines.push("(not whole)".into());
        }
        lines
    };
    let (expected, got) = (text(expected, whole), text(got, got_whole));
    let mut diff = String::from("- was to be, + was:");
    for line in &expected {
        write!(diff, "\n{} {line}", if got.contains(line) { ' ' } else { '-' }).unwrap();
    }
    for line in got.iter().filter(|line| !expected.contains(line)) {
        write!(diff, "\n+ {line}").unwrap();
    }
    if expected.iter().all(|line| got.contains(line)) && got.iter().all(|line| expected.contains(line)) {
        write!(diff, "\n(in another order, or more than once: {got:?})").unwrap();
    }
    Err(diff)
}
