//! Owns how vectors are written; `tests/vectors/README.md` says it for who writes them. Must not know how they are run.

use super::strict::{self, Message, Read};

/// Where a vector is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Router,
    Server,
    Both,
}

pub struct Vector {
    pub place: String,
    pub name: String,
    pub runs: Vec<Run>,
    pub steps: Vec<Step>,
    /// What the upstream must see, in order; the last one may be a part only.
    pub seen: Vec<Expected>,
    pub answers: Vec<Script>,
    /// How the client's connection stands at the end.
    pub end: Ending,
    pub pooled: Option<bool>,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Bytes for a router, and for a server.
    Send {
        router: Vec<u8>,
        server: Vec<u8>,
    },
    /// The client sends no more.
    End,
    /// It is likely that what was sent is read by itself. Nothing rests on it: all cuts are tried in `src/proxy`.
    Moment,
    Get(Answer),
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// neap's own.
    Own {
        status: u16,
        code: String,
    },
    /// The upstream's ordinary one.
    Plain,
    Full(Expected),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub message: Message,
    pub whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It takes another request.
    Open,
    Closed,
    /// Closed or reset, after an answer that is not whole.
    Cut,
    Reset,
}

/// What the upstream does with one request.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub then: Then,
    /// Before the request's body.
    pub early: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    Stays,
    Closes,
    Resets,
}

/// What an upstream answers that was told nothing else.
pub const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads all vectors of one file; fails with the place of what is not one.
pub fn read(file: &str, text: &str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut lines: Vec<(usize, &str)> = Vec::new();
    let mut name: Option<(usize, &str)> = None;
    let mut finish = |name: Option<(usize, &str)>, lines: &mut Vec<(usize, &str)>| {
        if let Some((number, name)) = name {
            vectors.push(Reader::new(file, number, name).read(lines));
        }
        lines.clear();
    };
    for (index, line) in text.lines().enumerate() {
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            finish(name, &mut lines);
            name = Some((index + 1, title));
        } else if !line.starts_with('#') && !line.is_empty() {
            assert!(name.is_some(), "{file}:{}: no [name] before it", index + 1);
            lines.push((index + 1, line));
        }
    }
    finish(name, &mut lines);
    vectors
}

struct Reader<'f> {
    file: &'f str,
    vector: Vector,
    /// Full answers, as far as they were read.
    got: Vec<u8>,
    end: Option<Ending>,
    /// Final answers so far: how one is read goes by its request's method.
    answered: usize,
}

impl<'f> Reader<'f> {
    fn new(file: &'f str, number: usize, name: &str) -> Self {
        let vector = Vector {
            place: format!("tests/vectors/{file}:{number}"),
            name: name.to_owned(),
            runs: vec![Run::Router, Run::Server, Run::Both],
            steps: Vec::new(),
            seen: Vec::new(),
            answers: Vec::new(),
            end: Ending::Open,
            pooled: None,
        };
        Self { file, vector, got: Vec::new(), end: None, answered: 0 }
    }

    fn read(mut self, lines: &[(usize, &str)]) -> Vector {
        // The requests first: how answers are read goes by them.
        let seen = lines.iter().filter(|(_, line)| line.starts_with('^'));
        let seen: Vec<u8> = seen.flat_map(|(number, line)| self.bytes(*number, line)).collect();
        self.vector.seen = self.requests(&seen);
        let mut requests = 0;
        let mut last = ' ';
        for (number, line) in lines {
            let marker = line.chars().next().unwrap_or(' ');
            if last == '=' && marker != '=' {
                self.finish_answer();
            }
            match marker {
                '>' => self.client(*number, line),
                '^' => requests += usize::from(last != '^'),
                '<' => {
                    assert!(requests > 0, "{}:{number}: an answer to nothing", self.file);
                    let bytes = self.bytes(*number, line);
                    self.script(requests).bytes.extend(bytes);
                }
                '=' => self.answer(*number, line),
                '!' => self.directive(*number, line[1..].trim(), requests),
                '@' => self.vector.runs = line[1..].split(',').map(|run| self.run(*number, run.trim())).collect(),
                _ => panic!("{}:{number}: what is {line:?}?", self.file),
            }
            last = marker;
        }
        self.finish_answer();
        let last = self.vector.steps.iter().rev().find(|step| matches!(step, Step::Get(_)));
        self.vector.end = self.end.unwrap_or(match last {
            Some(Step::Get(Answer::Own { .. })) => Ending::Closed,
            Some(Step::Get(Answer::Full(Expected { whole: false, .. }))) => Ending::Cut,
            _ => Ending::Open,
        });
        self.vector
    }

    fn run(&self, number: usize, name: &str) -> Run {
        match name {
            "router" => Run::Router,
            "server" => Run::Server,
            "both" => Run::Both,
            _ => panic!("{}:{number}: no run is called {name:?}", self.file),
        }
    }

    fn script(&mut self, requests: usize) -> &mut Script {
        self.vector.answers.resize_with(requests.max(self.vector.answers.len()), Script::default);
        &mut self.vector.answers[requests - 1]
    }

    fn client(&mut self, number: usize, line: &str) {
        let bytes = self.bytes(number, line);
        let program = b"Neap-Program: shop\r\n".to_vec();
        let (mut router, mut server) = (bytes.clone(), bytes);
        if line.trim_end() == "> \\{program}" {
            (router, server) = (Vec::new(), program);
        } else if line.get(2..7).is_some_and(|start| start.eq_ignore_ascii_case("host:")) {
            server.splice(0..0, program);
        }
        match self.vector.steps.last_mut() {
            Some(Step::Send { router: before, server: before_server }) => {
                before.extend(router);
                before_server.extend(server);
            }
            _ => self.vector.steps.push(Step::Send { router, server }),
        }
    }

    fn answer(&mut self, number: usize, line: &str) {
        let text = line[1..].trim();
        let ending = match text {
            "open" => Some(Ending::Open),
            "closed" => Some(Ending::Closed),
            "cut" => Some(Ending::Cut),
            "reset" => Some(Ending::Reset),
            _ => None,
        };
        let own = text.get(..3).and_then(|digits| digits.parse::<u16>().ok());
        match (ending, own) {
            (Some(ending), _) => {
                self.finish_answer();
                self.end = Some(ending);
            }
            (_, Some(status)) if self.got.is_empty() || self.is_whole() => {
                self.finish_answer();
                let code = text[3..].trim().to_owned();
                let answer = if code.is_empty() { Answer::Plain } else { Answer::Own { status, code } };
                assert!(!matches!(answer, Answer::Plain) || status == 200, "{}:{number}", self.file);
                self.answered += 1;
                self.vector.steps.push(Step::Get(answer));
            }
            _ => {
                let bytes = self.bytes(number, line);
                self.got.extend(bytes);
            }
        }
    }

    /// Whether what was gathered of full answers ends with a whole one.
    fn is_whole(&self) -> bool {
        self.split_answers().is_some_and(|(_, answers)| answers.iter().all(|one| one.whole))
    }

    fn finish_answer(&mut self) {
        if self.got.is_empty() {
            return;
        }
        let Some((answered, answers)) = self.split_answers() else {
            panic!("{}: {}: no answer: {}", self.vector.place, self.vector.name, strict::shown(&self.got))
        };
        self.answered = answered;
        self.got.clear();
        self.vector.steps.extend(answers.into_iter().map(|answer| Step::Get(Answer::Full(answer))));
    }

    fn split_answers(&self) -> Option<(usize, Vec<Expected>)> {
        let (mut rest, mut answered, mut answers) = (&self.got[..], self.answered, Vec::new());
        while !rest.is_empty() {
            let method = self.vector.seen.get(answered).map_or("GET", |request| request.message.method());
            let (message, whole, length) = match strict::response(rest, method, true) {
                Read::Whole(message, length) => (message, true, length),
                Read::Body(message) => (message, false, rest.len()),
                Read::Partial | Read::Bad(_) => return None,
            };
            answered += usize::from(message.status() >= 200);
            answers.push(Expected { message, whole });
            rest = &rest[length..];
        }
        Some((answered, answers))
    }

    fn requests(&self, mut rest: &[u8]) -> Vec<Expected> {
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let (message, whole, length) = match strict::request(rest) {
                Read::Whole(message, length) => (message, true, length),
                Read::Body(message) => (message, false, rest.len()),
                bad => panic!("{}: {}: what is to be seen is no request: {bad:?}", self.vector.place, self.vector.name),
            };
            messages.push(Expected { message, whole });
            rest = &rest[length..];
        }
        messages
    }

    fn directive(&mut self, number: usize, text: &str, requests: usize) {
        match text {
            "client ends" => self.vector.steps.push(Step::End),
            "a moment passes" => self.vector.steps.push(Step::Moment),
            "pooled" => self.vector.pooled = Some(true),
            "not pooled" => self.vector.pooled = Some(false),
            "upstream closes" => self.script(requests).then = Then::Closes,
            "upstream resets" => self.script(requests).then = Then::Resets,
            "upstream answers early" => self.script(requests).early = true,
            _ => panic!("{}:{number}: no directive is called {text:?}", self.file),
        }
    }

    /// The bytes of a line behind its marker: with CR LF, unless it ends in a backslash.
    fn bytes(&self, number: usize, line: &str) -> Vec<u8> {
        let text = line[1..].strip_prefix(' ').unwrap_or(&line[1..]);
        let (text, ends) = match text.strip_suffix('\\') {
            Some(text) if !text.ends_with('\\') => (text, false),
            _ => (text, true),
        };
        let mut out = Vec::new();
        if text != "\\{program}" {
            unescape(text, &mut out).unwrap_or_else(|why| panic!("{}:{number}: {why}: {line}", self.file));
        }
        if ends {
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

fn unescape(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let mut used = 1;
        match escape.bytes().next().ok_or("a lone backslash")? {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b's' => out.push(b' '),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = escape.get(1..3).ok_or("two digits follow \\x")?;
                out.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                used = 3;
            }
            b'{' => {
                let end = escape.find('}').ok_or("no } follows")?;
                let (count, what) = escape[1..end].split_once('*').ok_or("\\{COUNT*TEXT}")?;
                let mut once = Vec::new();
                unescape(what, &mut once)?;
                out.extend(once.repeat(count.parse::<usize>().map_err(|error| error.to_string())?));
                used = end + 1;
            }
            other => return Err(format!("\\{} is no escape", char::from(other))),
        }
        rest = &escape[used..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(())
}
