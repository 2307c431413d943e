//! Owns how the vectors' messages are changed at random, and by which seed. Must not know who reads them.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::format::{self, Vector};

/// Larger ones are about bounds.
const BYTES_MAX: usize = 4096;

fn vectors() -> impl Iterator<Item = Vector> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    texts.flat_map(|path| format::read(&path.display().to_string(), &fs::read_to_string(&path).unwrap()))
}

/// Sorted, so that a seed says the same everywhere.
fn different(messages: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut messages: Vec<_> = messages.filter(|bytes| (1..BYTES_MAX).contains(&bytes.len())).collect();
    messages.sort();
    messages.dedup();
    messages
}

/// What upstreams answer in the vectors.
pub fn answers() -> Vec<Vec<u8>> {
    let answers = different(vectors().flat_map(|vector| vector.answers).map(|script| script.bytes));
    assert!(answers.len() > 100, "the vectors are not where they were");
    answers
}

/// What clients send in the vectors.
pub fn requests() -> Vec<Vec<u8>> {
    let requests = different(vectors().map(|vector| {
        let sent = vector.steps.into_iter().filter_map(|step| match step {
            format::Step::Send { router, .. } => Some(router),
            _ => None,
        });
        sent.flatten().collect()
    }));
    assert!(requests.len() > 300, "the vectors are not where they were");
    requests
}

/// One change to a message's bytes.
#[derive(Clone, Debug)]
pub enum Change {
    Put(Index, Vec<u8>),
    Set(Index, u8),
    Remove(Index, usize),
    /// A stretch of it, once more, somewhere else.
    Repeat {
        from: Index,
        length: usize,
        to: Index,
    },
}

impl Change {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        let room = bytes.len();
        match self {
            Self::Put(at, what) => drop(bytes.splice(at.index(room + 1)..at.index(room + 1), what.iter().copied())),
            _ if room == 0 => {}
            Self::Set(at, byte) => bytes[at.index(room)] = *byte,
            Self::Remove(at, length) => drop(bytes.drain(at.index(room)..(at.index(room) + length).min(room))),
            Self::Repeat { from, length, to } => {
                let what = bytes[from.index(room)..(from.index(room) + length).min(room)].to_vec();
                bytes.splice(to.index(room)..to.index(room), what);
            }
        }
    }
}

pub fn change() -> impl Strategy<Value = Change> {
    let words: Vec<&[u8]> = vec![
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"%",
        b"%2e",
        b"/",
        b"..",
        b"?",
        b"#",
        b"\\",
        b"\xff",
        b"\r\n\r\n",
        b"\r\n ",
        b"0\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"Host: b\r\n",
        b"Connection: X, close\r\n",
        b"GET / HTTP/1.1\r\nHost: c\r\n\r\n",
        b"HTTP/1.1",
        b"http://b",
        b"Expect: 100-continue\r\n",
    ];
    let word = prop::sample::select(words).prop_map(<[u8]>::to_vec);
    let byte = prop_oneof![prop::sample::select(b"\r\n \t:;,/%.0\0\x7f\x80".to_vec()), any::<u8>()];
    prop_oneof![
        (any::<Index>(), word).prop_map(|(at, word)| Change::Put(at, word)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), 1..9_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<Index>(), 1..60_usize, any::<Index>()).prop_map(|(from, length, to)| Change::Repeat {
            from,
            length,
            to
        }),
    ]
}

/// By a new seed, or by the one given; it is printed.
pub fn runner(cases: u32) -> TestRunner {
    let given = std::env::var("NEAP_TEST_SEED").ok();
    let number: u64 = given.map_or_else(rand::random, |number| number.parse().expect("NEAP_TEST_SEED is a number"));
    println!("NEAP_TEST_SEED={number} repeats this run");
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}
